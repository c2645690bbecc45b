"""Conformance checks for components; plain functions that raise AssertionError with a sentence.

A component may define a classmethod ``example()`` that returns a small, fast configuration; the
checks of the whole registry use it where the default would take long.
"""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.component import Component, check_class
from sciflow.context import Context
from sciflow.errors import Invalid, SciflowError

if TYPE_CHECKING:
    import numpy as np

    from sciflow.controller import Controller
    from sciflow.executor import Executor
    from sciflow.problem import Problem
    from sciflow.samples import Batch, Samples
    from sciflow.stage import Stage
    from sciflow.surrogate import Model, Report, Surrogate

HEAVY = ("torch", "prefect", "dolfinx", "petsc4py", "mpi4py")
"""Modules that importing a component must not load."""


def example(cls: type[Component]) -> Component:
    """A small configuration of a component: its ``example()`` where it has one, else the defaults."""
    make: Any = getattr(cls, "example", cls)
    made: Component = make()
    return made


def check_component(component: Component) -> None:
    """Check what holds for every component.

    Parameters
    ----------
    component : Component
        Any configuration of it.

    Raises
    ------
    AssertionError
        If JSON does not round trip, a wrong setting is accepted, the class breaks the rules, or its
        module imports something heavy.
    """
    cls = type(component)
    check_class(cls)
    again = cls.from_json(component.to_json())
    assert again == component, f"{cls.name}: to_json and from_json change it to {again}"
    assert again.digest() == component.digest(), f"{cls.name}: its digest is not stable"
    _refused(cls, {**component.to_json(), "no_such_setting": 1}, "no_such_setting")
    for field in dataclasses.fields(component):  # type: ignore[arg-type]
        if isinstance(getattr(component, field.name), int | float):
            _refused(cls, {**component.to_json(), field.name: "not a number"}, field.name)
            break
    _light(cls)


def _refused(cls: type[Component], document: Mapping[str, Any], path: str) -> None:
    try:
        cls.from_json(document)
    except Invalid as error:
        assert path in str(error), f"{cls.name}: the refusal does not name {path!r}: {error}"
        return
    raise AssertionError(f"{cls.name} accepts a wrong {path!r}")


def _light(cls: type[Component]) -> None:
    if cls.__module__ == "__main__":
        return
    code = f"import sys, {cls.__module__}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{cls.__module__} does not import by itself: {done.stderr.strip()[-300:]}"
    assert not done.stdout.strip(), f"importing {cls.__module__} loads {done.stdout.strip()}"


def _collect(problem: Problem, mu: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    from sciflow.worker import Collector

    ctx = Context(seed=seed)
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


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
        If coordinates, shapes, times or units do not fit together, equal seeds do not give equal
        bits, parameters have no effect, or blocks of members differ from members alone.
    SciflowError
        If a state breaks the contract of `Problem.solve`.
    """
    assert len(problem.parameters) > 0, f"{problem.name} has no parameters"
    _check_axes(problem)

    def point(share: float) -> dict[str, float]:
        return {n: p.low + share * (p.high - p.low) for n, p in problem.parameters.items()}

    one = _collect(problem, point(0.5), seed)
    _same(problem, one, _collect(problem, point(0.5), seed), "equal seeds, other bits")
    other = _collect(problem, point(0.7), seed)
    moved = any(values.tobytes() != one[name].tobytes() for name, values in other.items())
    assert moved, f"{problem.name}: the parameters change nothing"
    _same(problem, one, _collect(problem, point(0.5), seed), "members influence each other")
    try:
        problem.parameters.checked({**point(0.5), "no_such_parameter": 1.0})
    except Invalid:
        pass
    else:
        raise AssertionError(f"{problem.name} accepts an unknown parameter")
    if problem.batch > 1:
        _check_blocks(problem, point(0.5), seed)


def _same(
    problem: Problem, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], fault: str
) -> None:
    for name, values in other.items():
        assert values.tobytes() == one[name].tobytes(), f"{problem.name}, {name!r}: {fault}"


def _check_axes(problem: Problem) -> None:
    import numpy as np

    begin = time.perf_counter()
    sizes = problem.coordinates()
    assert time.perf_counter() - begin < 1, f"{problem.name}: coordinates() is slow"
    for name, field in problem.fields.items():
        assert "time" not in field.axes[1:], f"{problem.name}, {name!r}: time must be the first axis"
        for axis in field.axes:
            assert axis in sizes, f"{problem.name}, {name!r}: no coordinates for the axis {axis!r}"
            assert axis in problem.axis_units(), f"{problem.name}: no unit for the axis {axis!r}"
    for axis, values in sizes.items():
        assert np.ndim(values) == 1, f"{problem.name}: coordinates of {axis!r} are not one-dimensional"
        assert np.all(np.diff(values) > 0), f"{problem.name}: coordinates of {axis!r} do not increase"
    for axis in problem.periodic:
        assert axis in sizes, f"{problem.name}: the periodic axis {axis!r} has no coordinates"


def _check_blocks(problem: Problem, mu: Mapping[str, float], seed: int) -> None:
    import numpy as np

    from sciflow.problem import member_seed
    from sciflow.worker import Collector

    ctx = Context(seed=seed)
    block: dict[str, np.ndarray] = {n: np.full(2, v) for n, v in mu.items()}
    block["member"] = np.array([4, 9])
    collector = Collector(problem, ctx.comm, 2)
    for state in problem.solve_batch(block, ctx):
        collector.add(state)
    collector.finish()
    for i, member in enumerate(block["member"]):
        alone = _collect(problem, mu, member_seed(seed, int(member)))
        for name, values in alone.items():
            scale = np.abs(values).max() or 1.0
            gap = np.abs(collector.arrays[name][i] - values).max() / scale
            assert gap < 1e-4, (
                f"{problem.name}, {name!r}: member {member} alone differs by {gap:.1e} from its block"
            )


class _Small:
    """A few smooth samples on one periodic axis: the derivative of random waves."""

    def __init__(self, count: int, seed: int) -> None:
        import numpy as np

        from sciflow.samples import Signature
        from sciflow.schema import Field

        x = np.arange(16) / 16
        waves = np.random.default_rng(seed).standard_normal((count, 2, 1))
        self.u = (waves[:, 0] * np.sin(2 * np.pi * x) + waves[:, 1] * np.cos(2 * np.pi * x)).astype("float32")
        self.v = np.roll(self.u, 4, axis=1)
        field = Field(("x",), "m")
        self.signature = Signature({"u": field}, {"v": field}, {"x": x}, ("x",))

    def samples(self) -> Samples:
        """As `Samples`."""
        from sciflow.samples import Batch, Samples

        small = self

        class Memory(Samples):
            signature = small.signature

            def __len__(self) -> int:
                return len(small.u)

            def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
                import numpy as np

                order = np.arange(len(self))
                if seed is not None:
                    order = np.random.default_rng([seed, epoch]).permutation(len(self))
                for i in range(0, len(self), size):
                    pick = order[i : i + size]
                    yield Batch({"u": small.u[pick]}, {"v": small.v[pick]})

        return Memory()


def _fit(
    surrogate: Surrogate, samples: Samples, resume: Any = None, stop: int = 0
) -> tuple[Model, list[Report], Any]:
    reports: list[Report] = []
    kept = None
    run = surrogate.fit(samples, samples, Context(seed=1), resume)
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            return end.value, reports, kept
        reports.append(report)
        if report.epoch == stop:
            kept = {k: v.copy() for k, v in report.checkpoint().items()}


def check_surrogate(surrogate: Surrogate) -> None:
    """Check a surrogate by fitting a quarter-period shift of random waves, twice.

    Parameters
    ----------
    surrogate : Surrogate
        A small configuration with at least two epochs.

    Raises
    ------
    AssertionError
        If epochs do not increase, a resumed training or a reloaded model differs by a bit, a
        checkpoint holds anything but numbers, or the samples of a batch influence each other.
    """
    import numpy as np

    small = _Small(12, 0)
    samples = small.samples()
    model, reports, kept = _fit(surrogate, samples, stop=1)
    name = surrogate.name
    epochs = [r.epoch for r in reports]
    assert epochs == list(range(1, len(epochs) + 1)), f"{name}: reports count the epochs {epochs}"
    assert all(np.isfinite(list(r.metrics.values())).all() for r in reports), (
        f"{name}: metrics are not finite"
    )
    assert len(epochs) > 1, f"{name}: check it with at least two epochs"
    for key, values in {**kept, **model.state()}.items():
        assert np.asarray(values).dtype.kind in "fiub", f"{name}: {key!r} is not an array of numbers"
    resumed, later, _ = _fit(surrogate, samples, resume=kept)
    assert [r.epoch for r in later] == epochs[1:], (
        f"{name}: resuming after epoch 1 gives {[r.epoch for r in later]}"
    )
    x = {"u": small.u}
    truth = model.predict(x)["v"]
    assert truth.shape == small.v.shape, f"{name}: predicts the shape {truth.shape}, not {small.v.shape}"
    for word, other in (
        ("a resumed training", resumed),
        ("a reloaded model", surrogate.load(model.state(), small.signature)),
    ):
        assert other.predict(x)["v"].tobytes() == truth.tobytes(), f"{name}: {word} predicts other bits"
    order = np.random.default_rng(2).permutation(12)
    moved = model.predict({"u": small.u[order]})["v"]
    assert np.allclose(moved, truth[order], rtol=1e-4, atol=1e-5), f"{name}: the order of a batch matters"


def check_stage(stage: Stage) -> None:
    """Check what holds for every stage without running it.

    Raises
    ------
    AssertionError
        If the schemas, the identity or the refusal of unknown inputs are not as they must be.
    """
    from sciflow.component import canonical
    from sciflow.schema import Schema

    assert isinstance(stage.output, Schema), f"{stage.name}: output is not a Schema"
    assert all(isinstance(s, Schema) for s in stage.inputs.values()), f"{stage.name}: inputs are not Schemas"
    assert canonical(stage.identity()) == canonical(stage.identity()), f"{stage.name}: its identity changes"
    nothing: Any = None
    try:
        stage.check({"no_such_input": nothing})
    except SciflowError as error:
        assert "no_such_input" in str(error), f"{stage.name}: the refusal does not name the input: {error}"
    else:
        raise AssertionError(f"{stage.name} accepts an unknown input")
    parameters = inspect.signature(stage.run).parameters
    assert len(parameters) == 3, f"{stage.name}: run takes (inputs, out, ctx), has {list(parameters)}"


def check_controller(controller: Controller, *, steps: int = 20) -> None:
    """Check that a controller replays, takes late outcomes, and keeps plain state.

    Raises
    ------
    AssertionError
        If equal seeds give other proposals, an outcome out of order is refused, or an unknown token
        is accepted.
    """
    import numpy as np

    def play() -> tuple[list[Any], Any]:
        state = controller.init(np.random.default_rng(0))
        proposals, waiting = [], []
        for i in range(steps):
            proposal, state = controller.propose(state, {"step": float(i)})
            proposals.append(dict(proposal.values))
            waiting.append(proposal.token)
            if len(waiting) == 3:  # outcomes arrive late and in reverse
                for token in reversed(waiting):
                    state = controller.observe(state, token, 1.0 + token % 3, "ok")
                waiting.clear()
        return proposals, state

    first, state = play()
    assert first == play()[0], f"{controller.name}: equal seeds, other proposals"
    try:
        controller.observe(state, 10**9, 1.0, "ok")
    except LookupError:
        pass
    else:
        raise AssertionError(f"{controller.name} accepts the outcome of a proposal it never made")


def check_executor(executor: Executor, directory: Path) -> None:
    """Check an executor with a job that ends well and one that cannot be run.

    Parameters
    ----------
    executor : Executor
        To check.
    directory : Path
        Empty, for the run directories.

    Raises
    ------
    AssertionError
        If states, reasons or files are not as they must be.
    """
    from sciflow.executor import JobState, Resources
    from sciflow.jobs import JobSpec

    empty: dict[str, Any] = {"members": [], "parameters": []}
    nothing = JobSpec("members", {"component": "no_such_problem"}, str(directory / "out"), payload=empty)
    job = executor.submit(nothing, directory / "bad", Resources())
    assert job.wait(60) == JobState.FAILED, f"{executor.name}: an unknown problem ends as {job.state()}"
    assert "no_such_problem" in job.reason(), f"{executor.name}: the reason is {job.reason()!r}"
    assert (directory / "bad" / "job.json").is_file(), f"{executor.name}: no job.json in the run directory"
    job.cancel()
    assert job.state() == JobState.FAILED, f"{executor.name}: cancelling an ended job changes its state"
    assert job.id, f"{executor.name}: the job has no id"
    assert isinstance(job.events(), list), f"{executor.name}: events() is no list"
    assert isinstance(job.log(), str), f"{executor.name}: log() is no text"
