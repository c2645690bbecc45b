"""How a policy is learned: the methods and their settings."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import Component, check_choices
from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow_control.learning.agent import Agent
    from sciflow_control.learning.env import StepEnv


class Learner(Component):
    """A method of reinforcement learning."""

    kind: ClassVar[str] = "learner"

    @property
    @abstractmethod
    def stride(self) -> int:
        """Environment steps between updates; a training can be stored after any multiple of it."""

    @abstractmethod
    def begin(self, env: StepEnv, seed: int, device: str) -> Agent:
        """A policy with random weights in an environment.

        Parameters
        ----------
        env : StepEnv
            Not begun yet.
        seed : int
            Of weights, exploration and episodes.
        device : {"cpu", "cuda"}
            Where it is learned.

        Raises
        ------
        Invalid
            If the method cannot learn the environment's kind of actions.
        """


@dataclass(frozen=True)
class DQN(Learner):
    """Deep Q learning: the worth of every level, learned from a replay of past steps.

    Attributes
    ----------
    layers : tuple of int
        Widths of the hidden layers, with ReLU.
    repeats : int
        So often the last hidden layer is applied, with the same weights.
    learning_rate : float
        Of the optimiser.
    optimiser : {"adam", "adamw_amsgrad"}
        Adam, or AdamW with amsgrad and weight decay 0.01.
    batch : int
        Past steps in an update.
    replay : int
        Past steps that are kept.
    discount : float
        Of the rewards, per step.
    tau, target_every : float, int
        The target network moves by this part towards the network, so many steps apart.
    train_every : int
        Environment steps between updates.
    warm_up : int
        Random steps before the first update.
    explore_from, explore_to : float
        Share of random steps, at the start and in the end.
    explore_steps : int
        Steps over which it falls: linearly, or by a factor of e.
    explore_decay : {"linear", "exponential"}
        How it falls.
    gradient_norm : float
        Longer gradients are shortened to this.

    Raises
    ------
    Invalid
        If `repeats`, `layers`, `explore_to` or `explore_from` has a value that it cannot have.

    Notes
    -----
    Lowers the Huber loss of Q(s, a) - r - discount max_a' Q_target(s', a'). An episode that is cut off at
    its end is valued as if it went on.

    References
    ----------
    V. Mnih et al., Human-level control through deep reinforcement learning, Nature 518, 2015; as
    implemented by A. Raffin et al., Stable-Baselines3, JMLR 22(268), 2021.
    """

    name: ClassVar[str] = "dqn"
    requires: ClassVar[tuple[str, ...]] = ("torch", "gymnasium", "stable_baselines3")
    layers: tuple[int, ...] = (64, 64)
    repeats: int = 1
    learning_rate: float = 5e-4
    optimiser: Literal["adam", "adamw_amsgrad"] = "adam"
    batch: int = 128
    replay: int = 50_000
    discount: float = 0.9
    tau: float = 1.0
    target_every: int = 500
    train_every: int = 4
    warm_up: int = 1000
    explore_from: float = 1.0
    explore_to: float = 0.05
    explore_steps: int = 20_000
    explore_decay: Literal["linear", "exponential"] = "linear"
    gradient_norm: float = 10.0

    def __post_init__(self) -> None:
        check_choices(self)
        _check_layers(self.layers)
        counts = ("repeats", "batch", "replay", "target_every", "train_every", "warm_up", "explore_steps")
        _check(self, counts, ("learning_rate", "gradient_norm"), ("discount", "tau"))
        if self.repeats > 1 and (len(self.layers) < 2 or self.layers[-1] != self.layers[-2]):
            raise Invalid(f"a layer that is applied again is as wide as the one before it, got {self.layers}")
        if not 0 <= self.explore_to <= self.explore_from <= 1:
            raise Invalid(
                f"the share of random steps falls from {self.explore_from} to {self.explore_to}; "
                "it must be between 0 and 1 and must not grow"
            )

    @classmethod
    def published(cls) -> Self:
        """As for three bodies in arXiv:2502.12809: 200 neurons, one hidden layer applied nine times."""
        return cls(
            layers=(200, 200),
            repeats=9,
            learning_rate=1e-3,
            optimiser="adamw_amsgrad",
            replay=10_000,
            discount=0.99,
            tau=0.005,
            target_every=1,
            train_every=1,
            warm_up=128,
            explore_from=0.9,
            explore_steps=1000,
            explore_decay="exponential",
            gradient_norm=100.0,
        )

    @property
    def stride(self) -> int:
        """See `Learner.stride`."""
        return self.train_every

    def exploring(self, steps: int) -> float:
        """Share of random steps after so many."""
        part = steps / self.explore_steps
        left = max(0.0, 1 - part) if self.explore_decay == "linear" else math.exp(-part)
        return self.explore_to + (self.explore_from - self.explore_to) * left

    def begin(self, env: StepEnv, seed: int, device: str) -> Agent:
        """See `Learner.begin`."""
        from sciflow_control.learning.dqn import DqnAgent

        return DqnAgent(self, env, seed, device)


@dataclass(frozen=True)
class PPO(Learner):
    """Proximal policy optimisation: small improvements of a random policy, for levels and for ranges.

    Attributes
    ----------
    layers : tuple of int
        Widths of the hidden layers, with tanh.
    learning_rate : float
        Of Adam.
    rollout : int
        Environment steps between updates, a multiple of `batch`.
    batch, epochs : int
        Steps in an update, and how often each step is used.
    discount, trace : float
        Of the rewards per step, and lambda of the advantage estimate.
    clip : float
        How far the probability of an action may move in an update, relative.
    entropy : float
        What chance is worth.
    gradient_norm : float
        Longer gradients are shortened to this.

    Raises
    ------
    Invalid
        If `rollout`, `batch` or `entropy` has a value that it cannot have.

    References
    ----------
    J. Schulman et al., Proximal policy optimization algorithms, 2017, arXiv:1707.06347; as implemented by
    A. Raffin et al., Stable-Baselines3, JMLR 22(268), 2021.
    """

    name: ClassVar[str] = "ppo"
    requires: ClassVar[tuple[str, ...]] = ("torch", "gymnasium", "stable_baselines3")
    layers: tuple[int, ...] = (64, 64)
    learning_rate: float = 3e-4
    rollout: int = 2048
    batch: int = 128
    epochs: int = 10
    discount: float = 0.9
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0
    gradient_norm: float = 0.5

    def __post_init__(self) -> None:
        _check_layers(self.layers)
        _check(
            self,
            ("rollout", "batch", "epochs"),
            ("learning_rate", "clip", "gradient_norm"),
            ("discount", "trace"),
        )
        if self.rollout % self.batch or self.batch < 2:
            raise Invalid(
                f"rollout must be a multiple of batch, and batch at least 2, got {self.rollout}, {self.batch}"
            )
        if not 0 <= self.entropy < math.inf:
            raise Invalid(f"entropy must not be negative, got {self.entropy}")

    @property
    def stride(self) -> int:
        """See `Learner.stride`."""
        return self.rollout

    def begin(self, env: StepEnv, seed: int, device: str) -> Agent:
        """See `Learner.begin`."""
        from sciflow_control.learning.ppo import PpoAgent

        return PpoAgent(self, env, seed, device)


def _check_layers(layers: tuple[int, ...]) -> None:
    if not layers or min(layers) < 1:
        raise Invalid(f"layers are widths of at least one hidden layer, got {layers}")


def _check(
    learner: Learner, counts: tuple[str, ...], positive: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    """Refuse counts below 1, numbers that are not positive, and parts that are not between 0 and 1."""
    for name in counts:
        if getattr(learner, name) < 1:
            raise Invalid(f"{name} must be at least 1, got {getattr(learner, name)}")
    for name in positive:
        if not 0 < getattr(learner, name) < math.inf:
            raise Invalid(f"{name} must be positive, got {getattr(learner, name)}")
    for name in parts:
        if not 0 < getattr(learner, name) <= 1:
            raise Invalid(f"{name} must be above 0 and at most 1, got {getattr(learner, name)}")
