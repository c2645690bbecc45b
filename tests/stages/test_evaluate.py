"""What an evaluation holds beyond the relative error, and what it says of predictions that are not finite."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Invalid, NotFound, report, run
from sciflow.flow import Session, within
from sciflow.registry import Plugin, registry
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model, samples_of
from sciflow.store import Store
from tests.toys import Least, Line, March, Wave


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    with within(session):
        yield session


class Torn(Line):
    """Loses its head where an input is large."""

    def predict(self, x):
        found = super().predict(x)
        lost = np.asarray(x["a"]) > self.above
        return {n: np.where(lost.reshape(-1, *[1] * (v.ndim - 1)), np.nan, v) for n, v in found.items()}


@dataclass(frozen=True)
class Tearing(Least):
    """Linear, and NaN where ``a`` is above a threshold."""

    name: ClassVar[str] = "toy_tearing"
    above: float = 1.5

    def load(self, state, signature):
        model = Torn(signature, np.asarray(state["weights"]))
        model.above = self.above
        return model


@pytest.fixture(autouse=True, scope="module")
def known():
    registry().add(Tearing, Plugin("tests", __name__, "tests", "0"))
    yield
    del registry()._classes["surrogate", Tearing.name]


def learn(surrogate, problem=Wave(), inputs=("a", "b"), outputs=("u",), **settings):  # noqa: B008
    async def flow():
        data = await run(Simulate(problem, seed=1), design=await run(Design(problem=problem, count=20)))
        model = await run(Train(surrogate, inputs, outputs, train=0.5, **settings), ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        table = await run(SideBySide(("m",), queries=1), ensemble=data, m=model, m_score=score)
        return data, model, score, table, await report("Scores", table, score)

    return asyncio.run(flow())


@pytest.mark.parametrize(
    ("settings", "levels"), [({}, 3), ({"window": (1, 2), "inputs": ("u",)}, 2), ({"outputs": ("u[-1]",)}, 1)]
)
def test_measures_are_taken_level_by_level(settings, levels):
    data, artifact, score, _, _ = learn(Least(), **settings)
    model = load_model(artifact)
    samples = samples_of(artifact, model.signature, data, artifact.read("test_members"))
    batch = samples.all()
    (name,) = batch.y
    guess, truth = (a.reshape(len(batch), levels, -1) for a in (model.predict(batch.x)[name], batch.y[name]))
    error = guess - truth
    safe = name.replace("[-1]", "_m1")
    expected = {
        f"rmse_{safe}": np.sqrt((error**2).mean(2)).mean(1),
        "nrmse": np.sqrt((error**2).mean(2) / (truth**2).mean(2)).mean(1),
        "vrmse": np.sqrt((error**2).mean(2) / truth.var(2)).mean(1),
        "nmae": (np.abs(error).mean(2) / np.abs(truth).mean(2)).mean(1),
        "relative_l1": np.abs(error).sum((1, 2)) / np.abs(truth).sum((1, 2)),
        f"boundary_rmse_{safe}": np.sqrt((error[..., [0, -1]] ** 2).mean(2)).mean(1),
        f"conserved_error_{safe}": np.abs(error.mean(2)).mean(1),
    }
    for measure, values in expected.items():
        np.testing.assert_allclose(score.read(measure), values, rtol=2e-5, err_msg=measure)
    assert score.schema[f"rmse_{safe}"].unit == "K"
    assert score.read("finite").all()
    assert score.attributes["not_finite"] == []


def test_predictions_that_are_not_finite_are_counted_and_not_averaged(caplog):
    data, _, score, table, page = learn(Tearing())
    a = data.read("parameters")[score.read("members"), 0]
    lost = a > 1.5
    assert 0 < lost.sum() < len(lost)
    np.testing.assert_array_equal(score.read("finite"), ~lost)
    np.testing.assert_array_equal(np.isinf(score.read("relative_l2")), lost)
    assert np.isnan(score.read("vrmse")[lost]).all()
    assert np.isfinite(score.read("vrmse")[~lost]).all()
    assert score.attributes["not_finite"] == score.read("members")[lost].tolist()
    assert np.isinf(table.read("error_mean")[0])
    text = page.read_text()
    assert f"{lost.sum()} of {len(lost)} predictions are not finite" in text
    assert "nan" not in text.replace("finance", "").split("Settings and provenance")[0].split("base64")[0]


def test_a_model_that_predicts_nothing_finite_has_a_report():
    _, _, score, _, page = learn(Tearing(above=0.0))
    assert not score.read("finite").any()
    assert "<b>9 of 9 predictions are not finite</b>" in page.read_text()


def test_an_output_without_a_grid_has_no_boundary():
    _, _, score, _, _ = learn(Least(), March(), outputs=("v[-1]",))
    assert "boundary_rmse_v_m1" not in score.schema.fields
    assert "rmse_v_m1" in score.schema.fields


def test_members_are_those_left_out_or_all():
    with pytest.raises(Invalid, match="members 'tset' is not one of test, all"):
        Evaluate(members="tset")  # type: ignore[arg-type]


def test_members_seen_in_training_are_refused_on_another_grid_too():
    async def flow():
        design = await run(Design(problem=Wave(), count=20))
        data = await run(Simulate(Wave(), seed=1), design=design)
        model = await run(Train(Least(), ("u[0]", "a"), ("u[-1]",), train=0.5), ensemble=data)
        longer = await run(Simulate(Wave(pause=1e-6), seed=1), design=design)
        fresh = await run(Simulate(Wave(), seed=2), design=design)
        given = {"model": model, "training": data}
        with pytest.raises(Invalid, match="11 members of .* parameters and the seed of members that"):
            await run(Evaluate(members="all"), ensemble=longer, **given)
        tested = await run(Evaluate(), ensemble=longer, **given)
        return tested, await run(Evaluate(members="all"), ensemble=fresh, **given)

    tested, whole = asyncio.run(flow())
    assert len(tested.read("members")) == 9
    assert len(whole.read("members")) == 20


def test_some_outputs_alone_can_be_compared():
    components = pytest.importorskip("sciflow_operators.components")
    surrogate = components.MLP(width=8, layers=1, epochs=2, threads=1, device="cpu")

    async def flow():
        data = await run(Simulate(Wave(), seed=1), design=await run(Design(problem=Wave(), count=20)))
        model = await run(Train(surrogate, ("a", "b"), ("u[0]", "u[-1]"), train=0.5), ensemble=data)
        given = {"model": model, "ensemble": data, "training": data}
        with pytest.raises(NotFound, match="predicts no 'v'"):
            await run(Evaluate(outputs_of=("v",)), **given)
        return [await run(Evaluate(outputs_of=names), **given) for names in (("u[0]",), ("u[-1]",), ())]

    first, last, both = (score for score in asyncio.run(flow()))
    assert first.attributes["outputs"] == ["u[0]"]
    squares = (first.read("relative_l2") ** 2 + last.read("relative_l2") ** 2) / 2
    np.testing.assert_allclose(both.read("relative_l2") ** 2, squares, rtol=1e-9)
    assert not np.allclose(first.read("relative_l2"), last.read("relative_l2"))


@pytest.mark.parametrize("settings", [{}, {"window": (1, 1), "inputs": ("u", "a")}])
def test_baselines_are_those_of_all_training_samples_at_once(settings, monkeypatch):
    from sciflow.stages import baselines, evaluate
    from sciflow.stored import Stored

    monkeypatch.setattr(baselines, "BYTES", 700)  # three members, or five windows
    monkeypatch.setattr(evaluate, "BYTES", 900)
    whole, plain = [], Stored.all
    monkeypatch.setattr(Stored, "all", lambda self: whole.append(len(self)) or plain(self))
    data, artifact, score, _, _ = learn(Least(), **settings)
    signature = load_model(artifact).signature
    seen, test = (
        samples_of(artifact, signature, data, artifact.read(f"{p}_members")) for p in ("train", "test")
    )
    assert whole == []
    seen, test = seen.all(), test.all()
    flat = [
        np.concatenate(
            [
                v.reshape(len(v), -1)
                / np.sqrt(seen.x[n].astype(float).reshape(len(seen), -1).var(0).mean())
                / np.sqrt(v[0].size)
                for n, v in part.x.items()
            ],
            axis=1,
        )
        for part in (test, seen)
    ]
    near = np.linalg.norm(flat[0][:, None] - flat[1], axis=2).argmin(axis=1)
    size = np.linalg.norm(test.y["u"].reshape(len(test), -1), axis=1)
    for name, guess in (
        ("nearest", seen.y["u"][near]),
        ("mean", seen.y["u"].astype(float).mean(axis=0)[None]),
    ):
        error = np.linalg.norm((guess - test.y["u"]).reshape(len(test), -1), axis=1) / size
        np.testing.assert_allclose(score.read(f"baseline_{name}"), error, rtol=1e-5)
