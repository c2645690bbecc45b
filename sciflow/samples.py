"""Samples: the one seam between storage and training; a stored ensemble read in shuffled batches."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

_SELECT = re.compile(r"([a-z][a-z0-9_]*)(?:\[(-?\d+)\])?\Z")


@dataclass(frozen=True)
class Signature:
    """What a surrogate maps from and to.

    Attributes
    ----------
    inputs, outputs : mapping of str to Field
        By the name used in a batch; axes without ``member``, and without ``time`` where one time
        level was selected. A scalar parameter has no axes.
    coordinates : mapping of str to ndarray, shape (n_axis,)
        Of every axis that occurs.
    periodic : tuple of str
        Axes along which the domain is periodic.
    """

    inputs: Mapping[str, Field]
    outputs: Mapping[str, Field]
    coordinates: Mapping[str, np.ndarray]
    periodic: tuple[str, ...] = ()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample of an input or output."""
        field = self.inputs.get(name) or self.outputs.get(name)
        if field is None:
            raise NotFound(f"no input or output {name!r}. {nearest(name, [*self.inputs, *self.outputs])}")
        return tuple(len(self.coordinates[axis]) for axis in field.axes)

    def to_json(self) -> dict[str, Any]:
        """The signature as plain JSON types."""
        return {
            # Lists: the order of the fields is that of a network's channels, and JSON objects have none.
            "inputs": [[k, f.to_json()] for k, f in self.inputs.items()],
            "outputs": [[k, f.to_json()] for k, f in self.outputs.items()],
            "coordinates": {k: [float(c) for c in v] for k, v in self.coordinates.items()},
            "periodic": list(self.periodic),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """Read what `to_json` wrote."""
        import numpy as np

        return cls(
            {k: Field.from_json(f) for k, f in document["inputs"]},
            {k: Field.from_json(f) for k, f in document["outputs"]},
            {k: np.asarray(v) for k, v in document["coordinates"].items()},
            tuple(document["periodic"]),
        )


@dataclass(frozen=True)
class Batch:
    """Some samples: named arrays with a leading ``batch`` axis, each in its field's unit.

    Attributes
    ----------
    x, y : mapping of str to ndarray, shape (batch, ...)
        Inputs and outputs, as in the `Signature`.
    """

    x: Mapping[str, np.ndarray]
    y: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.y.values())))


class Samples(ABC):
    """Where training batches come from: a stored ensemble, or a reservoir fed by running solvers."""

    signature: Signature

    @abstractmethod
    def __len__(self) -> int:
        """How many samples one epoch holds."""

    @abstractmethod
    def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """One epoch of batches.

        Parameters
        ----------
        size : int
            Samples per batch; the last one may be smaller.
        seed : int or None
            Shuffles the samples as a function of seed and epoch; ``None`` keeps their order.
        epoch : int
            Number of the epoch.
        """


class Stored(Samples):
    """Members of an ensemble artifact as samples, held in memory.

    Parameters
    ----------
    ensemble : Artifact
        Of kind ``ensemble``.
    inputs, outputs : sequence of str
        Names of fields or parameters. ``"u"`` takes all time levels as they are, ``"u[0]"`` the
        first, ``"u[-1]"`` the last.
    members : sequence of int or None
        Which members, in this order; ``None`` takes all that ended well.

    Raises
    ------
    NotFound
        If a name or member does not exist.
    Invalid
        If a member failed, or a time level is selected from a field without a time axis.
    """

    def __init__(
        self,
        ensemble: Artifact,
        inputs: Sequence[str],
        outputs: Sequence[str],
        members: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        import numpy as np

        status = ensemble.read("status")
        good = np.flatnonzero(status == 1)
        chosen = good if members is None else np.asarray(members, dtype=np.int64)
        bad = sorted(set(chosen.tolist()) - set(good.tolist()))
        if bad:
            raise Invalid(f"{ensemble.path}: members {bad[:10]} have no result (they failed or do not exist)")
        self.members = chosen
        fields: dict[str, Field] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        for name in (*inputs, *outputs):
            if name not in self._arrays:
                fields[name], self._arrays[name] = _select(ensemble, name, chosen)
        axes = {axis for field in fields.values() for axis in field.axes}
        self.signature = Signature(
            {n: fields[n] for n in inputs},
            {n: fields[n] for n in outputs},
            {axis: ensemble.read(axis) for axis in sorted(axes)},
            tuple(ensemble.attributes.get("periodic", ())),
        )

    def __len__(self) -> int:
        return len(self.members)

    def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`."""
        import numpy as np

        order = np.arange(len(self))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for start in range(0, len(self), size):
            pick = order[start : start + size]
            yield Batch(
                {n: self._arrays[n][pick] for n in self._inputs},
                {n: self._arrays[n][pick] for n in self._outputs},
            )

    def all(self) -> Batch:
        """Every sample in member order."""
        return next(self.batches(max(1, len(self)), seed=None))


def _select(ensemble: Artifact, text: str, members: np.ndarray) -> tuple[Field, np.ndarray]:
    match = _SELECT.match(text)
    if match is None:
        raise Invalid(f"{text!r} is not a field: write 'name', or 'name[i]' for one time level")
    name, level = match.group(1), match.group(2)
    names = list(ensemble.attributes.get("parameters", ()))
    if name in names:
        unit = ensemble.attributes["parameter_units"][names.index(name)]
        return Field((), unit), ensemble.read("parameters")[members, names.index(name)].astype("float32")
    data_fields = {
        k: f for k, f in ensemble.schema.fields.items() if f.axes[:1] == ("member",) and len(f.axes) > 1
    }
    data_fields.pop("parameters", None)
    if name not in data_fields:
        raise NotFound(
            f"{ensemble.path}: no field or parameter {name!r}. {nearest(name, [*data_fields, *names])}"
        )
    field = data_fields[name]
    axes = field.axes[1:]
    values = ensemble.array(name).oindex[members] if len(members) else ensemble.read(name)[:0]
    if level is None:
        return Field(axes, field.unit, field.dtype, field.description), values
    if "time" not in axes:
        raise Invalid(f"{text!r}: the field {name!r} has no time axis (axes {axes})")
    position = axes.index("time")
    steps = values.shape[position + 1]
    if not -steps <= int(level) < steps:
        raise Invalid(f"{text!r}: there are {steps} time levels")
    kept = tuple(a for a in axes if a != "time")
    return Field(kept, field.unit, field.dtype, field.description), values.take(int(level), position + 1)
