"""StepController: how long the next step is, or with which parameter it is taken, and whether it stands."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

Memory = Mapping[str, Any]
"""What a controller remembers from step to step: plain JSON, never changed in place."""
CLOSE = 1e-3
"""A step that would leave less than this part of itself before a time to be met goes all the way."""


@dataclass(frozen=True)
class Knob:
    """What of a solver a step controller sets; a larger value is less work and a larger error.

    Attributes
    ----------
    name : str
        ``dt`` for the length of a step, else the name of the integrator's parameter.
    unit : str
        Of the value.
    low, high : float
        Smallest and largest value that the solver takes, ``0 < low < high``.
    order : float
        The error of a step is proportional to ``value ** order`` where it is small: ``p + 1`` for an
        embedded method that estimates the error of its solution of order p.
    held : float or None
        For so long a time one value is kept and judged as one step; None: the value is the step's length.
    effort : float
        The work for a given time is proportional to ``value ** -effort``.
    iterates : bool
        Whether steps are solved by iterations, which `StepResult.iterations` counts; False: explicit steps.

    Raises
    ------
    Invalid
        If `low`, `high`, `order`, `effort` or `held` has a value that it cannot have.
    """

    name: str
    unit: str
    low: float
    high: float
    order: float = 2.0
    held: float | None = None
    effort: float = 1.0
    iterates: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise Invalid(
                f"the bounds of {self.name} must be positive and in order, got {self.low} and {self.high}"
            )
        if not self.order > 0 or not self.effort > 0:
            raise Invalid(
                f"order and effort of {self.name} must be positive, got {self.order}, {self.effort}"
            )
        if self.held is not None and not 0 < self.held < math.inf:
            raise Invalid(f"{self.name} is held for a positive time, got {self.held}")

    @property
    def is_length(self) -> bool:
        """Whether the value is the length of the step itself."""
        return self.held is None

    @property
    def suffix(self) -> str:
        """A blank and the unit, as they follow a value in a text; nothing where there is no unit."""
        return "" if self.unit == "1" else f" {self.unit}"


@dataclass(frozen=True)
class StepState:
    """What is known before a step.

    Attributes
    ----------
    time : float
        Where the step begins, in the solver's unit of time.
    until : float
        A time that must be met, in that unit; a longer step ends there.
    knob : Knob
        What is to be chosen.
    features : mapping of str to float
        See `Stepper.observe`.
    """

    time: float
    until: float
    knob: Knob
    features: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What came of an attempt.

    Attributes
    ----------
    time : float
        Where the step began, in the solver's unit of time.
    length : float
        Of the step, in that unit.
    value : float
        Of the knob, in its unit; less than what was chosen where a time had to be met.
    knob : Knob
        What was chosen.
    error : float
        Estimated error of the step, relative to the size of the solution; NaN where there is no estimate.
    iterations : int
        Of Newton's method, in the hardest of the step's solves; 0 for explicit steps.
    cost : float
        Work of the attempt in a deterministic unit: evaluations of the right-hand side, linear solves.
    converged : bool
        Whether there is a finite solution at all.
    """

    time: float
    length: float
    value: float
    knob: Knob
    error: float = math.nan
    iterations: int = 0
    cost: float = 0.0
    converged: bool = True


@dataclass(frozen=True)
class Verdict:
    """Whether a step stands.

    Attributes
    ----------
    retry : float or None
        None: the step stands. Else it is taken back and tried again with this value, in the unit of the knob.
    """

    retry: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the step stands."""
        return self.retry is None


ACCEPT = Verdict()


def reject(retry: float) -> Verdict:
    """Take the step back and try again with another value."""
    return Verdict(retry)


def lowered(result: StepResult, factor: float) -> float:
    """A smaller value to try again with: the knob's lower bound once, before what is below it ends the run.

    Parameters
    ----------
    result : StepResult
        Of the attempt that is taken back.
    factor : float
        Below 1.
    """
    value, low = result.value * factor, result.knob.low
    return low if value < low < result.value * (1 - 1e-9) else value


class StepController(Component):
    """Chooses steps, or an integrator's parameter, and judges what came of them.

    What it remembers is passed in and out, so that a run can be stored, resumed and replayed. It never
    decides by chance or by a clock: what it is told determines what it says.
    """

    kind: ClassVar[str] = "step_controller"

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """What it remembers before the first step; nothing by default.

        Parameters
        ----------
        knob : Knob
            What it is to set.
        features : tuple of str
            Names of what it will be told, see `Stepper.observe`.

        Raises
        ------
        Invalid
            If it cannot set this knob, or needs other features.
        """
        return {}

    @abstractmethod
    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """The value of the knob for the next step, and what is remembered then.

        Not called for the attempts after a rejection: their value comes from `judge`.
        """

    def next_stop(self, time: float, until: float) -> float:
        """A time that must be met as well, later than `time` and not later than `until`; that by default.

        Parameters
        ----------
        time, until : float
            Where the next step begins, and what is met anyway.
        """
        return until

    @abstractmethod
    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """Whether the step stands, and what is remembered then.

        A step that did not converge can only be taken back.
        """


class Stepper(ABC):
    """A solver that tries one step at a time and can take the last one back.

    After `attempt` comes either `accept` or `reject`. All of it is collective over the ranks of the solver,
    and every rank gets the same results to the last bit.

    Attributes
    ----------
    knob : Knob
        What a controller sets.
    features : tuple of str
        Names of what `observe` tells, in order.
    time : float
        Of the last step that stands.
    """

    knob: Knob
    features: tuple[str, ...] = ()
    time: float

    @abstractmethod
    def attempt(self, value: float, until: float) -> StepResult:
        """Try a step.

        Parameters
        ----------
        value : float
            Of the knob, within its bounds or, to meet `until`, below.
        until : float
            Where the step may end at the latest. A step whose length is the rest of the time to `until`
            ends there exactly, whatever ``time + value`` is rounded to.

        Returns
        -------
        StepResult
            Also where the solver failed: then it has not converged.
        """

    @abstractmethod
    def accept(self) -> None:
        """The step that was tried stands."""

    @abstractmethod
    def reject(self) -> None:
        """Go back to where the step began, to the last bit."""

    def observe(self) -> Mapping[str, float]:
        """What may be told before a step: numbers without unit, of order one, by the names of `features`."""
        return {}

    def drift(self) -> float:
        """Relative change of what should be constant since the start; NaN where nothing is known to be."""
        return math.nan

    @abstractmethod
    def restart(self) -> Mapping[str, np.ndarray]:
        """The arrays that this rank needs to go on from here with the same bits."""


def shortened(value: float, rest: float) -> float:
    """The length of a step that must not go beyond a time: two like steps rather than a long and a tiny one.

    Parameters
    ----------
    value : float
        What was chosen.
    rest : float
        The time up to there.
    """
    return rest if value >= rest * (1 - CLOSE) else min(value, rest / 2) if value > rest / 2 else value


def ending(time: float, length: float, until: float) -> float:
    """Where a step ends: at `until` exactly where its length is the rest up to there.

    Parameters
    ----------
    time, length, until : float
        See `Stepper.attempt`.
    """
    return until if length >= until - time else time + length


class TakesSteps(Component):
    """A problem with a field ``stepping : StepController | None``.

    Where it is None it is left out of the configuration as JSON, so that the problem is the same as before
    there was such a field.
    """

    stepping: StepController | None

    def to_json(self) -> dict[str, Any]:
        """See `Component.to_json`."""
        document = super().to_json()
        if document.get("stepping") is None:
            document.pop("stepping", None)
        return document

    def steered(self) -> tuple[Knob, tuple[str, ...]] | None:
        """The knob and the names of the features of `stepper`, without a solver; None: not known before."""
        return None

    def check_stepping(self) -> None:
        """Refuse a controller that cannot steer this problem, before any job is started.

        Raises
        ------
        Invalid
            If `stepping` is no step controller, or cannot set the knob or needs other features.
        NotFound
            If it needs an artifact that is not there.
        """
        if self.stepping is None:
            return
        if not isinstance(self.stepping, StepController):
            raise Invalid(
                f"stepping of {self.name} is a step controller, for example PI(1e-3), got {self.stepping!r}"
            )
        known = self.steered()
        if known is not None:
            self.stepping.init(*known)

    def switches(self, mu: Mapping[str, float]) -> tuple[float, ...]:
        """Times at which what drives a member jumps, in order; none unless overridden.

        Parameters
        ----------
        mu : mapping of str to float
            A complete point of the problem's parameters.
        """
        return ()

    @abstractmethod
    def stepper(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
    ) -> Stepper:
        """The solver of one member at its start, or where `restart` was saved; collective over ``ctx.comm``.

        What steers it may be this problem's own controller or something that learns to steer.

        Parameters
        ----------
        mu : mapping of str to float
            A complete point of the problem's parameters.
        ctx : Context
            ``ctx.rng`` is seeded per member.
        restart : mapping of str to ndarray or None
            What `Stepper.restart` gave on this rank.
        """
