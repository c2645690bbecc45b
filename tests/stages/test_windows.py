"""Windows of time levels through training, evaluation and the report."""

import asyncio

import numpy as np
import pytest

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import MODEL, Train, load_model
from sciflow.store import Store
from sciflow.stored import Stored
from tests.toys import Least, March, Steps, Wave


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    with within(session):
        yield session


async def simulated(problem, count):
    return await run(Simulate(problem, seed=1), design=await run(Design(problem=problem, count=count)))


def learn(problem, inputs, outputs, window, count=20):
    async def flow():
        data = await simulated(problem, count)
        train = Train(Least(), inputs, outputs, window=window)
        model = await run(train, ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        return data, model, score, await report("Windows", score, model)

    return asyncio.run(flow())


@pytest.mark.parametrize(("window", "per_member"), [((0, 1), 3), ((0, 2), 2), ((1, 2), 1)])
def test_a_model_is_evaluated_on_the_windows_it_was_trained_on(window, per_member):
    inputs = ("a", "b", "time") if window[0] == 0 else ("u", "a")
    data, model, score, page = learn(Wave(), inputs, ("u",), window)
    assert model.attributes["window"] == list(window)
    test = model.read("test_members")
    assert score.read("members").tolist() == np.repeat(test, per_member).tolist()
    samples = Stored(data, inputs, ("u",), test, window=window)
    guess, batch = load_model(model).predict(samples.all().x)["u"], samples.all()
    exact = [np.linalg.norm(g - y) / np.linalg.norm(y) for g, y in zip(guess, batch.y["u"], strict=True)]
    np.testing.assert_allclose(score.read("relative_l2"), exact, rtol=1e-4)
    axes = score.schema["example_truth"].axes
    assert axes == (("example", "lead", "x") if window[1] > 1 else ("example", "x"))
    assert f"<b>{len(test)}</b><span>members never seen in training" in page.read_text()


def test_a_step_that_is_linear_is_learned_from_windows():
    """u(t) = a sin(x (1 + t)) + b: two levels give a and b, so the third is linear in them at every point."""
    _, _, score, _ = learn(Wave(), ("u",), ("u",), (2, 1), count=30)
    assert score.read("relative_l2").max() < 1e-3
    assert score.read("relative_l2").max() < 0.1 * np.median(score.read("baseline_nearest"))


def test_members_with_steps_of_their_own_have_times_of_their_own():
    problem = Steps()
    data = asyncio.run(simulated(problem, 6))
    samples = Stored(data, ["time", "a"], ["u"], window=(0, 1))
    batch = samples.all()
    expected = np.concatenate([problem.times(a) for a in data.read("parameters")[:, 0]])
    np.testing.assert_allclose(batch.x["time"], expected, rtol=1e-6)
    assert len(samples) == data.read("n_steps").sum()
    b = data.read("parameters")[samples.sample_members, 1]
    np.testing.assert_allclose(batch.y["u"][:, -1], b + expected, rtol=1e-5)


def test_a_window_that_does_not_fit_is_refused_before_training():
    async def flow(window, inputs=("a",)):
        await run(Train(Least(), inputs, ("u",), window=window), ensemble=await simulated(March(), 5))

    with pytest.raises(Invalid, match="longer than the trajectories"):
        asyncio.run(flow((4, 3)))
    with pytest.raises(Invalid, match="takes none of the inputs"):
        asyncio.run(flow((0, 1), ("u",)))


def test_a_model_without_a_training_ensemble_has_no_baselines(here):
    """As one that was trained while its solvers ran: the same arrays, no ensemble."""

    async def flow():
        data = await simulated(Wave(), 12)
        other = await run(Simulate(Wave(), seed=5), design=await run(Design(problem=Wave(), count=7, seed=5)))
        model = await run(Train(Least(), ("a", "b"), ("u",)), ensemble=data)
        with pytest.raises(Invalid, match="give it as the input 'training'"):
            await run(Evaluate("all"), model=model, ensemble=other)
        score = await run(Evaluate("all"), model=model, ensemble=other, training=data)
        online = forget(here.store, model)
        with pytest.raises(Invalid, match="evaluate it on another ensemble with members='all'"):
            await run(Evaluate(), model=online, ensemble=other)
        with pytest.raises(Invalid, match="was not trained on"):
            await run(Evaluate("all"), model=online, ensemble=other, training=data)
        alone = await run(Evaluate("all"), model=online, ensemble=other)
        return score, alone, await report("Online", alone)

    score, alone, page = asyncio.run(flow())
    assert alone.read("relative_l2").tobytes() == score.read("relative_l2").tobytes()
    assert np.isnan(alone.read("baseline_mean")).all()
    assert np.isnan(alone.read("baseline_nearest")).all()
    assert np.isfinite(score.read("baseline_nearest")).all()
    assert "error of the nearest training sample" not in page.read_text()


def forget(store, model):
    """The model as an artifact that knows of no ensemble."""
    with store.writer(MODEL, "5" * 64) as out:
        for part in ("train", "valid", "test"):
            out.write(f"{part}_members", np.zeros(0, np.int64), MODEL[f"{part}_members"])
        out.write_file("model.safetensors", model.file("model.safetensors").read_bytes())
        about = {k: v for k, v in model.attributes.items() if k in ("surrogate", "signature", "weights")}
        out.describe(**about)
        return out.publish(dict(model.provenance))
