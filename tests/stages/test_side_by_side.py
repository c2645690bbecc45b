"""Models of the same data beside each other: who is compared with whom, and what the table says."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.stages.calibrate import Calibrate
from sciflow.stages.costs import (
    ancestors,
    ensemble_seconds,
    offline_seconds,
    paid,
    peak_bytes,
    queries_until,
    solver_seconds,
    solver_source,
    training_data_seconds,
)
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.side_by_side import SideBySide
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
    whole = table.read("offline_seconds") + ensemble_seconds(data)
    np.testing.assert_allclose(table.read("ensemble_seconds"), ensemble_seconds(data))
    expected = np.where(query < full, np.ceil(whole / (full - query)), np.inf)
    np.testing.assert_array_equal(table.read("break_even_whole"), expected)
    assert np.isnan(table.read("coverage")).all()  # no bands were given
    for row, score in enumerate(scores):
        lost = score.read("conservation")
        assert table.read("conservation")[row] == pytest.approx(lost.mean(), rel=1e-12)
        assert (lost <= score.read("nrmse") + 1e-12).all()
    assert "median of 20 members of toy_wave on 1 rank" in solver_source(data)
    text = page.read_text()
    assert "Side by side on unseen members" in text
    assert "the solver itself" in text
    assert "inside the band" not in text
    assert "median of 20 members of toy_wave" in text


def test_stages_between_ensemble_and_model_count_once(tmp_path):
    async def flow():
        data = await simulated()
        return data, *(await learned(data))

    data, model, score = asyncio.run(flow())
    took = [a.provenance["end"] - a.provenance["start"] for a in (model, score)]
    assert offline_seconds(score) == pytest.approx(sum(took), rel=1e-6)
    assert offline_seconds(data) == 0


def test_bands_stand_beside_the_errors_of_what_is_compared():
    async def flow():
        design = await run(Design(problem=Wave(), count=40))
        data = await run(Simulate(Wave(), seed=0), design=design)
        model = await run(Train(Least(), ("a", "b"), ("u",), train=0.4), ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        bands = await run(Calibrate(), model=model, ensemble=data)
        other = await run(Train(Least(), ("a",), ("u",), train=0.4), ensemble=data)
        given = {"a": model, "a_score": score, "a_calibration": bands}
        table = await run(SideBySide(("a",), queries=2), ensemble=data, **given)
        with pytest.raises(Invalid, match="is not a calibration of"):
            await run(
                SideBySide(("b",)),
                ensemble=data,
                b=other,
                b_score=await run(Evaluate(), model=other, ensemble=data, training=data),
                b_calibration=bands,
            )
        return bands, table, await report("Bands", table)

    bands, table, page = asyncio.run(flow())
    assert table.read("coverage")[0] == bands.read("coverage")[0]
    assert table.read("band_width")[0] == bands.read("relative_width")[0]
    assert table.read("promised")[0] == pytest.approx(0.9)
    assert "inside the band" in page.read_text()


def test_bands_of_outputs_that_are_not_compared_do_not_count():
    from sciflow.stages.side_by_side import _bands

    columns = {"coverage": [0.5, 0.9, 0.8], "relative_width": [9.0, 0.1, 0.3]}
    bands = SimpleNamespace(
        attributes={"outputs": ["v", "u", "w"], "alpha": 0.2}, read=lambda name: np.array(columns[name])
    )
    found = _bands(bands, ["w", "u"])
    assert found == pytest.approx({"coverage": 0.85, "promised": 0.8, "band_width": 0.2})
    assert np.isnan(list(_bands(bands, ["p"]).values())).all()  # nothing of what is compared has one


def test_when_a_model_has_paid():
    assert queries_until(10.0, 0.5, 1.0) == 20
    assert queries_until(10.1, 0.5, 1.0) == 21
    assert queries_until(0.0, 0.5, 1.0) == 0
    assert queries_until(10.0, 1.0, 1.0) == np.inf
    assert queries_until(np.nan, 0.5, 1.0) == np.inf  # nobody knows what it took


def test_where_times_are_not_known_nothing_is_said_of_when_a_model_pays():
    from sciflow.sections import side_by_side, solver_comparison

    assert side_by_side._count(np.inf, np.nan) == "not known"
    assert side_by_side._count(np.inf, 1.0) == "never"
    about = {"offline_seconds": 1.0, "guess_seconds": 1e-3, "break_even": 7, "speed_up": 2.0}
    unknown = {"training_data_seconds": None, "break_even_with_data": None}
    assert "else after nobody knows" in solver_comparison._model({**about, **unknown})
    known = {"training_data_seconds": 9.0, "break_even_with_data": None}
    assert "else never" in solver_comparison._model({**about, **known})
    together = {"training_data_seconds": 0.0, "break_even_with_data": 7}
    said = solver_comparison._model({**about, **together})
    assert "1 s, the simulations that it learned from included. It pays off after 7 members" in said
    online = SimpleNamespace(attributes={"online": {}})
    assert training_data_seconds(online) == 0  # its own time holds them


def test_what_a_job_measured_of_itself_counts_not_the_wait_for_it(tmp_path):
    usage = {"process": {"peak_rss_bytes": 5e6}}
    alone = {"end": 100.0, "start": 0.0, "job": {"seconds": 7.0, "usage": usage}}
    model = SimpleNamespace(digest="m", schema=SimpleNamespace(kind="model"), provenance=alone)
    assert offline_seconds(model) == 7.0
    assert peak_bytes(model) == 5e6


def test_another_ensemble_that_a_model_learned_from_is_part_of_its_price():
    async def flow():
        data, coarse = await simulated(), await simulated(seed=5)
        model, score = await learned(data)
        first, _ = await learned(coarse)
        return data, coarse, first, model, score

    from sciflow.stages.estimates import training_seconds

    data, coarse, first, model, _ = asyncio.run(flow())
    assert {a.digest for a in ancestors(first)} == {first.digest, coarse.digest}
    took = coarse.provenance["end"] - coarse.provenance["start"]
    assert paid(first, data)["offline_seconds"] == pytest.approx(offline_seconds(first) + took)
    assert paid(model, data)["offline_seconds"] == pytest.approx(offline_seconds(model))
    # The stage that propagates counts the same, members of both ensembles and the training.
    assert training_seconds(first, data) == pytest.approx(sum(paid(first, data).values()))


def test_what_is_not_the_same_output_is_not_compared():
    async def flow():
        data = await simulated()
        found = {}
        for name, outputs, window in (
            ("all", ("u",), None),
            ("last", ("u[-1]",), None),
            ("step", ("u",), (1, 1)),
        ):
            inputs = ("u", "a") if window else ("a", "b")
            model = await run(Train(Least(), inputs, outputs, window=window), ensemble=data)
            score = await run(Evaluate(), model=model, ensemble=data, training=data)
            found |= {name: model, f"{name}_score": score}
        for other, said in (("last", r"u\[-1\] \(x\)"), ("step", r"u \(x\)")):
            given = {k: v for k, v in found.items() if k.split("_")[0] in ("all", other)}
            with pytest.raises(Invalid, match=rf"all was scored on u \(time, x\) and {other} on {said}"):
                await run(SideBySide(("all", other)), ensemble=data, **given)

    asyncio.run(flow())


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


@pytest.mark.parametrize(
    "names", [(), ("a", "a"), ("ensemble",), ("x_score",), ("x_calibration",), ("no name",)]
)
def test_names_that_cannot_be_inputs_are_refused(names):
    with pytest.raises(Invalid):
        SideBySide(names)
