"""What step controllers and the solvers that they steer must do; see `sciflow.testing`, which offers both."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid
from sciflow.step_controller import (
    Knob,
    StepController,
    Stepper,
    StepResult,
    StepState,
    Verdict,
)

if TYPE_CHECKING:
    import numpy as np

CLOSE = 1e-9
"""Times and lengths that differ by less, relatively, are the same but for rounding."""


def check_step_controller(controller: StepController, *, steps: int = 30) -> None:
    """Check a step controller on a scripted solver, for a step length and for a parameter.

    Parameters
    ----------
    controller : StepController
        Any configuration of it.
    steps : int
        How many steps are taken at most.

    Raises
    ------
    AssertionError
        If equal results give other values, memory is changed in place or is not plain JSON, a value is no
        positive number, no step stands, something else is returned than a value, a verdict and a memory, a
        feature is asked for that `init` did not refuse to do without, or going on from memory as JSON gives
        other values.
    """
    knobs = (Knob("dt", "s", 1e-6, 1.0), Knob("mu", "1", 1e-6, 1.0, order=4.0, held=0.1))
    usable = []
    for knob in knobs:
        try:
            controller.init(knob, ("load",))
        except Invalid:
            continue
        usable.append(knob)
        whole = _steer(controller, knob, steps, None)
        assert whole == _steer(controller, knob, steps, None), (
            f"{controller.name}: equal results, other values"
        )
        again = _steer(controller, knob, steps, steps // 2)
        assert again == whole, f"{controller.name}: memory as JSON goes on with other values"
    assert usable, f"{controller.name} can set neither the length of a step nor a parameter"


def _steer(controller: StepController, knob: Knob, steps: int, stored: int | None) -> list[float]:
    """The values chosen while errors swing and two attempts fail; memory passes through JSON at `stored`."""
    name, time, values = controller.name, 0.0, []
    memory = controller.init(knob, ("load",))
    retry: float | None = None
    for i in range(steps):
        before = _json(memory, name)
        if i == stored:
            memory = json.loads(before)
        if retry is None:
            value, after = _chosen(controller, memory, StepState(time, 1e3, knob, {"load": (i % 5) / 5}))
        else:
            value, after = retry, memory
        number = isinstance(value, (int, float))
        fine = number and 0 < value < math.inf
        assert fine, f"{name} chose {value}, no positive number of Python"
        values.append(value)
        value = min(value, knob.high)
        failed = i in (steps // 3, steps // 3 + 1)
        result = StepResult(
            time,
            knob.held or value,
            value,
            knob,
            error=math.nan if failed else 1e-4 * (1 + i % 7) * value**knob.order,
            iterations=2 + i % 9,
            cost=1 / value,
            converged=not failed,
        )
        verdict, last = _judged(controller, after, result)
        assert _json(memory, name) == before, f"{name} changes its memory in place"
        memory, retry = last, verdict.retry
        time += result.length if retry is None else 0.0
    assert time > 0, f"{name}: none of {steps} attempts stands, whatever their error"
    return values


def _json(memory: Any, name: str) -> str:
    assert isinstance(memory, Mapping), f"{name} remembers {memory!r}: a mapping of plain JSON is needed"
    try:
        return json.dumps(memory, sort_keys=True)
    except TypeError as error:
        raise AssertionError(f"{name}: what it remembers is no plain JSON: {error}") from error


def _chosen(controller: StepController, memory: Any, state: StepState) -> tuple[float, Any]:
    stop = controller.next_stop(state.time, state.until)
    assert state.time < stop <= state.until, (
        f"{controller.name}: next_stop({state.time}, {state.until}) is {stop}, not later than the first and "
        "at most the second"
    )
    try:
        made: Any = controller.choose(memory, state)
    except KeyError as error:
        raise AssertionError(
            f"{controller.name}: choose found no {error}, although init took the features "
            f"{tuple(state.features)}; what it cannot do without is refused there, with Invalid"
        ) from error
    pair = isinstance(made, tuple) and len(made) == 2
    assert pair, f"{controller.name}: choose gives a value and what is remembered, not {made!r}"
    return made  # type: ignore[no-any-return]


def _judged(controller: StepController, memory: Any, result: StepResult) -> tuple[Verdict, Any]:
    made: Any = controller.judge(memory, result)
    pair = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Verdict)
    assert pair, (
        f"{controller.name}: judge gives ACCEPT or reject(value), and what is remembered, not {made!r}"
    )
    return made  # type: ignore[no-any-return]


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
        assert same, "a step that was taken back leaves a trace"
        one, other = _attempt(plain, value, end), _attempt(tried, value, end)
        # Going back may save work of the next attempt, or make some of it necessary.
        unpaid = dataclasses.replace(one, cost=other.cost)
        assert repr(unpaid) == repr(other), f"equal steps, {one} and {other}"
        assert one.converged, f"the step of {value} did not converge"
        _accept(plain, one)
        _accept(tried, other)
        assert _state(plain) == _state(tried), "equal steps, other bits"
    if resume is not None:
        _resumed(plain, resume, value)
    rest = (knob.held or value) / 3
    until = plain.time + rest
    _attempt(plain, min(value, rest) if knob.is_length else value, until)
    plain.accept()
    assert plain.time == until, f"a step that was to end at {until!r} ended at {plain.time!r}"


def _made(make: Callable[[], Stepper]) -> Stepper:
    assert callable(make), f"make is a function that gives a new solver each time, got {make!r}"
    stepper = make()
    name = type(stepper).__name__
    assert isinstance(getattr(stepper, "knob", None), Knob), f"{name} has no knob: set it when it is made"
    features = stepper.features
    named = isinstance(features, tuple) and all(isinstance(f, str) for f in features)
    assert named, f"features of {name} are a tuple of names, got {features!r}"
    time = getattr(stepper, "time", None)
    timed = isinstance(time, (int, float)) and math.isfinite(time)
    assert timed, f"the time of {name} is {time!r}"
    return stepper


def _told(stepper: Stepper) -> None:
    told = stepper.observe()
    assert tuple(told) == stepper.features, f"told {tuple(told)}, named {stepper.features}"
    assert all(math.isfinite(v) for v in told.values()), f"features are not finite: {told}"
    assert isinstance(stepper.drift(), float), f"the drift is {stepper.drift()!r}, no number"


def _state(stepper: Stepper) -> dict[str, bytes]:
    import numpy as np

    arrays = stepper.restart()
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    assert not other, f"restart gives arrays, but {other[0]!r} is a {type(arrays[other[0]]).__name__}"
    assert arrays, "restart gives nothing to go on from"
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
    assert isinstance(result, StepResult), f"attempt gives a StepResult, not {result!r}"
    assert result.time == begun, f"the time of a result is where the step began, {begun}, not {result.time}"
    assert stepper.time == begun, "attempt moves the time of the solver; only accept does"
    assert result.knob == knob, f"the result names the knob {result.knob}, the solver {knob}"
    length = value if knob.held is None else min(knob.held, until - begun)
    assert math.isclose(result.value, value, rel_tol=CLOSE), (
        f"asked for {value}, the result has {result.value}"
    )
    assert math.isclose(result.length, length, rel_tol=CLOSE), (
        f"the step is {length} long, the result says {result.length}"
    )
    assert 0 < result.cost < math.inf, f"a step costs {result.cost}; a step without cost cannot be compared"
    assert result.iterations >= 0, f"{result.iterations} iterations"
    assert result.converged in (True, False), f"converged is {result.converged!r}"
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
        f"after accept the time is {stepper.time}, the step ended at {ends}"
    )


def _resumed(stepper: Stepper, resume: Callable[[Mapping[str, np.ndarray]], Stepper], value: float) -> None:
    """One step of the solver and of one that was made from its arrays, with the same bits."""
    other = resume({name: array.copy() for name, array in stepper.restart().items()})
    assert other.time == stepper.time, f"resumed at {other.time}, saved at {stepper.time}"
    assert _state(other) == _state(stepper), "what was resumed saves other arrays than it was made from"
    until = stepper.time + (stepper.knob.held or value)
    value = value if stepper.knob.held else until - stepper.time
    one, again = _attempt(stepper, value, until), _attempt(other, value, until)
    assert repr(one.error) == repr(again.error), f"resumed, {again} instead of {one}"
    _accept(stepper, one)
    _accept(other, again)
    assert _state(other) == _state(stepper), "what was resumed goes on with other bits"
