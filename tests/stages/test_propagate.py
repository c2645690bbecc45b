"""Distributions of a quantity by a cheap model and few full solves: what is promised, and what is refused."""

import asyncio

import numpy as np
import pytest

from sciflow import report, run
from sciflow.executors.local import Local
from sciflow.flow import Session, within
from sciflow.quantities import At, Exceeds, Maximum, Mean
from sciflow.stages.design import Design
from sciflow.stages.propagate import Propagate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Block, Least, Unsure, Wave

HERE = {"executor": Local()}
NARROW = {"a": (0.6, 1.4), "b": (0.05, 0.3)}


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path), "queries", listener=lambda stage, event: session.heard.append(event))
    session.heard = []
    with within(session):
        yield session


async def made(problem, surrogate, inputs=("a", "b"), outputs=("u",), bounds=NARROW, count=40):
    design = await run(Design(problem=problem, count=count, bounds=bounds))
    data = await run(Simulate(problem), design=design, **HERE)
    return data, await run(Train(surrogate, inputs, outputs), ensemble=data)


async def asked(problem, count=400, bounds=NARROW, seed=3, method="random"):
    return await run(Design(problem=problem, count=count, bounds=bounds, method=method, seed=seed))


def propagated(problem, surrogate, stage, bounds=NARROW, **settings):
    async def flow():
        data, model = await made(problem, surrogate, **settings)
        design = await asked(problem, bounds=bounds)
        return await run(stage, model=model, design=design, **HERE), data, model, design

    return asyncio.run(flow())


def truth(problem, design, quantity):
    """The quantity of all queries, by the solver."""
    from sciflow.stages.queries import grid_of

    data = asyncio.run(run(Simulate(problem, minimum=0.0), design=design, **HERE))
    name, level = quantity.source
    grid = grid_of(problem.fields[name], problem.coordinates(), problem.axis_units(), problem.periodic)
    return quantity.of(data.read(name)[:, level], grid)


def test_a_perfect_model_gives_the_answers_of_the_solver():
    quantity = Mean("u")
    found, _, _, design = propagated(Wave(), Least(epochs=12), Propagate(quantity, budget=12, pilot=10))
    exact = truth(Wave(), design, quantity)
    np.testing.assert_allclose(found.read("query_model"), exact, rtol=1e-5)
    about = found.attributes["propagation"]
    mean = about["corrected_estimate"]["mean"]
    assert mean["error"] == pytest.approx(exact.std() / np.sqrt(400), rel=1e-3)
    assert mean["value"] == pytest.approx(exact.mean(), rel=2e-3)
    assert about["correlation"] > 0.999999
    assert about["drawn"] == about["solved"] == 10  # more would not pay
    full = found.read("query_full")
    solved = np.isfinite(full)
    np.testing.assert_allclose(full[solved], exact[solved], rtol=1e-6)
    assert (found.read("query_state")[solved] == 2).all()


def test_a_report_says_what_was_found():
    async def flow():
        _, model = await made(Block(), Unsure(epochs=12))
        design = await asked(Block())
        stage = Propagate(At("u", position={"x": 0.25}), tolerance=0.3, budget=40, pilot=15)
        found = await run(stage, model=model, design=design, **HERE)
        chance = Propagate(Exceeds(Maximum("u"), 1.2), tolerance=0.3, budget=40, pilot=15)
        other = await run(chance, model=model, design=design, **HERE)
        return found, other, await report("Queries", found, other)

    _, _, page = asyncio.run(flow())
    text = page.read_text()
    assert "A quantity over many queries" in text
