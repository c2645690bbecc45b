"""Between named fields and the channels of a network: layout, scaling, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow.samples import Samples, Signature


@dataclass(frozen=True)
class Layout:
    """Where each field sits among the channels.

    Attributes
    ----------
    space : tuple of str
        Spatial axes in storage order.
    inputs, outputs : mapping of str to int
        Number of channels of each field; 0 marks a scalar parameter (one constant channel).
    """

    space: tuple[str, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]

    @classmethod
    def of(cls, signature: Signature) -> Layout:
        """The layout that a signature asks for.

        Raises
        ------
        Invalid
            If fields have different spatial axes, or not one or two of them.
        """
        fields = {**signature.inputs, **signature.outputs}
        spaces = {n: tuple(a for a in f.axes if a != "time") for n, f in fields.items() if f.axes}
        found = set(spaces.values())
        if len(found) != 1:
            raise Invalid(f"an FNO needs fields on one grid, these have the axes {spaces}")
        space = found.pop()
        if len(space) not in (1, 2):
            raise Invalid(f"an FNO here has one or two spatial axes, these fields have {space or 'none'}")
        for name, field in fields.items():
            if "time" in field.axes and field.axes[0] != "time":
                raise Invalid(f"field {name!r}: time must be the first axis, it has {field.axes}")
        for name in signature.outputs:
            if not fields[name].axes:
                raise Invalid(f"output {name!r} is a single number; an FNO predicts fields")

        def channels(name: str) -> int:
            axes = fields[name].axes
            return 0 if not axes else len(signature.coordinates["time"]) if "time" in axes else 1

        return cls(
            space, {n: channels(n) for n in signature.inputs}, {n: channels(n) for n in signature.outputs}
        )

    @property
    def channels_in(self) -> int:
        """Number of input channels."""
        return sum(max(1, n) for n in self.inputs.values())

    @property
    def channels_out(self) -> int:
        """Number of output channels."""
        return sum(self.outputs.values())

    def stack(self, arrays: Mapping[str, np.ndarray], which: Mapping[str, int]) -> np.ndarray:
        """Fields as channels.

        Parameters
        ----------
        arrays : mapping of str to ndarray, shape (batch, [time,] *space) or (batch,)
        which : mapping of str to int
            `inputs` or `outputs`.

        Returns
        -------
        ndarray of float32, shape (batch, *space, channel)

        Raises
        ------
        Invalid
            If a field is missing or has another number of time levels.
        """
        shapes = {}
        for name, n in which.items():
            if name not in arrays:
                raise Invalid(f"the field {name!r} is missing; there is: {', '.join(arrays) or 'nothing'}")
            shape = np.shape(arrays[name])
            shapes[name] = (*shape[:1], *(shape[-len(self.space) :] if n else ()))
        full = {s for s in shapes.values() if len(s) > 1}
        if len(full) > 1 or len({s[:1] for s in shapes.values()}) > 1:
            raise Invalid(f"these fields do not fit together, (batch, *space) is {shapes}")
        points = full.pop()[1:] if full else (1,) * len(self.space)
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

    def unstack(self, values: np.ndarray, axes: Mapping[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
        """Output channels as fields; the inverse of `stack` for outputs.

        Parameters
        ----------
        values : ndarray, shape (batch, *space, channel)
        axes : mapping of str to tuple of str
            Axes of each output.
        """
        fields, first = {}, 0
        for name, n in self.outputs.items():
            part = values[..., first : first + n]
            first += n
            part = np.moveaxis(part, -1, 1) if "time" in axes[name] else part[..., 0]
            fields[name] = np.ascontiguousarray(part)
        return fields


@dataclass(frozen=True)
class Scale:
    """Mean and spread of every channel, over samples and points.

    Attributes
    ----------
    mean, spread : ndarray of float32, shape (channel,)
        In the fields' units. A constant channel has spread 1 among the inputs (nothing is divided
        by zero) and 0 among the outputs (the constant is predicted).
    """

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, samples: Samples, layout: Layout, *, inputs: bool) -> Scale:
        """Computed in one pass over the samples, in double precision.

        Raises
        ------
        Invalid
            If there are no samples.
        """
        count, first, second = 0, np.zeros(()), np.zeros(())
        for batch in samples.batches(64, seed=None):
            arrays, which = (batch.x, layout.inputs) if inputs else (batch.y, layout.outputs)
            values = layout.stack(arrays, which).astype(np.float64)
            values = values.reshape(-1, values.shape[-1])
            count += len(values)
            first = first + values.sum(axis=0)
            second = second + (values**2).sum(axis=0)
        if not count:
            raise Invalid("there are no samples to train on")
        mean = first / count
        # Sums in double precision leave 1e-8 of the mean, single precision holds 1e-7 of it.
        spread = np.sqrt(np.maximum(second / count - mean**2, 0.0))
        constant = spread <= 1e-6 * np.abs(mean)
        spread = np.where(constant, 1.0 if inputs else 0.0, spread)
        return cls(mean.astype(np.float32), spread.astype(np.float32))

    def typical(self, which: Mapping[str, int]) -> list[float]:
        """Root mean square of each field over all samples, in its unit."""
        square = self.mean.astype(np.float64) ** 2 + self.spread.astype(np.float64) ** 2
        parts = np.split(square, np.cumsum([max(1, n) for n in which.values()])[:-1])
        return [float(np.sqrt(p.mean())) for p in parts]
