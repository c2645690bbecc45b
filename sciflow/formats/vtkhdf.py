"""VTKHDF: a file for each member that ParaView opens, with all its time steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid
from sciflow.formats.ensemble import SPACE, Ensemble, dataset, h5
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np


def write(ensemble: Ensemble, aside: Path, target: Path) -> None:
    """Write ``member-<m>.vtkhdf`` into a directory: fields at mesh nodes, or on a uniform grid.

    Raises
    ------
    Invalid
        If there are no such fields, or both kinds.
    """
    nodal = [n for n, f in ensemble.fields.items() if f.attributes.get("location") == "node"]
    gridded = [
        n
        for n in ensemble.fields
        if 1 <= len(ensemble.space(n)) <= 3 and set(ensemble.space(n)) <= set(SPACE)
    ]
    if bool(nodal) == bool(gridded):
        raise Invalid(
            "a VTKHDF file holds fields at mesh nodes or on a grid of x, y, z; "
            f"at nodes: {nodal}, on the grid: {gridded} (select --field)"
        )
    names = nodal or gridded
    if len({ensemble.space(n) for n in names}) != 1 and not nodal:
        raise Invalid(f"the fields {names} are on different grids (select --field)")
    aside.mkdir()
    numbers = ensemble.members or tuple(range(ensemble.count))
    for number, member in enumerate(numbers):
        with h5(aside / f"member-{member}.vtkhdf", "w") as file:
            root = file.create_group("VTKHDF", track_order=True)
            times = ensemble.levels(number) if any(ensemble.timed(n) for n in names) else _zero()
            (_mesh if nodal else _grid)(root, ensemble, names, number, times)
            root.attrs["sciflow_fields"] = names
            for name, (unit, values) in ensemble.parameters.items():
                root.attrs[f"parameter_{name}"], root.attrs[f"unit_{name}"] = values[number], unit


def _zero() -> np.ndarray:
    import numpy as np

    return np.zeros(1)


def _type(root: Any, kind: str) -> None:
    import numpy as np

    root.attrs["Version"] = np.array([2, 0], dtype="i8")
    root.attrs.create("Type", np.bytes_(kind.encode("ascii")))


def _steps(root: Any, times: np.ndarray, names: list[str], per_step: dict[str, int]) -> Any:
    import numpy as np

    steps = root.create_group("Steps")
    steps.attrs["NSteps"] = len(times)
    steps["Values"] = np.asarray(times, dtype=float)
    offsets = steps.create_group("PointDataOffsets")
    for name in names:
        offsets[name] = np.arange(len(times), dtype="i8") * per_step[name]
    return steps


def _mesh(root: Any, ensemble: Ensemble, names: list[str], number: int, times: np.ndarray) -> None:
    import numpy as np

    from sciflow.formats.meshed import cells_of

    assert ensemble.artifact is not None, "meshes come from an artifact"
    points, corners, kinds = cells_of(ensemble.artifact)
    there = corners >= 0
    _type(root, "UnstructuredGrid")
    root["Points"] = points
    root["Connectivity"] = corners[there].astype("i8")
    root["Offsets"] = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype("i8")
    root["Types"] = kinds.astype("u1")
    for name, count in (("NumberOfPoints", len(points)), ("NumberOfCells", len(corners)),
                        ("NumberOfConnectivityIds", int(there.sum()))):  # fmt: skip
        root[name] = np.full(1, count, dtype="i8")
    data = root.create_group("PointData")
    for name in names:
        values = np.asarray(ensemble.read(name, number))
        inner = values.shape[ensemble.fields[name].axes.index("node") + 1 :]
        data[name] = values.reshape(-1, *inner)
        data[name].attrs["units"] = ensemble.fields[name].unit
    per_step = {n: len(points) if ensemble.timed(n) else 0 for n in names}
    steps = _steps(root, times, names, per_step)
    # The mesh stands still: every step begins at its start.
    for name in ("PartOffsets", "PointOffsets"):
        steps[name] = np.zeros(len(times), dtype="i8")
    steps["NumberOfParts"] = np.ones(len(times), dtype="i8")
    for name in ("CellOffsets", "ConnectivityIdOffsets"):
        steps[name] = np.zeros((len(times), 1), dtype="i8")


def _grid(root: Any, ensemble: Ensemble, names: list[str], number: int, times: np.ndarray) -> None:
    import numpy as np

    axes = ensemble.space(names[0])
    lines = {a: ensemble.coordinates[a] for a in axes}
    for axis, line in lines.items():
        if len(line) < 2 or not np.allclose(np.diff(line), line[1] - line[0], rtol=1e-6):
            raise Invalid(f"the coordinates of {axis!r} are not evenly spaced, which VTK's ImageData must be")
    _type(root, "ImageData")
    size = [len(lines[a]) if a in lines else 1 for a in SPACE]
    root.attrs["WholeExtent"] = np.array([v for n in size for v in (0, n - 1)], dtype="i8")
    root.attrs["Origin"] = np.array([lines[a][0] if a in lines else 0.0 for a in SPACE])
    root.attrs["Spacing"] = np.array([lines[a][1] - lines[a][0] if a in lines else 1.0 for a in SPACE])
    root.attrs["Direction"] = np.eye(3).reshape(-1)
    root.attrs["sciflow_axes"] = list(axes)
    data = root.create_group("PointData")
    slow = tuple(a for a in reversed(SPACE) if a in axes)
    for name in names:
        values = np.asarray(ensemble.read(name, number))
        first = int(ensemble.timed(name))
        turn = [*range(first), *(first + axes.index(a) for a in slow)]
        values = values.transpose(turn)
        data[name] = values if first else values[None]
        data[name].attrs["units"] = ensemble.fields[name].unit
    _steps(root, times, names, {n: 1 if ensemble.timed(n) else 0 for n in names})


def recognise(path: Path) -> bool:
    """Whether this is a directory of ``.vtkhdf`` files."""
    return path.is_dir() and any(path.glob("member-*.vtkhdf"))


def read(path: Path) -> Ensemble:
    """Open a directory that `write` made from fields on a grid, for import.

    Raises
    ------
    Invalid
        If files are of another kind, or differ in grid, steps or fields.
    """
    import numpy as np

    files = sorted(path.glob("member-*.vtkhdf"), key=lambda p: int(p.stem.split("-")[1]))
    heads = [_head(file) for file in files]
    for file, head in zip(files, heads, strict=True):
        for key in ("axes", "names", "lines", "times"):
            if repr(head[key]) != repr(heads[0][key]):
                raise Invalid(f"{file}: its {key} differ from those of {files[0].name}")
    one = heads[0]
    axes = tuple(one["axes"])
    fields = {
        n: Field((*(("time",) if timed else ()), *axes), unit, dtype)
        for n, (timed, unit, dtype) in one["names"].items()
    }
    coordinates = {"time": np.array(one["times"]), **{a: np.array(v) for a, v in one["lines"].items()}}
    parameters = {
        n: (u, np.array([h["parameters"][n][1] for h in heads])) for n, (u, _) in one["parameters"].items()
    }

    def values(name: str, number: int) -> Any:
        with h5(files[number], "r") as file:
            found = dataset(file["VTKHDF/PointData"], name)[...]
        slow = tuple(a for a in reversed(SPACE) if a in axes)
        found = found.reshape(found.shape[0], *(len(coordinates[a]) for a in slow))
        found = found.transpose(0, *(1 + slow.index(a) for a in axes))
        return found if one["names"][name][0] else found[0]

    units = dict.fromkeys(coordinates, "any")
    return Ensemble(path.name, fields, coordinates, units, parameters, len(files), values)


def _head(path: Path) -> dict[str, Any]:
    import numpy as np

    with h5(path, "r") as file:
        root = file.get("VTKHDF")
        if root is None or "sciflow_axes" not in root.attrs or "Steps" not in root:
            raise Invalid(f"{path}: no grid that sciflow exported to VTKHDF")
        axes = [str(a) for a in root.attrs["sciflow_axes"]]
        extent = root.attrs["WholeExtent"].reshape(3, 2)
        lines = {
            a: (root.attrs["Origin"][i] + root.attrs["Spacing"][i] * np.arange(extent[i, 1] + 1)).tolist()
            for i, a in enumerate(SPACE) if a in axes
        }  # fmt: skip
        offsets = root["Steps/PointDataOffsets"]
        names = {}
        for name in map(str, root.attrs["sciflow_fields"]):
            found = dataset(root["PointData"], name)
            timed = found.shape[0] > 1 or len(set(offsets[name][...].tolist())) > 1
            names[name] = (timed, str(found.attrs.get("units", "any")), str(found.dtype))
        parameters = {
            k.removeprefix("parameter_"): (str(root.attrs[k.replace("parameter_", "unit_", 1)]), float(v))
            for k, v in root.attrs.items() if k.startswith("parameter_")
        }  # fmt: skip
        return {
            "axes": axes,
            "names": names,
            "lines": lines,
            "times": root["Steps/Values"][...].tolist(),
            "parameters": parameters,
        }
