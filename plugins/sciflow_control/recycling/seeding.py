"""Seeding: a basis that is there already as the first recycle space."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.errors import Invalid, NotFound
from sciflow.linear_solver import ROWS

COLUMNS = ("mode", "snapshot", "member", "time", "step", "sample", "batch")
"""Axes along which an artifact's field holds vectors; the others are degrees of freedom."""


def digest(path: str) -> str:
    """The digest of an artifact, or the SHA-256 of an ``.npy`` file.

    Raises
    ------
    NotFound
        If there is nothing at `path`.
    """
    place = Path(path)
    if place.is_dir():
        from sciflow.artifact import Artifact

        return Artifact.open(place, verify=False).digest
    if not place.is_file():
        raise NotFound(f"no artifact and no .npy file at {place}")
    return hashlib.sha256(place.read_bytes()).hexdigest()


def read(path: str, field: str, count: int, expected: str = "") -> np.ndarray:
    """Vectors of an artifact or a file, at most `count` of them.

    Parameters
    ----------
    path : str
        Directory of an artifact, or a ``.npy`` file of shape (dof, vector).
    field : str
        Of the artifact: a basis with an axis ``mode``, of which the first ones are taken, or
        snapshots, of which the proper orthogonal modes are.
    count : int
        Vectors at most.
    expected : str
        The digest it must have, where given.

    Returns
    -------
    ndarray, shape (dof, at most count)

    Raises
    ------
    NotFound
        If there is nothing at `path`, or no such field.
    Invalid
        If the digest is another, it holds something else than real numbers, or not all of a vector is
        finite. Snapshots of members that failed are passed over.
    """
    found = digest(path)
    if expected and found != expected:
        raise Invalid(f"{path} has the digest {found}, the configuration asks for {expected}")
    return _read(path, field, count, found)


@lru_cache(maxsize=4)
def _read(path: str, field: str, count: int, found: str) -> np.ndarray:
    """Vectors of what has the digest `found`: every member of an ensemble asks for the same ones."""
    values, ordered = _of_file(path) if Path(path).is_file() else _of_artifact(path, field)
    best = _best(values, count, ordered=ordered)
    best.flags.writeable = False
    return best


def _of_file(path: str) -> tuple[np.ndarray, bool]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Invalid(f"{path} is no .npy file of numbers: {error}") from None
    if getattr(values, "ndim", 0) != 2 or values.dtype.kind not in "fiu":
        what = (
            f"an array of {values.dtype} and shape {values.shape}"
            if hasattr(values, "dtype")
            else "an archive"
        )
        raise Invalid(f"{path} holds {what}, wanted are real numbers of shape (dof, vector)")
    return _usable(path, np.asarray(values, dtype=np.float64), ordered=True), True


def _of_artifact(path: str, field: str) -> tuple[np.ndarray, bool]:
    from sciflow.artifact import Artifact

    artifact = Artifact.open(path)
    values = artifact.read(field)
    axes = artifact.schema.fields[field].axes
    across = [i for i, axis in enumerate(axes) if axis in COLUMNS]
    if not across:
        raise Invalid(f"{path}: {field!r} has the axes {', '.join(axes)}, none of {', '.join(COLUMNS)}")
    if values.dtype.kind not in "fiu":
        raise Invalid(f"{path}: {field!r} holds {values.dtype}, wanted are real numbers")
    along = [i for i in range(values.ndim) if i not in across]
    flat = np.asarray(values, dtype=np.float64).transpose(along + across)
    columns = flat.reshape(int(np.prod([values.shape[i] for i in along])), -1)
    return _usable(f"{path}: {field!r}", columns, ordered="mode" in axes), "mode" in axes


def _usable(source: str, columns: np.ndarray, *, ordered: bool) -> np.ndarray:
    """Without vectors of zeros, and without those of members that failed: nothing but NaN in them."""
    bad = ~np.isfinite(columns)
    spoiled = np.flatnonzero(bad.any(axis=0) & (ordered | ~bad.all(axis=0)))
    if len(spoiled):
        row = int(np.flatnonzero(bad[:, spoiled[0]])[0])
        raise Invalid(f"{source}: vector {spoiled[0]} has {columns[row, spoiled[0]]} in row {row}")
    kept = columns[:, ~bad.any(axis=0) & columns.any(axis=0)]
    if not kept.size:
        raise Invalid(f"{source}: there is no finite vector other than zero to begin with")
    return kept


def _best(columns: np.ndarray, count: int, *, ordered: bool) -> np.ndarray:
    if ordered:
        return columns[:, :count]
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, : min(count, int((sizes > 1e-10 * sizes[0]).sum()))])


def check(path: str, field: str) -> str:
    """Refuse what can never be a basis, before a job starts; the digest of what can.

    Raises
    ------
    NotFound, Invalid
        See `read`. Snapshots are only looked at when they are used: there may be many.
    """
    found = digest(path)
    if Path(path).is_file():
        _of_file(path)
        return found
    from sciflow.artifact import Artifact

    axes = Artifact.open(path, verify=False).schema.fields
    if field not in axes or "mode" in axes[field].axes or not set(axes[field].axes) & set(COLUMNS):
        _of_artifact(path, field)
    return found


def local(vectors: np.ndarray, ksp: Any, source: str = "") -> np.ndarray:
    """The rows of a basis that are this rank's.

    Parameters
    ----------
    vectors : ndarray, shape (dof, vector)
        In the order of the stored field.
    ksp : petsc4py.PETSc.KSP
        Where an IS was composed with it or with its operator as `ROWS`, that says where this rank's
        rows are in the stored field (the index of `Part`); else PETSc's own numbering counts.
    source : str
        Where they are from, for the message.

    Returns
    -------
    ndarray, shape (local row, vector)

    Raises
    ------
    Invalid
        If the basis has another number of rows than the operator.
    """
    matrix = ksp.getOperators()[0]
    total = matrix.getSize()[0]
    if len(vectors) != total:
        raise Invalid(
            f"{source}: a basis of {len(vectors)} rows for an operator of {total}; it must be of the same "
            "mesh, in the order of the degrees of freedom"
        )
    order = ksp.query(ROWS) or matrix.query(ROWS)
    if order is None or not order.handle:
        first, last = matrix.getOwnershipRange()
        return vectors[first:last]
    return np.asarray(vectors[order.getIndices()])
