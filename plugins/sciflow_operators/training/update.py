"""One update of the weights: gradients of some batches, averaged over them and over the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.context import summed
from sciflow.errors import Diverged, Invalid, SciflowError
from sciflow_operators.fields.channels import groups
from sciflow_operators.training.chain import Chain, Cut
from sciflow_operators.training.finite import not_finite, whose
from sciflow_operators.training.optimiser import rate
from sciflow_operators.training.precision import Forward, new_update, out_of_memory
from sciflow_operators.training.ranks import average

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Batch, Samples
    from sciflow_operators.training.checkpoint import Standing
    from sciflow_operators.training.fitted import Fitted


@dataclass
class Run:
    """What a training needs beside what changes in it.

    Attributes
    ----------
    samples : Samples
        Training samples.
    cut : Cut
        How they are cut into steps.
    forward : callable
        The network as training calls it.
    noise : Tensor, shape (channel in,), or None
        Standard deviation of the noise of every channel, in the fields' units.
    size : int
        Samples of a batch on this rank.
    batches : int
        Of an epoch.
    ctx : Context
        Seed and ranks.
    progress : float
        Part of the training that is done, 0 to 1.
    """

    samples: Samples
    cut: Cut
    forward: Forward
    noise: Tensor | None
    size: int
    batches: int
    ctx: Context
    progress: float = 0.0


def noise(fitted: Fitted) -> Tensor | None:
    """Standard deviation of the noise of every input channel, in the fields' units, or None for none."""
    config, layout = fitted.config, fitted.layout
    if not config.noise:
        return None
    fields = [float(bool(f.axes)) for f in fitted.signature.inputs.values()]
    mask = np.repeat(fields, groups(layout.inputs)).astype(np.float32)
    return torch.from_numpy(config.noise * mask * fitted.scales[0].spread).to(fitted.device)


def seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Updates:
    """The updates of one epoch, in turn.

    Parameters
    ----------
    now : Standing
        What is trained; changed in place.
    run : Run
        On what, how.

    Attributes
    ----------
    pending : int
        Batches whose gradients wait for the update.
    """

    def __init__(self, now: Standing, run: Run) -> None:
        self.pending = 0
        self._now, self._run = now, run
        self._config = now.fitted.config
        self._weights = [p for p in now.fitted.net.parameters() if p.requires_grad]
        self._count = 0
        self._error: SciflowError | None = None

    def add(self, batch: Batch, number: int) -> np.ndarray:
        """Learn from one batch; every `Trained.accumulate` batches make an update; collective.

        Parameters
        ----------
        batch : Batch
            This rank's samples.
        number : int
            Of the batch in the epoch.

        Returns
        -------
        ndarray, shape (batch,)
            Loss of each sample.

        Raises
        ------
        Invalid, Diverged, Failed
            If the loss is not finite, or the memory of the GPU is too small; on all ranks.
        """
        accumulate, several = self._config.accumulate, self._run.ctx.comm.size > 1
        if not self.pending:
            self._now.optimiser.zero_grad(set_to_none=True)
            new_update(self._now.fitted.device)
            self._count, self._error = 0, None
        losses = self._gradients(batch, number)
        self.pending += 1
        self._count += len(losses)
        if several:  # the ranks meet on the CPU in any case, so the loss may be read before
            self._error = self._error or self._fault(losses.cpu().numpy(), batch)
        if self.pending == accumulate:
            self.make(number)
        told = losses.cpu().numpy()
        if not several:
            self._error = self._error or self._fault(told, batch)
            if self._error is not None:
                raise self._error
        return told

    def _gradients(self, batch: Batch, number: int) -> Tensor:
        """Add a batch's gradients to those that wait; returns the loss of each sample."""
        now, run = self._now, self._run
        fitted, comm = now.fitted, run.ctx.comm
        epoch = now.course.epoch
        if not len(batch):
            # Transforms of nothing fail; the other ranks' samples decide this update.
            return torch.zeros(0, device=fitted.device)
        draw = torch.Generator().manual_seed(seed(run.ctx.seed, epoch * run.batches + number, comm.rank))
        try:
            x = torch.from_numpy(fitted.layout.stack(batch.x, fitted.layout.inputs)).to(fitted.device)
            with fitted.called_by(run.forward):
                losses = self._config.unroll(
                    Chain(fitted, run.cut, batch, self._noisy(x, draw)), draw, self._progress(number)
                )
            # The mean of one batch is taken where its gradient is, of several when all have come.
            alone = comm.size == 1 and self._config.accumulate == 1
            (losses.mean() if alone else losses.sum()).backward()  # type: ignore[no-untyped-call]
        except (torch.OutOfMemoryError, Diverged) as error:
            failed = self._failed(batch, error)
            if comm.size == 1:
                raise failed from None
            self._error = failed
            return torch.zeros(len(batch), device=fitted.device)
        return losses.detach()

    def _failed(self, batch: Batch, error: Exception) -> SciflowError:
        """What is told of a batch that gave no loss."""
        if not isinstance(error, Diverged):
            return out_of_memory(self._config, len(batch), error)
        where = not_finite(batch, self._run.samples.signature)
        if where:
            return Invalid(f"{where}: training samples must be finite numbers")
        epoch, updates = self._now.course.epoch + 1, self._now.course.updates
        when = f"It was epoch {epoch}, update {updates}, with {whose(batch)}"
        return Diverged(f"{error}. {when}. {_kept(epoch - 1)}")

    def _progress(self, number: int) -> float:
        run, config = self._run, self._config
        done = self._now.course.epoch + min(1.0, number / max(1, run.batches))
        run.progress = min(1.0, done / config.epochs)
        return run.progress

    def _noisy(self, x: Tensor, draw: torch.Generator) -> Tensor:
        spread = self._run.noise
        if spread is None:
            return x
        source = draw
        if x.device.type != "cpu":
            source = torch.Generator(x.device).manual_seed(draw.initial_seed())
        return torch.addcmul(x, torch.randn(x.shape, generator=source, device=x.device), spread)

    def make(self, number: int) -> None:
        """Change the weights by the gradients that wait; collective.

        Parameters
        ----------
        number : int
            Of the last batch.
        """
        now, config, comm = self._now, self._config, self._run.ctx.comm
        if comm.size > 1:
            if summed(np.array([float(self._error is not None)]), comm)[0]:
                self._run.ctx.all_ok(self._error)
            average(self._weights, self._count, comm)
        elif config.accumulate > 1:
            grads = [p.grad for p in self._weights if p.grad is not None]
            torch._foreach_div_(grads, float(self._count))
        updates = -(-self._run.batches // config.accumulate)
        step = now.course.epoch * updates + number // config.accumulate
        for group in now.optimiser.param_groups:
            group["lr"] = group["factor"] * rate(config, step, config.epochs * updates)
        if config.clip:
            torch.nn.utils.clip_grad_norm_(self._weights, config.clip)
        now.optimiser.step()
        now.course.updates += 1
        if now.average is not None:
            now.average.update(now.course.updates)
        self.pending = 0

    def _fault(self, losses: np.ndarray, batch: Batch) -> SciflowError | None:
        """Why a loss is not finite, or None if all are."""
        if np.isfinite(losses).all():
            return None
        where = not_finite(batch, self._run.samples.signature)
        if where:
            return Invalid(f"{where}: training samples must be finite numbers")
        course = self._now.course
        bad = float(losses[~np.isfinite(losses)][0])
        last = f"after {course.loss:.3g} in the one before" if course.epoch else "the first one"
        return Diverged(
            f"the loss is {bad} in epoch {course.epoch + 1} ({last}), at update {course.updates} with "
            f"{whose(batch)}; {advice(self._now)}"
        )


def advice(now: Standing) -> str:
    """What to do where training on finite samples diverged, and what is left of it."""
    config = now.fitted.config
    return (
        f"the samples are finite: try a smaller learning_rate (now {config.learning_rate}) or clip (now "
        f"{config.clip}). {_kept(now.course.epoch)}"
    )


def _kept(epoch: int) -> str:
    if not epoch:
        return "No epoch was finished"
    return f"The last good one is epoch {epoch}; its checkpoint stays if it was kept"
