"""PLAID data sets, in the layout that pyplaid writes with CGNS; read without it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid
from sciflow.formats.ensemble import Ensemble
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.formats.meshed import Level

INFOS = "infos.yaml"
OLD_SCALARS = "scalars.csv"
"""Numbers of a sample before pyplaid 0.2; later they stand in the mesh files."""


@dataclass(frozen=True)
class Sample:
    """One sample: its files in order of time, and its numbers.

    Attributes
    ----------
    label : str
        Split and directory.
    files : list of tuple
        Time and CGNS file.
    numbers : dict
        Arrays of shape (time, n), by name.
    """

    label: str
    files: list[tuple[float, Path]]
    numbers: dict[str, np.ndarray]


def recognise(path: Path) -> bool:
    """Whether this is a directory that pyplaid made."""
    return path.is_dir() and (bool(_samples(path)) or _backend(path) != "")


def read(path: Path) -> Ensemble:
    """Open for import: fields at nodes and of cells, numbers as parameters or results.

    The splits become one ensemble, in the order of their names; its attribute ``splits`` says which
    members are whose. Numbers that a problem definition names as inputs are the parameters; without a
    definition all that do not change in time are. The other numbers are stored beside the fields, one
    for each member (and time).

    Raises
    ------
    Invalid
        If it was written with another storage backend, samples are on several meshes, or fields,
        numbers or times are missing in some.
    """
    import numpy as np

    from sciflow.formats.labels import identifiers
    from sciflow.formats.meshed import Members

    found = _samples(path)
    if not found:
        raise Invalid(
            f"{path}: no samples of PLAID stored as CGNS"
            + (f"; it was written by the backend {_backend(path)!r}" if _backend(path) else "")
            + ". Write it with plaid.storage.save_to_disk(..., backend='cgns')"
        )
    samples = [_sample(label, folder) for label, folder in found]
    _complete(samples, path)
    names = list(samples[0].numbers)
    called = identifiers(names, path)
    inputs = _inputs(path)
    still = [n for n in names if all(np.ptp(s.numbers[n], axis=0).max(initial=0) == 0 for s in samples)]
    single = [n for n in names if samples[0].numbers[n].shape[1] == 1]
    chosen = [n for n in names if n in still and n in single and (inputs is None or n in inputs)]
    parameters = {called[n]: ("any", np.array([s.numbers[n][0, 0] for s in samples])) for n in chosen}
    labels = [s.label for s in samples]
    splits: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        splits.setdefault(label.rpartition("/")[0], []).append(number)
    ensemble = Members(path, labels, lambda number: _levels(samples[number])).ensemble(
        parameters, {"splits": splits} if "" not in splits else {}
    )
    results = {
        called[n]: _result(n, [s.numbers[n] for s in samples], n in still, n in single)
        for n in names if n not in chosen
    }  # fmt: skip
    clash = sorted(set(results) & set(ensemble.fields))
    if clash:
        raise Invalid(f"{path}: {clash[0]!r} is a field and a number; rename one")
    ensemble.arrays = {**ensemble.arrays, **results}
    return ensemble


def _samples(path: Path) -> list[tuple[str, Path]]:
    """Label and directory of each sample; splits and samples in the order of their names."""
    for root in (path / "data", path / "dataset" / "samples", path / "samples"):
        found = [
            p for p in sorted([*root.glob("sample_*"), *root.glob("*/sample_*")]) if (p / "meshes").is_dir()
        ]
        if found:
            return [(str(p.relative_to(root)), p) for p in found]
    return []


def _backend(path: Path) -> str:
    """The storage backend that the note of a data set names, or nothing."""
    note = _yaml(path / INFOS)
    return str(note.get("storage_backend", "")) if "num_samples" in note else ""


def _yaml(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise Invalid(f"{path}: {error}") from None
    return found if isinstance(found, dict) else {}


def _inputs(path: Path) -> set[str] | None:
    """Names of the numbers that problem definitions call inputs; None where there is none."""
    notes = [_yaml(p) for p in sorted((path / "problem_definitions").glob("*.yaml"))]
    if not notes:
        return None
    named = (str(f) for n in notes for f in n.get("input_features", ()))
    return {f.removeprefix("Global/") for f in named if f.count("/") <= 1}


def _sample(label: str, folder: Path) -> Sample:
    import numpy as np

    from sciflow.formats.cgns import numbers

    files = sorted((folder / "meshes").glob("*.cgns"))
    if not files:
        raise Invalid(f"{folder / 'meshes'}: no .cgns file")
    heads = sorted(((*numbers(f), f) for f in files), key=lambda h: h[0])
    for (before, _, one), (after, _, other) in itertools.pairwise(heads):
        if before == after:
            raise Invalid(f"{one} and {other.name} are both at the time {before:g}")
    table: dict[str, Any] = {}
    for name in heads[0][1]:
        shapes = {h[1][name].shape if name in h[1] else None for h in heads}
        if len(shapes) != 1:
            raise Invalid(f"{folder}: {name!r} is missing, or of another length, at some times")
        table[name] = np.stack([np.asarray(h[1][name], dtype=float) for h in heads])
    table |= _old(folder / OLD_SCALARS, len(heads)) if (folder / OLD_SCALARS).is_file() else {}
    return Sample(label, [(h[0], h[2]) for h in heads], table)


def _old(path: Path, levels: int) -> dict[str, Any]:
    import csv

    import numpy as np

    rows = [r for r in csv.reader(path.read_text().splitlines()) if r]
    try:
        if len(rows) != 2 or len(rows[0]) != len(rows[1]):
            raise ValueError("one row of names and one of numbers were expected")
        values = [float(v) for v in rows[1]]
    except ValueError as error:
        raise Invalid(f"{path}: {error}") from None
    return {n.strip().lstrip("# "): np.full((levels, 1), v) for n, v in zip(rows[0], values, strict=True)}


def _complete(samples: Sequence[Sample], path: Path) -> None:
    import numpy as np

    first = samples[0]
    for sample in samples:
        for name in (*first.numbers, *sample.numbers):
            shapes = [s.numbers[name].shape if name in s.numbers else None for s in (sample, first)]
            if shapes[0] != shapes[1] and None in shapes:
                without, other = (sample, first) if shapes[0] is None else (first, sample)
                raise Invalid(f"{path}: {without.label} has no {name!r}, {other.label} has")
            if shapes[0] != shapes[1]:
                raise Invalid(
                    f"{path}: {name!r} has shape {shapes[0]} (time, number) in {sample.label}, "
                    f"{shapes[1]} in {first.label}"
                )
            if not np.isfinite(sample.numbers[name]).all():
                raise Invalid(f"{path}: {name!r} in {sample.label} is not finite")


def _levels(sample: Sample) -> Iterator[Level]:
    from sciflow.formats.cgns import tree

    for time, file in sample.files:
        yield tree(file, time)


def _result(name: str, values: list[np.ndarray], still: bool, single: bool) -> tuple[Field, np.ndarray]:
    """A number of each member, without the axes that it does not need."""
    import numpy as np

    table = np.stack(values)
    axes = ["member"]
    if still:
        table = table[:, 0]
    else:
        axes.append("time")
    if single:
        table = table[..., 0]
    else:
        axes.append(f"component_{table.shape[-1]}")
    return Field(tuple(axes), "any", "float64", name), table
