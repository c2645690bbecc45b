"""Models of the same data beside each other: who is compared with whom, and what the table says."""

import asyncio

import numpy as np
import pytest

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.side_by_side import SideBySide, offline_seconds, solver_seconds
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Least, Wave


@pytest.fixture(autouse=True)
def here(tmp_path):
    with within(Session(Store(tmp_path))):
        yield


async def simulated(seed=0):
    design = await run(Design(problem=Wave(), count=20, seed=seed))
    return await run(Simulate(Wave(), seed=seed), design=design)


async def learned(data, seed=0, inputs=("a", "b")):
    model = await run(Train(Least(), inputs, ("u",), seed=seed), ensemble=data)
    return model, await run(Evaluate(), model=model, ensemble=data, training=data)


def test_the_table_holds_the_errors_of_the_evaluations_and_costs_that_were_measured():
    async def flow():
        data = await simulated()
        (both, both_score), (one, one_score) = await learned(data), await learned(data, inputs=("a",))
        stage = SideBySide(("both", "one"), queries=5)
        table = await run(
            stage, ensemble=data, both=both, both_score=both_score, one=one, one_score=one_score
        )
        return data, [both, one], [both_score, one_score], table, await report("Two models", table)

    data, models, scores, table, page = asyncio.run(flow())
    for row, (model, score) in enumerate(zip(models, scores, strict=True)):
        errors = score.read("relative_l2")
        assert table.read("error_mean")[row] == pytest.approx(errors.mean(), rel=1e-12)
        assert table.read("error_p95")[row] == pytest.approx(np.quantile(errors, 0.95), rel=1e-12)
        took = model.provenance["end"] - model.provenance["start"]
        assert table.read("offline_seconds")[row] == pytest.approx(took, rel=1e-6)
        stored = model.attributes["weights"]
        assert table.read("parameters")[row] == stored > 0
        assert np.isnan(table.read("operations")[row])  # nobody counts for this toy
        assert table.read("training_bytes")[row] > 1e6
    full, query = table.attributes["full_seconds"], table.read("query_seconds")
    assert full == solver_seconds(data) > 0
    expected = np.where(query < full, np.ceil(table.read("offline_seconds") / (full - query)), np.inf)
    np.testing.assert_array_equal(table.read("break_even"), expected)
    text = page.read_text()
    assert "Side by side on unseen members" in text
    assert "the solver itself" in text


def test_stages_between_ensemble_and_model_count_once(tmp_path):
    async def flow():
        data = await simulated()
        return data, *(await learned(data))

    data, model, score = asyncio.run(flow())
    took = [a.provenance["end"] - a.provenance["start"] for a in (model, score)]
    assert offline_seconds(score) == pytest.approx(sum(took), rel=1e-6)
    assert offline_seconds(data) == 0


def test_models_that_cannot_be_compared_are_refused():
    async def flow():
        data = await simulated()
        model, score = await learned(data)
        other, other_score = await learned(data, seed=1)
        given = {"a": model, "a_score": score, "b": other, "b_score": other_score}
        with pytest.raises(Invalid, match="different members"):
            await run(SideBySide(("a", "b")), ensemble=data, **given)
        with pytest.raises(Invalid, match="not an evaluation of"):
            await run(SideBySide(("a",)), ensemble=data, a=model, a_score=other_score)
        with pytest.raises(Invalid, match="not an evaluation on"):
            await run(SideBySide(("a",)), ensemble=await simulated(3), a=model, a_score=score)
        with pytest.raises(Invalid, match="no input 'c'"):
            await run(SideBySide(("a",)), ensemble=data, a=model, a_score=score, c=model)

    asyncio.run(flow())


@pytest.mark.parametrize("names", [(), ("a", "a"), ("ensemble",), ("x_score",), ("no name",)])
def test_names_that_cannot_be_inputs_are_refused(names):
    with pytest.raises(Invalid):
        SideBySide(names)
