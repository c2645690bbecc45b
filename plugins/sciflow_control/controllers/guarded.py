"""Guarded: a policy that may fail, under a controller that does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sciflow.component import check_parts
from sciflow.errors import Invalid
from sciflow.step_controller import (
    ACCEPT,
    Knob,
    Memory,
    StepController,
    StepResult,
    StepState,
    Verdict,
    reject,
)
from sciflow_control.controllers import ledger as books
from sciflow_control.controllers.fixed_step import FixedStep

PAUSE = 8
"""Steps of the first cool-down."""
RESERVE = 0.04
"""Part of what the policy may cost beyond the fallback that is never spent: the estimate may be off."""
CAUTION = 0.75
"""The error of a short step is taken to grow with so large a part of the knob's order at least."""
PAUSE_MOST = 1 << 20
"""Steps of the longest."""
COUNTS = ("policy", "fallback", "rejected", "rolled_back", "refused", "unaffordable", "cooldowns")
"""What is counted in ``memory["counts"]``."""


@dataclass(frozen=True)
class Guarded(StepController):
    r"""Lets a policy choose, a fallback judge, and counts what both cost.

    Attributes
    ----------
    policy : StepController
        Chooses; what it judges, and the times that it would meet, are not asked for.
    fallback : StepController
        Judges, takes over after a step that was taken back, and says what the work would have been.
    bounds : tuple of float or None
        Smallest and largest value taken from the policy; None: the knob's.
    rollback : float or None
        A step of the policy with a larger error is taken back, in the unit of `StepResult.error`; None: the
        fallback judges it by its own rule.
    max_rejects : int
        After so many of its steps in a row taken back, or not taken at all, the fallback is alone for 8
        steps, and for twice as many each time after that until the policy has as many in a row accepted.
    work_limit : float
        Largest ratio of the work, of all attempts, to that of the fallback alone, as estimated below.

    Raises
    ------
    Invalid
        If `bounds`, `rollback`, `max_rejects` or `work_limit` has a value that it cannot have.

    Notes
    -----
    The fallback is always asked too: its wish :math:`w` is known before each step. It learns from every
    step that stands; an attempt of the policy's that is longer than :math:`w` and is taken back leaves no
    trace in it, and :math:`w` is what is tried next.

    **The ledger.** :math:`A` is the work of all attempts. :math:`F` estimates what the fallback alone would
    have spent up to the same time:

    - its own steps and attempts: what they cost; but nothing for attempts taken back after steps of the
      policy shorter than :math:`w`, which kept the fallback from learning;
    - a step of the policy with the value :math:`v` that cost :math:`c`: :math:`c\,(v/w)^q`, :math:`q` =
      ``knob.effort``, where times that are to be met shorten :math:`w` as they would. Where :math:`v > w`,
      what the fallback wants after it has seen this step stands for :math:`w`, if that is larger;
    - an attempt of the policy that is taken back: nothing, but where :math:`v \le w` and the fallback judges
      it, what it cost, since the fallback would have failed as well;
    - while the policy's steps are shorter than :math:`w`, a second memory of the fallback learns from
      :math:`e\,(w/v)^{3k/4}` as if that were the error of a step of its own, :math:`k` = ``knob.order``.
      Where it wants more than :math:`w`, this stands for :math:`w` in :math:`F`, also in the fallback's own
      steps, until one of these shows that it was wrong. It chooses nothing.

    A policy is followed only where :math:`\ell F - A` covers the expected work of its attempt even if it is
    in vain; :math:`\ell` = ``work_limit`` less 4 % of its excess over 1. Where a parameter is held the
    interval is expected to be four times as dear as the dearest one lately, and larger values save only the
    power 0.85 :math:`q`, as an interval has a whole number of steps. The value is raised to what can be
    afforded, but not beyond :math:`w`.

    **Guaranteed.** Every step that stands passed the fallback's rule, or `rollback` where it is the
    policy's. A policy that returns no positive number, or raises `Invalid` or an arithmetic error, is passed
    over; other exceptions are not caught. Where the policy is never followed, values, results and work are
    those of the fallback alone. :math:`A \le \ell F` after every step, but for what one attempt costs more
    than the dearest one lately, and the attempts of the fallback that :math:`F` does not count.

    **Estimated.** :math:`F` itself. It is low, and the limit holds with room to spare, where short steps of
    the policy hide from the fallback that the error grows. It is high where work grows faster than
    :math:`v^{-q}` as steps get shorter, or where errors of short steps fall with less than 3/4 of the
    knob's order. See the page on step controllers for what was measured.

    If the fallback's rule lets any error pass (`FixedStep`, `IterationCount`) and there is no `rollback`, no
    value above the fallback's is taken.

    ``memory["counts"]`` holds numbers of steps that stand by who chose them, attempts taken back (all and
    the policy's), wishes that were no number, wishes that could not be afforded and cool-downs;
    ``memory["source"]`` who chose last; ``memory["ledger"]`` :math:`A` as ``spent`` and :math:`F` as
    ``allowed``. Cost: that of both controllers, and about 15 us per step.
    """

    name: ClassVar[str] = "guarded"
    policy: StepController
    fallback: StepController
    bounds: tuple[float, float] | None = None
    rollback: float | None = None
    max_rejects: int = 3
    work_limit: float = 1.5

    def __post_init__(self) -> None:
        check_parts(self)
        if self.bounds is not None and not 0 < self.bounds[0] < self.bounds[1] < math.inf:
            raise Invalid(f"{self.name}: bounds are positive and in order, got {self.bounds}")
        if self.rollback is not None and not 0 < self.rollback < math.inf:
            raise Invalid(f"{self.name}: rollback is a positive error, got {self.rollback}")
        if self.max_rejects < 1 or not 1 < self.work_limit < math.inf:
            raise Invalid(
                f"{self.name}: max_rejects is at least 1 and work_limit above 1, got {self.max_rejects} and "
                f"{self.work_limit}"
            )

    @classmethod
    def example(cls) -> Self:
        """A fixed step as the policy, PI behind it."""
        from sciflow_control.controllers.pi import PI

        return cls(FixedStep(0.01), PI(1e-4))

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`.

        Raises
        ------
        Invalid
            If the policy or the fallback cannot set this knob, or `bounds` leaves nothing of the knob's.
        """
        self._bounds(knob)
        return {
            "policy": self.policy.init(knob, features),
            "fallback": self.fallback.init(knob, features),
            "source": "fallback",
            # The fallback's value, the one by its second memory, and this memory.
            **{"wanted": 0.0, "longer": 0.0, "shadow": None},
            "blind": self._blind(knob, features),
            # The policy's steps in a row taken back, and standing; steps of this and the next cool-down.
            **{"row": 0, "streak": 0, "rest": 0, "pause": PAUSE},
            "counts": dict.fromkeys(COUNTS, 0),
            "ledger": books.opened(),
        }

    def next_stop(self, time: float, until: float) -> float:
        """See `StepController.next_stop`; the fallback's, as a policy could spend its work on times."""
        return self.fallback.next_stop(time, until)

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        wanted, fallback = self.fallback.choose(memory["fallback"], state)
        if not (math.isfinite(wanted) and wanted > 0):
            return wanted, {**memory, "source": "fallback"}
        wish, policy = self._wish(memory["policy"], state)
        longer, shadow = self._shadow(memory, wanted, state)
        ledger = books.settled(memory["ledger"], longer, state)
        memory = {**memory, "policy": policy, "fallback": fallback, "shadow": shadow, "ledger": ledger}
        memory = {**memory, "wanted": wanted, "longer": longer}
        if memory["rest"]:
            return wanted, {**memory, "source": "fallback"}
        if wish is None:
            return wanted, self._disappointed({**memory, "source": "fallback"}, "refused")
        value, reason = self._allowed(memory, wish, state)
        if value is None:
            counts = _counted(memory, reason) if reason else memory["counts"]
            return wanted, {**memory, "source": "fallback", "counts": counts}
        return value, {**memory, "source": "policy"}

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """See `StepController.judge`.

        Raises
        ------
        Invalid
            If `rollback` is set and the solver does not estimate the error of its steps.
        """
        memory = {**memory, "policy": self._told(memory["policy"], result)}
        if memory["source"] == "policy":
            return self._judge_policy(memory, result)
        verdict, fallback = self.fallback.judge(memory["fallback"], result)
        keeps = verdict.accepted and memory["shadow"] is not None
        shadow = self._learned(memory, result) if keeps else None
        memory = {**memory, "fallback": fallback, "shadow": shadow}
        return verdict, self._noted(memory, result, verdict, verdict.retry)

    def _judge_policy(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        verdict, fallback = self.fallback.judge(memory["fallback"], result)
        failed_too = False
        if self.rollback is not None and result.converged:
            if math.isnan(result.error):
                raise Invalid(
                    f"{self.name}: rollback={self.rollback:g} needs an estimate of the error of each step, "
                    "and the solver gives none"
                )
            verdict = ACCEPT if result.error <= self.rollback else reject(memory["wanted"])
        elif not verdict.accepted:
            failed_too = result.value <= memory["wanted"] * (1 + books.SAME)
        if verdict.accepted and result.converged:
            memory = {**memory, "fallback": fallback, "shadow": self._learned(memory, result)}
            return ACCEPT, self._noted(memory, result, verdict, None)
        if failed_too:
            memory = {**memory, "fallback": fallback}
            retry = verdict.retry
        else:
            verdict, retry = reject(memory["wanted"]), None
        memory = self._noted(memory, result, verdict, retry)
        return verdict, {**self._disappointed(memory, "rolled_back"), "source": "fallback"}

    def _shadow(self, memory: Memory, wanted: float, state: StepState) -> tuple[float, Memory | None]:
        """What the fallback would want had it not been kept from learning; see `_learned`."""
        if memory["shadow"] is None:
            return wanted, None
        longer, shadow = self.fallback.choose(memory["shadow"], state)
        return (longer, shadow) if wanted < longer < math.inf else (wanted, None)

    def _learned(self, memory: Memory, result: StepResult) -> Memory | None:
        """A second memory of the fallback, which has learned as if a short step had been of its own length.

        By the power law of the error, and only to longer steps: it serves the ledger and chooses nothing.
        """
        knob, wanted = result.knob, min(memory["longer"], result.knob.high)
        before: Memory | None = memory["shadow"]
        if result.value >= wanted:
            return None
        if knob.held is not None and result.length < knob.held * (1 - books.SAME):
            return before
        error = result.error * (wanted / result.value) ** (CAUTION * knob.order)
        length = wanted if knob.is_length else result.length
        own = replace(result, value=wanted, length=length, error=error)
        verdict, after = self.fallback.judge(before or memory["fallback"], own)
        if verdict.accepted:
            return after
        return before if memory["source"] == "policy" else None

    def _noted(self, memory: Memory, result: StepResult, verdict: Verdict, retry: float | None) -> Memory:
        """The attempt in the ledger and in the counts."""
        guided = memory["source"] == "policy"
        ledger = books.noted(memory["ledger"], result, guided=guided, accepted=verdict.accepted, retry=retry)
        memory = {**memory, "ledger": ledger}
        if not verdict.accepted:
            return {**memory, "counts": _counted(memory, "rejected")}
        memory = {**memory, "counts": _counted(memory, memory["source"]), "rest": max(memory["rest"] - 1, 0)}
        if guided:
            streak = memory["streak"] + 1
            pause = PAUSE if streak >= memory["pause"] else memory["pause"]
            memory = {**memory, "row": 0, "streak": streak, "pause": pause}
        return memory

    def _disappointed(self, memory: Memory, what: str) -> Memory:
        """The policy was wrong once more."""
        memory = {**memory, "row": memory["row"] + 1, "streak": 0, "counts": _counted(memory, what)}
        if memory["row"] < self.max_rejects:
            return memory
        pause = memory["pause"]
        after = {"row": 0, "rest": pause, "pause": min(2 * pause, PAUSE_MOST)}
        return {**memory, **after, "counts": _counted(memory, "cooldowns")}

    def _wish(self, policy: Memory, state: StepState) -> tuple[float | None, Memory]:
        """What the policy wants; None if that is nothing that could be done."""
        try:
            wish, after = self.policy.choose(policy, state)
        except (Invalid, ArithmeticError):
            return None, policy
        usable = isinstance(wish, (int, float)) and math.isfinite(wish) and wish > 0
        return (float(wish) if usable else None), after

    def _told(self, policy: Memory, result: StepResult) -> Memory:
        """What the policy remembers of an attempt."""
        try:
            return self.policy.judge(policy, result)[1]
        except (Invalid, ArithmeticError):
            return policy

    def _allowed(self, memory: Memory, wish: float, state: StepState) -> tuple[float | None, str]:
        """The policy's value where it differs from the fallback's and is affordable; else why not."""
        knob, ledger, wanted = state.knob, memory["ledger"], min(memory["wanted"], state.knob.high)
        low, high = self._bounds(knob)
        value = min(max(wish, low), high)
        if memory["blind"]:
            value = min(value, wanted)
        limit = 1 + (1 - RESERVE) * (self.work_limit - 1)
        credit = limit * ledger["allowed"] - ledger["spent"]
        if credit <= 0:
            return None, "unaffordable"
        if not knob.is_length:
            value = max(value, books.least(ledger, wanted, credit, limit - 1, knob))
            if value > high or (wish < wanted < value):
                return None, "unaffordable"
        rest = state.until - state.time
        used, own = books.fitted(knob, value, rest), books.fitted(knob, wanted, rest)
        if abs(used - own) <= books.SAME * own:
            return None, ""
        if knob.is_length and books.price(ledger, used, knob) > credit * (1 + books.SAME):
            return None, "unaffordable"
        return value, ""

    def _bounds(self, knob: Knob) -> tuple[float, float]:
        low, high = self.bounds or (knob.low, knob.high)
        if max(low, knob.low) > min(high, knob.high):
            raise Invalid(
                f"{self.name}: bounds from {low:g} to {high:g}, and the solver takes {knob.name} from "
                f"{knob.low:g} to {knob.high:g}{knob.suffix}"
            )
        return max(low, knob.low), min(high, knob.high)

    def _blind(self, knob: Knob, features: tuple[str, ...]) -> bool:
        """Whether nothing would take back a step of the policy's with a large error."""
        if self.rollback is not None:
            return False
        state = StepState(0.0, math.inf, knob, dict.fromkeys(features, 0.0))
        memory = self.fallback.choose(self.fallback.init(knob, features), state)[1]
        length = knob.high if knob.held is None else knob.held
        worst = StepResult(0.0, length, knob.high, knob, error=math.inf, iterations=1, cost=1.0)
        return self.fallback.judge(memory, worst)[0].accepted


def _counted(memory: Memory, what: str) -> Mapping[str, Any]:
    return {**memory["counts"], what: memory["counts"][what] + 1}
