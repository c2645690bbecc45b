"""What a guarded run has spent, and what its fallback would have: kept as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sciflow.step_controller import Knob, StepResult, StepState, shortened

Ledger = Mapping[str, Any]
"""``spent``: work of all attempts; ``allowed``: estimated work of the fallback for this time; ``unit``:
work of an attempt with the value 1, by the knob's effort; ``step``, ``ends``: the fallback's step that the
time lies in; ``fresh``: nothing was done in it yet, and the fallback took its last step itself; ``open``: a
step longer than the fallback's, which is entered once the fallback has seen it."""
FADING = 0.8
"""Of the work per attempt: it is the largest seen, forgotten at this rate."""
LASTING = 0.99
"""In place of it where a value is held: an interval holds what nobody foresees, a close encounter."""
SURPRISE = 4.0
"""Where a value is held, an interval may be so many times as dear as the dearest one lately."""
RETURN = 0.85
"""Part of `Knob.effort` that larger values save where they are held: steps are whole."""
SAME = 1e-9
"""Times and values closer than this part of the step are the same."""


def opened() -> Ledger:
    """Before the first step."""
    return {
        **{"spent": 0.0, "allowed": 0.0, "unit": 0.0, "step": 0.0, "ends": None, "until": 0.0},
        **{"fresh": True, "stale": False, "open": None},
    }


def fitted(knob: Knob, value: float, rest: float) -> float:
    """What the driver makes of a value where so much time is left.

    Parameters
    ----------
    knob : Knob
        What is chosen.
    value, rest : float
        See `shortened`.
    """
    value = min(value, knob.high)
    return shortened(value, rest) if knob.is_length else value


def settled(ledger: Ledger, wanted: float, state: StepState) -> Ledger:
    """Enter what is open, and see in which step the fallback would be.

    Parameters
    ----------
    ledger : Ledger
        After the last step.
    wanted : float
        The fallback's value, which it chose knowing the last step.
    state : StepState
        Before the next step.
    """
    knob, open_ = state.knob, ledger["open"]
    if open_ is not None:
        against = max(open_["step"], fitted(knob, wanted, open_["rest"]))
        more = _share(open_["cost"], open_["value"], against, knob)
        ledger = {**ledger, "allowed": ledger["allowed"] + more, "open": None}
    ends, step = ledger["ends"], ledger["step"]
    if knob.is_length and ends is not None and ends - state.time > SAME * step:
        return {**ledger, "fresh": False, "until": state.until}
    step = fitted(knob, wanted, state.until - state.time)
    return {
        **{**ledger, "step": step, "ends": state.time + step, "until": state.until},
        **{"fresh": not ledger["stale"]},
    }


def price(ledger: Ledger, value: float, knob: Knob) -> float:
    """Expected work of an attempt.

    Parameters
    ----------
    ledger : Ledger
        With the work of earlier attempts.
    value : float
        Of the knob.
    knob : Knob
        Whose `Knob.effort` tells how work goes with the value.
    """
    return float(ledger["unit"] * value ** (float(knob.is_length) - knob.effort))


def least(ledger: Ledger, wanted: float, credit: float, excess: float, knob: Knob) -> float:
    """The smallest value to be held that can be afforded in vain, in an interval that is a dear one.

    Parameters
    ----------
    ledger : Ledger
        With the work of earlier attempts.
    wanted : float
        The fallback's value: its own attempt, after one in vain, is work that it would have done anyway.
    credit, excess : float
        What may be spent beyond what has been, and the limit less 1.
    knob : Knob
        With a value that is held.
    """
    dear = SURPRISE * ledger["unit"]
    if not dear:
        return math.inf
    return float((credit / dear + excess * wanted**-knob.effort) ** (-1 / knob.effort))


def noted(ledger: Ledger, result: StepResult, *, guided: bool, accepted: bool, retry: float | None) -> Ledger:
    """Enter an attempt.

    Parameters
    ----------
    ledger : Ledger
        As `settled`.
    result : StepResult
        Of the attempt.
    guided : bool
        Whether the policy chose the value, and not the fallback.
    accepted : bool
        Whether the step stands.
    retry : float or None
        What the fallback makes of an attempt that it would have failed in as well; None: of no other.
    """
    knob, cost, value = result.knob, result.cost or 1.0, result.value
    part = 1.0 if knob.held is None else max(result.length / knob.held, SAME)
    unit = cost / part * value ** (knob.effort - float(knob.is_length))
    faded = ledger["unit"] * (FADING if knob.is_length else LASTING)
    ledger = {**ledger, "spent": ledger["spent"] + cost, "unit": max(unit, faded)}
    if accepted:
        return _advanced(ledger, result, cost, guided)
    if retry is None or not ledger["fresh"]:
        return ledger
    step = fitted(knob, retry, ledger["until"] - result.time)
    more = _share(cost, value, max(ledger["step"], value) if guided else value, knob)
    return {**ledger, "allowed": ledger["allowed"] + more, "step": step, "ends": result.time + step}


def _advanced(ledger: Ledger, result: StepResult, cost: float, guided: bool) -> Ledger:
    """After a step that stands."""
    knob, value, step = result.knob, result.value, ledger["step"]
    if guided and value > step:
        rest = ledger["until"] - result.time
        open_ = {"cost": cost, "value": value, "step": step, "rest": rest}
        return {**ledger, "open": open_, "stale": False}
    if guided:
        more = _share(cost, value, step, knob)
        return {**ledger, "allowed": ledger["allowed"] + more, "stale": True}
    inside = min(max((ledger["ends"] - result.time) / result.length, 0.0), 1.0) if knob.is_length else 1.0
    more = cost * (1 - inside) + inside * _share(cost, value, max(step, value), knob)
    return {**ledger, "allowed": ledger["allowed"] + more, "stale": False}


def _share(cost: float, value: float, against: float, knob: Knob) -> float:
    """The work with another value, for the time that was covered with `value` at this cost."""
    rounded = RETURN if value > against and not knob.is_length else 1.0
    return float(cost * (value / against) ** (rounded * knob.effort))
