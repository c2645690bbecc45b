"""What a solver that is steered must do: try steps, take them back, tell the truth of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sciflow.step_controller import Knob, Stepper, StepResult

if TYPE_CHECKING:
    import numpy as np

CLOSE = 1e-9
"""Times and lengths that differ by less, relatively, are the same but for rounding."""


def check_stepper(
    make: Callable[[], Stepper],
    value: float,
    *,
    steps: int = 4,
    resume: Callable[[Mapping[str, np.ndarray]], Stepper] | None = None,
) -> None:
    """Check a solver that is steered.

    Parameters
    ----------
    make : callable
        Gives the solver at its start, each time anew.
    value : float
        Of its knob, small enough for steps to converge; twice as much must not fail either.
    steps : int
        How many are taken.
    resume : callable or None
        Gives the solver where an array of `Stepper.restart` was saved; None: that is not checked.

    Raises
    ------
    AssertionError
        If a step that was taken back leaves a trace, equal steps give other bits, a time is missed, a result
        does not say what was done, features are not those that were named or not finite, or a solver that
        was resumed goes on with other bits.
    """
    plain, tried = _made(make), _made(make)
    assert plain is not tried, "make gives one and the same solver again; it must make a new one"
    knob = plain.knob
    assert knob.low <= value <= knob.high / 2, (
        f"check with a value from {knob.low} to {knob.high / 2}, half of what the solver takes, got {value}"
    )
    end = plain.time + (knob.held or value) * steps
    for _ in range(steps):
        _told(plain)
        before = _state(tried)
        begun = tried.time
        _attempt(tried, min(2 * value, end - tried.time) if knob.is_length else 2 * value, end)
        tried.reject()
        same = _state(tried) == before and tried.time == begun
        assert same, (
            "a step that was taken back leaves a trace; reject sets everything that restart gives to "
            "what it was"
        )
        one, other = _attempt(plain, value, end), _attempt(tried, value, end)
        # Going back may save work of the next attempt, or make some of it necessary.
        unpaid = dataclasses.replace(one, cost=other.cost)
        assert repr(unpaid) == repr(other), (
            f"equal steps, {one} and {other}; a step depends on the solution, the time and the value alone"
        )
        assert one.converged, f"the step of {value} did not converge; check with a smaller value"
        _accept(plain, one)
        _accept(tried, other)
        assert _state(plain) == _state(tried), (
            "equal steps, other bits: what was tried and taken back before still has an effect"
        )
    if resume is not None:
        _resumed(plain, resume, value)
    rest = (knob.held or value) / 3
    until = plain.time + rest
    _attempt(plain, min(value, rest) if knob.is_length else value, until)
    plain.accept()
    assert plain.time == until, (
        f"a step that was to end at {until!r} ended at {plain.time!r}; take its end from "
        "sciflow.step_controller.ending(time, value, until)"
    )


def _made(make: Callable[[], Stepper]) -> Stepper:
    assert callable(make), f"make is a function that gives a new solver each time, got {make!r}"
    stepper = make()
    name = type(stepper).__name__
    assert isinstance(getattr(stepper, "knob", None), Knob), f"{name} has no knob: set it when it is made"
    features = stepper.features
    named = isinstance(features, tuple) and all(isinstance(f, str) for f in features)
    assert named, (
        f"features of {name} are a tuple of names, got {features!r}; name what observe tells, in its order"
    )
    time = getattr(stepper, "time", None)
    timed = isinstance(time, (int, float)) and math.isfinite(time)
    assert timed, f"the time of {name} is {time!r}; it is a finite number from the start on"
    return stepper


def _told(stepper: Stepper) -> None:
    told = stepper.observe()
    assert tuple(told) == stepper.features, (
        f"told {tuple(told)}, named {stepper.features}; observe tells what features names, in that order"
    )
    assert all(math.isfinite(v) for v in told.values()), (
        f"features are not finite: {told}; tell numbers of order one, and leave out what is not known"
    )
    assert isinstance(stepper.drift(), float), (
        f"the drift is {stepper.drift()!r}, no number; NaN where nothing is known to be constant"
    )


def _state(stepper: Stepper) -> dict[str, bytes]:
    import numpy as np

    arrays = stepper.restart()
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    assert not other, (
        f"restart gives arrays, but {other[0]!r} is a {type(arrays[other[0]]).__name__}; write np.array(...)"
    )
    assert arrays, (
        "restart gives nothing to go on from; give the solution and the time, and all that the next "
        "step reads"
    )
    return {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}


def _attempt(stepper: Stepper, value: float, until: float) -> StepResult:
    """A step that is tried; what is told of it is compared with what was asked for."""
    knob, begun = stepper.knob, stepper.time
    try:
        result: Any = stepper.attempt(value, until)
    except Exception as error:
        raise AssertionError(
            f"attempt({value}, {until}) raised {type(error).__name__}: {error}; where the solver fails, it "
            "gives a result with converged=False"
        ) from error
    assert isinstance(result, StepResult), (
        f"attempt gives a StepResult, not {result!r}; also where the solver failed"
    )
    assert result.time == begun, f"the time of a result is where the step began, {begun}, not {result.time}"
    assert stepper.time == begun, "attempt moves the time of the solver; only accept does"
    assert result.knob == knob, f"the result names the knob {result.knob}, the solver {knob}"
    length = value if knob.held is None else min(knob.held, until - begun)
    assert math.isclose(result.value, value, rel_tol=CLOSE), (
        f"asked for {value}, the result has {result.value}; a step that cannot be taken so is not converged"
    )
    assert math.isclose(result.length, length, rel_tol=CLOSE), (
        f"the step is {length} long, the result says {result.length}; it is the time from its begin "
        "to its end"
    )
    assert 0 < result.cost < math.inf, (
        f"a step costs {result.cost}; a step without cost cannot be compared: count solves or evaluations"
    )
    assert result.iterations >= 0, (
        f"{result.iterations} iterations; 0 for explicit steps, else those of the hardest solve"
    )
    assert result.converged in (True, False), f"converged is {result.converged!r}; it is True or False"
    if result.converged:
        usable = math.isnan(result.error) or 0 <= result.error < math.inf
        assert usable, (
            f"the error is {result.error}; not negative and finite, or NaN where there is no estimate"
        )
    return result


def _accept(stepper: Stepper, result: StepResult) -> None:
    stepper.accept()
    ends = result.time + result.length
    assert math.isclose(stepper.time, ends, rel_tol=CLOSE), (
        f"after accept the time is {stepper.time}, the step ended at {ends}; accept moves it there"
    )


def _resumed(stepper: Stepper, resume: Callable[[Mapping[str, np.ndarray]], Stepper], value: float) -> None:
    """One step of the solver and of one that was made from its arrays, with the same bits."""
    other = resume({name: array.copy() for name, array in stepper.restart().items()})
    assert other.time == stepper.time, (
        f"resumed at {other.time}, saved at {stepper.time}; restart gives the time too"
    )
    assert _state(other) == _state(stepper), (
        "what was resumed saves other arrays than it was made from; keep all of them, in full precision"
    )
    until = stepper.time + (stepper.knob.held or value)
    value = value if stepper.knob.held else until - stepper.time
    one, again = _attempt(stepper, value, until), _attempt(other, value, until)
    assert repr(one.error) == repr(again.error), (
        f"resumed, {again} instead of {one}; restart gives all that a step reads, and all that its error is "
        "estimated from"
    )
    _accept(stepper, one)
    _accept(other, again)
    assert _state(other) == _state(stepper), (
        "what was resumed goes on with other bits; restart gives all that the next step reads"
    )
