"""Ensemble: what all formats have in common, read member by member."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

SPACE = ("x", "y", "z")


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
        ``read(field, number)`` gives the values of one member, number counting from 0.
    times : callable or None
        ``times(number)`` gives the times of a member that chose its own steps.
    periodic : tuple of str
        Axes along which the domain is periodic.
    members : tuple of int
        Numbers of the members in the artifact that they come from.
    artifact : Artifact or None
        That artifact.
    arrays : mapping of str to tuple
        Field and values of what all members share (a mesh) or have one number of; axes as they are stored.
    labels : sequence of str
        What each member is called where it comes from (a file); in messages and kept as an attribute.
    about : mapping of str to Any
        Further attributes of the artifact, plain JSON types.
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
    periodic: tuple[str, ...] = ()
    members: tuple[int, ...] = ()
    artifact: Artifact | None = None
    arrays: Mapping[str, tuple[Field, np.ndarray]] = field(default_factory=dict)
    labels: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = field(default=lambda: None)

    @classmethod
    def of(cls, artifact: Artifact, fields: Sequence[str], members: Sequence[int] | None) -> Ensemble:
        """Members of a published ensemble.

        Raises
        ------
        NotFound
            If a field or member is not there.
        Invalid
            If the artifact is no ensemble.
        """
        import numpy as np

        if artifact.schema.kind != "ensemble":
            raise Invalid(f"{artifact.path} is a {artifact.schema.kind}; only an ensemble can be exported so")
        good = artifact.members().tolist()
        chosen = good if members is None else [int(m) for m in members]
        absent = sorted(set(chosen) - set(good))
        if absent:
            raise NotFound(f"{artifact.path}: members {absent[:10]} have no result")
        stored = {
            n: Field(f.axes[1:], f.unit, f.dtype, f.description, f.attributes)
            for n, f in artifact.schema.fields.items()
            if f.axes[:1] == ("member",) and n != "time" and artifact.array(n).shards is not None
        }
        for name in fields:
            if name not in stored:
                raise NotFound(f"{artifact.path}: no field {name!r}. {nearest(name, stored)}")
        kept = {n: f for n, f in stored.items() if not fields or n in fields}
        readers = {n: artifact.gather(n, verify="always") for n in kept}
        adaptive = "n_steps" in artifact.schema.fields
        steps = artifact.read("n_steps") if adaptive else None
        times = artifact.read("time") if adaptive else None

        def times_of(number: int) -> np.ndarray:
            assert times is not None
            assert steps is not None
            return np.asarray(times[chosen[number]][: steps[chosen[number]]])

        def read(name: str, number: int) -> np.ndarray:
            whole: np.ndarray = readers[name].whole(np.array([chosen[number]]))[0]
            return whole if steps is None or "step" not in kept[name].axes else whole[: steps[chosen[number]]]

        about = artifact.attributes
        axes = sorted({a for f in kept.values() for a in f.axes})
        points = artifact.read("parameters")[chosen] if "parameters" in artifact.schema.fields else None
        labels = zip(about.get("parameters", ()), about.get("parameter_units", ()), strict=True)
        parameters = {} if points is None else {n: (u, points[:, i]) for i, (n, u) in enumerate(labels)}
        return cls(
            artifact.path.name,
            kept,
            {a: artifact.read(a) for a in axes},
            {a: artifact.schema[a].unit for a in axes},
            parameters,
            len(chosen),
            read,
            times_of if adaptive else None,
            tuple(about.get("periodic", ())),
            tuple(chosen),
            artifact,
        )

    def space(self, name: str) -> tuple[str, ...]:
        """Axes of a field without time."""
        return tuple(a for a in self.fields[name].axes if a not in ("time", "step"))

    def timed(self, name: str) -> bool:
        """Whether a field depends on time."""
        return self.fields[name].axes[:1] in (("time",), ("step",))

    def levels(self, number: int) -> np.ndarray:
        """Times of a member; a single zero where there are none."""
        import numpy as np

        if self.times is not None:
            return np.asarray(self.times(number))
        return np.asarray(self.coordinates.get("time", np.zeros(1)))

    def check(self, path: Path) -> None:
        """Refuse what cannot be an ensemble, before anything is written.

        Raises
        ------
        Invalid
            With the path and the reason.
        """
        import numpy as np

        if not self.count:
            raise Invalid(f"{path}: there are no members")
        if not self.fields:
            raise Invalid(f"{path}: there are no fields")
        for axis, values in self.coordinates.items():
            steps = np.diff(values)
            if not np.isfinite(values).all() or not ((steps > 0).all() or (steps < 0).all()):
                raise Invalid(f"{path}: the coordinates of {axis!r} are not monotone and finite")
        for name, (_, values) in self.parameters.items():
            if not np.isfinite(values).all():
                raise Invalid(f"{path}: the parameter {name!r} is not finite")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one member of a field."""
        return tuple(len(self.coordinates[a]) for a in self.fields[name].axes)

    def label(self, number: int) -> str:
        """What a member is called in messages."""
        return f"member {number} ({self.labels[number]})" if self.labels else f"member {number}"

    def numbers(self) -> int:
        """Values of one member, over all fields."""
        return sum(math.prod(self.shape(n)) for n in self.fields)


def h5(path: Path, mode: str) -> Any:
    """An HDF5 file.

    Raises
    ------
    Missing
        If h5py is not installed.
    Invalid
        If it is no HDF5 file or truncated.
    """
    from sciflow.errors import Missing

    try:
        import h5py
    except ImportError:
        raise Missing("HDF5 needs h5py: pip install 'sciflow[export]'") from None
    except ValueError:
        raise Missing(
            "h5py cannot be loaded beside the other HDF5 library that this process has (dolfinx brings one): "
            "run the export in a process of its own, as `sciflow store export` does"
        ) from None
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if mode == "r":
            raise Invalid(f"{path} is no HDF5 file, or a truncated one: {error}") from None
        raise


def dataset(group: Any, name: str) -> Any:
    """A dataset of numbers in an HDF5 group; links out of the file are not followed.

    Raises
    ------
    Invalid
        If it is not there, leads out of the file, or holds no numbers.
    """
    import h5py

    where = f"{group.file.filename}, {group.name.rstrip('/')}/{name}"
    if name not in group:
        raise Invalid(f"{where}: not there. {nearest(name, group)}")
    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise Invalid(f"{where}: leads out of the file; it is not followed")
    found = group[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub":
        raise Invalid(f"{where}: holds no numbers")
    if found.is_virtual or found.external:
        raise Invalid(f"{where}: its values are in another file; it is not followed")
    return found
