"""Conformance checks for components; plain functions that raise AssertionError with a sentence.

The convention for configurations: a component whose defaults take long, or that cannot be made from
defaults alone, defines ::

    @classmethod
    def example(cls) -> Self:
        return cls(points=16, epochs=2)

a configuration that is solved or fitted within about a second. `example` finds it, and takes the
defaults where there is none. The checks need no pytest; a third party's whole test may read ::

    from sciflow.testing import check_component, check_problem, example

    check_component(example(Mine))
    check_problem(example(Mine))
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from sciflow.component import Component, canonical, check_class
from sciflow.context import Context, SerialComm
from sciflow.errors import Invalid, SciflowError
from sciflow.experience import Experience
from sciflow.step_checks import check_step_controller, check_stepper

if TYPE_CHECKING:
    import numpy as np

    from sciflow.controller import Controller
    from sciflow.executor import Executor, Job
    from sciflow.linear_solver import LinearSolver
    from sciflow.problem import Problem
    from sciflow.samples import Batch, Samples
    from sciflow.stage import Stage
    from sciflow.surrogate import Model, Report, Surrogate

__all__ = [
    "HEAVY",
    "check_component",
    "check_controller",
    "check_executor",
    "check_linear_solver",
    "check_problem",
    "check_stage",
    "check_step_controller",
    "check_stepper",
    "check_surrogate",
    "example",
]
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
        If JSON does not round trip, a setting that does not exist or has the wrong type is accepted,
        a field can be assigned, or its module does not import by itself or imports something heavy.
    Invalid
        If the class breaks the rules of components (abstract, not frozen, badly named).
    """
    cls = type(component)
    check_class(cls)
    again = cls.from_json(json.loads(canonical(component.to_json())))
    assert again == component, f"{cls.name}: to_json and from_json change it to {again}"
    assert again.digest() == component.digest(), f"{cls.name}: its digest is not stable"
    assert component.replace() == component, f"{cls.name}: replace() without changes changes it"
    _refused(cls, {**component.to_json(), "no_such_setting": 1}, "no_such_setting")
    hints = get_type_hints(cls)
    for field in dataclasses.fields(component):  # type: ignore[arg-type]
        if _typed(hints[field.name]):
            _refused(cls, {**component.to_json(), field.name: "no such value"}, field.name)
        try:
            setattr(component, field.name, getattr(component, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{cls.name}: {field.name!r} can be assigned; nothing of it may change")
    _light(cls)


def _typed(annotation: Any) -> bool:
    """Whether the text "no such value" is a wrong value for it."""
    if get_origin(annotation) is Literal:
        return "no such value" not in get_args(annotation)
    return annotation in (int, float, bool)


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
    from sciflow.states import Collector

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
    Invalid
        If states are too many, too few or at other times than in `Problem.coordinates`; if a field
        is unknown, of another shape, or without ``time`` and yet given again; if a `Part` does not
        hold every position once.
    Diverged
        If a value is missing or not finite.
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
    _check_constants(problem)
    _check_restart(problem, point(0.5), seed, one)
    if problem.batch > 1:
        _check_blocks(problem, [point(0.5), point(0.7)], seed)


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
        for state in problem.resume(mu, Context(seed=seed), arrays):
            level = made.seen
            for name, value in made.take(as_parts(state, SerialComm())).items():
                again = np.asarray(value, dtype=whole[name].dtype)
                assert again.tobytes() == whole[name][level].tobytes(), (
                    f"{problem.name}, {name!r}: resumed after {count} states, other bits in state {level}"
                )
        made.finish()


def _check_constants(problem: Problem) -> None:
    import numpy as np

    for name, (field, values) in problem.constants(Context()).items():
        array = np.asarray(values)
        assert array.ndim == len(field.axes), (
            f"{problem.name}, constant {name!r}: {array.ndim} dimensions for the axes {field.axes}"
        )
        assert array.dtype.kind in "fiub", f"{problem.name}, constant {name!r}: no array of numbers"


def _check_blocks(problem: Problem, points: list[dict[str, float]], seed: int) -> None:
    """Members with parameters of their own, in one order and the other, against each of them alone."""
    import numpy as np

    from sciflow.problem import member_seed

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
                    f"{problem.name}, {name!r}: member {member} alone differs by {gap:.1e} from {word}"
                )


def _collect_block(problem: Problem, mu: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    from sciflow.states import Collector

    ctx = Context(seed=seed)
    collector = Collector(problem, ctx.comm, len(mu["member"]))
    for state in problem.solve_batch(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


class _Small:
    """A few smooth samples on periodic axes: random waves, and the same a quarter period further."""

    def __init__(self, count: int, seed: int, axes: tuple[str, ...]) -> None:
        import numpy as np

        from sciflow.samples import Signature
        from sciflow.schema import Field

        x = np.arange(16) / 16
        waves = np.random.default_rng(seed).standard_normal((len(axes), count, 2, 1))
        u = np.zeros((count, *(16,) * len(axes)))
        for i, wave in enumerate(waves):
            line = wave[:, 0] * np.sin(2 * np.pi * x) + wave[:, 1] * np.cos(2 * np.pi * x)
            u += line.reshape(count, *(16 if i == j else 1 for j in range(len(axes))))
        self.u = u.astype("float32")
        self.v = np.roll(self.u, 4, axis=-1)
        field = Field(axes, "m")
        self.signature = Signature({"u": field}, {"v": field}, dict.fromkeys(axes, x), axes)

    def samples(self) -> Samples:
        """As `Samples`."""
        from sciflow.samples import Batch, Samples

        small = self

        class Memory(Samples):
            signature = small.signature
            resumable = True
            given = 0

            def __len__(self) -> int:
                return len(small.u)

            def batches(
                self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0
            ) -> Iterator[Batch]:
                import numpy as np

                order = np.arange(len(self))
                if seed is not None:
                    order = np.random.default_rng([seed, epoch]).permutation(len(self))
                for i in range(start * size, len(self), size):
                    pick = order[i : i + size]
                    self.given = len(pick)
                    yield Batch({"u": small.u[pick]}, {"v": small.v[pick]})

            def feedback(self, losses: np.ndarray) -> None:
                import numpy as np

                shape = np.shape(losses)
                assert shape == (self.given,), (
                    f"feedback has the shape {shape} after a batch of {self.given} samples; it takes the "
                    "loss of each"
                )

        return Memory()


def _fit(
    surrogate: Surrogate, samples: Samples, resume: Any = None, stop: int = 0
) -> tuple[Model, list[Report], Any]:
    import numpy as np

    reports: list[Report] = []
    kept = None
    run = surrogate.fit(samples, samples, Context(seed=1), resume)
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            return end.value, reports, kept
        if report.batches:
            continue
        reports.append(report)
        if report.epoch == stop:
            kept = {k: np.array(v) for k, v in report.checkpoint().items()}


def _has_epochs(surrogate: Surrogate) -> bool:
    """Whether the number of epochs is a setting; else it is fitted in one go, and resumed when it is done."""
    return any(f.name == "epochs" for f in dataclasses.fields(surrogate))  # type: ignore[arg-type]


def check_surrogate(surrogate: Surrogate, *, axes: tuple[str, ...] = ("x",)) -> None:
    """Check a surrogate by fitting a quarter-period shift of random waves, twice.

    Parameters
    ----------
    surrogate : Surrogate
        A small configuration, with at least two epochs where their number is a setting.
    axes : tuple of str
        Of the fields, 16 points each; for one that takes a certain number of them only.

    Raises
    ------
    AssertionError
        If epochs are not counted one by one or are not `Surrogate.epochs`, a resumed training or a
        reloaded model differs by a bit, a state or checkpoint holds anything but numbers, the losses
        told to `Samples.feedback` are not one for each sample, or the samples of a batch influence each
        other.
    """
    import numpy as np

    from sciflow.samples import Signature

    small = _Small(12, 0, axes)
    samples = small.samples()
    model, reports, kept = _fit(surrogate, samples, stop=1)
    name = surrogate.name
    epochs = [r.epoch for r in reports]
    assert epochs == list(range(1, len(epochs) + 1)), f"{name}: reports count the epochs {epochs}"
    assert all(np.isfinite(list(r.metrics.values())).all() for r in reports), (
        f"{name}: metrics are not finite"
    )
    assert len(epochs) > 1 or not _has_epochs(surrogate), f"{name}: check it with at least two epochs"
    assert {r.epochs for r in reports} == {len(epochs)}, (
        f"{name}: {len(epochs)} epochs, announced as {sorted({r.epochs for r in reports})}"
    )
    assert surrogate.epochs == len(epochs), (
        f"{name}: reports {len(epochs)} times, its epochs are {surrogate.epochs}"
    )
    stored = {k: np.array(v) for k, v in model.state().items()}
    for key, values in [*kept.items(), *stored.items()]:
        assert np.asarray(values).dtype.kind in "fiub", f"{name}: {key!r} is not an array of numbers"
    resumed, later, _ = _fit(surrogate, samples, resume=kept)
    assert [r.epoch for r in later] == epochs[1:], (
        f"{name}: resuming after epoch 1 gives {[r.epoch for r in later]}"
    )
    x = {"u": small.u}
    assert model.signature.to_json() == small.signature.to_json(), f"{name}: the model has another signature"
    truth = model.predict(x)["v"]
    assert np.isfinite(truth).all(), f"{name}: predictions are not finite"
    assert truth.shape == small.v.shape, f"{name}: predicts the shape {truth.shape}, not {small.v.shape}"
    for word, other in (
        ("a resumed training", resumed),
        ("a reloaded model", surrogate.load(stored, Signature.from_json(small.signature.to_json()))),
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

    Parameters
    ----------
    controller : Controller
        Any configuration of it.
    steps : int
        How many decisions it makes.

    Raises
    ------
    AssertionError
        If equal seeds give other proposals, a state holds anything but plain JSON and arrays of
        numbers or is changed in place, an outcome out of order is refused, or the outcome of an
        unknown or already reported proposal is accepted.
    """
    import copy

    import numpy as np

    name = controller.name

    def play() -> tuple[list[Any], Any, list[int]]:
        state = controller.init(np.random.default_rng(0))
        proposals: list[Any] = []
        tokens: list[int] = []
        waiting: list[int] = []
        for i in range(steps):
            before = copy.deepcopy(state)
            known = {n: low + (high - low) * (i % 7) / 6 for n, (low, high) in controller.ranges.items()}
            proposal, after = controller.propose(state, {"step": float(i), **known})
            assert _plain_state(state) == _plain_state(before), f"{name}: propose changes the state in place"
            state = after
            proposals.append(dict(proposal.values))
            tokens.append(proposal.token)
            waiting.append(proposal.token)
            if len(waiting) == 3:  # outcomes arrive late and in reverse, one of them a failure
                for token in reversed(waiting):
                    status = "diverged" if token == waiting[1] else "ok"
                    state = controller.observe(state, token, 1.0 + i % 3, status)
                waiting.clear()
        return proposals, state, tokens

    first, state, tokens = play()
    again, other, _ = play()
    assert first == again, f"{name}: equal seeds, other proposals"
    assert _plain_state(state) == _plain_state(other), f"{name}: equal seeds, another state"
    assert len(set(tokens)) == len(tokens), f"{name}: two proposals share a token"
    for word, token in (("a proposal it never made", 10**9), ("the same proposal twice", tokens[0])):
        try:
            controller.observe(state, token, 1.0, "ok")
        except LookupError:
            continue
        raise AssertionError(f"{name} accepts the outcome of {word}")


def check_linear_solver(solver: LinearSolver, *, systems: int = 8) -> None:
    """Check a linear solver on a sequence of small systems, on one rank; needs petsc4py.

    Parameters
    ----------
    solver : LinearSolver
        Any configuration of it that needs no features.
    systems : int
        How many are solved: diffusion with reaction, 81 unknowns, the operator changes every second time.

    Raises
    ------
    AssertionError
        If a system is not solved to the tolerance of the solver that was given, what goes on from
        `Solving.restart` gives other bits, a restart holds anything but arrays of numbers, a member's log
        is noted before it is closed or more than once, or a member cannot go on from the log of another.
    """
    import tempfile

    import numpy as np

    name = solver.name
    with tempfile.TemporaryDirectory() as folder:
        whole, saved = _solve_member(solver, _Counting(Path(folder), 0), systems)
        for array, values in saved.items():
            kind = np.asarray(values).dtype.kind
            assert kind in "fiub", f"{name}: {array!r} of its restart is no array of numbers, but {kind!r}"
        again, _ = _solve_member(solver, _Counting(None, 0), systems, saved)
        for k, (one, other) in enumerate(zip(whole[systems // 2 :], again, strict=True), systems // 2):
            assert one.tobytes() == other.tobytes(), f"{name}: after a restart system {k} has other bits"
        _solve_member(solver, _Counting(Path(folder), 1), systems)


class _Counting(Experience):
    """Counts the logs that are noted."""

    noted = 0

    def note(self, columns: Mapping[str, np.ndarray]) -> None:
        """See `Experience.note`."""
        super().note(columns)
        self.noted += 1


def _solve_member(
    solver: LinearSolver, experience: _Counting, systems: int, saved: Mapping[str, Any] | None = None
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Solutions, from the middle on if there is something to go on from; and what a restart needs there."""
    import numpy as np
    from petsc4py import PETSc

    matrix = PETSc.Mat().createAIJ((81, 81), nnz=5, comm=PETSc.COMM_SELF)
    x, b = matrix.createVecs()
    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    ksp.setType("cg")
    ksp.getPC().setType("jacobi")
    ksp.setTolerances(rtol=1e-8, max_it=500)
    ksp.setOperators(matrix)
    middle = systems // 2
    solving, found, restart = None, [], {}
    for k in range(0 if saved is None else middle, systems):
        _diffusion(matrix, 0.1 * (k // 2))
        b.setArray(np.random.default_rng(k).standard_normal(81))
        solving = solving or solver.wrap(ksp, Context(seed=1, experience=experience), saved)
        solving.solve(b, x, {"system": float(k)})
        rest = b.duplicate()
        matrix.mult(x, rest)
        rest.axpy(-1.0, b)
        share = rest.norm() / b.norm()
        assert share < 1e-7, f"{solver.name}: system {k} is solved to {share:.1e} only, 1e-8 was asked for"
        found.append(x.array.copy())
        if k + 1 == middle:
            restart = {n: np.array(v, copy=True) for n, v in solving.restart().items()}
    assert solving is not None
    assert not experience.noted, f"{solver.name}: a log is noted before the member is closed"
    solving.close()
    assert experience.noted <= 1, f"{solver.name}: a member notes {experience.noted} logs"
    return found, restart


def _diffusion(matrix: Any, reaction: float) -> None:
    """The five-point operator on 9 by 9 points, and a multiple of the identity."""
    for row in range(81):
        y, x = divmod(row, 9)
        for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if min(other) >= 0 and max(other) < 9:
                matrix.setValue(row, 9 * other[0] + other[1], -1.0)
        matrix.setValue(row, row, 4.0 + reaction)
    matrix.assemble()


def _plain_state(value: Any) -> Any:
    """A state in a form that can be compared; arrays as their type, shape and bytes."""
    import numpy as np

    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "fiub", f"a controller's state holds an array of {value.dtype}"
        return [str(value.dtype), list(value.shape), value.tobytes()]
    if isinstance(value, Mapping):
        assert all(isinstance(k, str) for k in value), "a controller's state has keys that are no text"
        return {k: _plain_state(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_state(v) for v in value]
    assert value is None or isinstance(value, str | bool | int | float), (
        f"a controller's state holds a {type(value).__name__}: only JSON and arrays can be stored"
    )
    return value


def check_executor(executor: Executor, directory: Path) -> None:
    """Check an executor with a job that ends well, one that cannot be run and one that is cancelled.

    Parameters
    ----------
    executor : Executor
        To check.
    directory : Path
        Empty, for the run directories; seen by the jobs under the same path.

    Raises
    ------
    AssertionError
        If states, reasons or files are not as they must be.
    """
    _check_bad_job(executor, directory / "bad")
    found = _some_problem()
    if found is not None:
        _check_good_job(executor, directory / "good", found)
        _check_cancelled_job(executor, directory / "long", found)


def _some_problem() -> Problem | None:
    """An installed problem with nothing missing, which a job finds as well."""
    from sciflow.problem import Problem
    from sciflow.registry import missing, registry

    for cls, _ in registry().components():
        if issubclass(cls, Problem) and not missing(cls) and not cls.requires:
            made = example(cls)
            assert isinstance(made, Problem)
            return made
    return None


def _check_bad_job(executor: Executor, directory: Path) -> None:
    from sciflow.executor import Cause, JobState, Resources
    from sciflow.jobs import JobSpec

    empty: dict[str, Any] = {"members": [], "parameters": []}
    spec = JobSpec("members", {"component": "no_such_problem"}, str(directory / "out"), payload=empty)
    job = executor.submit(spec, directory, Resources())
    assert job.wait(60) == JobState.FAILED, f"{executor.name}: an unknown problem ends as {job.state()}"
    assert "no_such_problem" in job.reason(), f"{executor.name}: the reason is {job.reason()!r}"
    assert job.cause() == Cause.FAILED, f"{executor.name}: the cause is {job.cause()}"
    assert (directory / "job.json").is_file(), f"{executor.name}: no job.json in the run directory"
    job.cancel()
    assert job.state() == JobState.FAILED, f"{executor.name}: cancelling an ended job changes its state"
    assert job.id, f"{executor.name}: the job has no id"
    assert isinstance(job.events(), list), f"{executor.name}: events() is no list"
    assert isinstance(job.log(), str), f"{executor.name}: log() is no text"


def _submit_members(executor: Executor, directory: Path, problem: Problem, count: int) -> Job:
    """A job that solves members of one ensemble, as the stage ``simulate`` would submit it."""
    from sciflow.executor import Resources
    from sciflow.jobs import JobSpec
    from sciflow.schema import Schema
    from sciflow.stages.simulate import member_field
    from sciflow.store import Writer

    out = Writer(directory / "artifact", Schema("ensemble"), recipe="")
    sizes = problem.coordinates()
    for name, field in problem.fields.items():
        out.create(name, member_field(field), (count, *(len(sizes[a]) for a in field.axes)), member=True)
    point = [(p.low + p.high) / 2 for p in problem.parameters.values()]
    payload: dict[str, Any] = {"members": list(range(count)), "parameters": [point] * count}
    spec = JobSpec("members", problem.to_json(), str(out.path), payload=payload, seed=1)
    return executor.submit(spec, directory / "run", Resources())


def _committed(directory: Path) -> int:
    from sciflow.store import Writer

    return len(Writer.attach(directory / "artifact").committed())


def _check_good_job(executor: Executor, directory: Path, problem: Problem) -> None:
    from sciflow.executor import JobState

    job = _submit_members(executor, directory, problem, 2)
    state = job.wait(60)
    assert state == JobState.DONE, f"{executor.name}: a good job ends as {state}: {job.reason()}"
    assert job.wait(0) == JobState.DONE, f"{executor.name}: waiting again changes the state"
    assert job.reason() == "", f"{executor.name}: a good job has the reason {job.reason()!r}"
    ended = [e["member"] for e in job.events() if e["event"] == "member" and e["state"] == "ok"]
    assert ended == [0, 1], f"{executor.name}: the events tell of the members {ended}, not of 0 and 1"
    assert job.events() == [], f"{executor.name}: events() returns an event twice"
    assert _committed(directory) == 2, f"{executor.name}: {_committed(directory)} of 2 members are there"


def _check_cancelled_job(executor: Executor, directory: Path, problem: Problem) -> None:
    from sciflow.executor import JobState

    job = _submit_members(executor, directory, problem, 20_000)
    assert not job.wait(0.01).ended, f"{executor.name}: a long job is {job.state()} at once"
    assert job.reason() == "", f"{executor.name}: a running job has the reason {job.reason()!r}"
    assert job.cause() is None, f"{executor.name}: a running job has the cause {job.cause()}"
    again = [other.id for other in executor.attach(job.directory)]
    if executor.queues:
        assert again == [job.id], f"{executor.name}: attach() finds {again}, not the job {job.id}"
    until = time.monotonic() + 60
    while not any(e["event"] == "member" for e in job.events()):
        assert time.monotonic() < until, f"{executor.name}: a job reports nothing for a minute"
        job.wait(0.02)
    job.cancel()
    assert job.state() == JobState.CANCELLED, f"{executor.name}: a cancelled job is {job.state()}"
    job.settle()
    again = [other.id for other in executor.attach(job.directory)]
    assert again == [], f"{executor.name}: attach() finds {again}, whose end was dealt with"
    before = _committed(directory)
    time.sleep(0.2)
    assert _committed(directory) == before, f"{executor.name}: a cancelled job goes on solving members"
