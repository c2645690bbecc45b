"""Every registered component holds to the rules of its kind; and the checks themselves can fail."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pytest

from sciflow import Field, NotFound, Parameter, ParameterSpace, Part, Problem, Proposal, Schema, Stage, State
from sciflow.component import Component
from sciflow.controller import Controller
from sciflow.executor import Executor, JobState
from sciflow.executors.local import ThreadJob
from sciflow.registry import missing, registry
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.testing import (
    check_component,
    check_controller,
    check_executor,
    check_linear_solver,
    check_problem,
    check_stage,
    check_step_controller,
    check_surrogate,
    example,
)
from sciflow_control.bodies.three_body import ThreeBody
from sciflow_control.learning.train import TrainPolicy
from sciflow_control.steering.episodes import ProblemEpisodes
from sciflow_online.components import OnlineTrain
from sciflow_operators.equino.equino import EquiNO
from sciflow_rom.net.romnet import BuildRom, RomNet
from sciflow_spectral.components import Burgers
from tests.operators.cells import Cell
from tests.rom.toys import Rod
from tests.toys import Block, Least, Line, Wave

# Stages that cannot be made from defaults alone.
MADE = {
    "design": Design(problem=Wave()),
    "simulate": Simulate(Wave()),
    "train": Train(Least(), ("a",), ("u",)),
    "evaluate": Evaluate(),
    "online_train": OnlineTrain(Wave(), Least(), ("a",), ("u",)),
    "rom_net": RomNet(Rod()),
    "equino": EquiNO(problem=Cell(4)),
    "build_rom": BuildRom(RomNet(Rod())),
    "problem_episodes": ProblemEpisodes(Burgers.example()),
    "train_policy": TrainPolicy(ThreeBody()),
}
# Surrogates that do not take fields on a line.
AXES = {"poseidon": ("y", "x")}
ALL = [pytest.param(cls, id=f"{cls.kind}-{cls.name}") for cls, _ in registry().components()]


@pytest.mark.parametrize("cls", ALL)
def test_registered_components_conform(cls, tmp_path):
    component = MADE.get(cls.name) or example(cls)
    check_component(component)
    if missing(cls):
        pytest.skip(f"needs {', '.join(missing(cls))}")
    if cls.kind == "problem":
        check_problem(component)
    elif cls.kind == "surrogate" and cls.name not in ("rom_net", "equino"):  # no fields on a line: own tests
        check_surrogate(component, axes=AXES.get(cls.name, ("x",)))
    elif cls.kind == "stage":
        check_stage(component)
    elif cls.kind == "controller":
        check_controller(component)
    elif cls.kind == "step_controller" and cls.name != "learned":  # needs a trained policy: own tests
        check_step_controller(component)
    elif cls.kind == "linear_solver" and cls.name != "learned_directions":  # needs a trained model: own tests
        check_linear_solver(component)
    elif cls.kind == "executor" and cls.name not in ("slurm", "steps"):  # tests/slurm has a cluster
        check_executor(component, tmp_path)


@dataclass(frozen=True)
class Sloppy(Problem):
    """A problem that breaks one rule at a time."""

    name: ClassVar[str] = "sloppy"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(a=Parameter(0.0, 1.0, "1"))
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "1"), "k": Field(("x",), "1")}
    fault: str = ""

    def coordinates(self):
        x = np.linspace(1, 0, 4) if self.fault == "axis" else np.linspace(0, 1, 4)
        return {"time": np.array([0.0, 1.0]), **({} if self.fault == "no axis" else {"x": x})}

    def axis_units(self):
        return {} if self.fault == "unit" else super().axis_units()

    def constants(self, ctx):
        return {"mask": (Field(("x",), "1"), np.ones((4, 4)))} if self.fault == "constant" else {}

    def solve(self, mu, ctx):
        noise = np.random.default_rng().random(4) if self.fault == "noise" else ctx.rng(0).random(4)
        a = 0.0 if self.fault == "deaf" else mu["a"]
        for t in {"short": (0.0,), "long": (0.0, 1.0, 2.0), "late": (0.0, 1.1)}.get(self.fault, (0.0, 1.0)):
            u = np.append(a + noise, 0.0) if self.fault == "shape" else a + noise
            if self.fault == "nan" and t > 0:
                u[2] = np.nan
            index = np.array([0, 1, 2, 2]) if self.fault == "twice" else np.arange(4)
            fields = {"u": Part(index, u[:4]) if self.fault in ("", "twice") else u}
            if (t == 0 or self.fault == "again") and self.fault != "absent":
                fields["k"] = np.ones(4)
            if self.fault == "unknown":
                fields["w"] = u
            yield State(t, fields)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("axis", "'x' do not increase"),
        ("no axis", "no coordinates for the axis 'x'"),
        ("unit", "no unit for the axis 'time'"),
        ("constant", "'mask': 2 dimensions for the axes"),
        ("noise", "equal seeds, other bits"),
        ("deaf", "the parameters change nothing"),
        ("short", "yielded 1 of 2 states"),
        ("long", "more than 2 states"),
        ("shape", r"shape \(5,\), declared \(4,\)"),
        ("late", "has time 1.1, not 1.0"),
        ("nan", "'u' is not finite at time level 1"),
        ("twice", "not each of 4 once"),
        ("again", "no time axis but came with state 1"),
        ("absent", "'k' came 0 times, not 1"),
        ("unknown", "a field 'w' that it does not declare"),
    ],
)
def test_a_sloppy_problem_is_caught(fault, message):
    check_problem(Sloppy())
    with pytest.raises((AssertionError, ValueError, ArithmeticError), match=message):
        check_problem(Sloppy(fault))


@dataclass(frozen=True)
class Mixed(Block):
    """Solves members together and breaks one rule at a time."""

    name: ClassVar[str] = "mixed"
    fault: Literal["first", "place", "seed", "sorted"] = "first"

    def solve(self, mu, ctx):
        shift = ctx.rng(0).random() if self.fault == "seed" else 0.0
        for state in Block(self.points).solve(mu, ctx):
            yield State(state.time, {"u": state.fields["u"] + shift})

    def solve_batch(self, mu, ctx):
        if self.fault == "first":  # the parameters of the first member for all
            mu = {k: np.full_like(v, v[0]) for k, v in mu.items()}
        if self.fault == "sorted":  # by member, and never put back
            mu = {k: v[np.argsort(mu["member"])] for k, v in mu.items()}
        for state in Block(self.points).solve_batch(mu, ctx):
            place = np.arange(len(mu["a"]))[:, None] if self.fault == "place" else 0.0
            shift = ctx.rng(0).random() if self.fault == "seed" else 0.0
            yield State(state.time, {"u": state.fields["u"] + place + shift})


@pytest.mark.parametrize("fault", ["first", "place", "seed", "sorted"])
def test_members_that_depend_on_their_block_are_caught(fault):
    check_problem(Block())
    with pytest.raises(AssertionError, match="alone differs by .* from (its|a reversed) block"):
        check_problem(Mixed(fault=fault))


@dataclass(frozen=True)
class Loose(Component):
    """Takes anything."""

    name: ClassVar[str] = "loose"
    count: int = 3

    @classmethod
    def from_json(cls, document):
        try:
            return cls(int(document["count"]))
        except ValueError:
            return cls()


@dataclass(frozen=True)
class Forgetful(Component):
    """Loses a setting on its way through JSON."""

    name: ClassVar[str] = "forgetful"
    count: int = 3

    def to_json(self):
        return {"component": "forgetful"}


def test_configurations_are_checked():
    with pytest.raises(AssertionError, match="loose accepts a wrong 'no_such_setting'"):
        check_component(Loose())
    with pytest.raises(AssertionError, match="to_json and from_json change it"):
        check_component(Forgetful(4))


def test_a_heavy_module_is_caught(tmp_path, monkeypatch):
    (tmp_path / "mpi4py.py").write_text("")
    (tmp_path / "heavy.py").write_text(
        "import mpi4py\nfrom dataclasses import dataclass\nfrom sciflow.component import Component\n"
        "@dataclass(frozen=True)\nclass Heavy(Component):\n    name = 'heavy'\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    done = subprocess.run(
        [sys.executable, "-c", "import heavy; from sciflow.testing import *; check_component(heavy.Heavy())"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "AssertionError: importing heavy loads mpi4py" in done.stderr


class Crooked(Line):
    """A model that breaks one rule at a time."""

    fault = ""

    def predict(self, x):
        y = super().predict(x)
        if self.fault == "neighbours":
            y = {k: v + np.arange(len(v))[:, None] for k, v in y.items()}
        return y

    def doubt(self, x):
        doubt = np.abs(super().predict(x)["v"]).max(axis=1)
        faults = {"one doubt": doubt.max(), "no number": doubt * np.nan, "ranks": np.sort(doubt)}
        return faults.get(self.fault, None if self.fault == "dumb" else doubt)

    def state(self):
        return {"weights": self.weights.astype(object) if self.fault == "pickle" else self.weights}


@dataclass(frozen=True)
class Careless(Least):
    """A surrogate that breaks one rule at a time."""

    name: ClassVar[str] = "careless"
    fault: str = ""

    def fit(self, samples, valid, ctx, resume=None):
        if resume is not None and self.fault == "restart":
            resume = {**resume, "weights": resume["weights"] + 1e-6}
        if self.fault == "feedback":
            for batch in samples.batches(5, seed=0):
                samples.feedback(np.zeros(()) + len(batch))
        model = yield from self._fit(samples, valid, ctx, resume)
        return self._made(model.signature, model.weights)

    def _fit(self, samples, valid, ctx, resume):
        who = self.replace(epochs=self.epochs + 1) if self.fault == "uncounted" else self
        run = Least.fit(who, samples, valid, ctx, resume)
        while True:
            try:
                report = next(run)
            except StopIteration as end:
                return end.value
            yield self._told(report)

    def _told(self, report):
        if self.fault == "epochs":
            return replace(report, epoch=2 * report.epoch)
        if self.fault == "announced":
            return replace(report, epochs=99)
        if self.fault == "metrics":
            return replace(report, metrics={"train_loss": float("nan")})
        return report

    def _made(self, signature, weights):
        model = Crooked(signature, weights)
        model.fault = self.fault
        return model

    def load(self, state, signature):
        weights = np.asarray(state["weights"], dtype=float)
        return self._made(signature, weights.astype("float32") if self.fault == "rounded" else weights)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("restart", "a resumed training predicts other bits"),
        ("rounded", "a reloaded model predicts other bits"),
        ("epochs", "reports count the epochs"),
        ("announced", "6 epochs, announced as"),
        ("uncounted", "reports 7 times, its epochs are 6"),
        ("feedback", r"feedback has the shape \(\) after a batch of 5 samples"),
        ("metrics", "metrics are not finite"),
        ("pickle", "'weights' is not an array of numbers"),
        ("neighbours", "the order of a batch matters"),
        ("one doubt", r"doubt gives float64 of the shape \(\)"),
        ("no number", "a doubt is nan"),
        ("ranks", "the order of a batch matters to doubt"),
    ],
)
def test_a_careless_surrogate_is_caught(fault, message):
    check_surrogate(Careless())
    with pytest.raises(AssertionError, match=message):
        check_surrogate(Careless(fault=fault))


@dataclass(frozen=True)
class Alternate(Controller):
    """Takes two settings in turn, or breaks one rule."""

    name: ClassVar[str] = "alternate"
    fault: str = ""

    def init(self, rng):
        first = np.random.default_rng().integers(1000) if self.fault == "dice" else rng.integers(1000)
        state = {"count": 0, "open": [], "first": float(first), "seen": np.zeros(2)}
        return {**state, "rng": rng} if self.fault == "object" else state

    def propose(self, state, features):
        n = 0 if self.fault == "token" else state["count"]
        values = {"omega": 1.0 + state["count"] % 2 + state["first"]}
        if self.fault == "in place":
            state["count"] += 1
            return Proposal(values, n), {**state, "open": [*state["open"], n]}
        return Proposal(values, n), {**state, "count": state["count"] + 1, "open": [*state["open"], n]}

    def observe(self, state, token, cost, status):
        known = {"forgetful": True, "twice": token < state["count"]}.get(self.fault, token in state["open"])
        if not known:
            raise NotFound(f"token {token} was never proposed or is already observed")
        if self.fault == "order" and token != state["open"][0]:
            raise NotFound(f"token {token} is not the oldest")
        return {**state, "open": [t for t in state["open"] if t != token]}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("forgetful", "a proposal it never made"),
        ("twice", "the same proposal twice"),
        ("dice", "equal seeds, other proposals"),
        ("object", "holds a Generator: only JSON and arrays"),
        ("in place", "changes the state in place"),
        ("token", "already observed|share a token"),
        ("order", "is not the oldest"),
    ],
)
def test_controllers_are_checked(fault, message):
    check_controller(Alternate())
    with pytest.raises((AssertionError, LookupError), match=message):
        check_controller(Alternate(fault))


class Liar(ThreadJob):
    """A handle that breaks one rule at a time."""

    fault = ""

    def state(self):
        state = super().state()
        if state == JobState.FAILED and self.fault == "rosy":
            return JobState.DONE
        if state == JobState.CANCELLED and self.fault == "done":
            return JobState.DONE
        return state

    def reason(self):
        return "" if self.fault == "silent" else super().reason()

    def events(self):
        if self.fault == "again":
            self._reader._offset = 0
        return super().events()

    def cancel(self):
        if self.fault != "stubborn":
            super().cancel()


@dataclass(frozen=True)
class Shady(Executor):
    """Runs jobs in threads and breaks one rule at a time."""

    name: ClassVar[str] = "shady"
    fault: str = ""

    def submit(self, spec, directory, resources):
        job = Liar(spec, directory, resources)
        job.fault = self.fault
        JOBS.append(job)
        return job


JOBS: list[ThreadJob] = []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rosy", "an unknown problem ends as done"),
        ("silent", "the reason is ''"),
        ("again", "returns an event twice"),
        ("done", "a cancelled job is done"),
        ("stubborn", "a cancelled job is running"),
    ],
)
def test_a_shady_executor_is_caught(fault, message, tmp_path):
    try:
        with pytest.raises(AssertionError, match=message):
            check_executor(Shady(fault), tmp_path)
    finally:
        while JOBS:
            ThreadJob.cancel(JOBS.pop())


@dataclass(frozen=True)
class Wobbly(Stage):
    """A stage that breaks one rule at a time."""

    name: ClassVar[str] = "wobbly"
    output: ClassVar[Schema] = Schema("table")
    fault: str = ""

    def run(self, inputs, out, ctx):
        raise AssertionError("a check must not run a stage")

    def identity(self):
        return {"id": os.urandom(4).hex()} if self.fault == "identity" else self.to_json()

    def check(self, inputs):
        if self.fault != "blind":
            super().check(inputs)


@pytest.mark.parametrize(
    ("fault", "message"), [("identity", "its identity changes"), ("blind", "accepts an unknown input")]
)
def test_a_wobbly_stage_is_caught(fault, message):
    check_stage(Wobbly())
    with pytest.raises(AssertionError, match=message):
        check_stage(Wobbly(fault))
