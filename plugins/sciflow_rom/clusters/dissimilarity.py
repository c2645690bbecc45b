"""How unlike two members are: angles between solutions, between their spans, and distances."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.coordinates import Coordinates

CLOSE = 1e-6
"""Below this squared sine, or squared relative distance, differences are taken instead of products."""


def stacked(coordinates: Coordinates) -> np.ndarray:
    """All levels of each member, one below the other.

    Returns
    -------
    ndarray, shape (level * rank, member)

    Raises
    ------
    Invalid
        If members have different levels, or one is not finite.
    """
    groups = coordinates.groups
    first = coordinates.levels[groups[0]]
    for group in groups:
        if not np.array_equal(coordinates.levels[group], first):
            raise Invalid(
                f"member {coordinates.members[group[0]]} has other time levels than member "
                f"{coordinates.members[groups[0][0]]}; whole trajectories can be compared only at equal "
                "levels. Take a dissimilarity between spans: max_angle, grassmann, chordal, projection_error"
            )
    order = np.stack(groups)
    blocks = coordinates.triangle[:, order]
    columns = np.ascontiguousarray(blocks.transpose(2, 0, 1)).reshape(-1, len(groups))
    bad = np.flatnonzero(~np.isfinite(columns).all(axis=0))
    if len(bad):
        raise Invalid(f"members {_names(coordinates, bad)} are not finite; leave these out")
    return columns


def directions(coordinates: Coordinates) -> np.ndarray:
    """Members, all levels stacked, scaled to unit norm, shape (level * rank, member).

    Raises
    ------
    Invalid
        If a member is zero, or as `stacked`.
    """
    columns = stacked(coordinates)
    norms = np.linalg.norm(columns, axis=0)
    bad = np.flatnonzero(norms <= 0)
    if len(bad):
        raise Invalid(
            f"members {_names(coordinates, bad)} are zero everywhere and have no angle to others; leave "
            "these out, or take the dissimilarity euclidean or parameters"
        )
    return np.asarray(columns / norms)


def sine(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Sine of the angle between lines.

    Parameters
    ----------
    ours, theirs : ndarray, shape (dim, p) and (dim, q)
        Columns of unit norm.

    Returns
    -------
    ndarray, shape (p, q)
        In [0, 1].

    Notes
    -----
    ``sqrt(1 - c^2)`` with the matrix ``c`` of products: one product of matrices. Below a sine of 1e-3,
    where that cancels, it is ``d sqrt(1 - d^2 / 4)`` with the chord ``d = |u -+ v|``, so that the error is
    near rounding for any angle.
    """
    cosines = ours.T @ theirs
    squares = 1.0 - np.square(cosines)
    for rows, columns in _pairs(squares < CLOSE):
        signs = np.sign(cosines[rows, columns])
        chords = np.square(ours[:, rows] - signs * theirs[:, columns]).sum(axis=0)
        squares[rows, columns] = chords * (1.0 - chords / 4.0)
    return np.asarray(np.sqrt(np.clip(squares, 0.0, 1.0)))


def distance(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Euclidean distances of columns, shape (p, q); right also for close ones (see `sine`)."""
    sums = np.square(ours).sum(axis=0)[:, None] + np.square(theirs).sum(axis=0)
    squares = sums - 2.0 * (ours.T @ theirs)
    for rows, columns in _pairs(squares < CLOSE * sums):
        squares[rows, columns] = np.square(ours[:, rows] - theirs[:, columns]).sum(axis=0)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def spans(coordinates: Coordinates, modes: int) -> np.ndarray:
    """Orthonormal bases of the most important directions of each member's levels.

    Parameters
    ----------
    coordinates : Coordinates
        Of the members.
    modes : int
        Dimension of each span; fewer where a member has not as many, then for all members.

    Returns
    -------
    ndarray, shape (member, rank, n)

    Raises
    ------
    Invalid
        If a member is zero or not finite.
    """
    found, dimension = [], modes
    eps = float(np.finfo(np.float64).eps)
    for row, group in enumerate(coordinates.groups):
        block = coordinates.triangle[:, group]
        if not np.isfinite(block).all():
            raise Invalid(f"members {_names(coordinates, np.array([row]))} are not finite; leave these out")
        left, sigma, _ = np.linalg.svd(block, full_matrices=False)
        floor = max(coordinates.floor, eps * max(block.shape)) * sigma[0]
        dimension = min(dimension, int((sigma > floor).sum()))
        if dimension == 0:
            raise Invalid(
                f"members {_names(coordinates, np.array([row]))} are zero everywhere and have no span; leave "
                "these out, or take the dissimilarity euclidean or parameters"
            )
        found.append(left[:, :modes])
    return np.stack([left[:, :dimension] for left in found])


def angles(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Principal angles between subspaces.

    Parameters
    ----------
    ours, theirs : ndarray, shape (p, dim, n) and (q, dim, n)
        Orthonormal bases.

    Returns
    -------
    ndarray, shape (p, q, n)
        Increasing, rad. Small ones come from sines, so that they are right near zero.

    Notes
    -----
    Cosines are the singular values of ``A^T B``, sines those of ``B - A A^T B``; the latter are computed
    only for pairs with a small angle. ``O(p q n^2 (dim + n))`` operations.

    References
    ----------
    A. Bjorck and G. H. Golub, "Numerical methods for computing angles between linear subspaces",
    Mathematics of Computation 27 (1973), equations 13 to 15.
    """
    n = ours.shape[2]
    n_theirs = min(n, theirs.shape[2])
    flat = theirs.transpose(1, 0, 2).reshape(theirs.shape[1], -1)
    found = np.empty((len(ours), len(theirs), min(n, n_theirs)))
    for row, basis in enumerate(ours):
        products = (basis.T @ flat).reshape(n, len(theirs), -1).transpose(1, 0, 2)
        cosines = np.clip(np.linalg.svd(products, compute_uv=False), 0.0, 1.0)
        found[row] = np.arccos(cosines)
        near = np.flatnonzero((1.0 - np.square(cosines[:, 0])) < 1e-2)
        for some in np.array_split(near, 1 + len(near) // 256):
            rest = theirs[some] - basis @ products[some]
            sines = np.clip(np.linalg.svd(rest, compute_uv=False)[:, ::-1], 0.0, 1.0)
            small = np.square(cosines[some]) > 0.5
            found[row, some] = np.where(small, np.arcsin(sines[:, : cosines.shape[1]]), found[row, some])
    return found


def outside(columns: list[np.ndarray], bases: np.ndarray) -> np.ndarray:
    """Relative part of each member that lies outside each span.

    Parameters
    ----------
    columns : list of ndarray, shape (dim, level)
        Of each member.
    bases : ndarray, shape (q, dim, n)
        Orthonormal.

    Returns
    -------
    ndarray, shape (member, q)
        ``|U_i - P_j U_i| / |U_i|`` in the Frobenius norm.
    """
    found = np.empty((len(columns), len(bases)))
    norms = np.array([np.linalg.norm(block) for block in columns])
    for row, block in enumerate(columns):
        inside = np.einsum("jdn,dt->jnt", bases, block, optimize=True)
        squares = norms[row] ** 2 - np.square(inside).sum(axis=(1, 2))
        for j in np.flatnonzero(squares < 1e-4 * norms[row] ** 2):
            squares[j] = np.square(block - bases[j] @ inside[j]).sum()
        found[row] = np.sqrt(np.maximum(squares, 0.0)) / norms[row]
    return np.minimum(found, 1.0)


def within_spans(coordinates: Coordinates, bases: np.ndarray) -> list[np.ndarray]:
    """The levels of each member projected on its own span, shape (rank, level) each."""
    blocks = [coordinates.triangle[:, group] for group in coordinates.groups]
    return [basis @ (basis.T @ block) for basis, block in zip(bases, blocks, strict=True)]


def combined(first: np.ndarray, second: np.ndarray, how: Literal["max", "min", "mean"]) -> np.ndarray:
    """Two one-sided dissimilarities, any equal shapes, as a symmetric one."""
    if how == "mean":
        return np.asarray(0.5 * (first + second))
    return np.maximum(first, second) if how == "max" else np.minimum(first, second)


def scaled_parameters(reference: Coordinates, other: Coordinates) -> np.ndarray:
    """Parameters of the members of `other`, in units of the spread of those of `reference`.

    Returns
    -------
    ndarray, shape (parameter, member)
        Logarithms where a parameter is spread evenly in them.

    Raises
    ------
    Invalid
        If there are no parameters.
    """
    if reference.points.shape[1] == 0:
        raise Invalid("the members have no parameters; take a dissimilarity between solutions: sine")
    base, rows = _parameters(reference), _parameters(other)
    spread = base.std(axis=0)
    return np.asarray(((rows - base.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).T)


def symmetric(found: np.ndarray) -> np.ndarray:
    """A square matrix, shape (n, n), made exactly symmetric, with zeros on the diagonal."""
    made = np.asarray(0.5 * (found + found.T))
    np.fill_diagonal(made, 0.0)
    return made


def _parameters(coordinates: Coordinates) -> np.ndarray:
    rows = coordinates.points[[g[0] for g in coordinates.groups]].astype(np.float64)
    for column, logarithmic in enumerate(coordinates.logarithmic):
        if logarithmic:
            rows[:, column] = np.log(rows[:, column])
    return rows


def _pairs(mask: np.ndarray, block: int = 4096) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of the true entries, some at a time so that what is gathered for them stays small."""
    rows, columns = np.nonzero(mask)
    cuts = range(block, len(rows), block)
    return list(zip(np.split(rows, cuts), np.split(columns, cuts), strict=True))


def _names(coordinates: Coordinates, rows: np.ndarray) -> list[int]:
    return [int(coordinates.members[coordinates.groups[r][0]]) for r in rows[:5]]
