"""Directories of mesh files: one file, or one series of files, for each member."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from sciflow.errors import Invalid, Missing
from sciflow.formats.ensemble import Ensemble

if TYPE_CHECKING:
    import numpy as np

    from sciflow.formats.meshed import Cells, Level

PARAMETERS = "parameters.csv"
SERIES = (".pvd", ".series", ".xdmf", ".xmf", ".med")
"""Files that hold or name several time levels, in the order in which they are looked for."""
SINGLE = (".pvtu", ".vtu", ".vtk", ".cgns")
"""Files of one time level; the first names others of the second kind."""
_MED_STEP = re.compile(r"(.*)\[(\d+)\] - (.*)")
_TAGS = {".med": ("point_tags", "cell_tags")}
"""Names of groups, no fields, by format."""


def recognise(path: Path) -> bool:
    """Whether this is a directory of mesh files, or of directories of them; also a file, to be refused."""
    if not path.is_dir():
        return path.suffix.lower() in (*SERIES, *SINGLE)
    here = [path, *(p for p in path.iterdir() if p.is_dir())]
    return any(f.suffix.lower() in (*SERIES, *SINGLE) for d in here for f in d.iterdir())


def read(path: Path) -> Ensemble:
    """Open for import.

    A member is a file of the directory, or a directory in it with a series. Where there are files that
    name others (``.pvd``, ``.series``) or hold several levels (``.xdmf``, ``.med``), these are the
    members. Fields at nodes and of cells become fields of the ensemble, components in a last axis;
    `PARAMETERS` beside the members, if there, has one row for each.

    Raises
    ------
    Invalid
        If there are no members, files of several formats, or the first member cannot be read.
    Missing
        If meshio is not installed.
    """
    from sciflow.formats.labels import table
    from sciflow.formats.meshed import Members

    if not path.is_dir():
        raise Invalid(f"{path}: one file is one member; name the directory with the files of all members")
    members = _members(path)
    labels = [m.name for m in members]
    note = path / PARAMETERS
    parameters = table(note, labels) if note.is_file() else {}
    return Members(path, labels, lambda number: _levels(members[number], path)).ensemble(parameters)


def natural(name: str) -> list[Any]:
    """Sorts ``m10`` behind ``m9``."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _members(path: Path) -> list[Path]:
    files = _files(path)
    folders = sorted((p for p in path.iterdir() if p.is_dir() and _files(p)), key=lambda p: natural(p.name))
    if files and folders and files[0].suffix.lower() not in (".pvd", ".series", ".pvtu"):
        raise Invalid(
            f"{path}: is a member a file ({files[0].name}) or a directory ({folders[0].name})? "
            "Leave one of them"
        )
    if not files and not folders:
        known = " ".join((*SERIES, *SINGLE))
        raise Invalid(
            f"{path}: there are no members: neither files ({known}) nor directories of them. "
            "`meshio convert` turns other mesh files into .vtu"
        )
    return files or folders


def _files(path: Path) -> list[Path]:
    """Mesh files of a directory: those that name others come first, others must be of one kind."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir(), key=lambda p: natural(p.name)):
        found.setdefault(file.suffix.lower(), []).append(file)
    for suffix in (*SERIES, ".pvtu"):
        if suffix in found:
            return found[suffix]
    kinds = [s for s in SINGLE if s in found]
    if len(kinds) > 1:
        examples = ", ".join(found[k][0].name for k in kinds)
        raise Invalid(f"{path}: files of several formats ({examples}); leave one of them")
    return found[kinds[0]] if kinds else []


def _levels(member: Path, root: Path) -> Iterator[Level]:
    """Time levels of a member, one after the other."""
    if member.is_dir():
        files = _files(member)
        if files[0].suffix.lower() in SERIES:
            if len(files) > 1:
                raise Invalid(f"{member}: {files[0].name} and {files[1].name}, but a member is one series")
            yield from _levels(files[0], root)
            return
        for step, file in enumerate(files):
            yield _single(file, float(step), root)
        return
    suffix = member.suffix.lower()
    if suffix in (".pvd", ".series"):
        for time, file in (_pvd if suffix == ".pvd" else _series)(member, root):
            yield _single(file, time, root)
    elif suffix in (".xdmf", ".xmf"):
        yield from _xdmf(member, root)
    elif suffix == ".med":
        yield from _med(member)
    else:
        yield _single(member, 0.0, root)


def _inside(file: Path, root: Path, source: Path) -> Path:
    """A file that another one names; it must be part of what is imported."""
    if not file.resolve().is_relative_to(root.resolve()):
        raise Invalid(f"{source}: {file} leads out of {root}; it is not followed")
    if not file.is_file():
        raise Invalid(f"{source}: names {file.name}, which is not there")
    return file


def _xml(path: Path) -> Any:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise Invalid(f"{path} is no XML, or truncated: {error}") from None


def _pvd(path: Path, root: Path) -> list[tuple[float, Path]]:
    found: dict[float, Path] = {}
    for entry in _xml(path).iter("DataSet"):
        try:
            time, name = float(entry.get("timestep", "0")), entry.attrib["file"]
        except (ValueError, KeyError):
            raise Invalid(f"{path}: a DataSet without a file or with a time that is no number") from None
        if time in found:
            raise Invalid(f"{path}: several files at the time {time:g}; merge the parts into one file first")
        found[time] = _inside(path.parent / name, root, path)
    return sorted(found.items())


def _series(path: Path, root: Path) -> list[tuple[float, Path]]:
    try:
        entries = [(float(e["time"]), str(e["name"])) for e in json.loads(path.read_bytes())["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path}: no list of files with name and time: {error!r}") from None
    return [(time, _inside(path.parent / name, root, path)) for time, name in entries]


def _single(path: Path, time: float, root: Path) -> Level:
    suffix = path.suffix.lower()
    if suffix == ".cgns":
        from sciflow.formats.cgns import tree

        return tree(path, time)
    if suffix == ".pvtu":
        pieces = [e.attrib.get("Source", "") for e in _xml(path).iter("Piece")]
        if len(pieces) != 1:
            raise Invalid(
                f"{path}: {len(pieces)} parts of a parallel run; merge them into one .vtu first "
                "(ParaView: Merge Blocks, then save)"
            )
        return _single(_inside(path.parent / pieces[0], root, path), time, root)
    mesh = _meshio(path)
    return _level(path, time, mesh.points, mesh.cells, mesh.point_data, mesh.cell_data)


def _library() -> Any:
    try:
        import meshio
    except ImportError:
        raise Missing("mesh files need meshio: pip install 'sciflow[meshes]'") from None
    return meshio


def _meshio(path: Path) -> Any:
    meshio = _library()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return meshio.read(path)
    # meshio raises whatever its parsers meet, and ends the program where it knows of the error.
    except (Exception, SystemExit) as error:
        reason = said.getvalue().strip() or f"{type(error).__name__}: {error}"
        raise Invalid(f"{path}: meshio cannot read it: {reason}") from None


def _level(
    path: Path, time: float, points: np.ndarray, blocks: list[Any],
    node: Mapping[str, Any], cell: Mapping[str, list[Any]],
) -> Level:  # fmt: skip
    """What meshio gives, without cells of lower dimension than the highest."""
    import numpy as np

    from sciflow.formats.meshed import Level

    known = [_cells(path, block) for block in blocks]
    top = max((c.dimension for c in known), default=0)
    keep = [i for i, c in enumerate(known) if c.dimension == top and top > 0]
    tags = _TAGS.get(path.suffix.lower(), ())
    nodal = {n: _flat(v) for n, v in node.items() if n not in tags}
    cellular = {}
    for name, parts in cell.items():
        absent = [i for i in keep if parts[i] is None]
        if absent and len(absent) < len(keep):
            raise Invalid(f"{path}: the cell field {name!r} has values for some kinds of cells only")
        if keep and not absent and name not in tags:
            cellular[name] = np.concatenate([_flat(parts[i]) for i in keep])
    return Level(str(path), time, np.asarray(points), [known[i] for i in keep], nodal, cellular)


def _cells(path: Path, block: Any) -> Cells:
    import numpy as np
    from meshio._vtk_common import meshio_to_vtk_type

    from sciflow.formats.meshed import Cells

    if block.type not in meshio_to_vtk_type or block.type.startswith(("polygon", "polyhedron")):
        raise Invalid(
            f"{path}: cells of the kind {block.type!r} cannot be imported; split them into simpler ones"
        )
    return Cells(meshio_to_vtk_type[block.type], block.dim, np.asarray(block.data, dtype=np.int64))


def _flat(values: Any) -> np.ndarray:
    """One or two axes; tensors and points of integration become components."""
    import numpy as np

    array = np.asarray(values)
    array = array.reshape(len(array), -1) if array.ndim > 1 else array
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _xdmf(path: Path, root: Path) -> Iterator[Level]:
    """All temporal collections of an XDMF file; meshio alone takes the last and drops the others."""
    head = _xml(path)
    for item in head.iter("DataItem"):
        if item.get("Format") in ("HDF", "Binary"):
            _inside(path.parent / (item.text or "").strip().split(":")[0], root, path)
    if not any(g.get("CollectionType") == "Temporal" for g in head.iter("Grid")):
        mesh = _meshio(path)
        yield _level(path, 0.0, mesh.points, mesh.cells, mesh.point_data, mesh.cell_data)
        return
    try:
        with _library().xdmf.TimeSeriesReader(path) as reader:
            yield from _collections(path, reader)
    except (Invalid, Missing):
        raise
    # As with meshio.read.
    except (Exception, SystemExit) as error:
        raise Invalid(f"{path}: meshio cannot read it: {type(error).__name__}: {error}") from None


def _collections(path: Path, reader: Any) -> Iterator[Level]:
    import numpy as np

    points, cells = reader.read_points_cells()
    groups = [list(g) for g in reader.domain if g.get("CollectionType") == "Temporal"]
    if len({len(g) for g in groups}) != 1:
        raise Invalid(
            f"{path}: its fields have {[len(g) for g in groups]} time levels; write them equally often"
        )
    for step in range(len(groups[0])):
        node: dict[str, Any] = {}
        cell: dict[str, Any] = {}
        times = []
        moved, others = points, cells
        for group in groups:
            if any(c.tag == "Geometry" for c in group[step]):
                # Each level may bring a mesh of its own.
                reader.mesh_grid = group[step]
                moved, others = reader.read_points_cells()
            reader.collection = group
            time, nodal, cellular = reader.read_data(step)
            times.append(time)
            for target, more in ((node, nodal), (cell, cellular)):
                twice = sorted(set(target) & set(more))
                if twice:
                    raise Invalid(f"{path}: the field {twice[0]!r} is there twice")
                target.update(more)
        if not np.allclose(times, times[0]):
            raise Invalid(f"{path}: its fields are given at different times, {sorted(set(times))[:4]}")
        yield _level(path, times[0], moved, others, node, cell)


def _med(path: Path) -> Iterator[Level]:
    """The time levels of a MED file, which meshio gives as fields of different names."""
    mesh = _meshio(path)
    still: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    steps: dict[int, tuple[float, dict[str, Any], dict[str, Any]]] = {}
    for where, group in enumerate((mesh.point_data, mesh.cell_data)):
        for name, values in group.items():
            found = _MED_STEP.fullmatch(name)
            if not found:
                still[where][name] = values
                continue
            number, time = int(found[2]), float(found[3])
            before, *kept = steps.setdefault(number, (time, {}, {}))
            if before != time:
                raise Invalid(f"{path}: step {number} is at time {before:g} and, for {found[1]!r}, {time:g}")
            kept[where][found[1]] = values
    for _, (time, node, cell) in sorted(steps.items()) or [(0, (0.0, {}, {}))]:
        yield _level(path, time, mesh.points, mesh.cells, {**still[0], **node}, {**still[1], **cell})
