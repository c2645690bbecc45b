"""The ``train_policy`` stage: learns to choose the steps of a solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import check_choices, check_parts
from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.learning.actions import Actions, Levels
from sciflow_control.learning.learner import DQN, Learner
from sciflow_control.learning.reward import PaperReward, Reward, WorkReward
from sciflow_control.steering.episodes import Episodes

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

_NOTE = ("note",)
POLICY = Schema(
    "policy",
    {
        "values": Field(("level",), "any", "float64", "of the knob: levels, or the two ends of a range"),
        "history_steps": Field(_NOTE, "1", "int64", "environment steps after which these were noted"),
        "history_reward": Field(_NOTE, "1", "float64", "mean sum of the rewards of the episodes since"),
        "history_loss": Field(_NOTE, "1", "float64", "mean over the updates since the last note"),
        "history_explore": Field(_NOTE, "1", "float64", "share of random steps, or entropy of the choices"),
        "history_value": Field(_NOTE, "1", "float64", "mean sum of the rewards, held-out episodes"),
        "history_error": Field(
            _NOTE, "1", "float64", "of held-out episodes, nine of ten end with less drift"
        ),
        "history_whole": Field(_NOTE, "1", "float64", "share of held-out episodes that came to their end"),
        "history_cost": Field(_NOTE, "any", "float64", "mean work of a held-out episode"),
    },
)
_LEVELS, _WORK, _DQN = Levels(), WorkReward(), DQN()
# Of the configuration, what changes neither weights nor history but on another machine.
_FREE = ("device", "checkpoint_every")


@dataclass(frozen=True)
class TrainPolicy(Stage):
    """Trains a policy for the steps of a solver; on one rank.

    Of the policies at the notes, the one is kept with which most of the held-out episodes come to their
    end, and of several such that with the largest mean sum of rewards.
    A killed training goes on from its last checkpoint with the same bits.

    Attributes
    ----------
    episodes : Episodes
        What is solved.
    reward : Reward
        The worth of a step.
    learner : Learner
        How it is learned.
    actions : Actions
        What may be chosen.
    steps : int
        Environment steps in all.
    limit : float
        A drift above it ends an episode.
    longest : int
        Steps of an episode at most.
    evaluate_every : int
        Environment steps between notes, rounded up to what the learner does between updates.
    evaluate_seeds : int
        Held-out episodes at each note.
    checkpoint_every : int
        Environment steps between checkpoints, which are made after a note.
    device : {"auto", "cpu", "cuda"}
        Where it is learned. Small networks are faster on a processor.
    seed : int
        Of weights, exploration and episodes.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    Episodes for training have seeds of a million and more, held-out ones 900 000 and more; those below are
    left for comparisons.
    """

    name: ClassVar[str] = "train_policy"
    requires: ClassVar[tuple[str, ...]] = ("torch", "gymnasium", "stable_baselines3")
    output: ClassVar[Schema] = POLICY
    episodes: Episodes
    reward: Reward = _WORK
    learner: Learner = _DQN
    actions: Actions = _LEVELS
    steps: int = 100_000
    limit: float = 0.1
    longest: int = 10_000
    evaluate_every: int = 5_000
    evaluate_seeds: int = 50
    checkpoint_every: int = 10_000
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_parts(self)
        for name in ("steps", "longest", "evaluate_every", "evaluate_seeds", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.evaluate_seeds > 100_000:
            raise Invalid(f"there are 100000 held-out episodes, evaluate_seeds is {self.evaluate_seeds}")
        if not self.limit > 0:
            raise Invalid(f"limit must be positive, got {self.limit}")
        if self.seed < 0:
            raise Invalid(f"seed must not be negative, got {self.seed}")

    @classmethod
    def published(cls, episodes: Episodes, seed: int = 0) -> Self:
        """Reward, levels and learner as for three bodies in arXiv:2502.12809.

        Parameters
        ----------
        episodes : Episodes
            For the same as published: three bodies with Hermite, positions, velocities and error told,
            episodes of 100 intervals of 0.1 yr.
        seed : int
            Of the training.
        """
        return cls(
            episodes,
            PaperReward(),
            DQN.published(),
            Levels(10, 1e-4, 1e-1),
            steps=200_000,
            evaluate_seeds=5,
            seed=seed,
        )

    @classmethod
    def hermite(cls, episodes: Episodes, seed: int = 0) -> Self:
        """Our settings for three bodies with Hermite's method: work and error of the steps, and few changes.

        Parameters
        ----------
        episodes : Episodes
            ``ThreeBody()``: physical features told, mu kept for intervals of 0.1 yr.
        seed : int
            Of the training.
        """
        reward = WorkReward(target=3e-10, shared=2.0, usual=30.0, change=8.0)
        return cls(episodes, reward, actions=Levels(8, 2e-3, 3e-2), steps=50_000, seed=seed)

    @classmethod
    def leapfrog(cls, episodes: Episodes, seed: int = 0) -> Self:
        """Our settings for three bodies with the leapfrog, see `hermite`.

        Parameters
        ----------
        episodes : Episodes
            ``ThreeBody(Leapfrog())``.
        seed : int
            Of the training.
        """
        reward = WorkReward(target=3e-4, shared=2.0, usual=30.0, change=8.0)
        return cls(episodes, reward, actions=Levels(6, 1e-2, 1e-1), steps=30_000, seed=seed)

    def identity(self) -> dict[str, object]:
        """Where it is computed and how often it is saved does not change the result."""
        return {name: value for name, value in self.to_json().items() if name not in _FREE}

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Train, keeping checkpoints, and store the best policy and the learning curves.

        Raises
        ------
        Invalid
            On several ranks, if a GPU is asked for that is not there, or if the learner does not fit the
            actions.
        Diverged
            If the weights are no longer finite.
        """
        from sciflow_control.learning.training import run

        run(self, out, ctx)
