"""One training loop for operators, a generator; and the fitted model."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator
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
    padding = [0.0 if axis in periodic else config.padding for axis in layout.space]
    modes = [config.modes] * len(layout.space)
    return FNONet(layout.channels_in, layout.channels_out, config.width, modes, config.layers, padding)


def relative_l2(predicted: Tensor, truth: Tensor, groups: list[int]) -> Tensor:
    """Relative L2 error of each sample, averaged over the output fields.

    Parameters
    ----------
    predicted, truth : Tensor, shape (batch, *points, channel)
        In physical units.
    groups : list of int
        Channels of each field.

    Returns
    -------
    Tensor, shape (batch,)
    """
    total = torch.zeros(len(truth), device=truth.device, dtype=truth.dtype)
    for a, b in zip(predicted.split(groups, -1), truth.split(groups, -1), strict=True):
        error = (a - b).flatten(1).norm(dim=1)
        total = total + error / b.flatten(1).norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny ** 0.5)
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

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; any grid size, the result is on the grid of the input."""
        values = torch.from_numpy(self.layout.stack(x, self.layout.inputs))
        mean_in, spread_in, mean, spread = (
            torch.from_numpy(v).to(self.device) for s in self.scales for v in (s.mean, s.spread)
        )
        self.net.eval()
        parts = []
        with torch.no_grad(), torch_threads(self.config.threads):
            for part in values.split(PREDICT):
                scaled = (part.to(self.device) - mean_in) / spread_in
                parts.append((self.net(scaled) * spread + mean).cpu())
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
    wanted = net.state_dict()
    for name, tensor in wanted.items():
        found = state.get(f"net.{name}")
        if found is None or tuple(found.shape) != tuple(tensor.shape):
            have = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise Invalid(f"weight {name!r} {have}, this configuration needs {tuple(tensor.shape)}")
    net.load_state_dict({k: torch.from_numpy(np.array(state[f"net.{k}"])) for k in wanted})
    try:
        scales = tuple(Scale(np.array(state[f"{w}.mean"]), np.array(state[f"{w}.spread"])) for w in ("input", "output"))
    except KeyError as error:
        raise Invalid(f"the scaling {error} is missing") from None
    return Fitted(config, signature, net.to(pick_device(config.device)), (scales[0], scales[1]))


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
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _checkpoint(fitted: Fitted, optimiser: torch.optim.AdamW, epoch: int) -> dict[str, np.ndarray]:
    """Everything that training needs to go on after `epoch`, as plain arrays."""
    arrays = {k: np.array(v) for k, v in fitted.state().items()}
    arrays["epoch"] = np.array(epoch)
    for i, values in optimiser.state_dict()["state"].items():
        for key, value in values.items():
            arrays[f"optimiser.{i}.{key}"] = value.detach().cpu().numpy().copy()
    return arrays


def _restore(fitted: Fitted, optimiser: torch.optim.AdamW, resume: Arrays) -> int:
    state = optimiser.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in resume.items():
        if name.startswith("optimiser."):
            _, i, key = name.split(".")
            slots.setdefault(int(i), {})[key] = torch.from_numpy(np.array(value))
    state["state"] = slots
    optimiser.load_state_dict(state)
    weights = {k.removeprefix("net."): torch.from_numpy(np.array(v)) for k, v in resume.items() if k[:4] == "net."}
    fitted.net.load_state_dict(weights)
    return int(resume["epoch"])


def fit(
    config: FNO, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None
) -> Generator[Report, None, Model]:
    """Train; see `Surrogate.fit`.

    Notes
    -----
    Minimises the relative L2 error of the physical fields with AdamW. The model of the last epoch
    is returned. Weights, order of the samples and learning rates are functions of seed and epoch
    alone, so training that goes on from a checkpoint gives the same bits.
    """
    layout = Layout.of(samples.signature)
    device = pick_device(config.device)
    torch.manual_seed(ctx.seed)
    net = network(config, layout, samples.signature.periodic).to(device)
    scales = Scale.of(samples, layout, inputs=True), Scale.of(samples, layout, inputs=False)
    fitted = Fitted(config, samples.signature, net, scales)
    optimiser = _optimiser(config, net)
    first = _restore(fitted, optimiser, resume) if resume is not None else 0
    steps = config.epochs * -(-len(samples) // config.batch)
    for epoch in range(first, config.epochs):
        begin = time.perf_counter()
        with torch_threads(config.threads):
            loss = _epoch(fitted, optimiser, samples, ctx, epoch, steps)
            error = _error(fitted, valid)
        seconds = time.perf_counter() - begin
        if not np.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} in epoch {epoch + 1}; a smaller learning_rate "
                f"(now {config.learning_rate}) or clip usually helps"
            )
        metrics = {
            "train_loss": loss,
            "valid_error": error,
            "learning_rate": optimiser.param_groups[0]["lr"],
            "samples_per_second": len(samples) / seconds,
        }
        yield Report(epoch + 1, config.epochs, metrics, lambda done=epoch + 1: _checkpoint(fitted, optimiser, done))  # type: ignore[misc]
    return fitted


def _epoch(
    fitted: Fitted, optimiser: torch.optim.AdamW, samples: Samples, ctx: Context, epoch: int, steps: int
) -> float:
    """One pass over the samples; returns the mean loss."""
    config, layout, device = fitted.config, fitted.layout, fitted.device
    mean_in, spread_in, mean, spread = (
        torch.from_numpy(v).to(device) for s in fitted.scales for v in (s.mean, s.spread)
    )
    groups = list(layout.outputs.values())
    fitted.net.train()
    step = epoch * (steps // config.epochs)
    total, count = 0.0, 0
    for batch in samples.batches(config.batch, seed=ctx.seed, epoch=epoch):
        ctx.check()
        for group in optimiser.param_groups:
            group["lr"] = _rate(config, step, steps)
        x = torch.from_numpy(layout.stack(batch.x, layout.inputs)).to(device)
        y = torch.from_numpy(layout.stack(batch.y, layout.outputs)).to(device)
        optimiser.zero_grad(set_to_none=True)
        predicted = fitted.net((x - mean_in) / spread_in) * spread + mean
        loss = relative_l2(predicted, y, groups).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip:
            torch.nn.utils.clip_grad_norm_(fitted.net.parameters(), config.clip)
        optimiser.step()
        total += float(loss.detach()) * len(x)
        count += len(x)
        step += 1
    return total / count


def _error(fitted: Fitted, valid: Samples) -> float:
    """Mean relative L2 error on validation samples."""
    groups = list(fitted.layout.outputs.values())
    total, count = 0.0, 0
    for batch in valid.batches(PREDICT, seed=None):
        guess = fitted.layout.stack(fitted.predict(batch.x), fitted.layout.outputs)
        truth = fitted.layout.stack(batch.y, fitted.layout.outputs)
        error = relative_l2(torch.from_numpy(guess), torch.from_numpy(truth), groups)
        total += float(error.sum())
        count += len(truth)
    return total / count
