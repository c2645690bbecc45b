"""On how many of its own steps a network is trained; torch is imported where it is used."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import Component, check_choices
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sciflow_operators.training.chain import Chain

STEEPNESS = 2.0
"""Of the ramp: the larger, the more it is like a switch."""


def ramp(progress: float, end: float) -> float:
    """From 0 to 1 along a tanh, while `progress` goes from 0 to `end`.

    Parameters
    ----------
    progress : float
        Part of the training that is done, 0 to 1.
    end : float
        Where the ramp ends; 0 gives 1 from the beginning.
    """
    if progress >= end:
        return 1.0
    return (1 + math.tanh(STEEPNESS * (2 * progress / end - 1)) / math.tanh(STEEPNESS)) / 2


class Unroll(Component):
    """On how many of its own steps a network is trained.

    Attributes
    ----------
    horizon : int
        Steps that one training sample holds; see `sciflow.surrogate.Surrogate.horizon`.
    """

    kind: ClassVar[str] = "unroll"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    @property
    def horizon(self) -> int:
        """See the attribute."""
        return 1

    @abstractmethod
    def __call__(self, chain: Chain, draw: torch.Generator, progress: float) -> Tensor:
        """Loss of every sample.

        Parameters
        ----------
        chain : Chain
            A batch of trajectories and the model that is trained.
        draw : Generator
            On the CPU; seeded by seed, batch and rank.
        progress : float
            Part of the training that is done, 0 to 1.

        Returns
        -------
        Tensor, shape (batch,)
        """

    def figures(self, progress: float) -> Mapping[str, float]:
        """What is reported of it beside the losses: the steps in a chain, at most."""
        return {}

    def _check(self, steps: int, end: float) -> None:
        if steps < 1:
            raise Invalid(f"{self.name}: steps must be at least 1, got {steps}")
        if not 0 <= end <= 1:
            raise Invalid(f"{self.name}: ramp is a part of the training, 0 to 1, got {end}")


@dataclass(frozen=True)
class Once(Unroll):
    """Single steps from true inputs."""

    name: ClassVar[str] = "once"

    def __call__(self, chain: Chain, draw: torch.Generator, progress: float) -> Tensor:
        """See `Unroll.__call__`."""
        return chain.fitted.objective(chain.x, chain.truth(0), draw, progress)


@dataclass(frozen=True)
class Pushforward(Unroll):
    """Some steps without gradients, then the loss of the step that follows them.

    The network learns from inputs with the errors that it makes itself.

    Attributes
    ----------
    steps : int
        Steps before the one that is learned from, at most; each batch draws a number from 0 on.
    ramp : float
        Part of the training in which the largest number grows to `steps`.

    Notes
    -----
    A batch costs one step forward and back and ``steps / 2`` steps forward, on average.

    References
    ----------
    J. Brandstetter, D. Worrall, M. Welling, "Message passing neural PDE solvers", ICLR 2022,
    arXiv:2202.03376, section 3.1.
    """

    name: ClassVar[str] = "pushforward"
    steps: int = 1
    ramp: float = 0.5

    def __post_init__(self) -> None:
        self._check(self.steps, self.ramp)

    @property
    def horizon(self) -> int:
        """See `Unroll`."""
        return self.steps + 1

    def longest(self, progress: float) -> int:
        """Largest number of steps without gradients that a batch may draw."""
        return min(self.steps, int(ramp(progress, self.ramp) * (self.steps + 1)))

    def figures(self, progress: float) -> Mapping[str, float]:
        """See `Unroll.figures`."""
        return {"unroll": self.longest(progress) + 1.0}

    def __call__(self, chain: Chain, draw: torch.Generator, progress: float) -> Tensor:
        """See `Unroll.__call__`."""
        import torch

        x = chain.x
        count = int(torch.randint(self.longest(progress) + 1, (), generator=draw))
        with torch.no_grad():
            for step in range(count):
                x = chain.following(x, chain.fitted.apply(x), step)
        return chain.fitted.objective(x, chain.truth(count), draw, progress)


@dataclass(frozen=True)
class RollOut(Unroll):
    """The mean loss of several steps, each from what the one before gave; gradients go through the chain.

    Attributes
    ----------
    steps : int
        Steps of the chain, at most.
    ramp : float
        Part of the training in which the chain grows.
    by : {"length", "probability"}
        What grows: the number of steps, or the probability, of each sample and step, that the step
        begins from what the network gave and not from the truth. In the second case all chains have
        `steps` steps.
    truncate : int
        Gradients go back through so many steps; 0 through all.

    Raises
    ------
    Invalid
        If `truncate` has a value that it cannot have.

    Notes
    -----
    A batch of a chain of n steps costs n steps forward and back, and holds the activations of all of
    them (of `truncate` steps at least).

    References
    ----------
    M. Takamoto, F. Alesiani, M. Niepert, "Learning neural PDE solvers with parameter-guided channel
    attention", ICML 2023, arXiv:2304.14118, section 3.3 (the curriculum).
    """

    name: ClassVar[str] = "roll_out"
    steps: int = 2
    ramp: float = 0.5
    by: Literal["length", "probability"] = "length"
    truncate: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        self._check(self.steps, self.ramp)
        if self.truncate < 0:
            raise Invalid(f"{self.name}: truncate cannot be negative, got {self.truncate}")

    @property
    def horizon(self) -> int:
        """See `Unroll`."""
        return self.steps

    def length(self, progress: float) -> int:
        """Steps of the chain."""
        if self.by == "probability":
            return self.steps
        return 1 + min(self.steps - 1, int(ramp(progress, self.ramp) * self.steps))

    def figures(self, progress: float) -> Mapping[str, float]:
        """See `Unroll.figures`; also the probability that a step begins from what the network gave."""
        found = {"unroll": float(self.length(progress))}
        return found | ({"fed_back": ramp(progress, self.ramp)} if self.by == "probability" else {})

    def __call__(self, chain: Chain, draw: torch.Generator, progress: float) -> Tensor:
        """See `Unroll.__call__`."""
        import torch

        x, steps = chain.x, self.length(progress)
        total = torch.zeros(len(x), device=x.device)
        for step in range(steps):
            truth = chain.truth(step)
            losses, predicted = chain.fitted.step(x, truth, draw, progress)
            total = total + losses
            if step + 1 == steps:
                break
            if self.truncate and (step + 1) % self.truncate == 0:
                predicted = predicted.detach()
            if self.by == "probability":
                own = torch.rand(len(x), generator=draw) < ramp(progress, self.ramp)
                own = own.to(x.device).view(-1, *(1,) * (truth.ndim - 1))
                x = torch.where(own, chain.following(x, predicted, step), chain.true_input(step + 1))
            else:
                x = chain.following(x, predicted, step)
        return total / steps
