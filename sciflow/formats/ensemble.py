"""Ensemble: what all formats have in common, read member by member."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

SPACE = ("x", "y", "z")
LEVELS = ("time", "step")
RESERVED = ("parameters", "status", "seed", "n_steps", "member", "parameter", *LEVELS)
"""Names that an ensemble has for itself."""
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass
class Ensemble:
    """Members of an ensemble, wherever they are stored.

    Attributes
    ----------
    name : str
        What the data set is called.
    fields : mapping of str to Field
        Axes without ``member``.
    coordinates : mapping of str to ndarray, shape (n_axis,)
        Of every axis.
    units : mapping of str to str
        Of the coordinates.
    parameters : mapping of str to tuple
        Unit, and values of shape (member,).
    count : int
        Number of members.
    read : callable
        ``read(field, number)`` gives the values of one member, number counting from 0; of one that
        chose its own steps as many levels as it has.
    times : callable or None
        ``times(number)`` gives the times of a member that chose its own steps, in `time_unit`.
    time_unit : str
        Of `times`.
    periodic : tuple of str
        Axes along which the domain is periodic.
    members : tuple of int
        Numbers of the members in the artifact that they come from.
    left_out : tuple of int
        Numbers of those that failed there.
    constants : mapping of str to tuple
        Field and values of arrays that are the same for all members: the mesh.
    datasets : mapping of str to str
        Where each field is in a file that is imported, for messages.
    artifact : Artifact or None
        Where it comes from, if it is exported.
    chosen : tuple of str
        Fields that somebody asked for by name.
    close : callable
        Closes what `read` needs.
    """

    name: str
    fields: Mapping[str, Field]
    coordinates: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    parameters: Mapping[str, tuple[str, np.ndarray]]
    count: int
    read: Callable[[str, int], np.ndarray]
    times: Callable[[int], np.ndarray] | None = None
    time_unit: str = "any"
    periodic: tuple[str, ...] = ()
    members: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    constants: Mapping[str, tuple[Field, np.ndarray]] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    artifact: Artifact | None = None
    chosen: tuple[str, ...] = ()
    close: Callable[[], None] = field(default=lambda: None)

    def space(self, name: str) -> tuple[str, ...]:
        """Axes of a field without time."""
        return tuple(a for a in self.fields[name].axes if a not in LEVELS)

    def timed(self, name: str) -> bool:
        """Whether a field depends on time."""
        return self.fields[name].axes[:1] in [(a,) for a in LEVELS]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one member of a field."""
        return tuple(len(self.coordinates[a]) for a in self.fields[name].axes)

    def levels(self, number: int) -> np.ndarray:
        """Times of a member; a single zero where there are none."""
        import numpy as np

        if self.times is not None:
            return np.asarray(self.times(number))
        return np.asarray(self.coordinates.get("time", np.zeros(1)))

    def unit_of_time(self) -> str:
        """Unit of `levels`."""
        return self.time_unit if self.times is not None else self.units.get("time", self.time_unit)

    def about(self) -> dict[str, Any]:
        """What formats without words of their own for it keep beside the values, plain JSON."""
        return {
            "name": self.name,
            "members": list(self.members),
            "left_out": list(self.left_out),
            "fields": {n: f.to_json() for n, f in self.fields.items()},
            "axes": dict(self.units),
            "parameters": {n: unit for n, (unit, _) in self.parameters.items()},
            "constants": {n: f.to_json() for n, (f, _) in self.constants.items()},
            "periodic": list(self.periodic),
            "adaptive": self.times is not None,
            "time_unit": self.unit_of_time(),
        }

    def where(self, path: Path, name: str) -> str:
        """Name of a field for a message."""
        return f"{path}, {self.datasets.get(name, repr(name))}"

    def check(self, path: Path) -> None:
        """Refuse what cannot be an ensemble, before anything is written.

        Raises
        ------
        Invalid
            With the path, the name and the reason.
        """
        import numpy as np

        if self.count < 1:
            raise Invalid(f"{path}: there are no members")
        if not self.fields:
            raise Invalid(f"{path}: there are no fields")
        self._check_names(path)
        for axis, values in self.coordinates.items():
            if np.ndim(values) != 1 or not len(values):
                raise Invalid(f"{path}: the coordinates of {axis!r} have shape {np.shape(values)}")
            steps = np.diff(values)
            rising = (steps > 0).all() or (axis not in LEVELS and (steps < 0).all())
            if not np.isfinite(values).all() or not rising:
                raise Invalid(f"{path}: the coordinates of {axis!r} are not monotone and finite")
        for name, (_, points) in self.parameters.items():
            if np.shape(points) != (self.count,):
                raise Invalid(
                    f"{path}: the parameter {name!r} has shape {np.shape(points)} for {self.count} members"
                )
            if not np.isfinite(points).all():
                raise Invalid(f"{path}: the parameter {name!r} is not finite")
        if self.times is not None:
            self._check_times(path)

    def _check_names(self, path: Path) -> None:
        taken = {*RESERVED, *self.coordinates}
        for name in (*self.fields, *self.constants, *self.coordinates):
            if not NAME.match(name):
                raise Invalid(f"{path}: the name {name!r} must match {NAME.pattern}")
        for name in (*self.fields, *self.constants):
            if name in taken:
                raise Invalid(f"{path}: there is more than one {name!r}, or an ensemble has its own")
            taken.add(name)
        level = "time" if self.times is None else "step"
        for name, one in self.fields.items():
            known = set(self.coordinates) - set(LEVELS)
            space = one.axes[1:] if one.axes[:1] == (level,) else one.axes
            if len(set(space)) != len(space) or not set(space) <= known:
                raise Invalid(
                    f"{self.where(path, name)}: axes {one.axes}; known are {level!r} first, "
                    f"then {sorted(known)}, each once"
                )

    def _check_times(self, path: Path) -> None:
        import numpy as np

        for number in range(self.count):
            times = self.levels(number)
            most = len(self.coordinates["step"])
            rising = np.isfinite(times).all() and (np.diff(times) > 0).all()
            if not 1 <= len(times) <= most or not rising:
                raise Invalid(
                    f"{path}: member {number}: its {len(times)} times (of at most {most}) "
                    f"do not increase, or are not finite"
                )


def uniform(values: np.ndarray) -> bool:
    """Whether coordinates rise evenly, to a thousandth of a step (single precision leaves less)."""
    import numpy as np

    if len(values) < 2:
        return True
    step = (values[-1] - values[0]) / (len(values) - 1)
    even = values[0] + step * np.arange(len(values))
    return bool(step > 0 and np.abs(values - even).max() <= 1e-3 * step)
