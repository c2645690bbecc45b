"""Error measures of predictions, one number per member."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import fft

BANDS = (4, 12)
"""Wavenumbers at which the spectral bands low, middle and high meet, cycles per domain."""


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64)


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

    References
    ----------
    R. Ohana et al., "The Well", NeurIPS 2024, section 4.
    """
    error = np.sqrt(np.mean((_flat(predicted) - _flat(truth)) ** 2, axis=1))
    return _ratio(error, _flat(truth).std(axis=1))


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
        columns.append(_ratio(np.sqrt(np.where(inside, power, 0).reshape(len(power), -1).sum(axis=1)), norm))
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
