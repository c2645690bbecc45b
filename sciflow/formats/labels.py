"""Names of fields as an artifact can hold them, and parameters of members from a text file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid, nearest

if TYPE_CHECKING:
    import numpy as np

_TAKEN = ("parameters", "status", "seed", "time", "step", "n_steps", "mesh", "node", "edge", "face", "volume",
          "triangles", "tetrahedra", "edges", "faces", "volumes", "node_x", "node_y", "node_z")  # fmt: skip
"""Names that ensembles and their meshes use."""


def word(value: Any) -> str:
    """The text of an attribute of HDF5, which comes as bytes or as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def identifier(text: str, where: object) -> str:
    """A name that an artifact can hold: lower case, digits and underscores.

    Raises
    ------
    Invalid
        If nothing is left of it.
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not name:
        raise Invalid(f"{where}: the name {text!r} has no letter or digit; rename it")
    return name if name[0].isalpha() else f"f_{name}"


def identifiers(texts: Iterable[str], where: object) -> dict[str, str]:
    """Each name and what it is called in an artifact; words that ensembles use get ``_field`` behind.

    Raises
    ------
    Invalid
        If two are, or become, the same.
    """
    found: dict[str, str] = {}
    for text in texts:
        name = identifier(text, where)
        name = f"{name}_field" if name in _TAKEN else name
        twin = next((t for t, n in found.items() if n == name), None)
        if text in found:
            raise Invalid(f"{where}: the name {text!r} is there twice; rename one")
        if twin is not None:
            raise Invalid(f"{where}: {twin!r} and {text!r} would both be called {name!r}; rename one")
        found[text] = name
    return found


def table(path: Path, labels: Sequence[str]) -> dict[str, tuple[str, np.ndarray]]:
    """Parameters of the members from a text file with commas.

    The first row names the columns, ``name`` or ``name [unit]``; a column ``member`` holds the names of
    the members and decides which row belongs to which. Without it rows are in the order of the names.

    Parameters
    ----------
    path : Path
        The file.
    labels : sequence of str
        Names of the members, in their order.

    Returns
    -------
    dict
        Unit, and values of shape (member,), by name.

    Raises
    ------
    Invalid
        If rows are missing, too many, no numbers, or cannot be told apart.
    """
    head, body = _rows(path)
    if len(body) != len(labels):
        raise Invalid(f"{path}: {len(body)} rows below the names, but there are {len(labels)} members")
    if "member" in head:
        column = head.index("member")
        body = _matched(path, body, column, labels)
        head = [h for i, h in enumerate(head) if i != column]
        body = [(n, [c for i, c in enumerate(row) if i != column]) for n, row in body]
    elif list(labels) != sorted(labels):
        raise Invalid(
            f"{path}: is the second row that of {sorted(labels)[1]!r} or of {labels[1]!r}? Names sort in two "
            "ways; add a column 'member' with the names, or number with leading zeros"
        )
    return _columns(path, head, body)


def _rows(path: Path) -> tuple[list[str], list[Any]]:
    """The names, and below them number of the line and cells of each row."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(n, r) for n, r in enumerate(csv.reader(file), 1) if any(c.strip() for c in r)]
    if not rows:
        raise Invalid(f"{path}: empty; the first row names the columns")
    head = [c.strip() for c in rows[0][1]]
    if all(_number(c) is not None for c in head):
        raise Invalid(f"{path}: the first row holds numbers; it must name the columns, as 'speed [m/s]'")
    for number, row in rows[1:]:
        if len(row) != len(head):
            raise Invalid(
                f"{path}, line {number}: {len(row)} values, the first row names {len(head)} columns"
            )
    return head, rows[1:]


def _columns(path: Path, head: list[str], body: list[Any]) -> dict[str, tuple[str, np.ndarray]]:
    import numpy as np

    parts = [re.fullmatch(r"(.*?)\s*(?:\[(.*)\])?", h) for h in head]
    texts = [(m[1], (m[2] or "").strip() or "1") for m in parts if m]
    called = identifiers([t for t, _ in texts], path)
    for number, row in body:
        for text, column in zip(row, head, strict=True):
            if _number(text) is None:
                raise Invalid(f"{path}, line {number}, column {column!r}: {text!r} is no number")
    return {
        called[name]: (unit, np.array([float(row[i]) for _, row in body]))
        for i, (name, unit) in enumerate(texts)
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _matched(path: Path, body: list[Any], column: int, labels: Sequence[str]) -> list[Any]:
    found: dict[str, Any] = {}
    stems = {Path(label).stem: label for label in labels}
    for number, row in body:
        name = row[column].strip()
        label = name if name in labels else stems.get(name)
        if label is None:
            raise Invalid(f"{path}, line {number}: there is no member {name!r}. {nearest(name, labels)}")
        if label in found:
            raise Invalid(f"{path}, line {number}: the member {name!r} has a row already")
        found[label] = (number, row)
    return [found[label] for label in labels]
