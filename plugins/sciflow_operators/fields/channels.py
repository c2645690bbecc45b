"""Between named fields and the channels of a network: layout, scaling, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sciflow.context import summed
from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port

if TYPE_CHECKING:
    from sciflow.context import Comm
    from sciflow.samples import Samples, Signature

LEVELS = ("time", "lead")
"""Axes of time levels, each of which is a channel."""


class Channels(ABC):
    """How named fields become the last axis of what a network takes and gives.

    Attributes
    ----------
    inputs, outputs : mapping of str to int
        Number of channels of each field; 0 marks a scalar that is given as one constant channel.
    previous : tuple of int
        For each output channel the input channel that the network's result is added to; empty where
        the network gives the outputs themselves.
    pooled : bool
        Whether the channels of one field share one mean and spread.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    previous: tuple[int, ...] = ()
    pooled: ClassVar[bool] = False

    @property
    def channels_in(self) -> int:
        """Number of input channels."""
        return sum(groups(self.inputs))

    @property
    def channels_out(self) -> int:
        """Number of output channels."""
        return sum(groups(self.outputs))

    @abstractmethod
    def stack(self, arrays: Mapping[str, np.ndarray], which: Mapping[str, int]) -> np.ndarray:
        """Fields as channels.

        Parameters
        ----------
        arrays : mapping of str to ndarray, shape (batch, ...)
        which : mapping of str to int
            `inputs` or `outputs`.

        Returns
        -------
        ndarray of float32, shape (batch, ..., channel)

        Raises
        ------
        Invalid
            If a field is missing or has another shape.
        """

    @abstractmethod
    def unstack(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Output channels as fields; the inverse of `stack` for outputs.

        Parameters
        ----------
        values : ndarray, shape (batch, ..., channel)
        """


def groups(which: Mapping[str, int]) -> list[int]:
    """Number of channels of each field, in order."""
    return [max(1, n) for n in which.values()]


def places(which: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Channels that are fields, and channels that are scalars."""
    fields: list[int] = []
    scalars: list[int] = []
    first = 0
    for n in which.values():
        (fields if n else scalars).extend(range(first, first + max(1, n)))
        first += max(1, n)
    return fields, scalars


def port(layout: Layout, signature: Signature) -> Port:
    """What a network between these channels takes and gives."""
    fields, scalars = places(layout.inputs)
    return Port(
        tuple(fields),
        tuple(scalars),
        layout.channels_out,
        layout.points,
        tuple(axis in signature.periodic for axis in layout.space),
        tuple(name for name, n in layout.inputs.items() for _ in range(max(1, n))),
    )


def _missing(name: str, arrays: Mapping[str, np.ndarray]) -> Invalid:
    return Invalid(f"the field {name!r} is missing; there is: {', '.join(arrays) or 'nothing'}")


@dataclass(frozen=True)
class Layout(Channels):
    """Fields on one grid: a channel for each field and time level, the grid in front of them.

    Attributes
    ----------
    space : tuple of str
        Spatial axes in storage order.
    points : tuple of int
        Size of the grid, taken where all inputs are scalars.
    inputs, outputs, previous
        See `Channels`.
    layered : tuple of str
        Outputs with an axis of time levels.
    """

    space: tuple[str, ...]
    points: tuple[int, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    layered: tuple[str, ...] = ()
    previous: tuple[int, ...] = ()

    @classmethod
    def of(cls, signature: Signature, *, increments: bool = False) -> Layout:
        """The layout that a signature asks for.

        Parameters
        ----------
        signature : Signature
            Of the samples.
        increments : bool
            Add what the network gives to the last input level of the same name, where every output
            has one.

        Raises
        ------
        Invalid
            If fields have different spatial axes, or not one to three of them.
        """
        named = [*signature.inputs.items(), *signature.outputs.items()]
        spaces = {n: tuple(a for a in f.axes if a not in LEVELS) for n, f in named if f.axes}
        found = set(spaces.values())
        if len(found) != 1:
            raise Invalid(f"this surrogate needs fields on one grid, these have the axes {spaces}")
        space = found.pop()
        if len(space) not in (1, 2, 3):
            raise Invalid(
                f"this surrogate takes one to three spatial axes, these fields have {space or 'none'}"
            )
        for name, field in named:
            if any(a in LEVELS for a in field.axes[1:]):
                raise Invalid(f"field {name!r}: time must be the first axis, it has {field.axes}")
        for name, field in signature.outputs.items():
            if not field.axes:
                raise Invalid(f"output {name!r} is a single number; this surrogate predicts fields")

        def channels(axes: tuple[str, ...]) -> int:
            return 0 if not axes else len(signature.coordinates[axes[0]]) if axes[0] in LEVELS else 1

        inputs = {n: channels(f.axes) for n, f in signature.inputs.items()}
        outputs = {n: channels(f.axes) for n, f in signature.outputs.items()}
        layered = tuple(n for n, f in signature.outputs.items() if f.axes[0] in LEVELS)
        points = tuple(len(signature.coordinates[a]) for a in space)
        return cls(space, points, inputs, outputs, layered, _last(inputs, outputs) if increments else ())

    def stack(self, arrays: Mapping[str, np.ndarray], which: Mapping[str, int]) -> np.ndarray:
        """See `Channels.stack`; arrays have the shapes (batch, [level,] *space) or (batch,)."""
        shapes = {}
        for name, n in which.items():
            if name not in arrays:
                raise _missing(name, arrays)
            shape = np.shape(arrays[name])
            shapes[name] = (*shape[:1], *(shape[-len(self.space) :] if n else ()))
        full = {s for s in shapes.values() if len(s) > 1}
        if len(full) > 1 or len({s[:1] for s in shapes.values()}) > 1:
            raise Invalid(f"these fields do not fit together, (batch, *space) is {shapes}")
        points = full.pop()[1:] if full else self.points
        parts = [
            self._part(name, np.asarray(arrays[name], dtype=np.float32), n, points)
            for name, n in which.items()
        ]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1))

    def _part(self, name: str, values: np.ndarray, n: int, points: tuple[int, ...]) -> np.ndarray:
        """The channels of one field."""
        if n == 0:
            column = values.reshape(-1, *(1,) * (len(points) + 1))
            return np.broadcast_to(column, (len(values), *points, 1))
        part = values[..., None] if values.ndim == 1 + len(points) else np.moveaxis(values, 1, -1)
        if part.ndim != len(points) + 2 or part.shape[-1] != n:
            raise Invalid(
                f"field {name!r} has shape {values.shape}; the model takes {n} time levels of {points}"
            )
        return part

    def unstack(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """See `Channels.unstack`."""
        fields, first = {}, 0
        for name, n in self.outputs.items():
            part = values[..., first : first + n]
            first += n
            part = np.moveaxis(part, -1, 1) if name in self.layered else part[..., 0]
            fields[name] = np.ascontiguousarray(part)
        return fields


def _last(inputs: Mapping[str, int], outputs: Mapping[str, int]) -> tuple[int, ...]:
    """For each output channel the last input channel of that field; nothing where one has none."""
    ends = dict(zip(inputs, np.cumsum(groups(inputs)).tolist(), strict=True))
    if not all(inputs.get(n, 0) for n in outputs):
        return ()
    return tuple(ends[name] - 1 for name, n in outputs.items() for _ in range(n))


@dataclass(frozen=True)
class Flat(Channels):
    """All numbers of all fields in one row, whatever their axes.

    Attributes
    ----------
    inputs, outputs
        See `Channels`; at least 1.
    shapes_in, shapes_out : mapping of str to tuple of int
        Shape of one sample of each field.
    """

    pooled: ClassVar[bool] = True
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    shapes_in: Mapping[str, tuple[int, ...]]
    shapes_out: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, signature: Signature) -> Flat:
        """The layout that a signature asks for."""
        before, after = (
            {n: signature.shape_of(f) for n, f in fields.items()}
            for fields in (signature.inputs, signature.outputs)
        )
        sizes = [{n: math.prod(s) for n, s in shapes.items()} for shapes in (before, after)]
        return cls(sizes[0], sizes[1], before, after)

    def stack(self, arrays: Mapping[str, np.ndarray], which: Mapping[str, int]) -> np.ndarray:
        """See `Channels.stack`; the result has the shape (batch, channel)."""
        shapes = self.shapes_in if which is self.inputs else self.shapes_out
        parts = []
        for name in which:
            if name not in arrays:
                raise _missing(name, arrays)
            values = np.asarray(arrays[name], dtype=np.float32)
            if values.shape[1:] != shapes[name]:
                raise Invalid(
                    f"field {name!r} has shape {values.shape}; the model takes (batch, "
                    f"{', '.join(map(str, shapes[name]))}), on the grid it was fitted on"
                )
            parts.append(values.reshape(len(values), which[name]))
        if len({len(p) for p in parts}) > 1:
            raise Invalid(f"these fields have different numbers of samples: {[len(p) for p in parts]}")
        return np.concatenate(parts, axis=1)

    def unstack(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """See `Channels.unstack`."""
        parts = np.split(values, np.cumsum(groups(self.outputs))[:-1], axis=1)
        return {
            n: np.ascontiguousarray(part.reshape(len(values), *self.shapes_out[n]))
            for n, part in zip(self.outputs, parts, strict=True)
        }


def before(layout: Channels, x: Any) -> Any:
    """What the network's result is added to: 0, or channels of `x` (an array or tensor)."""
    return x[..., list(layout.previous)] if layout.previous else 0.0


@dataclass(frozen=True)
class Scale:
    """Mean, spread and size of every channel, over samples and points (and points of a pooled field).

    Attributes
    ----------
    mean, spread : ndarray of float32, shape (channel,)
        In the fields' units, of what the network takes or gives: increments where
        `Channels.previous` says so. A constant channel has spread 1 among the inputs (nothing is
        divided by zero) and 0 among the outputs (the constant is predicted).
    size : ndarray of float32, shape (channel,)
        Root mean square of the field itself.
    """

    mean: np.ndarray
    spread: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, moments: np.ndarray, *, inputs: bool) -> Scale:
        """From moments.

        Parameters
        ----------
        moments : ndarray of float64, shape (3, channel)
            Mean, mean square, and mean square of the field itself.
        inputs : bool
            What the spread of a constant channel is.
        """
        mean, second, square = moments
        # Sums in double precision leave 1e-8 of the mean, single precision holds 1e-7 of it.
        spread = np.sqrt(np.maximum(second - mean**2, 0.0))
        constant = spread <= 1e-6 * np.abs(mean)
        spread = np.where(constant, 1.0 if inputs else 0.0, spread)
        made = (a.astype(np.float32) for a in (mean, spread, np.sqrt(square)))
        return cls(*made)

    def typical(self, which: Mapping[str, int]) -> list[float]:
        """Root mean square of each field over all samples, in its unit."""
        square = self.size.astype(np.float64) ** 2
        return [float(np.sqrt(p.mean())) for p in np.split(square, np.cumsum(groups(which))[:-1])]


def scales(samples: Samples, layout: Channels, comm: Comm) -> tuple[Scale, Scale]:
    """Scales of inputs and outputs in one pass over the samples of all ranks; collective.

    Raises
    ------
    Invalid
        If there are no samples.
    """
    count, sums = 0, [np.zeros((3, c)) for c in (layout.channels_in, layout.channels_out)]
    for batch in samples.batches(64, seed=None):
        x = layout.stack(batch.x, layout.inputs).astype(np.float64)
        y = layout.stack(batch.y, layout.outputs).astype(np.float64)
        change = y - before(layout, x)
        count += math.prod(y.shape[:-1])
        for total, values in zip(sums, ((x, x**2, x**2), (change, change**2, y**2)), strict=True):
            total += [v.sum(axis=tuple(range(v.ndim - 1))) for v in values]
    together = summed(np.concatenate([[float(count)], *(s.ravel() for s in sums)]), comm)
    if not together[0]:
        raise Invalid("there are no samples to train on")
    cut = 1 + 3 * layout.channels_in
    found: list[Scale] = []
    for part, which in ((together[1:cut], layout.inputs), (together[cut:], layout.outputs)):
        moments = part.reshape(3, -1) / together[0]
        found.append(Scale.of(_pooled(moments, which) if layout.pooled else moments, inputs=not found))
    return found[0], found[1]


def _pooled(moments: np.ndarray, which: Mapping[str, int]) -> np.ndarray:
    """The same moments for all channels of a field."""
    parts = np.split(moments, np.cumsum(groups(which))[:-1], axis=1)
    return np.concatenate(
        [np.repeat(p.mean(axis=1, keepdims=True), p.shape[1], axis=1) for p in parts], axis=1
    )
