"""What a step controller must do, on a scripted solver."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sciflow.errors import Invalid
from sciflow.step_controller import Knob, StepController, StepResult, StepState, Verdict


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
            f"{controller.name}: equal results, other values; it decides by what it is told and "
            "remembers, never by chance or a clock"
        )
        again = _steer(controller, knob, steps, steps // 2)
        assert again == whole, (
            f"{controller.name}: memory as JSON goes on with other values; remember numbers, texts "
            "and lists, all that a decision reads, and nothing on the controller itself"
        )
    assert usable, (
        f"{controller.name} can set neither the length of a step nor a parameter: init refuses both "
        "knobs; take at least one"
    )


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
        assert fine, (
            f"{name} chose {value!r}, no positive number of Python; it goes to JSON: write float(value)"
        )
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
        assert _json(memory, name) == before, (
            f"{name} changes its memory in place; return a new mapping, {{**memory, ...}}"
        )
        memory, retry = last, verdict.retry
        time += result.length if retry is None else 0.0
    assert time > 0, (
        f"{name}: none of {steps} attempts stands, whatever their error; a rejected step is tried "
        "again with a smaller value, until it stands"
    )
    return values


def _json(memory: Any, name: str) -> str:
    assert isinstance(memory, Mapping), f"{name} remembers {memory!r}: a mapping of plain JSON is needed"
    try:
        return json.dumps(memory, sort_keys=True)
    except TypeError as error:
        raise AssertionError(
            f"{name}: what it remembers is no plain JSON: {error}; write float(value) and array.tolist()"
        ) from error


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
