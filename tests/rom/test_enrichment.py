"""Enrichment of reduced models: what it promises, on problems in one dimension."""

import asyncio
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from sciflow import Invalid, Resources, run
from sciflow.executors.local import Local
from sciflow.flow import Session, within
from sciflow.registry import registry
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow.store import Store
from sciflow_rom.adapt.growth import Growth
from sciflow_rom.adapt.incremental import Weighted, add
from sciflow_rom.adapt.regions import Cases
from sciflow_rom.adapt.report import sections, words
from sciflow_rom.adapt.rounds import Rounds
from sciflow_rom.components import (
    BuildRom,
    Cluster,
    Compress,
    EmpiricalCubature,
    Enrich,
    KMedoids,
    RomNet,
)
from sciflow_rom.net import trust
from sciflow_rom.net.indicator import Calibration
from tests.rom.toys import Bar, Rod
from tests.toys import Wave

HERE = {"executor": Local(), "resources": Resources(parallel=1)}
LOW, HIGH = {"amplitude": (1.0, 10.0)}, {"amplitude": (10.0, 300.0)}


async def built(problem, bounds, members, **settings):
    """Ensemble, compression and ROM-net."""
    columns = "level" if "time" in problem.fields[problem.unknown].axes else "member"
    points = await run(Design(problem=problem, count=members, bounds=bounds), **HERE)
    data = await run(Simulate(problem), design=points, **HERE)
    small = await run(Compress(problem.unknown, columns=columns), ensemble=data, **HERE)
    groups = await run(Cluster(clusterer=KMedoids(2)), compression=small, **HERE)
    rom = RomNet(problem, indicator_modes=16, calibration=20, **settings)
    model = await run(BuildRom(rom), ensemble=data, compression=small, clustering=groups, **HERE)
    return {"model": model, "ensemble": data, "compression": small}


async def queries(problem, bounds, count, seed=5):
    design = Design(problem=problem, count=count, bounds=bounds, method="random", seed=seed)
    return await run(design, **HERE)


def errors(enriched, truth, name):
    """True relative errors of all answers."""
    a, b = (x.read(n).reshape(len(x.read(n)), -1) for x, n in ((enriched, f"answer_{name}"), (truth, name)))
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def rod(tmp_path_factory):
    """A model of weakly heated rods, and queries about strongly heated ones."""
    store, heard = Store(tmp_path_factory.mktemp("rod") / "store"), []
    session = Session(store, "rod", listener=lambda stage, event: heard.append(event))
    session.heard = heard
    problem = Rod(cells=40)

    async def make():
        made = await built(problem, LOW, 60, modes=3)
        far = await queries(problem, HIGH, 120)
        truth = await run(Simulate(problem), design=far, **HERE)
        near = await queries(problem, {"amplitude": (1.5, 8.0), "place": (0.25, 0.75)}, 30, seed=6)
        return made, far, truth, near

    with within(session):
        made, far, truth, near = asyncio.run(make())
    return SimpleNamespace(session=session, problem=problem, made=made, far=far, truth=truth, near=near)


def enrich(rod, stage, design=None, **changed):
    with within(rod.session):
        return asyncio.run(run(stage, design=design or rod.far, **{**rod.made, **changed}, **HERE))


@pytest.fixture(scope="module")
def enriched(rod):
    return enrich(rod, Enrich(budget=0.25, audit=0.02, seed=1))


def test_answers_are_within_the_tolerance_after_few_full_solutions(rod, enriched):
    found = errors(enriched, rod.truth, "temperature")
    about = enriched.attributes["enrichment"]
    assert np.mean(found <= 0.03) >= 0.95
    assert about["solved"] <= 0.2 * 120
    assert about["untrusted"] == 0
    state = enriched.read("query_state")
    np.testing.assert_array_equal(found[state == 1], 0)
    # Before, the model was of no use there.
    model = load_model(rod.made["model"])
    before = []
    truth = rod.truth.read("temperature")
    for point, u in zip(rod.far.read("parameters")[:20], truth, strict=False):
        guess = model.lift(model.solve(dict(zip(rod.problem.parameters, point, strict=True))))[0]
        before.append(np.linalg.norm(guess - u) / np.linalg.norm(u))
    assert np.mean(np.array(before) > 0.03) > 0.25


def test_bounds_hold_as_often_as_asked(rod, enriched):
    found = errors(enriched, rod.truth, "temperature")
    believed = enriched.read("query_state") == 0
    assert np.mean(found[believed] <= enriched.read("query_upper")[believed]) >= 0.85


def test_what_is_known_of_the_replaced_answers_is_kept(enriched):
    state, error = enriched.read("query_state"), enriched.read("query_error")
    assert (np.isfinite(error) == (state == 1)).all()
    member = enriched.read("query_solution")
    solved = np.argsort(member)[np.sort(member) >= 0]
    np.testing.assert_array_equal(
        enriched.read("temperature")[member[solved]], enriched.read("answer_temperature")[solved]
    )
    np.testing.assert_allclose(
        enriched.read("parameters")[member[solved]], enriched.read("queries")[solved], rtol=0
    )
    modes = enriched.read("round_modes")
    assert (modes[-1] >= modes[0]).any()
    assert len(modes) == len(solved) + 1
    assert (np.diff(enriched.read("round_queries")) >= 0).all()


def test_the_enriched_model_is_a_model_like_any_other(rod, enriched):
    with within(rod.session), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stage = Evaluate(members="all")
        known = {"ensemble": rod.truth, "training": rod.made["ensemble"]}
        scores = asyncio.run(run(stage, model=enriched, **known, **HERE))
        before = asyncio.run(run(stage, model=rod.made["model"], **known, **HERE))
    assert np.quantile(scores.read("relative_l2"), 0.95) < 0.03
    assert np.quantile(before.read("relative_l2"), 0.9) > 3 * np.quantile(scores.read("relative_l2"), 0.9)
    model = load_model(enriched)
    inside = model.solve({"place": 0.5, "amplitude": 200.0})
    assert not inside.flags  # it was solved there, so it is no longer outside
    assert model.solve({"place": 0.5, "amplitude": 3000.0}).flags


def test_nothing_is_solved_in_full_where_the_model_is_good(rod):
    found = enrich(rod, Enrich(audit=0.0, tolerance=0.2), design=rod.near)
    assert found.attributes["enrichment"]["solved"] == 0
    assert (found.read("query_state") == 0).all()
    model, before = load_model(found), load_model(rod.made["model"])
    for a, b in zip(model.local, before.local, strict=True):
        np.testing.assert_array_equal(a.tables.strains, b.tables.strains)


def test_the_budget_is_kept_and_what_is_doubtful_then_is_marked(rod):
    found = enrich(rod, Enrich(budget=0.03, audit=0.0, tolerance=1e-4))
    state = found.read("query_state")
    assert (state == 1).sum() == 3
    assert (state == 2).any()
    assert (found.read("query_upper")[state == 0] <= 1e-4).all()
    assert any("not to be trusted" in str(event.get("message", event)) for event in rod.session.heard)
    figures = [
        event["figures"] for event in rod.session.heard if "full-order solutions" in event.get("figures", {})
    ]
    assert figures[-1]["full-order solutions"].startswith("3 of 3, 2.5 %")
    assert "not to be trusted" in words(found.attributes["enrichment"])
    converged = found.read("query_cluster") >= 0
    assert np.isfinite(found.read("answer_temperature")[converged | (state == 1)]).all()


def test_no_budget_is_no_enrichment(rod):
    found = enrich(rod, Enrich(budget=0.0, audit=1.0))
    assert "temperature" not in found.schema.fields
    assert not (found.read("query_state") == 1).any()


def test_all_is_audited_if_the_lot_says_so(rod):
    found = enrich(rod, Enrich(budget=1.0, audit=1.0, fields=False), design=rod.near)
    about = found.attributes["enrichment"]
    assert about["solved"] == 30
    assert about["audited"] == about["reasons"]["audit"] >= 20
    assert about["audited_within_tolerance"] >= 0.9 * about["audited"]
    assert "answer_temperature" not in found.schema.fields


def test_looking_ahead_solves_the_most_doubtful_first(rod, enriched):
    found = enrich(rod, Enrich(budget=0.25, audit=0.0, ahead=40, together=2))
    assert np.mean(errors(found, rod.truth, "temperature") <= 0.03) >= 0.95
    assert found.attributes["enrichment"]["solved"] <= enriched.attributes["enrichment"]["solved"]


@pytest.mark.parametrize("place", ["before the model grows", "before the round is noted"])
def test_a_killed_run_goes_on_after_the_last_full_solution(rod, tmp_path, monkeypatch, place):
    """Wherever it is killed: the same result, and nothing is solved twice."""
    stage = Enrich(budget=0.1, audit=0.0, tolerance=1e-3, attempts=1)
    calls, killed_at, solve = [], [], Rod.solve
    owner, name = (Growth, "grow") if place == "before the model grows" else (Rounds, "put")
    whole = getattr(owner, name)

    def counted(self, mu, ctx):
        calls.append(tuple(mu.values()))
        return solve(self, mu, ctx)

    def killed(self, what, *more):
        number = what.number if name == "put" else what
        if number == 2 and not killed_at:
            killed_at.append(number)
            raise KeyboardInterrupt
        return whole(self, what, *more)

    monkeypatch.setattr(Rod, "solve", counted)
    monkeypatch.setattr(owner, name, killed)
    session = Session(Store(tmp_path / "store"), "again")
    with within(session):
        with pytest.raises(Exception, match="round 2"):
            asyncio.run(run(stage, design=rod.far, **rod.made, **HERE))
        assert killed_at == [2]
        found = asyncio.run(run(stage, design=rod.far, **rod.made, **HERE))
    assert len(calls) == len(set(calls)) == found.attributes["enrichment"]["solved"]
    monkeypatch.undo()
    other = enrich(rod, stage)
    assert found.digest == other.digest


def test_solutions_of_a_problem_with_history_enter_its_models(tmp_path):
    problem = Bar(cells=20)
    bounds = {"pull": (1.0, 1.4), "strength": (0.8, 1.2)}
    with within(Session(Store(tmp_path / "store"), "bar")):

        async def go():
            made = await built(problem, bounds, 16, modes=4)
            far = await queries(problem, {"pull": (2.4, 3.0), "strength": (0.6, 0.8)}, 20)
            stage = Enrich(budget=0.5, audit=0.0, tolerance=0.05, coverage=0.8)
            truth = await run(Simulate(problem), design=far, **HERE)
            return await run(stage, design=far, **made, **HERE), truth

        found, truth = asyncio.run(go())
        assert np.mean(errors(found, truth, "displacement") <= 0.05) >= 0.9
        assert 0 < found.attributes["enrichment"]["solved"] <= 10
        model = load_model(found)
        answered = int(np.flatnonzero(found.read("query_state") == 0)[0])
        mu = dict(zip(problem.parameters, found.read("queries")[answered], strict=True))
        guess = model.dual("cumulated", model.solve(mu))
        exact = truth.read("cumulated")[answered]
        assert np.linalg.norm(guess - exact) < 0.15 * np.linalg.norm(exact)


def test_an_enriched_model_can_be_enriched_again(rod, enriched):
    further = asyncio.run(_later(rod))
    found = enrich(rod, Enrich(budget=0.5, audit=0.0), design=further, model=enriched)
    assert found.attributes["enrichment"]["solved"] <= 10
    assert load_model(found).clusters >= load_model(enriched).clusters


async def _later(rod):
    with within(rod.session):
        return await queries(rod.problem, {"amplitude": (300.0, 400.0)}, 20, seed=9)


def test_a_solution_far_from_all_founds_a_region(rod):
    found = enrich(rod, Enrich(budget=0.05, audit=0.0, far=0.02))
    modes = found.read("round_modes")
    assert modes.shape[1] > modes[0].astype(bool).sum() == 2
    assert np.mean(found.read("query_state") == 0) > 0.3


def test_integration_points_are_kept_as_a_start(rod, monkeypatch):
    starts, reduce = [], EmpiricalCubature.reduce

    def seen(self, integrands, weights, start=None):
        found = reduce(self, integrands, weights, start)
        if start is not None:
            starts.append(np.isin(start.points, found.points).mean())
        return found

    monkeypatch.setattr(EmpiricalCubature, "reduce", seen)
    enrich(rod, Enrich(budget=0.04, audit=0.0, seed=3))
    assert len(starts) >= 4
    assert np.mean(starts) > 0.6


# -- when answers are believed -----------------------------------------------------------------------


def test_a_bound_is_careful_until_enough_is_known():
    trained = Calibration(1.2, 2.0, 0.9, 20)
    assert trust.needed(0.9) == 9
    assert trust.needed(0.95) == 19
    assert trust.calibration(trained, [], 0.9, 1.5).bound == 3.0
    few = trust.calibration(trained, [(0.1, 0.5)], 0.9, 1.5)
    assert few.bound == pytest.approx(7.5)
    many = [(0.1, 0.1 * (1 + 0.01 * i)) for i in range(40)]
    known = trust.calibration(trained, many, 0.9, 1.5)
    assert known.members == 40
    assert 1.3 < known.bound < 1.4
    assert trust.calibration(Calibration(1, np.inf, 0.9, 0), [], 0.9, 1.5).bound == np.inf


def test_only_the_last_solutions_count():
    old, new = [(0.1, 1.0)] * 100, [(0.1, 0.1)] * trust.RECENT
    assert trust.calibration(Calibration(1, 1, 0.9, 9), old + new, 0.9, 1.0).bound == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("upper", "said", "expected"),
    [
        (np.nan, {}, "bound"),
        (np.inf, {}, "bound"),
        (0.02, {}, ""),
        (0.02, {"outside": True}, "outside"),
        (0.02, {"outside": True, "calibrated": True}, ""),
        (0.02, {"audited": True}, "audit"),
        (0.04, {"audited": True, "calibrated": True}, "bound"),
    ],
)
def test_why_a_query_is_solved_in_full(upper, said, expected):
    given = {"outside": False, "calibrated": False, "audited": False, **said}
    assert trust.reason(upper, 0.03, **given) == expected


def test_cases_follow_their_basis():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(20, 6))
    basis = Weighted.empty(20)
    basis = add(basis, columns, modes=4).basis
    coefficients = (columns.T @ basis.modes)[:, None]
    norms = np.linalg.norm(columns, axis=0)
    gaps = np.linalg.norm(columns - basis.modes @ coefficients[:, 0].T, axis=0) / norms
    cases = Cases(np.arange(6.0)[:, None], coefficients, norms, gaps, np.full(6, -1))
    update = add(basis, rng.normal(size=(20, 1)), modes=4)
    moved = cases.carried(update.carry)
    rebuilt = update.basis.modes @ moved.coefficients[:, 0].T
    old = basis.modes @ coefficients[:, 0].T
    np.testing.assert_allclose(rebuilt, update.basis.modes @ (update.basis.modes.T @ old), atol=1e-12)
    assert (moved.gaps >= cases.gaps - 1e-12).all()
    assert (moved.gaps >= np.linalg.norm(columns - rebuilt, axis=0) / norms - 0.5).all()


# -- what is refused, and what is said ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"budget": 1.1}, "fractions"),
        ({"margin": 0.5}, "margin"),
        ({"together": 3}, "ahead"),
        ({"far": 0.0}, "sine"),
        ({"coverage": 1.0}, "coverage"),
        ({"modes": 0}, "at least 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Enrich(**settings)


def test_queries_of_other_parameters_are_refused(rod):
    with within(rod.session):
        other = asyncio.run(run(Design(problem=Wave(), count=4), **HERE))
    with pytest.raises(Invalid, match="no parameter"):
        enrich(rod, Enrich(), design=other)


def test_only_a_rom_net_with_an_indicator_can_be_enriched(rod):

    async def others():
        least = registry().build({"component": "toy_least"}, kind="surrogate")
        stage = Train(least, ("amplitude",), ("temperature",))
        trained = await run(stage, ensemble=rod.made["ensemble"], **HERE)
        groups = await run(Cluster(clusterer=KMedoids(2)), compression=rod.made["compression"], **HERE)
        rom = RomNet(rod.problem, modes=6, top=1, indicator_modes=0)
        inputs = {"ensemble": rod.made["ensemble"], "compression": rod.made["compression"]}
        blind = await run(BuildRom(rom), clustering=groups, **inputs, **HERE)
        small = await run(Compress("temperature", product="euclidean"), ensemble=rod.made["ensemble"], **HERE)
        return trained, blind, small

    with within(rod.session):
        trained, blind, small = asyncio.run(others())
    with pytest.raises(Invalid, match="ROM-net"):
        enrich(rod, Enrich(), model=trained)
    with pytest.raises(Invalid, match="indicator"):
        enrich(rod, Enrich(), model=blind)
    with pytest.raises(Exception, match="orthonormal in the product"):
        enrich(rod, Enrich(), compression=small)


def test_the_report_says_what_happened(enriched, rod):
    (title, body), *_ = sections(enriched)
    assert title == "Enrichment"
    about = enriched.attributes["enrichment"]
    assert f"{about['solved']} (" in body
    assert "bound exceeded the tolerance" in body
    assert body.count("<img") == 2
    assert sections(rod.made["model"]) == []
    json.dumps(about, allow_nan=False)
