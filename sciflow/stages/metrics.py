"""Error measures of predictions, one number per member."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy import fft

BANDS = (4, 12)
"""Wavenumbers at which the spectral bands low, middle and high meet, cycles per domain."""
FOURIER_BANDS = ((0, 4), (5, 12), (13, None))
"""First and last wavenumber of the low, middle and high band of `fourier_rmse`."""


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64)


def relative_l2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative error in the discrete L2 norm.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)
        In one unit.

    Returns
    -------
    ndarray, shape (member,)
        ``|predicted - truth| / |truth|``; 0 where both are zero, inf where only the truth is.
    """
    error = np.linalg.norm(_flat(predicted) - _flat(truth), axis=1)
    return _ratio(error, np.linalg.norm(_flat(truth), axis=1))


def vrmse(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root of the mean squared error over the variance of the truth; 1 for its own mean.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member,)

    Notes
    -----
    The source adds 1e-7 to the variance; here a truth without variance gives inf, or 0 where it is met.

    References
    ----------
    R. Ohana et al., "The Well", NeurIPS 2024, section 4.
    """
    return _ratio(rmse(predicted, truth), _flat(truth).std(axis=1))


def rmse(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root of the mean squared error, in the unit of the field.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member,)
    """
    return np.asarray(np.sqrt(np.mean((_flat(predicted) - _flat(truth)) ** 2, axis=1)))


def relative_l1(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error over the mean absolute value of the truth.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member,)

    References
    ----------
    M. Herde et al., "Poseidon: Efficient foundation models for PDEs", NeurIPS 2024, section 3 (in percent,
    the median over the members); the NMAE of The Well, level by level.
    """
    error = np.abs(_flat(predicted) - _flat(truth)).mean(axis=1)
    return _ratio(error, np.abs(_flat(truth)).mean(axis=1))


def pearson(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Correlation of prediction and truth over the points; 1 also for a prediction of another size.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member,)
        In [-1, 1]; NaN where one of the two is constant.
    """
    a, b = _flat(predicted), _flat(truth)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip((a * b).sum(axis=1) / norms, -1.0, 1.0))


def conserved_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Error of the mean over the domain, in the unit of the field.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member,)
        Its root mean square over the members is the cRMSE of PDEBench.

    References
    ----------
    M. Takamoto et al., "PDEBench", NeurIPS 2022, appendix B.
    """
    return np.asarray(np.abs(_flat(predicted).mean(axis=1) - _flat(truth).mean(axis=1)))


def conservation(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`conserved_error` over the root mean square of the truth: how much of a conserved quantity is lost.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)
        In one unit.

    Returns
    -------
    ndarray, shape (member,)
        At most `relative_l2`; 0 where both are zero, inf where only the truth is.
    """
    size = np.sqrt(np.mean(_flat(truth) ** 2, axis=1))
    return _ratio(conserved_error(predicted, truth), size)


def boundary_rmse(predicted: np.ndarray, truth: np.ndarray, space: Sequence[int]) -> np.ndarray:
    """Root of the mean squared error on the boundary of a grid, in the unit of the field.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)
    space : sequence of int
        Spatial axes; of each the first and the last points are the boundary. Corners count once for
        each side that they belong to.

    Returns
    -------
    ndarray, shape (member,)

    References
    ----------
    M. Takamoto et al., "PDEBench", NeurIPS 2022, appendix B.
    """
    square = (predicted.astype(np.float64) - truth.astype(np.float64)) ** 2
    sides = [_flat(np.take(square, place, axis)) for axis in space for place in (0, -1)]
    return np.asarray(np.sqrt(np.concatenate(sides, axis=1).mean(axis=1)))


def fourier_rmse(predicted: np.ndarray, truth: np.ndarray, space: Sequence[int]) -> np.ndarray:
    """Error of the Fourier coefficients in three bands of wavenumbers, in the unit of the field.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)
        Periodic or not: the transform takes them as if they were.
    space : sequence of int
        Spatial axes.

    Returns
    -------
    ndarray, shape (member, band)
        The bands of `FOURIER_BANDS`; NaN for one that the grid does not resolve.

    Notes
    -----
    ``sqrt(sum |F(predicted) - F(truth)|^2) / (last - first + 1)`` over the wavevectors whose length, rounded
    down, is in ``first..last``; the last of the high band is the largest that every axis resolves. F is the
    discrete transform over the number of points, so that a wave has one size on all grids. This is the
    formula of the paper. The scripts of that benchmark average over the wavenumbers of a band instead, and
    begin the bands at 0, 4 and 12; numbers of the two differ.

    References
    ----------
    M. Takamoto et al., "PDEBench", NeurIPS 2022, appendix B.
    """
    error = predicted.astype(np.float64) - truth.astype(np.float64)
    power = np.abs(fft.fftn(error, axes=list(space), norm="forward")) ** 2
    square = np.zeros((1,) * error.ndim)
    for axis in space:
        shape = [1] * error.ndim
        shape[axis] = error.shape[axis]
        square = square + np.fft.fftfreq(shape[axis], 1 / shape[axis]).reshape(shape) ** 2
    length = np.floor(np.sqrt(square) + 1e-9)
    largest = min(error.shape[axis] for axis in space) // 2
    columns = []
    for first, end in FOURIER_BANDS:
        last = largest if end is None else min(end, largest)
        if last < first:
            columns.append(np.full(len(error), np.nan))
            continue
        inside = (length >= first) & (length <= last)
        total = np.where(inside, power, 0.0).sum(axis=tuple(range(1, power.ndim)))
        columns.append(np.sqrt(total) / (last - first + 1))
    return np.stack(columns, axis=1)


def by_level(
    metric: Callable[..., np.ndarray],
    predicted: np.ndarray,
    truth: np.ndarray,
    axis: int | None,
    *arguments: Sequence[int],
) -> np.ndarray:
    """A measure at every time level of its own, as The Well and PDEBench take them.

    Parameters
    ----------
    metric : callable
        A function of this module.
    predicted, truth : ndarray, shape (member, ...)
    axis : int or None
        Of the time levels; ``None`` for a single one.
    *arguments : sequence of int
        Further axes for `metric`, as they are in `predicted`.

    Returns
    -------
    ndarray, shape (member, time, ...)
    """
    if axis is None:
        return metric(predicted, truth, *arguments)[:, None]
    a, b = (np.moveaxis(values, axis, 1) for values in (predicted, truth))
    shape = a.shape[:2]
    # Without the axis of the levels those behind it move up by one.
    moved = [[i - (i > axis) for i in group] for group in arguments]
    rows = math.prod(shape)
    found = metric(a.reshape(rows, *a.shape[2:]), b.reshape(rows, *b.shape[2:]), *moved)
    return found.reshape(*shape, *found.shape[1:])


def maximum_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Largest absolute error, in the unit of the field.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member,)
    """
    return np.asarray(np.abs(_flat(predicted) - _flat(truth)).max(axis=1))


def band_errors(
    predicted: np.ndarray, truth: np.ndarray, space: Sequence[int], periodic: Sequence[int] = ()
) -> np.ndarray:
    """Relative L2 error split over three bands of wavenumbers.

    Parameters
    ----------
    predicted, truth : ndarray, shape (member, ...)
    space : sequence of int
        Spatial axes.
    periodic : sequence of int
        Those of them that are periodic.

    Returns
    -------
    ndarray, shape (member, band)
        Below `BANDS[0]`, between, from `BANDS[1]` on, in cycles per domain. The squares of a row
        add up to the square of `relative_l2`.

    Notes
    -----
    The transform is orthonormal (Parseval): Fourier along periodic axes and a cosine transform
    (mode k is k/2 cycles) along the others. A wavevector belongs to the band of its largest
    component.
    """
    error = predicted.astype(np.float64) - truth.astype(np.float64)
    wave = np.zeros((1,) * error.ndim)
    spectrum: np.ndarray = error
    for axis in space:
        n = error.shape[axis]
        shape = [1] * error.ndim
        shape[axis] = n
        if axis in periodic:
            spectrum = fft.fft(spectrum, axis=axis, norm="ortho")
            k = np.abs(np.fft.fftfreq(n, 1 / n))
        else:
            # The cosine transform of complex input is that of its parts.
            spectrum = _dct(spectrum, axis)
            k = np.arange(n) / 2
        wave = np.maximum(wave, k.reshape(shape))
    power = np.abs(spectrum) ** 2
    edges = (-1.0, BANDS[0] - 0.5, BANDS[1] - 0.5, np.inf)
    norm = np.linalg.norm(_flat(truth), axis=1)
    columns = []
    for low, high in pairwise(edges):
        inside = np.broadcast_to((wave > low) & (wave <= high), power.shape)
        columns.append(
            _ratio(np.sqrt(np.where(inside, power, 0).sum(axis=tuple(range(1, power.ndim)))), norm)
        )
    return np.stack(columns, axis=1)


def _dct(values: np.ndarray, axis: int) -> np.ndarray:
    if np.iscomplexobj(values):
        real = fft.dct(values.real, axis=axis, norm="ortho")
        return np.asarray(real + 1j * fft.dct(values.imag, axis=axis, norm="ortho"))
    return np.asarray(fft.dct(values, axis=axis, norm="ortho"))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = top / bottom
    return np.where((top == 0) & (bottom == 0), 0.0, ratio)
