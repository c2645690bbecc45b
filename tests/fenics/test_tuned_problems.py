"""Problems whose linear systems are solved with what a tuner chooses: the same fields in every case."""

import asyncio
import os
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("dolfinx")
import itertools

from sciflow import Context, Invalid, Resources, Store, run
from sciflow.executors.local import Local
from sciflow.experience import Experience
from sciflow.flow import Session, within
from sciflow.linear_solver import LinearSolver, Plain
from sciflow.problem import Problem
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.states import Collector
from sciflow.testing import check_problem
from sciflow_control.bandits.fixed import Fixed
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.controllers.pi import PI
from sciflow_control.space import Solvers
from sciflow_control.tuned.solver import EveryArm, Tuned
from sciflow_fenics.components import Darcy, Heat
from sciflow_fenics.moving_heat import MovingHeat
from sciflow_fenics.weak_forms import SteadyHeat
from tests.fenics.controllers import Toy

HEAT = Heat(cells=8, grid=9, levels=2, substeps=2)
PROBLEMS = [HEAT, HEAT.replace(scheme="crank_nicolson"), Darcy(cells=10, grid=9), SteadyHeat(cells=8)]
TUNED = Tuned(Thompson(Solvers(("cg+icc", "bcgs+ilu", "cg+ssor", "given"), (1.0, 1.5))), hold=1)


def only(method, omega=1.0, limit=20.0):
    return Tuned(Fixed(Solvers((method,), (omega,)), 0), hold=1, limit=limit)


def point(problem, share=0.6, **changes):
    return {n: p.low + share * (p.high - p.low) for n, p in problem.parameters.items()} | changes


def solve(problem, mu, experience=None, seed=3):
    ctx = Context(seed=seed, experience=experience or Experience())
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


def decisions(folder):
    return Experience(folder).others()


def assert_close(one, other, tolerance=1e-6):
    for name, values in one.items():
        scale = np.abs(values).max()
        assert np.abs(other[name] - values).max() <= tolerance * scale, name


@pytest.mark.parametrize("solver", ["cg+icc", "cholesky", "lu", "richardson+sor", "bcgs+ilu", "given"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=["euler", "crank_nicolson", "darcy", "steady"])
def test_the_fields_do_not_depend_on_the_solver(problem, solver, tmp_path):
    mu = point(problem)
    assert_close(solve(problem, mu), solve(problem.replace(solver=only(solver)), mu, Experience(tmp_path, 0)))


@pytest.mark.parametrize("solver", ["cg+icc", "cholesky", "lu", "bcgs+ilu"])
def test_what_is_chosen_solves(solver, tmp_path):
    problem = HEAT.replace(solver=only(solver, limit=1e4))
    solve(problem, point(problem, beta=0.0), Experience(tmp_path, 0))
    log = decisions(tmp_path)[0]
    assert len(log["arm"]) >= 4
    assert not log["fell_back"].any()


@pytest.mark.parametrize(
    ("problem", "solver"),
    [(HEAT, "richardson+none"), (SteadyHeat(cells=8), "cg+icc")],
    ids=["heat", "steady"],
)
def test_an_arm_that_diverges_stops_no_simulation(problem, solver, tmp_path):
    """The second one has matrices that are far from symmetric."""
    mu, root = point(problem, 1.0), Experience(tmp_path)
    for member in (0, 1):
        made = solve(problem.replace(solver=only(solver)), mu, root.of(member))
        log = decisions(tmp_path)[member]
        assert log["fell_back"].any()
        assert (log["status"] > 0).any(), "the tuner is told"
    assert_close(solve(problem, mu), made)


@pytest.mark.parametrize("problem", [HEAT, SteadyHeat(cells=6)], ids=["heat", "steady"])
def test_a_problem_with_a_tuner_is_a_problem(problem):
    check_problem(problem.replace(solver=TUNED))


@pytest.mark.parametrize("problem", [Heat(), Darcy(), SteadyHeat()])
def test_without_a_solver_the_configuration_is_that_of_before(problem):
    document = problem.to_json()
    assert "solver" not in document
    tuned = problem.replace(solver=TUNED)
    assert tuned.digest() != problem.digest()
    assert type(problem).from_json(tuned.to_json()) == tuned
    assert Problem.from_json({**document, "solver": None}) == problem


def test_the_form_offers_the_solvers():
    from pydantic import TypeAdapter

    schema = TypeAdapter(Heat).json_schema()
    shown = (
        schema["properties"]["solver"]
        if "properties" in schema
        else schema["$defs"]["Heat"]["properties"]["solver"]
    )
    names = str(shown)
    assert "Tuned" in names
    assert "null" in names


class Watched(Plain):
    def __init__(self, ksp):
        super().__init__(ksp)
        self.told = []

    def solve(self, b, x, features):
        self.told.append(dict(features))
        return super().solve(b, x, features)


class Watching(LinearSolver):
    def __init__(self):
        self.made = []

    def wrap(self, ksp, ctx, restart=None):
        self.made.append((ksp, Watched(ksp)))
        return self.made[-1][1]

    def __hash__(self):
        return id(self)


@pytest.mark.parametrize(
    ("problem", "names"),
    [
        (HEAT, {"dt", "beta", "newton", "log_diffusion"}),
        (Darcy(cells=10, grid=9), {"length", "variance", "log_n"}),
        (SteadyHeat(cells=8), {"newton", "log_amplitude"}),
    ],
)
def test_members_share_one_solver_and_tell_what_they_know(problem, names):
    watching, others = Watching(), Watching()
    for solver in (watching, watching, others):
        solve(problem.replace(solver=solver), point(problem))
    first, second, third = (ksp for ksp, _ in watching.made + others.made)
    assert first is second is third, "what is set up for an arm is there for the next member"
    told = watching.made[0][1].told
    assert all(set(one) == names for one in told)
    assert all(np.isfinite(list(one.values())).all() for one in told)
    if problem is HEAT:
        number = 60 / 4 * 20.0 / (3.6e6 * (0.1 / 8) ** 2)
        assert told[0]["log_diffusion"] == pytest.approx(np.log10(number))
        assert [one["newton"] for one in told[:2]] == [1.0, 2.0]


def ensemble(problem, count, executor=None):
    async def flow():
        design = await run(Design(problem=problem, count=count))
        stage, resources = Simulate(problem), Resources(parallel=1)
        return await run(stage, design=design, executor=executor or Local(), resources=resources)

    return asyncio.run(flow())


def test_an_ensemble_learns_and_keeps_what_it_learned(plain):
    data = ensemble(HEAT.replace(solver=TUNED), 4)
    alone = ensemble(HEAT, 4)
    assert_close({"T": alone.read("temperature")}, {"T": data.read("temperature")})
    assert sorted(set(data.read("decision_member").tolist())) == [0, 1, 2, 3]
    known, member = data.read("decision_known"), data.read("decision_member")
    starts = [int(known[member == m][0]) for m in range(4)]
    assert starts[0] == 0
    assert all(a < b for a, b in itertools.pairwise(starts))
    assert data.schema["decision_feature_log_diffusion"].axes == ("decision",)


def test_every_arm_of_every_system_is_there_to_compare(plain):
    data = ensemble(HEAT.replace(solver=EveryArm(Solvers(("cg+icc", "cg+ssor"), (1.0, 1.5)))), 2)
    arms = data.read("decision_arm")
    assert set(arms.tolist()) == {-1, 0, 1, 2}
    assert len(arms) % 4 == 0


LONG = Heat(cells=12, grid=9, levels=6, substeps=2, solver=TUNED)
STEPPED = MovingHeat(cells=12, grid=9, levels=6, end=30.0, stepping=PI(1e-3))


@pytest.mark.torture
@pytest.mark.parametrize("name", ["LONG", "STEPPED"])
def test_many_kills_change_no_decision(name, tmp_path, monkeypatch):
    from tests.control import test_ensemble_learning as toys

    problem = globals()[name]
    monkeypatch.setattr(toys, name, problem, raising=False)
    driver = toys.DRIVER.replace("import ensemble, {problem}", "import ensemble").replace(
        "with within", "from tests.fenics.test_tuned_problems import {problem}\nwith within"
    )
    monkeypatch.setattr(toys, "DRIVER", driver)
    rng = np.random.default_rng(int(os.environ.get("SCIFLOW_TORTURE_SEED", "0")))
    with within(Session(Store(tmp_path / "whole"))):
        whole = ensemble(problem, 20)
    assert "decision_length" in whole.schema.fields or name == "LONG"
    for i in range(6):
        moments = rng.uniform(0.0, 0.5, size=2)
        again = toys.killed_and_resumed(tmp_path / f"killed{i}", moments, name, 20)
        for field in whole.schema.fields:
            if field != "decision_seconds":
                np.testing.assert_array_equal(
                    again.read(field), whole.read(field), err_msg=f"{field} {moments}"
                )


def stored(problem):
    states = problem.solve(point(problem), Context())
    return {k: np.array(v) for k, v in next(states).restart().items()}


@pytest.mark.parametrize("problem", [HEAT, MovingHeat(cells=8, grid=9, levels=2, end=4.0)])
def test_a_member_goes_on_under_the_controller_it_had(problem):
    steered = problem.replace(stepping=PI(1e-3))
    mu = point(problem)
    for before, after in itertools.permutations([problem, steered, problem.replace(stepping=PI(1e-2))], 2):
        if before.stepping is None and after.stepping is None:
            continue
        with pytest.raises(Invalid, match="to be gone on from was s|goes on from lacks"):
            list(after.resume(mu, Context(), stored(before)))
    arrays = stored(steered)
    for damage in ({"rise": np.zeros(3)}, {"notes": np.full(6, np.nan)}):
        with pytest.raises(Invalid, match="heat goes on from is damaged"):
            list(steered.resume(mu, Context(), arrays | damage))
    del arrays["older"]
    with pytest.raises(Invalid, match="lacks older"):
        list(steered.resume(mu, Context(), arrays))


@pytest.mark.parametrize("problem", [HEAT, HEAT.replace(scheme="crank_nicolson"), MovingHeat.example()])
def test_what_is_steered_is_known_without_a_solver(problem, plain):
    stepper = problem.stepper(point(problem), Context())
    assert problem.steered() == (stepper.knob, stepper.features)
    with pytest.raises(Invalid, match="first = 1000, and the solver takes dt from"):
        ensemble(problem.replace(stepping=PI(1e-3, first=1000.0)), 2)


@dataclass(frozen=True)
class Counting(LinearSolver):
    """The problem's own solver, and how many systems it has solved."""

    name = "counting"

    def wrap(self, ksp, ctx, restart=None):
        return Counted(ksp, 0 if restart is None else int(restart["count"]))


class Counted(Plain):
    def __init__(self, ksp, count):
        super().__init__(ksp)
        self.count = count

    def solve(self, b, x, features):
        self.count += 1
        return super().solve(b, x, features)

    def restart(self):
        return {"count": np.array(self.count)}


def test_a_solver_sees_the_systems_of_all_attempts():
    problem = HEAT.replace(stepping=Toy(1e-4, 20.0), solver=Counting())
    states = list(problem.solve(point(problem), Context()))
    assert sum(s.metrics["rejected"] for s in states) > 0
    assert int(states[-1].restart()["solver_count"]) == sum(s.metrics["solves"] for s in states)


def test_a_tuner_and_a_step_controller_serve_one_problem(tmp_path):
    problem = HEAT.replace(scheme="crank_nicolson", stepping=Toy(1e-3))
    both = problem.replace(solver=TUNED)
    check_problem(both)
    mu = point(problem)
    assert_close(solve(problem, mu), solve(both, mu, Experience(tmp_path, 0)))
    log = decisions(tmp_path)[0]
    assert "arm" in log
    assert len(set(log["arm"].tolist())) > 1
