"""Hilbert's curve in any number of dimensions."""

from __future__ import annotations

import numpy as np

from sciflow.errors import Invalid


def hilbert_index(cells: np.ndarray, bits: int) -> np.ndarray:
    """Where the cells of a grid lie on Hilbert's curve.

    Parameters
    ----------
    cells : ndarray of int, shape (point, dimension)
        In ``[0, 2^bits)``.
    bits : int
        Of each coordinate.

    Returns
    -------
    ndarray of uint64, shape (point,)
        A number in ``[0, 2^(bits dimension))``, another for each cell; cells that follow each other differ
        by one in one coordinate.

    Raises
    ------
    Invalid
        If a coordinate lies outside, or an index needs more than 64 bits.

    Notes
    -----
    The coordinates' bits are turned, from the highest down, into those of the index by exchanges and
    inversions of axes, then by a Gray code. O(point dimension bits), all points at once.

    References
    ----------
    J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707 (2004), 381-387.
    """
    cells = np.asarray(cells)
    if cells.ndim != 2 or cells.dtype.kind not in "iu":
        raise Invalid(f"cells are whole numbers, (point, dimension), got {cells.dtype} {cells.shape}")
    dimension = cells.shape[1]
    if dimension < 1 or bits < 1 or dimension * bits > 64:
        raise Invalid(f"an index of {dimension} dimensions with {bits} bits each does not fit 1 to 64 bits")
    if cells.size and (cells.min() < 0 or int(cells.max()) >= 1 << bits):
        raise Invalid(f"coordinates lie between 0 and {(1 << bits) - 1}, got {cells.min()} to {cells.max()}")
    return _interleaved(_transposed(cells.astype(np.uint64).T.copy(), bits), bits)


def _transposed(x: np.ndarray, bits: int) -> np.ndarray:
    """Coordinates, shape (dimension, point), to the index's bits, dealt out to the axes."""
    one = np.uint64(1)
    for level in range(bits - 1, 0, -1):
        bit = one << np.uint64(level)
        below = bit - one
        for axis in x:
            far = (axis & bit) != 0
            swapped = np.where(far, np.uint64(0), (x[0] ^ axis) & below)
            x[0] ^= np.where(far, below, swapped)
            axis ^= swapped  # noqa: PLW2901 (a row of x, changed in place)
    for i in range(1, len(x)):
        x[i] ^= x[i - 1]
    flips = np.zeros_like(x[0])
    for level in range(bits - 1, 0, -1):
        bit = one << np.uint64(level)
        flips ^= np.where((x[-1] & bit) != 0, bit - one, np.uint64(0))
    return np.asarray(x ^ flips)


def _interleaved(x: np.ndarray, bits: int) -> np.ndarray:
    index = np.zeros(x.shape[1], dtype=np.uint64)
    for level in range(bits - 1, -1, -1):
        for axis in x:
            index = (index << np.uint64(1)) | ((axis >> np.uint64(level)) & np.uint64(1))
    return index
