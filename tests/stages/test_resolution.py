"""A model on other grids: the errors are those of the predictions there, on the same members."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Invalid, Model, Surrogate, report, run
from sciflow.flow import Session, within
from sciflow.registry import Plugin, registry
from sciflow.stages.design import Design
from sciflow.stages.resolution import Resolution
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow.store import Store
from sciflow.surrogate import Report
from tests.toys import Wave


class Scaled(Model):
    """The last level is a factor times the first, point by point, on grids up to a size."""

    def __init__(self, signature, factor, most, torn):
        self.signature, self.factor, self.most, self.torn = signature, factor, most, torn

    def predict(self, x):
        if x["u[0]"].shape[1] > self.most:
            raise Invalid(f"made for {self.most} points")
        if x["u[0]"].shape[1] == self.torn:
            return {"u[-1]": np.where(x["u[0]"] == x["u[0]"].max(), np.nan, x["u[0]"])}
        return {"u[-1]": (self.factor * x["u[0]"]).astype("f4")}

    def state(self):
        return {"factor": np.array([self.factor])}


@dataclass(frozen=True)
class Factor(Surrogate):
    """Least squares for one factor."""

    name: ClassVar[str] = "toy_factor"
    most: int = 100
    torn: int = 0

    def fit(self, samples, valid, ctx, resume=None):
        batch = next(samples.batches(len(samples), seed=None))
        a, b = batch.x["u[0]"].ravel().astype(float), batch.y["u[-1]"].ravel().astype(float)
        factor = float(a @ b / (a @ a))
        yield Report(1, 1, {"train_loss": 0.0}, lambda: {"factor": np.array([factor])})
        return Scaled(samples.signature, factor, self.most, self.torn)

    def load(self, state, signature):
        return Scaled(signature, float(state["factor"][0]), self.most, self.torn)


@pytest.fixture(autouse=True, scope="module")
def known():
    registry().add(Factor, Plugin("tests", __name__, "tests", "0"))
    yield
    del registry()._classes["surrogate", Factor.name]


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    with within(session):
        yield session


async def made(surrogate, noise=1):
    design = await run(Design(problem=Wave(), count=12))
    grids = {
        n: await run(Simulate(Wave(points=n), seed=1 if n == 8 else noise), design=design)
        for n in (8, 16, 64)
    }
    model = await run(Train(surrogate, ("u[0]",), ("u[-1]",), train=0.5), ensemble=grids[8])
    return grids, model


def test_errors_on_other_grids_are_those_of_the_predictions_there():
    async def flow():
        grids, model = await made(Factor(most=20))
        found = await run(
            Resolution(("fine", "finest"), batch=2),
            model=model,
            ensemble=grids[8],
            fine=grids[16],
            finest=grids[64],
        )
        return grids, model, found, await report("Grids", found)

    grids, artifact, found, page = asyncio.run(flow())
    members = artifact.read("test_members")
    assert found.read("points").tolist() == [8, 16, 64]
    assert found.read("members").tolist() == members.tolist()
    factor = load_model(artifact).factor
    for row, n in enumerate((8, 16)):
        u = grids[n].read("u")[members].astype(float)
        error = np.linalg.norm(factor * u[:, 0] - u[:, -1], axis=1) / np.linalg.norm(u[:, -1], axis=1)
        np.testing.assert_allclose(found.read("relative_l2")[row], error, rtol=1e-5)
        assert found.read("error_mean")[row] == pytest.approx(error.mean(), rel=1e-5)
    mean = found.read("error_mean")
    assert found.read("ratio")[1] == pytest.approx(mean[1] / mean[0])
    assert np.isnan(mean[2])
    assert found.attributes["reasons"] == {"finest": "made for 20 points"}
    assert "made for 20 points" in page.read_text()


def test_a_grid_like_that_of_the_training_has_its_error():
    async def flow():
        grids, model = await made(Factor())
        return await run(Resolution(("again",)), model=model, ensemble=grids[8], again=grids[8])

    assert asyncio.run(flow()).read("ratio").tolist() == [1.0, 1.0]


def test_a_prediction_that_is_not_finite_has_an_infinite_error():
    async def flow():
        grids, model = await made(Factor(torn=16))
        found = await run(Resolution(("fine",), batch=2), model=model, ensemble=grids[8], fine=grids[16])
        return found, await report("Grids", found)

    found, page = asyncio.run(flow())
    errors = found.read("relative_l2")
    assert np.isfinite(errors[0]).all()
    assert np.isinf(errors[1]).any()
    assert not np.isnan(errors).any()
    assert np.isinf(found.read("error_mean")[1])
    assert f"{np.isinf(errors[1]).sum()} of {errors.shape[1]} errors are not finite" in page.read_text()


def test_what_is_refused():
    async def flow(other):
        grids, model = await made(Factor(), noise=2 if other == "noise" else 1)
        ensemble, fine = (grids[16], grids[8]) if other == "training" else (grids[8], grids[16])
        await run(Resolution(("fine",)), model=model, ensemble=ensemble, fine=fine)

    with pytest.raises(Invalid, match="was not trained on"):
        asyncio.run(flow("training"))
    with pytest.raises(Invalid, match="hold different members: their seed differ"):
        asyncio.run(flow("noise"))
    for grids in ((), ("a", "a"), ("model",), ("not a name",)):
        with pytest.raises(Invalid):
            Resolution(grids)
