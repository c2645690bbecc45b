"""CGNS files, by h5py alone: a mesh, its fields, and numbers that belong to the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid, nearest
from sciflow.formats.ensemble import dataset, h5
from sciflow.formats.meshed import Cells, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

MIXED = 20
"""CGNS' number of a section of cells of several kinds."""


@dataclass(frozen=True)
class Kind:
    """A kind of cell: VTK's number, dimension, corners, and where CGNS has the corners of VTK.

    Attributes
    ----------
    vtk, dimension, corners : int
        VTK's number of the kind, and its sizes.
    order : tuple of int
        Where CGNS has each corner of VTK; empty: in the same place.
    """

    vtk: int
    dimension: int
    corners: int
    order: tuple[int, ...] = ()


KINDS = {
    2: Kind(1, 0, 1),
    3: Kind(3, 1, 2),
    4: Kind(21, 1, 3),
    5: Kind(5, 2, 3),
    6: Kind(22, 2, 6),
    7: Kind(9, 2, 4),
    8: Kind(23, 2, 8),
    9: Kind(28, 2, 9),
    10: Kind(10, 3, 4),
    11: Kind(24, 3, 10),
    12: Kind(14, 3, 5),
    14: Kind(13, 3, 6),
    15: Kind(26, 3, 15, (*range(9), 12, 13, 14, 9, 10, 11)),
    17: Kind(12, 3, 8),
    18: Kind(25, 3, 20, (*range(12), 16, 17, 18, 19, 12, 13, 14, 15)),
    21: Kind(27, 3, 13),
}
"""By CGNS' number (ElementType_t of the SIDS). VTK has the middles of the upright edges last."""


def tree(path: Path, time: float | None = None) -> Level:
    """The mesh of a file and its fields.

    Parameters
    ----------
    path : Path
        The file.
    time : float or None
        Of the level; None takes the one in the file.

    Raises
    ------
    Invalid
        If it is no CGNS file, has no unstructured zone or several, or cells or fields of unknown kinds.
    """
    with h5(path, "r") as file:
        zones = [
            (f"{base}/{name}", zone) for base, group in bases(file) for name, zone in _of(group, "Zone_t")
        ]
        if len(zones) != 1:
            names = ", ".join(n for n, _ in zones)
            raise Invalid(f"{path}: {len(zones)} zones ({names}), but an ensemble has one mesh; keep one")
        name, zone = zones[0]
        if _text(zone.get("ZoneType")) not in ("Unstructured", ""):
            raise Invalid(f"{path}, {name}: a structured zone; only unstructured ones are imported")
        cells, order = _cells(zone, path)
        node, cell = _fields(zone, path, len(order))
        return Level(
            str(path), _time(file) if time is None else time, _points(zone, path), cells, node,
            {n: v[order] for n, v in cell.items()},
        )  # fmt: skip


def numbers(path: Path) -> tuple[float, dict[str, np.ndarray]]:
    """Time of a file, and the arrays that stand directly in its bases, not in a zone.

    Returns
    -------
    tuple of float and dict
        Arrays with one axis, by name.
    """
    with h5(path, "r") as file:
        found = {
            name: np.atleast_1d(dataset(group, " data")[...]).reshape(-1)
            for _, base in bases(file)
            for name, group in _of(base, "DataArray_t")
            if " data" in group and _attribute(group, "type") != "C1"
        }
        return _time(file), found


def bases(file: Any) -> Iterator[tuple[str, Any]]:
    """The bases of an open file, by name."""
    yield from _of(file, "CGNSBase_t")


def _attribute(group: Any, name: str) -> str:
    value = group.attrs.get(name, b"")
    return (value.tobytes() if hasattr(value, "tobytes") else bytes(value)).split(b"\0")[0].decode().strip()


def _of(group: Any, label: str) -> Iterator[tuple[str, Any]]:
    """Children with a label. Links to other files are not followed."""
    for name in group:
        link = group.get(name, getlink=True)
        if type(link).__name__ == "ExternalLink":
            raise Invalid(
                f"{group.file.filename}, {group.name}/{name}: leads out of the file; it is not followed"
            )
        child = group[name]
        if hasattr(child, "keys") and _attribute(child, "label") == label:
            yield name, child


def _text(group: Any) -> str:
    return "" if group is None else dataset(group, " data")[...].tobytes().split(b"\0")[0].decode().strip()


def _time(file: Any) -> float:
    for _, base in bases(file):
        for _, group in _of(base, "BaseIterativeData_t"):
            if "TimeValues" in group:
                return float(np.ravel(dataset(group["TimeValues"], " data")[...])[0])
    return 0.0


def _points(zone: Any, path: Path) -> np.ndarray:
    for _, grid in _of(zone, "GridCoordinates_t"):
        found = [
            np.ravel(dataset(grid[n], " data")[...])
            for n in ("CoordinateX", "CoordinateY", "CoordinateZ")
            if n in grid
        ]
        if found and len({len(f) for f in found}) == 1:
            return np.asarray(np.stack(found, axis=1), dtype=float)
    raise Invalid(f"{path}: no CoordinateX, CoordinateY, CoordinateZ of equal length")


def _cells(zone: Any, path: Path) -> tuple[list[Cells], np.ndarray]:
    """Cells of the highest dimension by kind, and where the file has each of them."""
    sections = []
    for name, group in _of(zone, "Elements_t"):
        number = int(np.ravel(dataset(group, " data")[...])[0])
        nodes = np.ravel(dataset(group["ElementConnectivity"], " data")[...]).astype(np.int64)
        first = int(np.ravel(dataset(group["ElementRange"], " data")[...])[0])
        sections.append((first, _section(number, nodes, f"{path}, {name}")))
    found = [part for _, parts in sorted(sections, key=lambda s: s[0]) for part in parts]
    top = max((KINDS[n].dimension for n, _ in found), default=0)
    kept = [(n, rows) for n, rows in found if KINDS[n].dimension == top > 0]
    if not kept:
        return [], np.zeros(0, np.int64)
    numbers_ = np.concatenate([np.full(len(rows), n) for n, rows in kept])
    cells = []
    for number in np.unique(numbers_).tolist():
        kind = KINDS[number]
        rows = np.concatenate([r for n, r in kept if n == number]) - 1
        cells.append(Cells(kind.vtk, kind.dimension, rows[:, list(kind.order)] if kind.order else rows))
    return cells, np.argsort(numbers_, kind="stable")


def _section(number: int, nodes: np.ndarray, where: str) -> list[tuple[int, np.ndarray]]:
    """Runs of cells of one kind: CGNS' number, and nodes (cell, corner) counted from 1."""
    if number != MIXED:
        corners = _kind(number, where).corners
        if len(nodes) % corners:
            raise Invalid(f"{where}: {len(nodes)} corners of cells that have {corners}")
        return [(number, nodes.reshape(-1, corners))]
    runs: list[tuple[int, list[np.ndarray]]] = []
    at = 0
    while at < len(nodes):
        kind = int(nodes[at])
        end = at + 1 + _kind(kind, where).corners
        if end > len(nodes):
            raise Invalid(f"{where}: ends within a cell")
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(nodes[at + 1 : end])
        at = end
    return [(kind, np.stack(rows)) for kind, rows in runs]


def _kind(number: int, where: str) -> Kind:
    if number not in KINDS:
        known = ", ".join(map(str, KINDS))
        raise Invalid(f"{where}: cells of CGNS' kind {number} cannot be imported; known are {known}")
    return KINDS[number]


def _fields(zone: Any, path: Path, count: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fields at nodes and of cells."""
    found: dict[str, dict[str, np.ndarray]] = {"Vertex": {}, "CellCenter": {}}
    for name, group in _of(zone, "FlowSolution_t"):
        location = _text(group.get("GridLocation")) or "Vertex"
        if location not in found:
            raise Invalid(
                f"{path}, {name}: fields at {location} cannot be imported. {nearest(location, found)}"
            )
        for field, values in _of(group, "DataArray_t"):
            found[location][field] = np.ravel(dataset(values, " data")[...])
    nodes = len(_points(zone, path))
    for location, size in (("Vertex", nodes), ("CellCenter", count)):
        for field, values in found[location].items():
            if len(values) != size:
                raise Invalid(f"{path}, {field}: {len(values)} values at {size} of {location}")
    return found["Vertex"], found["CellCenter"]
