"""Between the channels of samples and the states of a differential equation, with their times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sciflow.errors import Invalid
from sciflow_operators.fields.channels import LEVELS, Channels, Flat, Layout, groups
from sciflow_operators.fields.port import Port

if TYPE_CHECKING:
    from sciflow.samples import Signature
    from sciflow.schema import Field
    from sciflow_operators.fields.channels import Scale

LEAD = "lead_time"
"""The input that is the time from the inputs to the outputs."""


@dataclass(frozen=True)
class Rows(Flat):
    """All numbers of all fields in one row, each with a scale of its own."""

    pooled: ClassVar[bool] = False


@dataclass(frozen=True)
class States:
    """Which channels are the state, which drive it, and when its values are wanted.

    Attributes
    ----------
    sizes : tuple of int
        Channels of the state that each output field has, in order.
    start : tuple of int
        For each channel of the state the input channel it starts from; -1 where it starts from the mean.
    driving : tuple of int
        Input channels that the derivative depends on beside the state.
    lead : int
        The input channel that is the time from the inputs to the outputs; -1 where none is.
    times : tuple of float
        Of the levels of the outputs, in parts of the last one.
    """

    sizes: tuple[int, ...]
    start: tuple[int, ...]
    driving: tuple[int, ...]
    lead: int
    times: tuple[float, ...]

    @classmethod
    def of(cls, signature: Signature, layout: Channels) -> States:
        """What a signature asks for.

        Raises
        ------
        Invalid
            If outputs have different time levels, or go back in time.
        """
        times = _times(signature)
        counts = groups(layout.outputs)
        sizes = tuple(count // len(times) for count in counts)
        firsts = dict(zip(layout.inputs, np.cumsum([0, *groups(layout.inputs)]).tolist(), strict=False))
        ends = dict(zip(layout.inputs, np.cumsum(groups(layout.inputs)).tolist(), strict=True))
        start: list[int] = []
        for name, size in zip(signature.outputs, sizes, strict=True):
            source = _source(signature, name)
            start += [-1] * size if source is None else range(ends[source] - size, ends[source])
        lead = firsts[LEAD] if LEAD in signature.inputs else -1
        if lead >= 0 and len(times) > 1:
            raise Invalid(f"{LEAD!r} says when one level is wanted, these outputs have {len(times)}")
        driving = [i for i in range(layout.channels_in) if i not in start and i != lead]
        return cls(sizes, tuple(start), tuple(driving), lead, times)

    @property
    def count(self) -> int:
        """Channels of the state."""
        return len(self.start)

    def scale(self, scales: tuple[Scale, Scale]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of every channel of the state, over its beginning and all levels.

        Returns
        -------
        mean, spread : ndarray of float32, shape (channel of the state,)
            In the fields' units; the spread is 0 where the state is always the same.
        """
        levels, first, found = len(self.times), 0, []
        begins = iter(self.start)
        for size in self.sizes:
            part = slice(first, first + size * levels)
            means, spreads = (
                a[part].reshape(levels, size).astype(np.float64) for a in (scales[1].mean, scales[1].spread)
            )
            first += size * levels
            for mean, spread, begin in zip(means.T, spreads.T, begins, strict=False):
                found.append(_together([*zip(mean, spread, strict=True), *_beginning(scales[0], begin)]))
        mean, spread = np.array(found, dtype=np.float32).T
        return mean, spread

    def port(self, layout: Layout, signature: Signature, clock: bool) -> Port:
        """What a network of a grid takes to give the derivative: state, what drives it, the time."""
        names = [name for name, n in layout.inputs.items() for _ in range(max(1, n))]
        scalar = [not n for n in layout.inputs.values() for _ in range(max(1, n))]
        taken = list(self.driving)
        after = range(self.count, self.count + len(taken))
        fields = [i for i, channel in zip(after, taken, strict=True) if not scalar[channel]]
        scalars = [i for i, channel in zip(after, taken, strict=True) if scalar[channel]]
        clocks = [self.count + len(taken)] if clock else []
        return Port(
            (*range(self.count), *fields),
            (*scalars, *clocks),
            self.count,
            layout.points,
            tuple(axis in signature.periodic for axis in layout.space),
            (*["state"] * self.count, *(names[i] for i in taken), *["clock"] * len(clocks)),
        )


def _beginning(scale: Scale, channel: int) -> list[tuple[float, float]]:
    """Mean and spread of the states at the beginning, where they are known."""
    if channel < 0:
        return []
    mean, spread, size = (float(a[channel]) for a in (scale.mean, scale.spread, scale.size))
    # A constant input has the spread 1 in every unit.
    constant = spread == 1.0 and abs(size**2 - mean**2) <= 1e-6 * mean**2
    return [(mean, 0.0 if constant else spread)]


def _together(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and spread of sets of equal size; the spread is 0 where nothing varies."""
    means, spreads = np.array(parts).T
    mean = float(means.mean())
    spread = float(np.sqrt(np.mean(spreads**2 + (means - mean) ** 2)))
    return mean, spread if spread > 1e-6 * abs(mean) else 0.0


def _levels(field: Field) -> str:
    """The axis of time levels of a field; empty where it has none."""
    return field.axes[0] if field.axes and field.axes[0] in LEVELS else ""


def _times(signature: Signature) -> tuple[float, ...]:
    """Times of the outputs' levels since the inputs, in parts of the last one."""
    axes: Mapping[str, str] = {name: _levels(f) for name, f in signature.outputs.items()}
    if len(set(axes.values())) != 1:
        raise Invalid(f"a differential equation gives all outputs at the same times, these differ: {axes}")
    axis = next(iter(axes.values()))
    if not axis:
        return (1.0,)
    times = np.asarray(signature.coordinates[axis], dtype=np.float64)
    # A whole trajectory begins with the state that it is computed from.
    times = times - times[0] if axis == "time" else times
    if times[0] < 0 or (np.diff(times) <= 0).any() or not times[-1] > 0:
        raise Invalid(f"the times of the outputs must grow, these are {times.tolist()}")
    return tuple((times / times[-1]).tolist())


def _source(signature: Signature, output: str) -> str | None:
    """The input whose last level is the beginning of an output, or None."""
    field = signature.outputs[output]
    space = field.axes[bool(_levels(field)) :]
    for name, given in signature.inputs.items():
        same = name.partition("[")[0] == output.partition("[")[0]
        if same and given.axes[bool(_levels(given)) :] == space:
            if _levels(given) == "time" == _levels(field):
                raise Invalid(
                    f"the input {name!r} holds the times that the output {output!r} should give; take "
                    f"'{name}[0]', the level it begins with"
                )
            return name
    return None
