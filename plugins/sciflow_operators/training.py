"""One training loop for operators, a generator."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from sciflow.errors import Diverged
from sciflow.surrogate import Arrays, Model, Report
from sciflow_operators.channels import Layout, Scale
from sciflow_operators.fno import FNONet
from sciflow_operators.model import PREDICT, Fitted, load, network, pick_device, require, torch_threads

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Samples
    from sciflow_operators.components import FNO


def _rate(config: FNO, step: int, steps: int) -> float:
    """Learning rate of one step.

    Notes
    -----
    ``onecycle`` rises from 1/25 of the largest rate over the first 30 % of the steps and falls to
    1e-4 of it, both along a cosine; ``cosine`` only falls.

    References
    ----------
    L. N. Smith and N. Topin, "Super-convergence", arXiv:1708.07120.
    """
    warm = 0.3 * steps if config.schedule == "onecycle" else 0.0
    if step < warm:
        low, high, part = 1 / 25, 1.0, step / warm
    else:
        low, high, part = 1.0, 1e-4, (step - warm) / max(1.0, steps - warm)
    return config.learning_rate * float(high + (low - high) * (1 + np.cos(np.pi * part)) / 2)


def _optimiser(config: FNO, net: FNONet) -> torch.optim.AdamW:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
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


def _restore(optimiser: torch.optim.AdamW, resume: Arrays) -> tuple[int, float]:
    """Put a checkpoint's moments back; returns the finished epochs and the last loss."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    wanted: dict[str, tuple[int, ...]] = {"epoch": (), "loss": ()}
    for i, p in enumerate(parameters):
        wanted |= {f"optimiser.{i}.{key}": () if key == "step" else tuple(p.shape) for key in MOMENTS}
    require(resume, wanted)
    state = optimiser.state_dict()
    state["state"] = {
        i: {key: torch.tensor(np.asarray(resume[f"optimiser.{i}.{key}"])) for key in MOMENTS}
        for i in range(len(parameters))
    }
    optimiser.load_state_dict(state)
    return int(resume["epoch"]), float(resume["loss"])


def _begin(config: FNO, samples: Samples, seed: int) -> Fitted:
    """A model with random weights, scaled to the samples."""
    layout = Layout.of(samples.signature)
    device = pick_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(config, layout, samples.signature.periodic).to(device)
    scales = Scale.of(samples, layout, inputs=True), Scale.of(samples, layout, inputs=False)
    return Fitted(config, samples.signature, net, scales)


def fit(
    config: FNO, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None
) -> Generator[Report, None, Model]:
    """Train; see `Surrogate.fit`.

    Notes
    -----
    Minimises the relative L2 error of the fields in their units with AdamW. The weights of the
    last epoch are the model: the learning rate has then fallen to nothing, and no choice among
    epochs was made on the validation samples. The initial weights depend on the seed, the order of
    the samples on seed and epoch, the learning rate on the step; nothing else is random, so that
    training from a checkpoint gives the same bits (on the same machine and number of threads).
    """
    fitted = _begin(config, samples, ctx.seed) if resume is None else load(config, resume, samples.signature)
    optimiser = _optimiser(config, fitted.net)
    first, last = _restore(optimiser, resume) if resume is not None else (0, math.nan)
    for epoch in range(first, config.epochs):
        begin = time.perf_counter()
        with torch_threads(config.threads):
            loss = _epoch(fitted, optimiser, samples, ctx, epoch)
            error = _error(fitted, valid)
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} in epoch {epoch + 1}, after {last:.3g} in the one before; "
                f"check the samples, or try a smaller learning_rate (now {config.learning_rate}) or clip"
            )
        last = loss
        metrics = {
            "train_loss": loss,
            "valid_error": error,
            "learning_rate": optimiser.param_groups[0]["lr"],
            "samples_per_second": len(samples) / (time.perf_counter() - begin),
        }
        keep = partial(_checkpoint, fitted, optimiser, epoch + 1, loss)
        yield Report(epoch + 1, config.epochs, metrics, keep)
    return fitted


def _epoch(fitted: Fitted, optimiser: torch.optim.AdamW, samples: Samples, ctx: Context, epoch: int) -> float:
    """One pass over the samples; returns the mean loss."""
    config, layout, device = fitted.config, fitted.layout, fitted.device
    steps = -(-len(samples) // config.batch)
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    for step, batch in enumerate(samples.batches(config.batch, seed=ctx.seed, epoch=epoch), epoch * steps):
        ctx.check()
        for group in optimiser.param_groups:
            group["lr"] = _rate(config, step, config.epochs * steps)
        x = torch.from_numpy(layout.stack(batch.x, layout.inputs)).to(device)
        y = torch.from_numpy(layout.stack(batch.y, layout.outputs)).to(device)
        optimiser.zero_grad(set_to_none=True)
        loss = fitted.errors(fitted.apply(x), y).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip:
            torch.nn.utils.clip_grad_norm_(fitted.net.parameters(), config.clip)
        optimiser.step()
        total += loss.detach() * len(x)
        count += len(x)
    return float(total) / max(count, 1)


def _error(fitted: Fitted, valid: Samples) -> float:
    """Mean relative L2 error on validation samples."""
    layout = fitted.layout
    total, count = 0.0, 0
    for batch in valid.batches(PREDICT, seed=None):
        guess = layout.stack(fitted.predict(batch.x), layout.outputs)
        truth = layout.stack(batch.y, layout.outputs)
        total += float(fitted.errors(torch.from_numpy(guess), torch.from_numpy(truth)).sum())
        count += len(truth)
    return total / count if count else math.nan
