"""Arrays to and from pyMOR, and its kernel greedy regression without pyMOR at inference."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.errors import Invalid, Missing
from sciflow_rom.regress.regression import Regression, checked, scaling

OLDEST = (2025, 1)
"""Since then VectorArrays are matrices of (dimension, vector); before they were the transpose."""
EVENT_LOOP = "pymor.tools.mpi.event_loop_settings.auto_launch"
"""The default of pyMOR that decides whether importing it starts an event loop on all ranks but the first."""
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("PMIX_RANK", "PMI_RANK")
LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Lengths of the kernel that are tried, in spreads of the features times the root of their number."""
_FOLDS = 5


def pymor() -> Any:
    """The package, imported when that is safe.

    Returns
    -------
    module

    Raises
    ------
    Missing
        If it is not installed or too old, or this process is one of several MPI ranks and its event
        loop is not turned off: importing it would then never return on all ranks but the first.
    """
    if "pymor" not in sys.modules and _ranks() > 1 and not _loop_is_off():
        raise Missing(
            "pyMOR starts an event loop when it is imported on one of several MPI ranks, and never returns. "
            f"Use it in a serial process, or write d = {{{EVENT_LOOP!r}: False}} into a file and name that "
            "in the environment variable PYMOR_DEFAULTS of all ranks"
        )
    try:
        import pymor as found
    except ImportError:
        raise Missing("this needs pyMOR 2025.1 or newer: pip install 'sciflow[pymor]'") from None
    version = tuple(int(p) for p in found.__version__.split(".")[:2])
    if version < OLDEST:
        raise Missing(
            f"pyMOR {found.__version__} stores arrays the other way round: pip install 'sciflow[pymor]' "
            "takes 2025.1 or newer"
        )
    return found


def _ranks() -> int:
    """How many MPI ranks this process is one of, without starting MPI; 2 stands for several."""
    loaded = sys.modules.get("mpi4py.MPI")
    if loaded is not None and loaded.Is_initialized() and not loaded.Is_finalized():
        return int(loaded.COMM_WORLD.size)
    known = [os.environ[n] for n in _SIZES if os.environ.get(n, "").isdigit()]
    if known:
        return max(map(int, known))
    return 2 if any(os.environ.get(n, "0") not in ("", "0") for n in _RANKS) else 1


def _loop_is_off() -> bool:
    """Whether the files of defaults turn the event loop off. They are read, not executed."""
    off = False
    for name in os.environ.get("PYMOR_DEFAULTS", "").split(":"):
        try:
            program = ast.parse(Path(name).read_text())
        except (OSError, SyntaxError, ValueError):
            continue
        for line in program.body:
            named = isinstance(line, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "d" for t in line.targets
            )
            if not named:
                continue
            try:
                values = ast.literal_eval(line.value)  # type: ignore[attr-defined]
            except ValueError:
                continue
            off = values.get(EVENT_LOOP, not off) is False if isinstance(values, dict) else off
    return off


def to_vectors(matrix: np.ndarray) -> Any:
    """Snapshots or modes as a VectorArray.

    Parameters
    ----------
    matrix : ndarray, shape (row, column)
        One vector in each column, any unit.

    Returns
    -------
    pymor.vectorarrays.interface.VectorArray
        Of dimension ``row`` and length ``column``; float64, column by column in memory. A matrix that is so
        already is not copied, and pyMOR may then write into it.

    Raises
    ------
    Invalid
        If it is no matrix of finite real numbers.
    Missing
        See `pymor`.
    """
    values = np.asarray(matrix)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise Invalid(
            f"vectors are a matrix (row, column) of real numbers, got {values.shape} of {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise Invalid(f"{int((~np.isfinite(values)).any(axis=0).sum())} vectors are not finite")
    pymor()
    from pymor.vectorarrays.numpy import NumpyVectorSpace

    return NumpyVectorSpace(len(values)).from_numpy(np.asfortranarray(values, dtype=np.float64))


def from_vectors(vectors: Any) -> np.ndarray:
    """A VectorArray as a matrix, copied.

    Parameters
    ----------
    vectors : pymor.vectorarrays.interface.VectorArray
        Of any space that pyMOR can turn into numbers.

    Returns
    -------
    ndarray of float64, shape (row, column)
        One vector in each column.

    Raises
    ------
    Invalid
        If the vectors are complex.
    """
    values = np.array(vectors.to_numpy(), order="C")
    if values.dtype.kind == "c":
        raise Invalid("complex vectors cannot be stored; take their real and imaginary parts")
    return values.astype(np.float64, copy=False)


def to_operator(matrix: Any) -> Any:
    """A matrix, dense or sparse of scipy, as an Operator: an inner product or a reduced model's term.

    Parameters
    ----------
    matrix : ndarray or scipy.sparse matrix, shape (row, column)
        Any unit.

    Raises
    ------
    Missing
        See `pymor`.
    """
    pymor()
    from pymor.operators.numpy import NumpyMatrixOperator

    return NumpyMatrixOperator(matrix)


class Greedy(Regression):
    """A sum of Gaussian functions around few of the training points."""

    names = ("mean", "spread", "offset", "size", "length", "centers", "coefficients")

    def predict(self, features: np.ndarray) -> np.ndarray:
        """See `Regression.predict`. Cost: O(batch center (feature + n))."""
        a = self.arrays
        x = (np.asarray(features, dtype=np.float64) - a["mean"]) / a["spread"]
        apart = ((x[:, None, :] - a["centers"]) ** 2).sum(axis=-1)
        kernel = np.exp(-0.5 * apart / a["length"] ** 2)
        return np.asarray(kernel @ a["coefficients"] * a["size"] + a["offset"])


def fit_greedy(
    features: np.ndarray,
    values: np.ndarray,
    rng: np.random.Generator,
    centers: int,
    tolerance: float,
    length: float | None = None,
    criterion: str = "fp",
) -> Greedy:
    """Fit by pyMOR's vectorial kernel orthogonal greedy algorithm (VKOGA).

    Parameters
    ----------
    features : ndarray, shape (member, feature)
        Any unit; scaled to zero mean and unit spread.
    values : ndarray, shape (member, n)
        Any unit; scaled by the mean and one number for all columns, so that large coefficients count most.
    rng : numpy.random.Generator
        Divides the members where `length` is to be chosen.
    centers : int
        Most training points to take.
    tolerance : float
        Stop where the greedy criterion, for scaled values, is below.
    length : float or None
        Of the kernel, in spreads of the features; None tries `LENGTHS` by cross-validation.
    criterion : {"fp", "f", "p"}
        Which point is taken next: largest residual times power function, residual, or power function.

    Raises
    ------
    Invalid
        If shapes do not fit or a number is not finite.
    Missing
        See `pymor`; also where a later pyMOR keeps its result elsewhere.

    Notes
    -----
    ``s(x) = sum_j c_j exp(-|x - x_j|^2 / (2 l^2))`` with ``s(x_j) = f(x_j)`` at the centers ``x_j``, which
    are taken one by one. Cost: O(member center (center + feature + n)) for each length and fold.

    References
    ----------
    Wirtz, Haasdonk, "A vectorial kernel orthogonal greedy algorithm", DRNA 6 (2013); Santin, Haasdonk,
    "Kernel methods for surrogate modeling", Model Order Reduction 1 (2021), section 9.3.
    """
    x, y = checked(features, values)
    mean, spread = scaling(x)
    offset = y.mean(axis=0)
    size = float(np.sqrt(((y - offset) ** 2).sum(axis=1).mean())) or 1.0
    scaled, wanted = (x - mean) / spread, (y - offset) / size
    if length is None:
        length = _length(scaled, wanted, rng, centers, tolerance, criterion)
    points, weights = _greedy(scaled, wanted, length, centers, tolerance, criterion)
    state = (mean, spread, offset, np.array(size), np.array(length), points, weights)
    return Greedy(dict(zip(Greedy.names, state, strict=True)))


def _length(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, centers: int, tolerance: float, criterion: str
) -> float:
    """The length with the least error on members left out."""
    lengths = [float(factor * x.shape[1] ** 0.5) for factor in LENGTHS]
    if len(x) < 2 * _FOLDS:
        return lengths[1]
    fold = rng.permutation(len(x)) % _FOLDS
    errors = []
    for length in lengths:
        error = 0.0
        for k in range(_FOLDS):
            points, weights = _greedy(x[fold != k], y[fold != k], length, centers, tolerance, criterion)
            apart = ((x[fold == k][:, None, :] - points) ** 2).sum(axis=-1)
            error += float(((np.exp(-0.5 * apart / length**2) @ weights - y[fold == k]) ** 2).sum())
        errors.append(error)
    return lengths[int(np.argmin(errors))]


def _greedy(
    x: np.ndarray, y: np.ndarray, length: float, centers: int, tolerance: float, criterion: str
) -> tuple[np.ndarray, np.ndarray]:
    """Centers (center, feature) and coefficients (center, n) of pyMOR's interpolant."""
    version = pymor().__version__
    try:
        from pymor.algorithms.ml.vkoga.kernels import GaussianKernel
        from pymor.algorithms.ml.vkoga.regressor import VKOGARegressor
        from pymor.core.logger import log_levels
    except ImportError as error:
        raise Missing(f"pyMOR {version} has no VKOGA regressor ({error}); 2026.1 has") from None

    with log_levels({"pymor": "ERROR"}):
        fitted = VKOGARegressor(
            kernel=GaussianKernel(length), criterion=criterion, max_centers=centers, tol=tolerance
        ).fit(x, y)
        theirs = fitted.predict(x[:1])
    try:
        surrogate = fitted._surrogate
        points, weights = surrogate._centers, surrogate._coefficients
    except AttributeError as error:
        raise Missing(f"pyMOR {version} keeps its interpolant elsewhere ({error}); 2026.1 is known") from None
    if points is None:  # all values are equal: nothing is to be learned
        return np.zeros((0, x.shape[1])), np.zeros((0, y.shape[1]))
    points, weights = np.array(points), np.array(weights)
    ours = np.exp(-0.5 * ((x[:1, None] - points) ** 2).sum(axis=-1) / length**2) @ weights
    if not np.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(weights).max(initial=0.0)):
        raise Missing(f"pyMOR {version} evaluates its interpolant otherwise; 2026.1 is known")
    return points, weights
