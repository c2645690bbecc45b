"""Orders in which neighbours follow each other, for solvers that keep something of the system before."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.recycling.hilbert import hilbert_index

Method = Literal["none", "greedy", "hilbert"]
WAVES = 12
"""Cosine waves along each side that fields are compared by where there are many; published."""
AXES = 8
"""Most dimensions of the space that Hilbert's curve fills."""


def order(parameters: np.ndarray, method: Method = "greedy", group: int = 2000) -> np.ndarray:
    """An order of systems, or of points of a design, in which neighbours are alike.

    Parameters
    ----------
    parameters : ndarray, shape (row, parameter) or (row, y, x)
        Of any one unit. Fields on a grid are compared by their `WAVES` longest waves along each side for
        the curve, and as they are for the greedy path.
    method : {"none", "greedy", "hilbert"}
        As given; each time the nearest row that is left; along Hilbert's curve through the principal
        components.
    group : int
        Most rows of one greedy path; more rows are split into pieces of the curve, each followed greedily.

    Returns
    -------
    ndarray of int64, shape (row,)
        A permutation: rows in their new order. The way along it, `path_length`, is never longer than along
        the rows as given: where the method finds no shorter one, this is the order as given.

    Raises
    ------
    Invalid
        If there are no rows or parameters, or one is not finite; the message names the row.

    Notes
    -----
    Greedy: O(row min(row, group) parameter), and ``group^2`` numbers of memory. Curve: O(row parameter)
    and a singular value decomposition in ``min(row, parameter)^2`` numbers.

    References
    ----------
    H. Wang et al., "Accelerating data generation for neural operators via Krylov subspace recycling",
    ICLR 2024, arXiv 2401.09516, algorithm 1 and appendix.
    """
    if method not in ("none", "greedy", "hilbert"):
        raise Invalid(f"an order is one of none, greedy, hilbert, got {method!r}")
    if group < 2:
        raise Invalid(f"a greedy path needs at least two rows, got group={group}")
    rows = _checked(parameters)
    given = np.arange(len(rows))
    if method == "none" or len(rows) < 3:
        return given
    flat = rows.reshape(len(rows), -1)
    if method == "hilbert":
        found = curve(low_frequencies(rows) if rows.ndim == 3 else flat)
    elif len(rows) <= group:
        found = nearest_first(flat, 0)
    else:
        found = _pieces(flat, curve(low_frequencies(rows) if rows.ndim == 3 else flat), group)
    return found if path_length(flat, found) < path_length(flat, given) else given


def _checked(parameters: np.ndarray) -> np.ndarray:
    rows = np.asarray(parameters, dtype=np.float64)
    if rows.ndim not in (2, 3) or 0 in rows.shape:
        raise Invalid(f"parameters are (row, parameter) or (row, y, x), none of them zero; got {rows.shape}")
    bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))
    if len(bad):
        raise Invalid(f"row {bad[0]} has a parameter that is not finite ({len(bad)} such rows)")
    return rows


def path_length(rows: np.ndarray, permutation: np.ndarray) -> float:
    """Sum of the distances from each row to the next, in the unit of the rows.

    Parameters
    ----------
    rows : ndarray, shape (row, parameter)
        Parameters.
    permutation : ndarray of int, shape (row,)
        The order.
    """
    total = 0.0
    for first in range(0, len(permutation) - 1, 256):
        ahead = rows[permutation[first : first + 257]]
        total += float(np.sqrt(((ahead[1:] - ahead[:-1]) ** 2).sum(axis=1)).sum())
    return total


def nearest_first(rows: np.ndarray, start: int) -> np.ndarray:
    """From `start` on, always to the nearest row that is left; of equally near ones to the first.

    Parameters
    ----------
    rows : ndarray, shape (row, parameter)
        Parameters.
    start : int
        First row.

    Returns
    -------
    ndarray of int64, shape (row,)
        A permutation.
    """
    far = _squared(rows)
    path = np.empty(len(rows), dtype=np.int64)
    here = start
    for place in range(len(rows)):
        path[place] = here
        far[:, here] = np.inf
        here = int(np.argmin(far[here]))
    return path


def _squared(rows: np.ndarray) -> np.ndarray:
    """Squared distances between all rows, from one product of matrices."""
    centred = rows - rows.mean(axis=0)
    inner = centred @ centred.T
    norms = np.diag(inner).copy()
    inner *= -2
    inner += norms[:, None]
    inner += norms
    return np.asarray(inner)


def _pieces(rows: np.ndarray, along: np.ndarray, group: int) -> np.ndarray:
    """Greedy paths through pieces of the curve, each from the row that is nearest to the end before."""
    found: list[np.ndarray] = []
    for piece in np.array_split(along, -(-len(along) // group)):
        mine = rows[piece]
        start = 0
        if found:
            start = int(np.argmin(((mine - rows[found[-1][-1]]) ** 2).sum(axis=1)))
        found.append(piece[nearest_first(mine, start)])
    return np.concatenate(found)


def curve(rows: np.ndarray) -> np.ndarray:
    """The order along Hilbert's curve through the first principal components.

    Parameters
    ----------
    rows : ndarray, shape (row, parameter)
        Parameters.

    Returns
    -------
    ndarray of int64, shape (row,)
        A permutation; rows in one cell keep their order.

    Notes
    -----
    Half as many dimensions as the logarithm of the number of rows to base 2, at most `AXES`: with more of
    them each is cut in two at most and the curve is blind within.
    """
    wanted = int(np.clip(np.log2(max(len(rows), 2)) / 2, 1, min(AXES, rows.shape[1])))
    places = components(rows, wanted)
    bits = min(16, 64 // places.shape[1])
    low, high = places.min(axis=0), places.max(axis=0)
    # One scale for all axes: what varies little is cut less often.
    side = float((high - low).max())
    if side == 0:
        return np.arange(len(rows))
    cells = ((places - low) / side * ((1 << bits) - 1)).astype(np.int64)
    return np.argsort(hilbert_index(cells, bits), kind="stable")


def components(rows: np.ndarray, count: int) -> np.ndarray:
    """Coordinates along the first principal components.

    Parameters
    ----------
    rows : ndarray, shape (row, parameter)
        Parameters.
    count : int
        How many, at most ``min(rows.shape)`` are returned.

    Returns
    -------
    ndarray, shape (row, count)
        Largest spread first, in the unit of the rows.
    """
    centred = rows - rows.mean(axis=0)
    few = min(count, *rows.shape)
    if len(rows) < rows.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        return np.asarray((vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :few])
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ vectors[:, ::-1][:, :few])


def low_frequencies(fields: np.ndarray, waves: int = WAVES) -> np.ndarray:
    """The longest cosine waves of fields on a grid.

    Parameters
    ----------
    fields : ndarray, shape (row, y, x)
        Values at the midpoints of equal intervals, of any unit.
    waves : int
        Along each side, the constant included; at most as many as there are points.

    Returns
    -------
    ndarray, shape (row, wave)
        Orthonormal coefficients: two rows are never farther apart than the two fields, and as far with all
        waves.

    Notes
    -----
    O(row y x waves).
    """
    left, right = (_cosines(points, min(waves, points)) for points in fields.shape[1:])
    return np.asarray((left @ fields @ right.T).reshape(len(fields), -1))


def _cosines(points: int, waves: int) -> np.ndarray:
    k = np.arange(waves)[:, None]
    rows = np.cos(np.pi * k * (np.arange(points) + 0.5) / points) * np.sqrt(2 / points)
    return np.asarray(np.where(k == 0, rows / np.sqrt(2), rows))
