"""One training loop for operators, a generator; and the fitted model."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import Diverged, Invalid
from sciflow.surrogate import Arrays, Model, Report
from sciflow_operators.channels import Layout, Scale
from sciflow_operators.fno import FNONet

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Samples, Signature
    from sciflow_operators.components import FNO

PREDICT = 32
"""Samples that are predicted at once."""


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Set torch's thread count for a while.

    Parameters
    ----------
    count : int
        0 takes the cores this process may use.
    """
    before = torch.get_num_threads()
    wanted = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)


def pick_device(wish: str) -> torch.device:
    """The device to compute on.

    Raises
    ------
    Invalid
        If a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if wish == "cuda" and not there:
        raise Invalid("device 'cuda' was asked for, torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if there and wish != "cpu" else "cpu")


def network(config: FNO, layout: Layout, periodic: tuple[str, ...]) -> FNONet:
    """The network for a configuration and a layout."""
    return FNONet(
        layout.channels_in,
        layout.channels_out,
        config.width,
        [config.modes] * len(layout.space),
        config.layers,
        [axis in periodic for axis in layout.space],
        config.padding,
        config.coordinates,
    )


FLOOR = 1e-3
"""A field smaller than this part of its typical size is measured against this part."""


def relative_l2(predicted: Tensor, truth: Tensor, groups: list[int], typical: list[float]) -> Tensor:
    """Relative L2 error of each sample, averaged over the output fields.

    Parameters
    ----------
    predicted, truth : Tensor, shape (batch, *points, channel)
        In the fields' units.
    groups : list of int
        Channels of each field.
    typical : list of float
        Root mean square of each field over the training samples, in its unit. A sample below
        `FLOOR` times this (a field that is zero, say) is divided by that bound instead.

    Returns
    -------
    Tensor, shape (batch,)
    """
    total = torch.zeros(len(truth), device=truth.device, dtype=truth.dtype)
    parts = zip(predicted.split(groups, -1), truth.split(groups, -1), typical, strict=True)
    for a, b, size in parts:
        least = max(FLOOR * size, torch.finfo(b.dtype).tiny) * math.sqrt(b[0].numel())
        total = total + (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp_min(least)
    return total / len(groups)


class Fitted(Model):
    """A trained FNO.

    Parameters
    ----------
    config : FNO
        Its configuration.
    signature : Signature
        What it maps from and to.
    net : FNONet
        The network, on its device.
    scales : tuple of Scale
        Of inputs and outputs.
    """

    def __init__(self, config: FNO, signature: Signature, net: FNONet, scales: tuple[Scale, Scale]) -> None:
        self.config, self.signature, self.net, self.scales = config, signature, net, scales
        self.layout = Layout.of(signature)
        self.device = next(net.parameters()).device
        self._scaling = [torch.tensor(v, device=self.device) for s in scales for v in (s.mean, s.spread)]

    def apply(self, x: Tensor) -> Tensor:
        """Output channels from input channels, both in the fields' units and on the device.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        mean_in, spread_in, mean, spread = self._scaling
        return torch.addcmul(mean, self.net((x - mean_in) / spread_in), spread)

    def errors(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """`relative_l2` of every sample."""
        typical = self.scales[1].typical(self.layout.outputs)
        return relative_l2(predicted, truth, list(self.layout.outputs.values()), typical)

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; any grid size, the result is on the grid of the input.

        Raises
        ------
        Invalid
            If an input is missing or the shapes of the inputs do not fit together.
        """
        values = torch.from_numpy(self.layout.stack(x, self.layout.inputs))
        with torch.no_grad(), torch_threads(self.config.threads):
            parts = [self.apply(part.to(self.device)).cpu() for part in values.split(PREDICT)]
        axes = {n: f.axes for n, f in self.signature.outputs.items()}
        return self.layout.unstack(torch.cat(parts).numpy(), axes)

    def state(self) -> Arrays:
        """See `Model.state`."""
        weights = {f"net.{k}": v.detach().cpu().numpy() for k, v in self.net.state_dict().items()}
        for word, scale in zip(("input", "output"), self.scales, strict=True):
            weights |= {f"{word}.mean": scale.mean, f"{word}.spread": scale.spread}
        return weights


def load(config: FNO, state: Arrays, signature: Signature) -> Fitted:
    """Build a fitted model from its arrays; see `Surrogate.load`."""
    layout = Layout.of(signature)
    net = network(config, layout, signature.periodic)
    wanted = {f"net.{k}": tuple(v.shape) for k, v in net.state_dict().items()}
    for word, channels in (("input", layout.channels_in), ("output", layout.channels_out)):
        wanted |= {f"{word}.mean": (channels,), f"{word}.spread": (channels,)}
    _require(state, wanted)
    net.load_state_dict({k: torch.tensor(np.asarray(state[f"net.{k}"])) for k in net.state_dict()})
    scales = [
        Scale(np.array(state[f"{w}.mean"]), np.array(state[f"{w}.spread"])) for w in ("input", "output")
    ]
    return Fitted(config, signature, net.to(pick_device(config.device)), (scales[0], scales[1]))


def _require(state: Arrays, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a state in which arrays are missing or have other shapes."""
    wrong = []
    for name, shape in wanted.items():
        found = state.get(name)
        if found is None:
            wrong.append(f"{name} is missing, shape {shape} is needed")
        elif tuple(found.shape) != shape:
            wrong.append(f"{name} has shape {tuple(found.shape)}, {shape} is needed")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Invalid(f"these arrays are not of this FNO and signature: {'; '.join(wrong[:5])}{more}")


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
    _require(resume, wanted)
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
    if resume is None:
        fitted = _begin(config, samples, ctx.seed)
    else:
        fitted = load(config, resume, samples.signature)
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
