"""AdamW over groups of weights, the learning rate of every update, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sciflow_operators.training.trained import Trained

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of every parameter."""


def rate(config: Trained, step: int, steps: int) -> float:
    """Learning rate of one update.

    Parameters
    ----------
    config : Trained
        Its `schedule`, `warmup`, `drops` and `learning_rate`.
    step, steps : int
        Number of the update, and of all.

    Notes
    -----
    ``onecycle`` rises from 1/25 of the largest rate over the first 30 % of the updates and falls to 1e-4
    of it, both along a cosine; ``cosine`` only falls. ``step`` halves it `drops` times, after equal
    parts of the training. All but ``onecycle`` begin with `warmup`, a straight line from 0, and do what
    they do in the rest. A live source may give more batches than its length promised: they take the last
    rate.

    References
    ----------
    L. N. Smith and N. Topin, "Super-convergence", arXiv:1708.07120.
    """
    onecycle = config.schedule == "onecycle"
    warm = (0.3 if onecycle else config.warmup) * steps
    part = min(1.0, max(0.0, step - warm) / max(1.0, steps - warm))
    if onecycle and step < warm:
        factor = _cosine(1 / 25, 1.0, step / warm)
    elif config.schedule in ("onecycle", "cosine"):
        factor = _cosine(1.0, 1e-4, part)
    elif config.schedule == "step":
        factor = 0.5 ** min(config.drops, int(part * (config.drops + 1)))
    else:
        factor = 1.0
    if not onecycle and step < warm:
        factor = (step + 1) / (warm + 1)
    return config.learning_rate * factor


def _cosine(begin: float, end: float, part: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * part)) / 2


def adamw(config: Trained, net: nn.Module) -> torch.optim.AdamW:
    """AdamW over `Trained.groups`, without what is frozen (``requires_grad`` is False)."""
    groups = [
        {"params": learned, "factor": factor, "weight_decay": decay * config.weight_decay}
        for weights, factor, decay in config.groups(net)
        if (learned := [p for p in weights if p.requires_grad])
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


class Average:
    """Exponential average of a network's weights over the updates.

    Parameters
    ----------
    net : Module
        The network; its weights are what is averaged.
    decay : float
        Below 1; the average reaches back about ``1 / (1 - decay)`` updates.

    Notes
    -----
    After t updates it is the normalised mean ``sum_i decay^(t-i) w_i / sum_i decay^(t-i)``, i = 1..t: the
    initial weights, which are random, are not in it. An update costs one pass over the weights.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = [p.detach() for p in net.parameters()]
        self.names = [name for name, _ in net.named_parameters()]
        self.values = [p.clone() for p in self._weights]

    def update(self, count: int) -> None:
        """Take in the weights after `count` updates."""
        part = (1 - self.decay) / (1 - self.decay**count)
        torch._foreach_lerp_(self.values, self._weights, part)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The network has the average for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange the network's weights and the average."""
        # In place: what torch has captured reads the weights where they are.
        for weight, value in zip(self._weights, self.values, strict=True):
            former = weight.clone()
            weight.copy_(value)
            value.copy_(former)

    def restore(self, values: list[Tensor]) -> None:
        """Take up an average."""
        for mine, value in zip(self.values, values, strict=True):
            mine.copy_(value)
