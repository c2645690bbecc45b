"""What reduced models and ensembles say of their own errors, and what many queries make of it."""

import asyncio
import dataclasses
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from sciflow import run
from sciflow.executors.local import Local
from sciflow.flow import Session, within
from sciflow.quantities import Mean
from sciflow.stages.design import Design
from sciflow.stages.propagate import Propagate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import load_model
from sciflow.store import Store
from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, RomNet
from tests.rom.toys import Rod

HERE = {"executor": Local()}
KNOWN = {"amplitude": (1.0, 30.0)}


@pytest.fixture(scope="module")
def rod(tmp_path_factory):
    """A small model of heated rods."""
    session = Session(Store(tmp_path_factory.mktemp("doubt") / "store"), "doubt")
    problem = Rod(cells=30)

    async def make():
        points = await run(Design(problem=problem, count=60, bounds=KNOWN))
        data = await run(Simulate(problem), design=points, **HERE)
        small = await run(Compress(problem.unknown), ensemble=data)
        groups = await run(Cluster(clusterer=KMedoids(2)), compression=small)
        rom = RomNet(problem, modes=3, indicator_modes=16, calibration=20)
        return await run(BuildRom(rom), ensemble=data, compression=small, clustering=groups)

    with within(session):
        return SimpleNamespace(session=session, problem=problem, model=asyncio.run(make()))


def points(count=30, low=1.0, high=30.0):
    rng = np.random.default_rng(0)
    amplitude = np.exp(rng.uniform(np.log(low), np.log(high), count))
    return {"place": rng.uniform(0.2, 0.8, count), "amplitude": amplitude}


def test_the_doubt_of_a_reduced_model_is_its_calibrated_bound_and_holds(rod):
    model, x = load_model(rod.model), points()
    doubt = model.doubt(x)
    each = np.array([model.solve({n: float(v[i]) for n, v in x.items()}).upper for i in range(30)])
    np.testing.assert_allclose(doubt, each / (1 - each), rtol=1e-14)
    predicted = model.predict(x)["temperature"].reshape(30, -1)
    from sciflow.context import Context

    held = []
    for i, guess in enumerate(predicted):
        mu = {n: float(v[i]) for n, v in x.items()}
        exact = next(iter(rod.problem.solve(mu, Context()))).fields["temperature"]
        held.append(np.linalg.norm(guess - exact) <= doubt[i] * np.linalg.norm(guess))
    assert np.mean(held) >= 0.8  # promised are 90 % over many models


def test_a_bound_of_the_truth_is_made_one_of_the_answer(rod, monkeypatch):
    """An answer that is a third of the truth is off by two thirds of that, and by twice its own size."""
    model = load_model(rod.model)
    told = iter([0.0, 2 / 3, 1.0, np.nan])
    monkeypatch.setattr(type(model), "_attempt", lambda self, point: SimpleNamespace(upper=next(told)))
    np.testing.assert_allclose(model.doubt(points(4)), [0.0, 2.0, np.inf, np.inf])


def test_what_was_asked_for_its_doubt_is_not_solved_again(rod, monkeypatch):
    model, x, calls = load_model(rod.model), points(), []
    fresh = load_model(rod.model).predict(x)["temperature"]
    solve = type(model).solve
    monkeypatch.setattr(type(model), "solve", lambda self, mu, **k: calls.append(mu) or solve(self, mu, **k))
    model.doubt(x)
    again = model.predict(x)["temperature"]
    assert len(calls) == 30
    assert again.tobytes() == fresh.tobytes()
    model.predict(points(29))
    assert len(calls) == 59


def test_a_model_that_does_not_converge_is_infinitely_in_doubt_and_one_without_indicator_says_nothing(rod):
    model = load_model(rod.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        doubt = model.doubt({"place": np.array([0.5, 0.5]), "amplitude": np.array([10.0, 1e30])})
    assert np.isfinite(doubt[0])
    assert doubt[1] == np.inf
    model.local = [dataclasses.replace(one, probe=None) for one in model.local]
    assert model.doubt(points()) is None


def test_doubts_send_queries_to_the_solver_and_the_lot_corrects_the_rest(rod):
    wide = {"amplitude": (1.0, 60.0)}

    async def go():
        queries = Design(problem=rod.problem, count=300, bounds=wide, method="random", seed=4)
        design = await run(queries)
        stage = Propagate(Mean("temperature"), tolerance=0.02, budget=120, pilot=20, cost=30.0)
        truth = await run(Simulate(rod.problem), design=design, **HERE)
        return await run(stage, model=rod.model, design=design, **HERE), truth, design

    with within(rod.session):
        found, truth, design = asyncio.run(go())
    exact = truth.read("temperature").mean(axis=1)
    state, reason = found.read("query_state"), found.read("query_reason")
    outside = design.read("parameters")[:, 1] > 40
    assert (reason[outside] >= 2).all()
    assert (reason == 1).any()
    about = found.attributes["propagation"]
    mean = about["corrected_estimate"]["mean"]
    assert abs(mean["value"] - exact.mean()) < 3 * (mean["high"] - mean["low"])
    believed = found.read("query_model")[state == 0]
    assert np.abs(believed - exact[state == 0]).max() < 0.05 * np.abs(exact).max()
    assert about["speedup"] > 1


def test_the_doubt_of_an_ensemble_is_its_spread_over_its_mean():
    from sciflow.samples import Signature
    from sciflow.schema import Field
    from sciflow_operators.uncertainty.mean import Mean as MeanOf
    from tests.toys import Line

    x = {"a": np.array([1.0, 2.0])}
    signature = Signature({"a": Field((), "m")}, {"u": Field(("x",), "m")}, {"x": np.arange(3.0)})
    weights = [np.array([[s, s, s], [0.0, 0, 0]]) for s in (0.9, 1.0, 1.1)]
    both = MeanOf([Line(signature, w) for w in weights])
    np.testing.assert_allclose(both.doubt(x), 0.1, rtol=1e-6)
    assert Line(signature, weights[0]).doubt(x) is None
    np.testing.assert_array_equal(both.doubt({"a": np.array([np.nan, 0.0])}), [np.inf, 0.0])
