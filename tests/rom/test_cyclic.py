"""A viscoplastic plate, reduced from a few cycles and run for more."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("dolfinx")

from sciflow import Context, Diverged, Invalid, run
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import load_model
from sciflow.states import Collector
from sciflow.store import Store
from sciflow_fenics.weak_forms import ElastoViscoplastic
from sciflow_rom.clusters.clusterers import KMedoids
from sciflow_rom.clusters.clustering import Cluster
from sciflow_rom.compress.compression import Compress
from sciflow_rom.net.extrapolate import Extrapolate
from sciflow_rom.net.extrapolation import level_errors, relative, unexplained
from sciflow_rom.net.extrapolation_report import sections
from sciflow_rom.net.galerkin import Tables, solve
from sciflow_rom.net.romnet import BuildRom, RomNet
from sciflow_rom.points.cubatures import AllPoints, EmpiricalCubature
from tests.rom.toys import Bar

SMALL = ElastoViscoplastic(cells=6, cycles=2, steps_per_cycle=10)
LONG = SMALL.replace(cycles=6)
FEW = {"top": 1, "states": 100, "dual_tolerance": 1e-4, "indicator_modes": 40, "calibration": 1}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return Session(Store(tmp_path_factory.mktemp("cyclic")), "test", listener=lambda *_: None)


async def build(**options):
    """The ensemble of few cycles, and a model of it."""
    points = await run(Design(problem=SMALL, count=7))
    data = await run(Simulate(SMALL), design=points)
    small = await run(Compress("displacement", "level", "euclidean", 1e-9), ensemble=data)
    one = await run(Cluster(clusterer=KMedoids(1)), compression=small)
    stage = BuildRom(RomNet(SMALL, **{**FEW, **options}))
    return data, await run(stage, ensemble=data, compression=small, clustering=one)


def done(session, work):
    with within(session):
        return asyncio.run(work)


@pytest.fixture(scope="module")
def made(session):
    return done(session, build(modes=30, hyper_reduction=EmpiricalCubature(1e-4)))


@pytest.fixture(scope="module")
def unseen(session):
    async def simulate():
        points = await run(Design(problem=LONG, count=2, seed=5))
        return await run(Simulate(LONG), design=points)

    return done(session, simulate())


def point(ensemble, member):
    return dict(zip(SMALL.parameters, ensemble.read("parameters")[member].tolist(), strict=True))


def full(problem, mu):
    ctx = Context()
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


def test_with_all_points_and_enough_modes_the_cycles_of_the_training_come_back(session):
    options = {"modes": 90, "hyper_reduction": AllPoints(), "dual_tolerance": 1e-6, "indicator_modes": 0}
    data, artifact = done(session, build(**options))
    model = load_model(artifact)
    mu = point(data, artifact.read("train_members")[0])
    truth, found = full(SMALL, mu), model.solve(mu)
    assert truth["cumulated"].max() > 1e-3, "the plate must flow, or this shows nothing"
    assert relative(model.lift(found), truth["displacement"]) < 1e-4
    assert relative(model.dual("cumulated", found), truth["cumulated"]) < 1e-4
    assert relative(model.dual("stress", found), truth["stress"]) < 1e-3


def test_three_times_the_cycles_of_unseen_loads_are_as_exact_as_was_asked(session, made, unseen):
    _, artifact = made
    found = done(session, _extrapolated(artifact, unseen))
    for field, bound in (("", 0.02), ("_cumulated", 0.05)):
        assert (found.read(f"relative_l2{field}") <= bound).all()
        assert (found.read(f"last_l2{field}") <= 1.5 * bound).all()
        levels = found.read(f"level_errors{field}")
        assert levels.shape == (2, 60)
        whole = np.sqrt(np.mean(levels**2, axis=1))
        np.testing.assert_allclose(whole, found.read(f"relative_l2{field}"), rtol=1e-10)
    model = load_model(artifact)
    mu = point(unseen, 1)
    truth = full(LONG, mu)
    answer = model.solve(mu, problem=LONG)
    field = model.lift(answer)
    np.testing.assert_allclose(
        found.read("relative_l2")[1], relative(field, truth["displacement"]), rtol=1e-6
    )
    end = relative(field[-10:], truth["displacement"][-10:])
    np.testing.assert_allclose(found.read("last_l2")[1], end, rtol=1e-6)
    np.testing.assert_allclose(found.read("peak_truth_cumulated")[1], truth["cumulated"].max(axis=1))
    [(_, page)] = sections(found)
    assert page.count("<img") == 3
    assert "20 steps" in page


async def _extrapolated(model, ensemble, **options):
    return await run(Extrapolate(last=10, **options), model=model, ensemble=ensemble)


def test_the_law_is_evaluated_at_a_part_of_the_points_only(made):
    model = load_model(made[1])
    assert (model.local[0].tables.weights > 0).sum() < SMALL.shape("cumulated")[0]


def test_more_cycles_begin_as_fewer_do(made):
    data, artifact = made
    model, mu = load_model(artifact), point(data, 0)
    few, many = model.solve(mu), model.solve(mu, problem=LONG)
    np.testing.assert_array_equal(many.coefficients[:20], few.coefficients)
    np.testing.assert_array_equal(many.response.history[:20], few.response.history)
    assert len(many.times) == 60


def test_more_steps_than_those_of_the_training_are_flagged(made):
    data, artifact = made
    model, mu = load_model(artifact), point(data, 0)
    assert model.solve(mu).flags == ()
    assert any("60 steps" in flag for flag in model.solve(mu, problem=LONG).flags)


def test_what_the_dual_modes_can_follow_leaves_nothing(made):
    data, artifact = made
    model = load_model(artifact)
    found = model.solve(point(data, artifact.read("train_members")[0]))
    gaps = unexplained(model, "cumulated", found)
    assert gaps.shape == (20,)
    assert (gaps >= 0).all()
    assert gaps[-1] < 0.02
    modes = np.linalg.pinv(model.local[0].gaps["cumulated"])
    found.response.history[:, :, 6] = np.random.default_rng(0).random((20, modes.shape[1])) @ modes.T
    assert unexplained(model, "cumulated", found).max() < 1e-10
    found.response.history[:, :, 6] = np.random.default_rng(0).random((20, len(modes)))
    assert unexplained(model, "cumulated", found).min() > 0.05


def test_a_model_is_not_opened_with_another_mesh_or_another_law(made):
    data, artifact = made
    model, mu = load_model(artifact), point(data, 0)
    with pytest.raises(Invalid, match="made on the mesh"):
        model.solve(mu, problem=LONG.replace(cells=8))
    with pytest.raises(Invalid, match="another law"):
        model.solve(mu, problem=LONG.replace(steps_per_cycle=12))


def test_what_cannot_be_extrapolated_is_refused(made, unseen, store):
    data, artifact = made
    with pytest.raises(Invalid, match="made of members of this ensemble"):
        Extrapolate().check({"model": artifact, "ensemble": data})
    with pytest.raises(Invalid, match="at least 1"):
        Extrapolate(last=0)
    with within(Session(store, "test", listener=lambda *_: None)):

        async def other():
            points = await run(Design(problem=Bar(), count=2))
            return await run(Simulate(Bar()), design=points)

        bars = asyncio.run(other())
    with (
        store.writer(Extrapolate.output, "1" * 64) as out,
        pytest.raises(Invalid, match="made for elasto_viscoplastic"),
    ):
        Extrapolate().run({"model": artifact, "ensemble": bars}, out, Context())


@given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_errors_of_the_levels_add_up_to_the_whole_in_any_unit(seed, unit):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((5, 3, 2))
    found = truth + 0.1 * rng.standard_normal((5, 3, 2))
    truth[2] = 0
    errors = level_errors(found * unit, truth * unit)
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), relative(found, truth), rtol=1e-10)
    np.testing.assert_allclose(errors, level_errors(found, truth), rtol=1e-9)


def spring(loads, law):
    """Coefficients and evaluations of a spring of one mode and one point."""
    one = np.ones((1, 1))
    tables = Tables(np.ones((1, 1, 1)), np.ones(1), one, one)
    found = solve(tables, law, len(loads), load=lambda step: loads[step : step + 1], tolerance=1e-9)
    return found.coefficients[:, 0], found.iterations


def test_loads_on_a_parabola_need_one_evaluation_a_step():
    loads = 1 + 0.3 * np.arange(8.0) - 0.05 * np.arange(8.0) ** 2
    found, evaluations = spring(loads, lambda e, z, step: (e, np.ones((1, 1, 1)), z))
    np.testing.assert_allclose(found, loads, rtol=1e-12)
    assert (evaluations[3:] == 1).all()


def test_a_step_that_the_parabola_leads_astray_begins_at_the_end_of_the_last():
    asked = []

    def brittle(strain, history, step):
        asked.append(float(strain[0, 0]))
        if abs(strain[0, 0]) > 1.05:
            raise Diverged("too far")
        return strain, np.ones((1, 1, 1)), history

    loads = np.array([0.0, 0.5, 0.8, 1.0, 1.0, 0.9])
    np.testing.assert_allclose(spring(loads, brittle)[0], loads, atol=1e-12)
    assert max(asked) > 1.05, "the parabola must leave what the law allows, or this shows nothing"
