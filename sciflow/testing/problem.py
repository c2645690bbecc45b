"""What a full-order model must do: states as declared, equal bits for equal seeds, members on their own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sciflow.context import Context, SerialComm
from sciflow.errors import Invalid
from sciflow.problem import Problem, State, member_seed

if TYPE_CHECKING:
    import numpy as np

CHANCE = "draw what is random from ctx.rng alone, and keep nothing from one call to the next"


def check_problem(problem: Problem, *, seed: int = 3) -> None:
    """Check a full-order model by solving it a few times, on one rank.

    Parameters
    ----------
    problem : Problem
        A small configuration.
    seed : int
        Of the members.

    Raises
    ------
    AssertionError
        If coordinates, shapes, times or units do not fit together, `solve` gives no states, equal seeds do
        not give equal bits, parameters have no effect, or blocks of members differ from members alone.
    Invalid
        If states are too many, too few or at other times than in `Problem.coordinates`; if a field
        is unknown, of another shape, or without ``time`` and yet given again; if a `Part` does not
        hold every position once.
    Diverged
        If a value is missing or not finite.
    """
    assert len(problem.parameters) > 0, (
        f"{problem.name} has no parameters, so all its members are one; give its ParameterSpace at least one"
    )
    _check_axes(problem)

    def point(share: float) -> dict[str, float]:
        return {n: p.low + share * (p.high - p.low) for n, p in problem.parameters.items()}

    one = _collect(problem, point(0.5), seed)
    _same(problem, one, _collect(problem, point(0.5), seed), f"equal seeds, other bits; {CHANCE}")
    other = _collect(problem, point(0.7), seed)
    moved = any(values.tobytes() != one[name].tobytes() for name, values in other.items())
    assert moved, (
        f"{problem.name}: the parameters change nothing: solve gives the same for {point(0.5)} and "
        f"{point(0.7)}; read them from mu"
    )
    fault = "members influence each other: one that was solved before has other bits after another one"
    _same(problem, one, _collect(problem, point(0.5), seed), f"{fault}; {CHANCE}")
    try:
        problem.parameters.checked({**point(0.5), "no_such_parameter": 1.0})
    except Invalid:
        pass
    else:
        raise AssertionError(
            f"{problem.name} accepts an unknown parameter; its parameters are a ParameterSpace"
        )
    _check_constants(problem)
    _check_restart(problem, point(0.5), seed, one)
    if problem.batch > 1:
        _check_blocks(problem, [point(0.5), point(0.7)], seed)


def _states(problem: Problem, made: Any, method: str) -> Iterator[State]:
    """What a solver gave, as states and nothing else."""
    how = "write `yield State(time, {name: values})` for every time"
    assert isinstance(made, Iterable), f"{problem.name}: {method} gives {made!r}, no states; {how}"
    for state in made:
        assert isinstance(state, State), (
            f"{problem.name}: {method} yields a {type(state).__name__}, not a State; {how}"
        )
        fields: Any = state.fields
        assert isinstance(fields, Mapping), (
            f"{problem.name}: the fields of a State are a {type(fields).__name__}, not arrays by name; {how}"
        )
        yield state


def _collect(problem: Problem, mu: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    from sciflow.states import Collector

    ctx = Context(seed=seed)
    collector = Collector(problem, ctx.comm)
    for state in _states(problem, problem.solve(mu, ctx), "solve"):
        collector.add(state)
    collector.finish()
    return collector.arrays


def _same(
    problem: Problem, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], fault: str
) -> None:
    for name, values in other.items():
        assert values.tobytes() == one[name].tobytes(), f"{problem.name}, {name!r}: {fault}"


def _check_axes(problem: Problem) -> None:
    import numpy as np

    begin = time.perf_counter()
    sizes = problem.coordinates()
    took = time.perf_counter() - begin
    assert took < 1, (
        f"{problem.name}: coordinates() is slow, {took:.1f} s; it is asked before any job starts: compute "
        "them without a mesh or a solver"
    )
    for name, field in problem.fields.items():
        assert "time" not in field.axes[1:], (
            f"{problem.name}, {name!r}: time must be the first axis, its axes are {field.axes}"
        )
        for axis in field.axes:
            assert axis in sizes, (
                f"{problem.name}, {name!r}: no coordinates for the axis {axis!r}; coordinates() gives "
                f"{', '.join(sizes) or 'none'}"
            )
            assert axis in problem.axis_units(), (
                f"{problem.name}: no unit for the axis {axis!r}; axis_units() gives one for each axis"
            )
    for axis, values in sizes.items():
        assert np.ndim(values) == 1, (
            f"{problem.name}: coordinates of {axis!r} are not one-dimensional, their shape is "
            f"{np.shape(values)}; give a line of numbers for each axis"
        )
        assert np.all(np.diff(values) > 0), (
            f"{problem.name}: coordinates of {axis!r} do not increase; sort them, without repeating one"
        )
    for axis in problem.periodic:
        assert axis in sizes, (
            f"{problem.name}: the periodic axis {axis!r} has no coordinates; there is {', '.join(sizes)}"
        )


def _check_restart(
    problem: Problem, mu: Mapping[str, float], seed: int, whole: Mapping[str, np.ndarray]
) -> None:
    """A member that goes on after any of its states has the bits of one that was not interrupted."""
    import numpy as np

    from sciflow.states import Assembler, as_parts

    saved = []
    for state in problem.solve(mu, Context(seed=seed)):
        saved.append(None if state.restart is None else {k: v.copy() for k, v in state.restart().items()})
    for count, arrays in enumerate(saved[:-1], 1):
        if arrays is None:
            continue
        made = Assembler(problem, SerialComm(), seen=count)
        for state in _states(problem, problem.resume(mu, Context(seed=seed), arrays), "resume"):
            level = made.seen
            for name, value in made.take(as_parts(state, SerialComm())).items():
                again = np.asarray(value, dtype=whole[name].dtype)
                assert again.tobytes() == whole[name][level].tobytes(), (
                    f"{problem.name}, {name!r}: resumed after {count} states, other bits in state {level}; "
                    "State.restart must give everything that the next step reads, in full precision"
                )
        made.finish()


def _check_constants(problem: Problem) -> None:
    import numpy as np

    for name, (field, values) in problem.constants(Context()).items():
        array = np.asarray(values)
        assert array.ndim == len(field.axes), (
            f"{problem.name}, constant {name!r}: {array.ndim} dimensions for the axes {field.axes}; name an "
            "axis for each"
        )
        assert array.dtype.kind in "fiub", (
            f"{problem.name}, constant {name!r}: no array of numbers but of {array.dtype}"
        )


def _check_blocks(problem: Problem, points: list[dict[str, float]], seed: int) -> None:
    """Members with parameters of their own, in one order and the other, against each of them alone."""
    import numpy as np

    members = np.array([4, 9])
    mu = {n: np.array([p[n] for p in points]) for n in problem.parameters}
    block = _collect_block(problem, {**mu, "member": members}, seed)
    turned = _collect_block(problem, {n: v[::-1].copy() for n, v in {**mu, "member": members}.items()}, seed)
    for i, member in enumerate(members):
        alone = _collect(problem, points[i], member_seed(seed, int(member)))
        for name, values in alone.items():
            scale = np.abs(values).max() or 1.0
            for word, found in (("its block", block[name][i]), ("a reversed block", turned[name][1 - i])):
                gap = np.abs(found - values).max() / scale
                assert gap < 1e-4, (
                    f"{problem.name}, {name!r}: member {member} alone differs by {gap:.1e} from {word}; in "
                    "solve_batch each has its own parameters, its place in mu and "
                    "member_seed(ctx.seed, mu['member'][i])"
                )


def _collect_block(problem: Problem, mu: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    from sciflow.states import Collector

    ctx = Context(seed=seed)
    collector = Collector(problem, ctx.comm, len(mu["member"]))
    for state in _states(problem, problem.solve_batch(mu, ctx), "solve_batch"):
        collector.add(state)
    collector.finish()
    return collector.arrays
