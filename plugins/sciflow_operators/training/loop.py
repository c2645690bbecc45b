"""One training loop for all networks, a generator; data parallel over the ranks of the context."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from sciflow.context import summed
from sciflow.errors import Diverged, Invalid
from sciflow.surrogate import Arrays, Model, Report
from sciflow_operators.fields.channels import scales
from sciflow_operators.training import checkpoint
from sciflow_operators.training.chain import Cut, FirstSteps
from sciflow_operators.training.checkpoint import Course, Standing
from sciflow_operators.training.distributed import take_gpu
from sciflow_operators.training.finite import not_finite
from sciflow_operators.training.fitted import PREDICT, Fitted, load, pick_device, torch_threads
from sciflow_operators.training.optimiser import Average, adamw
from sciflow_operators.training.precision import forward
from sciflow_operators.training.start import begin
from sciflow_operators.training.update import Run, Updates, advice, noise

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Samples, Signature
    from sciflow_operators.training.trained import Trained


def fit(
    config: Trained, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None
) -> Generator[Report, None, Model]:
    """Train; see `Surrogate.fit`.

    Notes
    -----
    Minimises the loss of the configuration with AdamW. The initial weights depend on the seed, the order
    of stored samples on seed and epoch, the learning rate on the update, and every other random number
    is drawn from a generator made of seed, batch and rank: a checkpoint need not hold a generator, and
    training from one gives the same bits (on the same machine and number of threads), be it from the end
    of an epoch or from amid one. By default the weights of the last epoch are the model: the learning
    rate has then fallen to nothing, and no choice among epochs was made on the validation samples.

    An update averages the gradients of `Trained.accumulate` batches (fewer at the end of an epoch). With
    several ranks in ``ctx.comm`` each batch is one of each rank's samples, together as many as
    ``config.batch`` (at least one of each rank). Scales, gradients, losses and validation errors are
    those of all samples together, and every rank has the same weights bit for bit. The ranks meet after
    each batch, so all must have equally many (see `Samples`). Every rank yields the same reports.

    ``valid_error`` is the relative L2 error of single steps, however long the roll-outs are that the
    network is trained on; ``unroll`` says how long those are.
    """
    now, run = _begin(config, samples, valid, ctx, resume)
    course, keep = now.course, partial(checkpoint.save, now, ctx)
    while course.epoch < config.epochs and not (config.patience and course.waited >= config.patience):
        begin, before = time.perf_counter(), course.count
        epoch = _epoch(now, run)
        while True:
            with torch_threads(config.threads):
                amid = next(epoch, None)
                error = _validate(now, valid, ctx) if amid is None else None
            loss = course.total / max(course.count, 1)
            metrics = {
                "train_loss": loss,
                **({} if error is None else {"valid_error": error}),
                "learning_rate": float(now.optimiser.param_groups[0]["lr"]),
                "samples_per_second": (course.count - before) / (time.perf_counter() - begin),
                **config.unroll.figures(run.progress),
                **now.fitted.figures(ctx.comm),
            }
            if error is None:
                yield Report(course.epoch, config.epochs, metrics, keep, course.batches)
                continue
            _close(now, loss, error)
            yield Report(course.epoch, config.epochs, metrics, keep)
            break
    if now.best:
        now.fitted.net.load_state_dict(now.best)
    elif now.average is not None:
        now.average.swap()
    return now.fitted


def _begin(
    config: Trained, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None
) -> tuple[Standing, Run]:
    """A model with random weights or those of a checkpoint, the same on all ranks."""
    pick_device(config.device)
    take_gpu(ctx.comm, config.device)
    signature = valid.signature if config.horizon > 1 else samples.signature
    if resume is None:
        fitted = _new(config, samples, signature, ctx)
    else:
        checkpoint.same(config, signature, ctx, resume)
        fitted = load(config, resume, signature)
    net, device = fitted.net, fitted.device
    now = Standing(fitted, adamw(config, net), Average(net, config.ema) if config.ema else None, {}, Course())
    if resume is not None:
        checkpoint.restore(now, resume)
        if ctx.comm.rank:  # the sums in a checkpoint are those of all ranks
            now.course.total = now.course.count = 0.0
    size = max(1, config.batch // ctx.comm.size)
    cut = Cut(samples.signature, signature, fitted.layout, config.horizon, device)
    called = forward(config, net, device, ctx.log)
    return now, Run(samples, cut, called, noise(fitted), size, -(-len(samples) // size), ctx)


def _new(config: Trained, samples: Samples, signature: Signature, ctx: Context) -> Fitted:
    """A model with random weights, scaled to the samples of all ranks; collective.

    Raises
    ------
    Invalid
        If samples hold numbers that are not finite.
    """
    device = pick_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed)
        layout, net = config.network(signature)
    seen = FirstSteps(samples, Cut(samples.signature, signature, layout, config.horizon, device))
    found = scales(seen, layout, ctx.comm)
    ctx.all_ok(Invalid(f"{seen.fault}: training samples must be finite numbers") if seen.fault else None)
    begin(net, layout, found[0], ctx)
    return config.fitted(signature, layout, net.to(device), found)


def _epoch(now: Standing, run: Run) -> Iterator[int]:
    """One pass over this rank's samples, or what is left of it; yields amid it where it may be kept."""
    config, course, ctx = now.fitted.config, now.course, run.ctx
    begin = course.batches
    often = config.report_every * config.accumulate if run.samples.resumable else 0
    mine = np.array([course.total, course.count])
    updates = Updates(now, run)
    more = {"start": begin} if begin else {}
    # Not in a variable: an error would hold it, and with it a thread that reads ahead.
    for number, batch in enumerate(
        run.samples.batches(run.size, seed=ctx.seed, epoch=course.epoch, **more), begin
    ):
        ctx.check_together()
        losses = updates.add(batch, number)
        mine += [losses.sum(dtype=np.float64), len(losses)]
        run.samples.feedback(losses)
        done = number + 1
        if often and done % often == 0 and done < run.batches:
            course.batches = done
            course.total, course.count = summed(mine, ctx.comm).tolist()
            yield done
    if updates.pending:
        updates.make(number)
    course.total, course.count = summed(mine, ctx.comm).tolist()


def _validate(now: Standing, valid: Samples, ctx: Context) -> float:
    """Mean relative L2 error of the validation samples of all ranks, NaN where there are none; collective.

    Raises
    ------
    Invalid
        If samples hold numbers that are not finite.
    Diverged
        If they are finite and the error is not: the last update spoilt the weights, and no loss told.
    """
    fitted, layout = now.fitted, now.fitted.layout
    mine, fault = np.zeros(2), ""
    with now.average.swapped() if now.average is not None else contextlib.nullcontext():
        for batch in valid.batches(PREDICT, seed=None):
            guess = layout.stack(fitted.predict(batch.x), layout.outputs)
            truth = layout.stack(batch.y, layout.outputs)
            errors = float(fitted.errors(torch.from_numpy(guess), torch.from_numpy(truth)).sum())
            if not math.isfinite(errors):
                fault = fault or not_finite(batch, valid.signature)
            mine += [errors, len(truth)]
    total, count = summed(mine, ctx.comm).tolist()
    if not math.isfinite(total):
        ctx.all_ok(Invalid(f"{fault}: validation samples must be finite numbers") if fault else None)
        raise Diverged(
            f"the validation error is {total} at the end of epoch {now.course.epoch + 1}, after losses that "
            f"were finite; {advice(now)}"
        )
    return total / count if count else math.nan


def _close(now: Standing, loss: float, error: float) -> None:
    """Count an epoch, and note its weights where they are the best so far."""
    course, net = now.course, now.fitted.net
    course.epoch, course.batches, course.loss = course.epoch + 1, 0, loss
    course.total = course.count = 0.0
    course.waited += 1
    if error < course.best:
        course.best, course.waited = error, 0
        if now.fitted.config.keep == "best":
            with now.average.swapped() if now.average is not None else contextlib.nullcontext():
                now.best = {name: value.detach().clone() for name, value in net.state_dict().items()}
