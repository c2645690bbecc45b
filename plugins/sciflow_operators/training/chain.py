"""Samples of several steps: cut into single ones, and the result of one as the input of the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import Invalid
from sciflow.samples import Batch, Samples, Signature
from sciflow_operators.fields.channels import LEVELS, Channels, groups
from sciflow_operators.training.finite import not_finite

if TYPE_CHECKING:
    from sciflow.schema import Field
    from sciflow_operators.training.fitted import Fitted

CLOCK = "time"
"""The input that is the time of the first output level."""


def levels_of(signature: Signature, field: Field) -> int:
    """Time levels of a field of a signature; 0 where it has no axis of them."""
    return len(signature.coordinates[field.axes[0]]) if field.axes and field.axes[0] in LEVELS else 0


class Cut:
    """How training samples are cut into steps of a model, and how a step follows another.

    Parameters
    ----------
    samples, model : Signature
        Of the training samples and of the model.
    layout : Channels
        How the model's fields become channels.
    horizon : int
        Steps in a training sample.
    device : device
        Where tensors are.

    Raises
    ------
    Invalid
        If the samples do not hold so many steps, or what a step gives is not what the next one takes.

    Notes
    -----
    An input that is also an output takes the newest levels among its own and those that were predicted:
    with k levels in and l out, the last k of k + l. ``"time"`` becomes the time of the next step's first
    output level. Parameters and inputs without time levels stay; an input with several time levels that
    is no output cannot go on.
    """

    def __init__(
        self, samples: Signature, model: Signature, layout: Channels, horizon: int, device: torch.device
    ) -> None:
        self.signature, self.layout, self.horizon, self.device = model, layout, horizon, device
        self._levels = {n: levels_of(model, f) for n, f in model.outputs.items()}
        self._index: Tensor | None = None
        self._clock: int | None = None
        if horizon > 1:
            self._fits(samples)
            self._index = torch.tensor(self._newest(), device=device)

    def _fits(self, samples: Signature) -> None:
        """Refuse samples that do not hold as many steps as they should."""
        for name, field in self.signature.outputs.items():
            there = samples.outputs.get(name)
            found = 0 if there is None else levels_of(samples, there)
            wanted = self.horizon * max(1, self._levels[name])
            if found != wanted:
                raise Invalid(
                    f"training on {self.horizon} steps needs samples with {wanted} time levels of the output "
                    f"{name!r} (axes {field.axes}), these have {found or 'no such axis'}; a window of stored "
                    "trajectories gives them, a live source does not"
                )

    def _newest(self) -> list[int]:
        """Of each input channel of the next step, its place among this step's inputs and outputs."""
        layout, model, first, places, fed = self.layout, self.signature, 0, [], False
        starts = np.cumsum([0, *groups(layout.outputs)])
        outputs = dict(zip(layout.outputs, starts.tolist(), strict=False))
        for (name, field), count in zip(model.inputs.items(), groups(layout.inputs), strict=True):
            own = list(range(first, first + count))
            first += count
            levels = levels_of(model, field)
            if name in outputs and field.axes:
                given = max(1, layout.outputs[name])
                if count * max(1, self._levels[name]) != given * max(1, levels):
                    raise Invalid(f"the output {name!r} cannot be the next step's input: it has other axes")
                begin = layout.channels_in + outputs[name]
                own = [*own, *range(begin, begin + given)][-count:]
                fed = True
            elif levels or name == "lead_time":
                raise Invalid(
                    f"the input {name!r} changes from step to step and is no output: roll-outs cannot go on "
                    "with it"
                )
            elif name == CLOCK:
                self._clock = first - 1
            places += own
        if not fed:
            raise Invalid(
                f"no output ({', '.join(model.outputs)}) is an input ({', '.join(model.inputs)}): such a "
                "model has no steps to roll out; train it with unroll=Once()"
            )
        return places

    def batch(self, batch: Batch, step: int) -> Batch:
        """The same batch with the outputs of one step."""
        if self.horizon == 1:
            return batch
        y = {}
        for name, values in batch.y.items():
            levels = self._levels[name]
            begin = step * max(1, levels)
            y[name] = values[:, begin : begin + levels] if levels else values[:, begin]
        return replace(batch, y=y)

    def time(self, batch: Batch, step: int) -> np.ndarray | None:
        """Time of the first output level of a step, shape (batch,), where the model takes it.

        Raises
        ------
        Invalid
            If the samples do not tell the times of later levels.
        """
        if self._clock is None:
            return None
        if batch.times is None:
            raise Invalid(f"the input {CLOCK!r} needs samples that tell the times of later levels")
        levels = next(n for n in self._levels.values())
        return np.asarray(batch.times[:, step * max(1, levels)], dtype=np.float32)

    def advance(self, x: Tensor, result: Tensor, time: np.ndarray | None) -> Tensor:
        """Inputs of the next step from those of this one and what was predicted.

        Parameters
        ----------
        x, result : Tensor, shape (batch, *points, channel)
            In the fields' units.
        time : ndarray, shape (batch,), or None
            See `time`, of the next step.
        """
        assert self._index is not None
        following = torch.cat([x, result], dim=-1).index_select(-1, self._index)
        if time is not None:
            values = torch.from_numpy(time).to(self.device)
            following[..., self._clock] = values.view(-1, *(1,) * (x.ndim - 2))
        return following


class Chain:
    """A batch of trajectories, and the model that is trained on them.

    Parameters
    ----------
    fitted : Fitted
        The model.
    cut : Cut
        How the samples are cut.
    batch : Batch
        Training samples.
    x : Tensor, shape (batch, *points, channel in)
        Inputs of the first step, in the fields' units.
    """

    def __init__(self, fitted: Fitted, cut: Cut, batch: Batch, x: Tensor) -> None:
        self.fitted, self.x = fitted, x
        self._cut, self._batch = cut, batch
        self._truths: dict[int, Tensor] = {}
        self._inputs: dict[int, Tensor] = {0: x}

    def truth(self, step: int) -> Tensor:
        """Outputs of one step, shape (batch, *points, channel out), in the fields' units."""
        if step not in self._truths:
            layout = self._cut.layout
            values = layout.stack(self._cut.batch(self._batch, step).y, layout.outputs)
            self._truths[step] = torch.from_numpy(values).to(self.x.device)
        return self._truths[step]

    def following(self, x: Tensor, result: Tensor, step: int) -> Tensor:
        """Inputs (batch, *points, channel) of the step after `step`, from its own and what was predicted."""
        return self._cut.advance(x, result, self._cut.time(self._batch, step + 1))

    def true_input(self, step: int) -> Tensor:
        """Inputs of a step if all before it had been right."""
        if step not in self._inputs:
            self._inputs[step] = self.following(self.true_input(step - 1), self.truth(step - 1), step - 1)
        return self._inputs[step]


class FirstSteps(Samples):
    """Training samples as single steps, looked through for numbers that are not finite.

    Parameters
    ----------
    samples : Samples
        Training samples.
    cut : Cut
        How they are cut.

    Attributes
    ----------
    fault : str
        The first field that is not finite, in words; its numbers are given as finite ones, so that all
        ranks come to the end of their samples before one raises.
    """

    def __init__(self, samples: Samples, cut: Cut) -> None:
        self._samples, self._cut = samples, cut
        self.signature = cut.signature
        self.fault = ""

    def __len__(self) -> int:
        return len(self._samples)

    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`."""
        for whole in self._samples.batches(size, seed=seed, epoch=epoch):
            batch = self._cut.batch(whole, 0)
            fault = not_finite(whole, self._samples.signature)
            if fault:
                self.fault = self.fault or fault
                x, y = ({n: np.nan_to_num(v) for n, v in part.items()} for part in (batch.x, batch.y))
                batch = replace(batch, x=x, y=y)
            yield batch
