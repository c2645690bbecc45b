"""Seeding: a basis that is there already as the first recycle space."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.errors import Invalid, NotFound

COLUMNS = ("mode", "snapshot", "member", "time", "step", "sample", "batch")
"""Axes along which an artifact's field holds vectors; the others are degrees of freedom."""
ROWS = "sciflow_rows"
"""Under this name a KSP or operator may carry a PETSc IS: where its rows are in the stored field."""


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
        If the digest is another, or nothing in it is a finite vector.
    """
    found = digest(path)
    if expected and found != expected:
        raise Invalid(f"{path} has the digest {found}, the configuration asks for {expected}")
    if Path(path).is_file():
        values = np.load(path, allow_pickle=False)
        if values.ndim != 2:
            raise Invalid(f"{path}: an array of shape {values.shape}, wanted (dof, vector)")
        return _best(np.asarray(values, dtype=np.float64), count, ordered=True)
    from sciflow.artifact import Artifact

    artifact = Artifact.open(path)
    values = np.asarray(artifact.read(field), dtype=np.float64)
    axes = artifact.schema.fields[field].axes
    across = [i for i, axis in enumerate(axes) if axis in COLUMNS]
    if not across:
        raise Invalid(f"{path}: {field!r} has the axes {', '.join(axes)}, none of {', '.join(COLUMNS)}")
    along = [i for i in range(values.ndim) if i not in across]
    flat = values.transpose(along + across)
    columns = flat.reshape(int(np.prod([values.shape[i] for i in along])), -1)
    return _best(columns, count, ordered="mode" in axes)


def _best(columns: np.ndarray, count: int, *, ordered: bool) -> np.ndarray:
    columns = columns[:, np.isfinite(columns).all(axis=0) & columns.any(axis=0)]
    if not columns.size:
        raise Invalid("there is no finite vector other than zero to begin with")
    if ordered:
        return columns[:, :count]
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, : min(count, int((sizes > 1e-10 * sizes[0]).sum()))])


def local(vectors: np.ndarray, ksp: Any) -> np.ndarray:
    """The rows of a basis that are this rank's.

    Parameters
    ----------
    vectors : ndarray, shape (dof, vector)
        In the order of the stored field.
    ksp : petsc4py.PETSc.KSP
        Where an IS was composed with it or with its operator as `ROWS`, that says where this rank's
        rows are in the stored field (the index of `Part`); else PETSc's own numbering counts.

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
        raise Invalid(f"a basis of {len(vectors)} rows for an operator of {total}")
    order = ksp.query(ROWS) or matrix.query(ROWS)
    if order is None or not order.handle:
        first, last = matrix.getOwnershipRange()
        return vectors[first:last]
    return np.asarray(vectors[order.getIndices()])
