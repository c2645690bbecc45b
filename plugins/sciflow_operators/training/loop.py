"""One training loop for all networks, a generator; data parallel over the ranks of the context."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.errors import Diverged
from sciflow.surrogate import Arrays, Model, Report
from sciflow_operators.fields.channels import scales
from sciflow_operators.training.chain import Chain, Cut, FirstSteps
from sciflow_operators.training.fitted import PREDICT, Fitted, load, pick_device, require, torch_threads
from sciflow_operators.training.ranks import average, summed

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Batch, Samples, Signature
    from sciflow_operators.training.trained import Trained


def _rate(config: Trained, step: int, steps: int) -> float:
    """Learning rate of one step.

    Notes
    -----
    ``onecycle`` rises from 1/25 of the largest rate over the first 30 % of the steps and falls to
    1e-4 of it, both along a cosine; ``cosine`` only falls. A live source may give more batches than its
    length promised: they take the last rate.

    References
    ----------
    L. N. Smith and N. Topin, "Super-convergence", arXiv:1708.07120.
    """
    warm = 0.3 * steps if config.schedule == "onecycle" else 0.0
    if step < warm:
        low, high, part = 1 / 25, 1.0, step / warm
    else:
        low, high, part = 1.0, 1e-4, min(1.0, (step - warm) / max(1.0, steps - warm))
    return config.learning_rate * float(high + (low - high) * (1 + np.cos(np.pi * part)) / 2)


def _optimiser(config: Trained, net: nn.Module) -> torch.optim.AdamW:
    groups = [
        {"params": weights, "factor": factor, "weight_decay": decay * config.weight_decay}
        for weights, factor, decay in config.groups(net)
        if weights
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of every parameter."""


def _checkpoint(
    fitted: Fitted, optimiser: torch.optim.AdamW, epoch: int, loss: float
) -> dict[str, np.ndarray]:
    """Everything that training needs to go on after `epoch`, as plain arrays."""
    arrays = {k: np.array(v) for k, v in fitted.state().items()}
    arrays |= {"epoch": np.array(epoch), "loss": np.array(loss)}
    for i, values in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{i}.{key}": values[key].detach().cpu().numpy().copy() for key in MOMENTS}
    return arrays


def _restore(name: str, optimiser: torch.optim.AdamW, resume: Arrays) -> tuple[int, float]:
    """Put a checkpoint's moments back; returns the finished epochs and the last loss."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    wanted: dict[str, tuple[int, ...]] = {"epoch": (), "loss": ()}
    for i, p in enumerate(parameters):
        wanted |= {f"optimiser.{i}.{key}": () if key == "step" else tuple(p.shape) for key in MOMENTS}
    require(name, resume, wanted)
    state = optimiser.state_dict()
    state["state"] = {
        i: {key: torch.tensor(np.asarray(resume[f"optimiser.{i}.{key}"])) for key in MOMENTS}
        for i in range(len(parameters))
    }
    optimiser.load_state_dict(state)
    return int(resume["epoch"]), float(resume["loss"])


def _begin(config: Trained, samples: Samples, signature: Signature, ctx: Context) -> Fitted:
    """A model with random weights, the same on all ranks, scaled to the samples of all ranks."""
    device = pick_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed)
        layout, net = config.network(signature)
    cut = Cut(samples.signature, signature, layout, config.horizon, device)
    return config.fitted(
        signature, layout, net.to(device), scales(FirstSteps(samples, cut), layout, ctx.comm)
    )


def fit(
    config: Trained, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None
) -> Generator[Report, None, Model]:
    """Train; see `Surrogate.fit`.

    Notes
    -----
    Minimises the loss of the configuration with AdamW. The weights of the last epoch are the model:
    the learning rate has then fallen to nothing, and no choice among epochs was made on the validation
    samples. The initial weights depend on the seed, the order of stored samples on seed and epoch, the
    learning rate on the step; nothing else is random, so that training from a checkpoint gives the same
    bits (on the same machine and number of threads).

    With several ranks in ``ctx.comm`` each step takes a batch of each rank's samples, together as many
    as ``config.batch`` (at least one of each rank). Scales, gradients, losses and validation errors are
    those of all samples together, and every rank has the same weights bit for bit. The ranks meet after
    each batch, so all must have equally many (see `Samples`). Every rank yields the same reports.
    """
    signature = valid.signature if config.horizon > 1 else samples.signature
    fitted = _begin(config, samples, signature, ctx) if resume is None else load(config, resume, signature)
    optimiser = _optimiser(config, fitted.net)
    first, last = _restore(config.name, optimiser, resume) if resume is not None else (0, math.nan)
    for epoch in range(first, config.epochs):
        begin = time.perf_counter()
        with torch_threads(config.threads):
            trained = _epoch(fitted, optimiser, samples, ctx, epoch)
            tested = _error(fitted, valid)
        losses, count, errors, checked = summed(np.array([*trained, *tested]), ctx.comm).tolist()
        loss = losses / max(count, 1)
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} in epoch {epoch + 1}, after {last:.3g} in the one before; "
                f"check the samples, or try a smaller learning_rate (now {config.learning_rate}) or clip"
            )
        last = loss
        metrics = {
            "train_loss": loss,
            "valid_error": errors / checked if checked else math.nan,
            "learning_rate": optimiser.param_groups[0]["lr"],
            "samples_per_second": count / (time.perf_counter() - begin),
        }
        keep = partial(_checkpoint, fitted, optimiser, epoch + 1, loss)
        yield Report(epoch + 1, config.epochs, metrics, keep)
    return fitted


def _epoch(
    fitted: Fitted, optimiser: torch.optim.AdamW, samples: Samples, ctx: Context, epoch: int
) -> tuple[float, float]:
    """One pass over this rank's samples; returns the sum of the losses and their number."""
    config = fitted.config
    size = max(1, config.batch // ctx.comm.size)
    steps = -(-len(samples) // size)
    cut = Cut(samples.signature, fitted.signature, fitted.layout, config.horizon, fitted.device)
    total, count = torch.zeros((), dtype=torch.float64, device=fitted.device), 0
    for step, batch in enumerate(samples.batches(size, seed=ctx.seed, epoch=epoch), epoch * steps):
        ctx.check_together()
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * _rate(config, step, config.epochs * steps)
        losses = _step(fitted, optimiser, batch, cut, ctx, step, config.epochs * steps)
        total += losses.sum()
        count += len(losses)
        samples.feedback(losses.cpu().numpy())
    return float(total), float(count)


def _seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _step(
    fitted: Fitted, optimiser: torch.optim.AdamW, batch: Batch, cut: Cut, ctx: Context, step: int, steps: int
) -> Tensor:
    """One step of all ranks; returns the loss of each of this rank's samples."""
    config, layout, device, comm = fitted.config, fitted.layout, fitted.device, ctx.comm
    draw = torch.Generator().manual_seed(_seed(ctx.seed, step, comm.rank))
    x = torch.from_numpy(layout.stack(batch.x, layout.inputs)).to(device)
    optimiser.zero_grad(set_to_none=True)
    losses = config.unroll(Chain(fitted, cut, batch, x), draw, step / max(1, steps))
    if comm.size == 1:
        losses.mean().backward()  # type: ignore[no-untyped-call]
    else:
        losses.sum().backward()  # type: ignore[no-untyped-call]
        average(list(fitted.net.parameters()), len(losses), comm)
    if config.clip:
        torch.nn.utils.clip_grad_norm_(fitted.net.parameters(), config.clip)
    optimiser.step()
    return losses.detach()


def _error(fitted: Fitted, valid: Samples) -> tuple[float, float]:
    """Sum of the relative L2 errors on this rank's validation samples, and their number."""
    layout = fitted.layout
    total, count = 0.0, 0
    for batch in valid.batches(PREDICT, seed=None):
        guess = layout.stack(fitted.predict(batch.x), layout.outputs)
        truth = layout.stack(batch.y, layout.outputs)
        total += float(fitted.errors(torch.from_numpy(guess), torch.from_numpy(truth)).sum())
        count += len(truth)
    return total, float(count)
