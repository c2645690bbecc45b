"""Ensembles whose steps a controller chooses: what cannot be steered is refused, a kill changes nothing."""

import asyncio
import math
import os
import time

import numpy as np
import pytest

pytest.importorskip("numba")
from sciflow import Context, Invalid, Missing, NotFound, Resources, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.step_controller import Knob
from sciflow.step_log import LOG
from sciflow.stepping import MEMORY, Stepping
from sciflow_control.components import (
    PI,
    PID,
    Equations,
    FixedStep,
    Guarded,
    Hermite,
    IterationCount,
    Learned,
    MaximumStep,
    StopAt,
    ThreeBodyProblem,
)
from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes
from tests.control import step_kills

BURGERS = Burgers(points=16, solve_points=64, levels=3, stepping=PI(1e-5))
STARS = ThreeBodyProblem(Hermite(), PI(1e-4, lowest="accept", first=0.03), years=2.0, levels=5)
PROBLEMS = [BURGERS, STARS]


def ensemble(problem, count=3, executor=None, width=1, ranks=1, minimum=0.9):
    async def flow():
        design = await run(Design(problem=problem, count=count))
        resources = Resources(ranks=ranks, parallel=width)
        stage = Simulate(problem, minimum=minimum)
        return await run(stage, design=design, executor=executor, resources=resources)

    return asyncio.run(flow())


def point(problem):
    return {n: (p.low + p.high) / 2 for n, p in problem.parameters.items()}


@pytest.mark.parametrize("problem", [*PROBLEMS, KuramotoSivashinsky.example(), NavierStokes.example()])
def test_what_is_steered_is_known_without_a_solver(problem):
    stepper = problem.stepper(point(problem), Context(seed=1))
    assert problem.steered() == (stepper.knob, tuple(stepper.features))


@pytest.mark.parametrize(
    ("problem", "stepping", "error", "message"),
    [
        (BURGERS, FixedStep(2.0), Invalid, "takes dt from 1e-08 to 1$"),
        (BURGERS, PI(1e-3, first=5.0), Invalid, "first = 5"),
        (BURGERS, IterationCount(), Invalid, "the steps that dt sets are explicit"),
        (STARS, Guarded(FixedStep(0.01), IterationCount()), Invalid, "the steps that mu sets are explicit"),
        (STARS, MaximumStep(PI(1e-3), (0.0,), (1e-9,)), Invalid, "no mu below"),
        (STARS, StopAt(PI(1e-3), (1.0,), after=9.0), Invalid, "after = 9"),
        (STARS, Learned("nowhere/policy"), NotFound, "nowhere/policy"),
        (STARS, 0.01, Invalid, "stepping is a component of the kind step controller, got 0.01"),
    ],
)
def test_a_controller_that_cannot_steer_is_refused_before_any_job(
    plain, store, problem, stepping, error, message
):
    with pytest.raises(error, match=message):
        ensemble(problem.replace(stepping=stepping))
    assert not list(store.root.glob("partial/ensemble-*"))


@pytest.mark.parametrize(
    ("features", "knob", "message"),
    [
        (
            ("closest", "pace"),
            Knob("dt", "1", 1e-8, 1.0),
            "features closest, pace; this solver tells error, courant, steepness, diffusion",
        ),
        (
            ("error", "courant", "steepness", "diffusion"),
            Knob("mu", "1", 1e-4, 0.1, held=0.1),
            "was trained to set mu, held for 0.1, this solver has dt",
        ),
        (
            ("error", "courant", "steepness", "diffusion"),
            Knob("dt", "1", 1e-8, 10.0),
            "chooses dt from 0.1 to 2, this solver takes 1e-08 to 1",
        ),
    ],
)
def test_a_policy_for_another_solver_is_refused_before_any_job(
    plain, store, monkeypatch, features, knob, message
):
    from sciflow_control.learning.policy import Policy, Signature

    layer = np.zeros((len(features), 2), "f4"), np.zeros(2, "f4")
    policy = Policy(Signature(features, knob, (0.1, 2.0), "level", "relu", (0,)), [layer])
    monkeypatch.setattr(Learned, "network", policy)
    guarded = Guarded(Learned("policy"), PI(1e-5))
    with pytest.raises(Invalid, match=message):
        ensemble(BURGERS.replace(stepping=guarded))
    assert not list(store.root.glob("partial/ensemble-*"))


def test_an_integrator_that_is_not_installed_is_missed_before_any_job(plain, store, monkeypatch):
    from sciflow_control.components import Ias15

    monkeypatch.setattr(Ias15, "requires", ("no_such_rebound",))
    with pytest.raises(Missing, match="no_such_rebound"):
        ensemble(STARS.replace(integrator=Ias15()))
    assert not list(store.root.glob("partial/ensemble-*"))


def stored(problem):
    states = problem.solve(point(problem), Context(seed=1))
    next(states)
    return {k: np.array(v) for k, v in next(states).restart().items()}


def gone_on(problem, arrays):
    return list(problem.resume(point(problem), Context(seed=1), arrays))


@pytest.mark.parametrize("problem", PROBLEMS, ids=["burgers", "stars"])
@pytest.mark.parametrize("other", [PID(1e-5), PI(1e-6), None], ids=["pid", "tighter", "none"])
def test_another_controller_does_not_go_on(problem, other):
    arrays = stored(problem)
    assert gone_on(problem, arrays)
    with pytest.raises(Invalid, match="to be gone on from was s") as refused:
        gone_on(problem.replace(stepping=other), arrays)
    if other is not None:
        assert '"pi"' in str(refused.value)
        assert f'"{other.name}"' in str(refused.value)


def missing(name):
    return lambda arrays: arrays.pop(name)


def put(name, values):
    return lambda arrays: arrays.update({name: np.asarray(values)})


def poisoned(arrays):
    for name, values in arrays.items():
        if values.dtype.kind in "fc" and name != LOG:
            values.flat[0] = np.nan


@pytest.mark.parametrize("problem", PROBLEMS, ids=["burgers", "stars"])
@pytest.mark.parametrize(
    "damage",
    [
        missing(MEMORY),
        missing(LOG),
        put(MEMORY, np.frombuffer(b'{"contro', np.uint8)),
        put(MEMORY, np.frombuffer(b"\xff\x00", np.uint8)),
        put(MEMORY, np.frombuffer(b"[1]", np.uint8)),
        put(LOG, np.zeros(3)),
        poisoned,
    ],
    ids=["no memory", "no log", "cut", "bytes", "list", "log", "NaN"],
)
def test_what_is_damaged_does_not_go_on(problem, damage):
    arrays = stored(problem)
    damage(arrays)
    with pytest.raises(Invalid, match="gone on from|damaged|goes on from|go on from"):
        gone_on(problem, arrays)


def test_a_state_of_other_points_does_not_go_on():
    arrays = stored(BURGERS)
    with pytest.raises(Invalid, match="were the points others"):
        gone_on(BURGERS.replace(solve_points=128), arrays)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing("state"), "lacks state; it holds last, slope, start, time"),
        (put("state", np.zeros(7)), "another equation"),
        (put("last", np.zeros(2)), "is damaged"),
        (put("time", math.nan), "is damaged"),
        (put("state", np.full(2, math.nan)), "NaN or infinity"),
    ],
)
def test_an_integrator_goes_on_from_what_it_saved(damage, message):
    from sciflow_control.integrators.runge_kutta import RungeKutta

    stepper = Equations("van_der_pol").begin(0)
    Stepping(stepper, PI(1e-5)).to(0.1)
    arrays = dict(stepper.restart())
    RungeKutta(stepper._problem, restart=arrays)
    damage(arrays)
    with pytest.raises(Invalid, match=message):
        RungeKutta(stepper._problem, restart=arrays)


def test_a_member_whose_steps_end_is_a_status(plain):
    """Between the energies that a fixed tolerance can and cannot hold."""
    problem = STARS.replace(integrator=Hermite(low=0.01), stepping=PI(1e-9), years=6.0)
    data = ensemble(problem, 8, minimum=0.0)
    status = data.read("status")
    assert set(status.tolist()) == {1, 2}
    failed = {str(m) for m in np.flatnonzero(status != 1)}
    assert set(data.attributes["failures"]) == failed
    assert all("mu" in reason for reason in data.attributes["failures"].values())
    assert set(data.read("decision_member").tolist()) == set(np.flatnonzero(status == 1).tolist())


@pytest.mark.torture
@pytest.mark.parametrize("name", list(step_kills.RUNS))
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(name, tmp_path):
    if "plate" in name:
        pytest.importorskip("dolfinx")
    if name in ("dqn", "ppo", "plate_policy"):
        pytest.importorskip("stable_baselines3")
    if name == "neural_ode":
        pytest.importorskip("torch")
    rng = np.random.default_rng(int(os.environ.get("SCIFLOW_TORTURE_SEED", "0")))
    begin = time.monotonic()
    whole = step_kills.made(tmp_path / "whole", name)
    longest = 3 + time.monotonic() - begin
    for i in range(2):
        moments = rng.uniform(0.5, longest, size=6)
        kills = step_kills.killed(tmp_path / f"{i}", name, moments)
        again = step_kills.made(tmp_path / f"{i}", name)
        for field in whole.schema.fields:
            if not field.endswith("_seconds") and "per_second" not in field:
                np.testing.assert_array_equal(
                    again.read(field), whole.read(field), err_msg=f"{field}, {kills}"
                )
        for file in whole.path.glob("files/*"):
            assert (again.path / "files" / file.name).read_bytes() == file.read_bytes(), file.name
