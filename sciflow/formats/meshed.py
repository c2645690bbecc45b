"""Fields on a mesh that all members share: what the importers of mesh files have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow.formats.ensemble import Ensemble
from sciflow.formats.labels import identifiers
from sciflow.schema import Field

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

TRIANGLE, TETRAHEDRON = 5, 10
"""VTK's numbers of the linear triangle and tetrahedron."""
CELL_AXES = {1: "edge", 2: "face", 3: "volume"}
"""What UGRID calls the cells of a mesh, by their dimension."""
_LINEAR = {TRIANGLE: "triangles", TETRAHEDRON: "tetrahedra"}
_SAME = 1e-9
"""Nodes closer than this, relative to the extent of the mesh, are the same; text formats round."""


@dataclass(frozen=True)
class Cells:
    """Cells of one kind.

    Attributes
    ----------
    kind : int
        VTK's number of the cell.
    dimension : int
        1, 2 or 3.
    nodes : ndarray of int64, shape (cell, corner)
        Counted from 0.
    """

    kind: int
    dimension: int
    nodes: np.ndarray


@dataclass(frozen=True)
class Level:
    """One time level of one member, as it stands in a file.

    Attributes
    ----------
    source : str
        The file.
    time : float
        Any unit.
    points : ndarray, shape (node, 2 or 3)
        Any unit.
    cells : list of Cells
        Those of the highest dimension, in the order that cell fields have.
    node, cell : mapping of str to ndarray, shape (node or cell, ...)
        Fields, by their names in the file.
    """

    source: str
    time: float
    points: np.ndarray
    cells: list[Cells]
    node: Mapping[str, np.ndarray]
    cell: Mapping[str, np.ndarray]


@dataclass
class Members:
    """Members of an ensemble on one mesh, read one at a time and held against the first.

    Attributes
    ----------
    path : Path
        The data set, for messages.
    labels : sequence of str
        Names of the members.
    load : callable
        ``load(number)`` gives the levels of a member, in order of time, one after the other.
    """

    path: Path
    labels: Sequence[str]
    load: Callable[[int], Iterable[Level]]
    _reference: list[Level] = field(default_factory=list)
    _held: tuple[int, list[Level]] = field(default=(-1, []))

    def ensemble(
        self, parameters: Mapping[str, tuple[str, np.ndarray]], about: Mapping[str, Any] | None = None
    ) -> Ensemble:
        """For import; other members than the first are checked when they are read.

        Raises
        ------
        Invalid
            If there is no member, or the first has no field or a mesh that cannot be stored.
        """
        if not self.labels:
            raise Invalid(f"{self.path}: there are no members")
        levels = self._levels(0)
        first = levels[0]
        mesh = mesh_arrays(first)
        axis = CELL_AXES[first.cells[0].dimension]
        timed = len(levels) > 1
        lines = {"node": np.arange(len(first.points), dtype=float)}
        if timed:
            lines["time"] = np.array([level.time for level in levels])
        if first.cell:
            lines[axis] = np.arange(sum(len(c.nodes) for c in first.cells), dtype=float)
        # Solvers write the same quantity at nodes and cells; ParaView names both alike.
        called = {t: f"{t}_{axis}" if t in first.node else t for t in first.cell}
        names = identifiers([*first.node, *called.values()], first.source)
        fields = {}
        sources = {names[t]: (t, "node") for t in first.node}
        sources |= {names[c]: (t, "cell") for t, c in called.items()}
        for name, (text, place) in sources.items():
            own, values = ("node" if place == "node" else axis), getattr(first, place)[text]
            inner = () if values.ndim == 1 else (f"component_{values.shape[1]}",)
            if inner:
                lines[inner[0]] = np.arange(values.shape[1], dtype=float)
            axes = (*(("time",) if timed else ()), own, *inner)
            notes = {"mesh": "mesh", "location": own}
            fields[name] = Field(axes, "any", _stored(values, first.source), text, notes)

        def values_of(name: str, number: int) -> np.ndarray:
            text, place = sources[name]
            one = [np.asarray(getattr(level, place)[text]) for level in self._levels(number)]
            return np.stack(one) if timed else one[0]

        return Ensemble(
            self.path.name, fields, lines, dict.fromkeys(lines, "any"), parameters, len(self.labels),
            values_of, arrays=mesh, labels=self.labels, about=about or {},
        )  # fmt: skip

    def _levels(self, number: int) -> list[Level]:
        if self._held[0] == number:
            return self._held[1]
        levels: list[Level] = []
        for level in self.load(number):
            first = (self._reference or levels or [level])[0]
            if level is not first:
                _alike(level, first)
            # One copy of the mesh, however many levels there are.
            levels.append(replace(level, points=first.points, cells=first.cells))
        if not levels:
            raise Invalid(f"{self.path}: the member {self.labels[number]} has no time level")
        self._reference = self._reference or levels
        times, wanted = ([level.time for level in group] for group in (levels, self._reference))
        if len(times) != len(wanted) or not np.allclose(times, wanted, rtol=1e-9, atol=0):
            raise Invalid(
                f"{levels[0].source}: {_times(times)}, but {self._reference[0].source} has {_times(wanted)}; "
                "all members need the same times"
            )
        self._held = (number, levels)
        return levels


def _alike(level: Level, first: Level) -> None:
    """Refuse a level on another mesh or with other fields than the first one."""
    reason = _other_mesh(level, first)
    if reason:
        raise Invalid(
            f"{level.source} is on another mesh than {first.source}: {reason}. An ensemble has one mesh "
            "for all members and times: interpolate to a common one first, or import each mesh by itself"
        )
    for word, ours, theirs in (("node", level.node, first.node), ("cell", level.cell, first.cell)):
        shapes = [{n: np.shape(v) for n, v in group.items()} for group in (ours, theirs)]
        differing = [n for n in (*ours, *theirs) if shapes[0].get(n) != shapes[1].get(n)]
        for n in differing[:1]:
            have = [f"has {n!r} of shape {s[n]}" if n in s else f"has no {n!r}" for s in shapes]
            raise Invalid(
                f"{level.source} {have[0]} among its {word} fields, but {first.source} {have[1]}: "
                "all members need the same fields"
            )


def _times(times: list[float]) -> str:
    return f"{len(times)} time levels ({times[0]:g} to {times[-1]:g})"


def _other_mesh(level: Level, first: Level) -> str:
    if level.points.shape != first.points.shape:
        return f"{len(level.points)} nodes instead of {len(first.points)}"
    extent = float(np.ptp(first.points, axis=0).max())
    apart = np.abs(level.points - first.points).max(axis=1)
    if apart.max() > _SAME * extent:
        node = int(apart.argmax())
        return f"node {node} is at {level.points[node].tolist()}, not {first.points[node].tolist()}"
    ours, theirs = ([(c.kind, c.nodes.shape) for c in one.cells] for one in (level, first))
    if ours != theirs:
        return "its cells are of other kinds or numbers"
    same = all(np.array_equal(a.nodes, b.nodes) for a, b in zip(level.cells, first.cells, strict=True))
    return "" if same else "its cells have other corners"


def _stored(values: np.ndarray, where: str) -> str:
    from sciflow.formats.numpy_files import stored

    if values.dtype.kind not in "fiu":
        raise Invalid(f"{where}: a field of {values.dtype} cannot be stored; only real numbers")
    return stored(values.dtype)


def mesh_arrays(level: Level) -> dict[str, tuple[Field, np.ndarray]]:
    """A mesh as arrays, by the conventions of UGRID.

    Parameters
    ----------
    level : Level
        With points and cells.

    Returns
    -------
    dict
        ``mesh``, whose attributes describe the others; ``node_x``, ``node_y`` and, unless all nodes of a
        mesh of lines or faces have z = 0, ``node_z`` (node); for linear triangles in a plane ``triangles``,
        anticlockwise, for linear ``tetrahedra`` these, and for other and mixed cells ``edges``, ``faces`` or
        ``volumes`` (cell, corner), filled up with -1; of all but the first also VTK's numbers, ``face_kind``
        and so on.

    Raises
    ------
    Invalid
        If there are no cells or a corner is no node.

    References
    ----------
    UGRID conventions 1.0; start_index 0, ``_FillValue`` for cells of different numbers of corners.
    """
    if not level.cells or not sum(len(c.nodes) for c in level.cells):
        raise Invalid(f"{level.source}: the mesh has no cells")
    points = np.asarray(level.points, dtype=float)
    dimension = level.cells[0].dimension
    if points.shape[1] > 2 and dimension < 3 and not points[:, 2].any():
        points = points[:, :2]
    if not np.isfinite(points).all():
        raise Invalid(f"{level.source}: coordinates of nodes are not finite")
    for cells in level.cells:
        if len(cells.nodes) and not 0 <= cells.nodes.min() <= cells.nodes.max() < len(points):
            raise Invalid(f"{level.source}: cells have corners beyond the {len(points)} nodes")
    axis = CELL_AXES[dimension]
    width = max(c.nodes.shape[1] for c in level.cells)
    filled = [
        np.pad(c.nodes, ((0, 0), (0, width - c.nodes.shape[1])), constant_values=-1) for c in level.cells
    ]
    corners = np.concatenate(filled).astype(np.int64)
    kinds = np.concatenate([np.full(len(c.nodes), c.kind, np.uint8) for c in level.cells])
    only = set(kinds.tolist())
    name = _LINEAR.get(only.pop(), f"{axis}s") if len(only) == 1 else f"{axis}s"
    if name == "triangles" and points.shape[1] == 3:
        name = "faces"  # who reads triangles takes them to lie in a plane
    if name == "triangles":
        corners = _anticlockwise(points, corners)
    directions = "xyz"[: points.shape[1]]
    topology = {
        "cf_role": "mesh_topology",
        "topology_dimension": dimension,
        "node_coordinates": " ".join(f"node_{d}" for d in directions),
        f"{axis}_node_connectivity": name,
    }
    role = {"cf_role": f"{axis}_node_connectivity", "start_index": 0}
    found = {
        "mesh": (Field((), "1", "int32", "topology of the mesh", topology), np.zeros((), np.int32)),
        name: (Field((axis, "corner"), "1", "int64", "nodes of each cell; -1 for none", role), corners),
    }
    for i, d in enumerate(directions):
        found[f"node_{d}"] = (Field(("node",), "any", "float64", f"{d} of the nodes"), points[:, i])
    if name != "triangles":
        found[f"{axis}_kind"] = (Field((axis,), "1", "uint8", "VTK's number of each cell"), kinds)
    return found


def _anticlockwise(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    a, b, c = (points[corners[:, i]] for i in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    turned = corners.copy()
    turned[area < 0, 1:] = corners[area < 0, :0:-1]
    return turned


def cells_of(artifact: Artifact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mesh of an ensemble.

    Returns
    -------
    tuple of ndarray
        Points (node, 3), any unit; corners (cell, corner), -1 for none; VTK's numbers (cell,).

    Raises
    ------
    Invalid
        If it has no mesh.
    """
    if "mesh" not in artifact.schema.fields:
        raise Invalid(f"{artifact.path} has no mesh")
    about = artifact.array("mesh").attrs
    axis = CELL_AXES[int(about.get("topology_dimension", 2))]
    corners = artifact.read(str(about[f"{axis}_node_connectivity"]))
    kinds = f"{axis}_kind"
    lines = [artifact.read(n) for n in str(about["node_coordinates"]).split()]
    points = np.zeros((len(lines[0]), 3))
    points[:, : len(lines)] = np.stack(lines, axis=1)
    found = artifact.read(kinds) if kinds in artifact.schema.fields else np.full(len(corners), TRIANGLE, "u1")
    return points, corners, np.asarray(found)
