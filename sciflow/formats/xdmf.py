"""XDMF: one small text file for each member; the values stay where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from sciflow.artifact.layout import Layout
from sciflow.errors import Invalid
from sciflow.formats.ensemble import SPACE, Ensemble

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

_NUMBER = {"float64": ("Float", 8), "float32": ("Float", 4), "int64": ("Int", 8), "int32": ("Int", 4),
           "uint8": ("UChar", 1)}  # fmt: skip


def write(ensemble: Ensemble, aside: Path, target: Path) -> None:
    """Write ``member-<m>.xdmf`` into a directory; paths in them are relative to `target`.

    Raises
    ------
    Invalid
        If no field lies on a uniform grid of at most three axes or at the nodes of a mesh.
    """
    artifact = ensemble.artifact
    assert artifact is not None, "XDMF points into an artifact"
    shown = {n: kind for n in ensemble.fields if (kind := _kind(ensemble, n))}
    if not shown:
        raise Invalid(
            f"{artifact.path}: no field on a uniform grid of x, y, z or at the nodes of a mesh; "
            f"there is {', '.join(ensemble.fields)}"
        )
    aside.mkdir()
    meshes = _Meshes(artifact, aside, target)
    for number, member in enumerate(ensemble.members):
        (aside / f"member-{member}.xdmf").write_text(
            _document(ensemble, shown, meshes, number, member, target)
        )


def _kind(ensemble: Ensemble, name: str) -> str:
    """``mesh``, ``grid``, or nothing where XDMF has no word for it."""
    import numpy as np

    field, axes = ensemble.fields[name], ensemble.space(name)
    if field.dtype not in _NUMBER:
        return ""
    if field.attributes.get("location") == "node" and len(axes) == 1:
        return "mesh"
    known = 1 <= len(axes) <= 3 and set(axes) <= set(SPACE)
    uniform = known and all(
        len(c) > 1 and np.allclose(np.diff(c), c[1] - c[0], rtol=1e-6)
        for c in (ensemble.coordinates[a] for a in axes)
    )
    return "grid" if uniform else ""


class _Meshes:
    """Mesh arrays as files, in the order that a member's degrees of freedom are stored in."""

    def __init__(self, artifact: Artifact, aside: Path, target: Path) -> None:
        self._artifact, self._aside, self._target = artifact, aside, target
        self._made: dict[str, str] = {}

    def topology(self, name: str, member: int) -> str:
        """XML of topology and geometry for one field of one member."""
        artifact = self._artifact
        about = artifact.attributes.get("numberings", {}).get(name, [])
        which = int(artifact.read(f"{name}_numbering")[member]) if about else -1
        key = about[which] if which >= 0 else "canonical"
        if key not in self._made:
            self._made[key] = self._make(key)
        return self._made[key]

    def _make(self, key: str) -> str:
        import numpy as np

        artifact = self._artifact
        mesh = artifact.array("mesh").attrs
        if mesh.get("face_node_connectivity") != "triangles":
            raise Invalid(f"{artifact.path}: XDMF is written for meshes of triangles; VTKHDF takes all")
        cells = artifact.read("triangles")
        nodes = [artifact.read(n) for n in str(mesh["node_coordinates"]).split()]
        points = np.zeros((len(nodes[0]), 3))
        points[:, : len(nodes)] = np.stack(nodes, axis=1)
        if key != "canonical":
            order = artifact.read(key)  # canonical[order] = stored
            place = np.argsort(order)
            points, cells = points[order], place[cells]
        for what, values in (("points", points.astype("<f8")), ("cells", cells.astype("<i8"))):
            (self._aside / f"{key}.{what}").write_bytes(np.ascontiguousarray(values).tobytes())
        return (
            f'<Topology TopologyType="Triangle" NumberOfElements="{len(cells)}">'
            f'<DataItem Format="Binary" NumberType="Int" Precision="8" Endian="Little" '
            f'Dimensions="{len(cells)} {cells.shape[1]}">{key}.cells</DataItem></Topology>'
            f'<Geometry GeometryType="XYZ"><DataItem Format="Binary" NumberType="Float" Precision="8" '
            f'Endian="Little" Dimensions="{len(points)} 3">{key}.points</DataItem></Geometry>'
        )


def _grid(ensemble: Ensemble, axes: tuple[str, ...]) -> str:
    """XML of a uniform grid; XDMF wants at least two axes, slowest first."""
    lines = [ensemble.coordinates[a] for a in axes]
    sizes = [len(c) for c in lines]
    origin, step = [float(c[0]) for c in lines], [float(c[1] - c[0]) for c in lines]
    while len(sizes) < 3:
        sizes, origin, step = [1, *sizes], [0.0, *origin], [1.0, *step]
    words = [" ".join(map(repr, v)) for v in (origin, step)]
    return (
        f'<Topology TopologyType="3DCoRectMesh" Dimensions="{" ".join(map(str, sizes))}"/>'
        f'<Geometry GeometryType="ORIGIN_DXDYDZ"><DataItem Dimensions="3" NumberType="Float" Precision="8" '
        f'Format="XML">{words[0]}</DataItem><DataItem Dimensions="3" NumberType="Float" Precision="8" '
        f'Format="XML">{words[1]}</DataItem></Geometry>'
    )


def _document(
    ensemble: Ensemble, shown: dict[str, str], meshes: _Meshes, number: int, member: int, target: Path
) -> str:
    artifact = ensemble.artifact
    assert artifact is not None
    layouts = {n: Layout.read(artifact.path / "data.zarr" / n) for n in shown}
    collections = []
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, kind in shown.items():
        groups.setdefault((kind, ensemble.space(name)), []).append(name)
    for (kind, axes), names in groups.items():
        times = ensemble.levels(number) if any(ensemble.timed(n) for n in names) else [0.0]
        where = meshes.topology(names[0], member) if kind == "mesh" else _grid(ensemble, axes)
        grids = []
        for level, time in enumerate(times):
            values = [
                _values(artifact, layouts[n], member, level, target)
                for n in names
                if ensemble.timed(n) or not level
            ]
            grids.append(
                f'<Grid GridType="Uniform"><Time Value="{float(time)!r}"/>{where}{"".join(values)}</Grid>'
            )
        title = quoteattr(" ".join(names))
        collections.append(
            f'<Grid Name={title} GridType="Collection" CollectionType="Temporal">\n'
            + "\n".join(grids)
            + "\n</Grid>"
        )
    return (
        '<?xml version="1.0"?>\n<Xdmf Version="3.0"><Domain>\n'
        + "\n".join(collections)
        + "\n</Domain></Xdmf>\n"
    )


def _values(artifact: Artifact, layout: Layout, member: int, level: int, target: Path) -> str:
    kind, size = _NUMBER[layout.field.dtype]
    shape = layout.sample_shape
    sizes = " ".join(
        map(str, (1,) * max(0, 3 - len(shape)) + shape if layout.field.axes[-1] in SPACE else shape)
    )
    file = os.path.relpath(artifact.path / "data.zarr" / layout.name / layout.key(member), target)
    return (
        f'<Attribute Name="{layout.name}" AttributeType="Scalar" Center="Node"><DataItem Format="Binary" '
        f'NumberType="{kind}" Precision="{size}" Endian="Little" Seek="{layout.place(level)}" '
        f'Dimensions="{sizes}">{file}</DataItem></Attribute>'
    )
