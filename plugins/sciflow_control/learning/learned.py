"""Learned: a trained policy as a step controller."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.step_controller import (
    ACCEPT,
    Knob,
    Memory,
    StepController,
    StepResult,
    StepState,
    Verdict,
    lowered,
    reject,
)

if TYPE_CHECKING:
    from sciflow_control.learning.policy import Policy


@dataclass(frozen=True)
class Learned(StepController):
    """Values of a knob as a trained network chooses them. It remembers nothing.

    A network promises nothing where it was not trained: have it run inside of `Guarded`, which takes back
    what goes wrong and lets a classical controller take over.

    Attributes
    ----------
    policy : str
        Directory of a ``policy`` artifact, made by the stage ``train_policy``.
    policy_digest : str
        Of the artifact, or the beginning of it; empty: whatever is there.
    transfer : bool
        Take a solver with another knob too: the place of the choice in the logarithm of the policy's range
        is then taken in the range of that knob. The features must be the same in any case.
    cut : float
        By this factor a step that failed is shortened, or its parameter lowered.

    Raises
    ------
    Invalid
        If `policy` or `cut` has a value that it cannot have.
    """

    name: ClassVar[str] = "learned"
    policy: str
    policy_digest: str = ""
    transfer: bool = False
    cut: float = 0.5

    def __post_init__(self) -> None:
        if not self.policy:
            raise Invalid("policy is the directory of a policy artifact, made by the stage train_policy")
        if not 0 < self.cut < 1:
            raise Invalid(f"cut must be between 0 and 1, got {self.cut}")

    @classmethod
    def example(cls) -> Self:
        """A configuration; whether the artifact is there is looked at when it is used."""
        return cls("artifacts/policy-0123456789abcdef")

    @cached_property
    def network(self) -> Policy:
        """The policy, read once.

        Raises
        ------
        NotFound, Invalid
            See `sciflow_control.learning.policy.load`.
        """
        from sciflow_control.learning.policy import load

        return load(self.policy, self.policy_digest)

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`.

        Raises
        ------
        NotFound
            If there is no artifact.
        Invalid
            If it is damaged, of another kind or digest, or was trained for other features or another knob.
        """
        known = self.network.signature
        if tuple(features) != known.features:
            raise Invalid(
                f"{self.policy} was trained with the features {', '.join(known.features)}; this solver tells "
                f"{', '.join(features) or 'none'}. Train a policy for these (train_policy)"
            )
        if not self.transfer and not _alike(knob, known.knob):
            raise Invalid(
                f"{self.policy} was trained to set {_words(known.knob)}, this solver has {_words(knob)}. "
                "Train a policy for it, or set transfer=True to take the place in its range"
            )
        if not self.transfer and not knob.low <= known.values[0] < known.values[-1] <= knob.high:
            raise Invalid(
                f"{self.policy} chooses {knob.name} from {known.values[0]:g} to {known.values[-1]:g}"
                f"{knob.suffix}, this solver takes {knob.low:g} to {knob.high:g}"
            )
        return {}

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        knob, network = state.knob, self.network
        if not self.transfer or _alike(knob, network.signature.knob):
            return network.decide(state.features), memory
        place = network.place(state.features)
        return min(knob.high, max(knob.low, knob.low * (knob.high / knob.low) ** place)), memory

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """Every step stands that converged."""
        return (ACCEPT if result.converged else reject(lowered(result, self.cut))), memory


def _alike(one: Knob, other: Knob) -> bool:
    return (one.name, one.unit, one.held) == (other.name, other.unit, other.held)


def _words(knob: Knob) -> str:
    held = "" if knob.held is None else f", held for {knob.held:g}"
    unit = f" in{knob.suffix}" if knob.suffix else ""
    return f"{knob.name}{unit}{held}"
