"""StepController: how long the next step is, or with which parameter it is taken, and whether it stands."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component
from sciflow.errors import Diverged, Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

Memory = Mapping[str, Any]
"""What a controller remembers from step to step: plain JSON, never changed in place."""
PREFIX = "stepping_"
"""Of the arrays of a `Stepping` among those that a problem goes on from."""
MEMORY = f"{PREFIX}memory"
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
        A time that must be met; a longer step ends there.
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
        Where the step began.
    length : float
        Of the step, in time.
    value : float
        Of the knob; less than what was chosen where a time had to be met.
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
        None: the step stands. Else it is taken back and tried again with this value.
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


@dataclass
class Leg:
    """What was done between two times that had to be met.

    Attributes
    ----------
    taken, rejected : list of StepResult
        Steps that stand and those taken back, in order.
    rejected_by : list of str
        Of those taken back, what the controller's memory held as ``source`` when they were tried.
    """

    taken: list[StepResult] = field(default_factory=list)
    rejected: list[StepResult] = field(default_factory=list)
    rejected_by: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Work of all attempts."""
        return sum(r.cost for r in self.taken) + sum(r.cost for r in self.rejected)


class Stepping:
    """One solution under a controller.

    Parameters
    ----------
    stepper : Stepper
        At its start, or where it was resumed.
    controller : StepController
        Chooses and judges.
    restart : mapping of str to ndarray or None
        With what `saved` gave, among other arrays.
    patience : int
        So many attempts at one step are made.

    Raises
    ------
    Invalid
        If the controller cannot set the knob or needs other features, or `restart` holds nothing of a
        controller, or of another one; or if the stepper stands at no time.
    """

    def __init__(
        self,
        stepper: Stepper,
        controller: StepController,
        restart: Mapping[str, np.ndarray] | None = None,
        patience: int = 40,
    ) -> None:
        if not isinstance(controller, StepController):
            raise Invalid(f"steps are chosen by a step controller, for example PI(1e-3), got {controller!r}")
        if not math.isfinite(stepper.time):
            raise Invalid(f"{type(stepper).__name__} stands at time {stepper.time}")
        self.stepper, self.controller, self._patience = stepper, controller, patience
        self.memory = controller.init(stepper.knob, stepper.features)
        if restart is not None:
            self.memory = _memory(restart, controller)

    def to(self, until: float) -> Leg:
        """Step up to a time, which is met exactly.

        Raises
        ------
        Diverged
            If a step falls below what the solver takes, cannot be taken within the patience, or failed
            and was not taken back.
        Invalid
            If the controller chooses something that is no positive number, wants to meet a time that is not
            ahead, or the stepper does not go on; or if `until` is not finite.
        """
        if not math.isfinite(until):
            raise Invalid(f"steps are taken up to a finite time, got {until}")
        leg = Leg()
        while self.stepper.time < until:
            self.step(until, leg)
        return leg

    def step(self, until: float, leg: Leg) -> None:
        """Take one step towards a time, with as many attempts as it needs; noted in `leg`.

        Raises
        ------
        Diverged, Invalid
            See `to`.
        """
        stepper, knob = self.stepper, self.stepper.knob
        until = self._stop(until)
        state = StepState(stepper.time, until, knob, stepper.observe())
        value, self.memory = self.controller.choose(self.memory, state)
        result: StepResult | None = None
        for _ in range(self._patience):
            used = self.fitted(value, until, result)
            result = stepper.attempt(used, until)
            source = str(self.memory.get("source", ""))
            verdict, self.memory = self.controller.judge(self.memory, result)
            if verdict.retry is None:
                if not result.converged:
                    stepper.reject()
                    raise Diverged(
                        f"{self._where(result)} failed, and {self.controller.name} retries no step"
                    )
                stepper.accept()
                leg.taken.append(result)
                if not state.time < stepper.time <= until:
                    raise Invalid(
                        f"{type(stepper).__name__} stands at time {stepper.time!r} after the accepted step "
                        f"from {state.time!r} towards {until!r}: accept() takes time to the end of the step"
                    )
                return
            stepper.reject()
            leg.rejected.append(result)
            leg.rejected_by.append(source)
            value = verdict.retry
        assert result is not None
        raise Diverged(
            f"{self._where(result)} was rejected as {self._patience} before it, the last error "
            f"{result.error:.3g}; loosen the tolerance, or see whether the solution blows up there"
        )

    def saved(self) -> dict[str, np.ndarray]:
        """The controller and what it remembers, under a name that begins with `PREFIX`."""
        import numpy as np

        whole = {"controller": self.controller.to_json(), "memory": self.memory}
        text = json.dumps(whole, sort_keys=True)
        return {MEMORY: np.frombuffer(text.encode(), dtype=np.uint8).copy()}

    def fitted(self, value: float, until: float, last: StepResult | None = None) -> float:
        """The value within the knob's bounds, and short enough to meet `until`.

        Parameters
        ----------
        value, until : float
            See `Stepper.attempt`.
        last : StepResult or None
            The attempt at the same step that was taken back before, for the message.

        Raises
        ------
        Diverged, Invalid
            See `to`.
        """
        knob = self.stepper.knob
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise Invalid(
                f"{self.controller.name} chose {knob.name} = {value} at time {self.stepper.time:.6g}"
            )
        rest = until - self.stepper.time
        if value < knob.low and not (knob.is_length and rest <= value):
            raise Diverged(self._too_small(value, last))
        value = min(value, knob.high)
        return float(shortened(value, rest) if knob.is_length else value)

    def _too_small(self, value: float, last: StepResult | None) -> str:
        knob, before, advice = self.stepper.knob, "", "loosen the tolerance, "
        if last is not None and last.converged:
            before = f" after an error of {last.error:.3g} with {last.value:.3g}"
        elif last is not None:
            before, advice = f" after the step failed with {last.value:.3g}", ""
        time = f"{self.stepper.time:.6g}"
        return (
            f"{self.controller.name} wants {knob.name} = {value:.3g} at time {time}{before}, "
            f"the solver takes no less than {knob.low:.3g}; {advice}lower that bound, or see whether the "
            "solution blows up there"
        )

    def _stop(self, until: float) -> float:
        time = self.stepper.time
        stop = self.controller.next_stop(time, until)
        if not time < stop <= until:
            raise Invalid(
                f"{self.controller.name} wants to meet the time {stop!r}: it must be later than {time!r}, "
                f"where the solution stands, and not beyond {until!r}"
            )
        return stop

    def _where(self, result: StepResult) -> str:
        knob = result.knob
        return f"the step with {knob.name} = {result.value:.3g}{knob.suffix} at time {result.time:.6g}"


def _memory(restart: Mapping[str, np.ndarray], controller: StepController) -> Memory:
    if MEMORY not in restart:
        raise Invalid(
            f"what is to be gone on from was solved without a step controller, here it is {controller.name}; "
            "begin anew, or go on without one"
        )
    try:
        saved = json.loads(bytes(restart[MEMORY]).decode())
        memory: Memory = saved["memory"]
        before = saved["controller"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{MEMORY} is damaged ({error}); begin anew, or go on from another state") from None
    if before != json.loads(json.dumps(controller.to_json())):
        raise Invalid(
            f"what is to be gone on from was steered by {json.dumps(before)}, here it is "
            f"{json.dumps(controller.to_json())}; take that one, or begin anew"
        )
    return memory


def unsteered(restart: Mapping[str, np.ndarray]) -> None:
    """Refuse to go on without a controller from where there was one.

    Parameters
    ----------
    restart : mapping of str to ndarray
        What a problem goes on from.

    Raises
    ------
    Invalid
        If it holds what a controller remembers.
    """
    if MEMORY in restart:
        raise Invalid(
            "what is to be gone on from was solved under a step controller, here there is none; set stepping "
            "as it was, or begin anew"
        )


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
