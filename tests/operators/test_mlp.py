import numpy as np
import pytest

pytest.importorskip("torch")
from sciflow import Field, Invalid, Signature
from sciflow_operators.components import MLP, RelativeL2, Squared
from sciflow_operators.fields.channels import Flat
from tests.operators.test_training import Memory, fit

SMALL = MLP(width=32, layers=2, epochs=150, batch=8, learning_rate=1e-2, threads=1, device="cpu")
AXES = {"time": np.arange(2.0), "y": np.arange(4.0), "x": np.arange(5.0)}


def affine(count, seed=0):
    """T(t, y, x) = 300 + a f + b g + mean(q) h for fixed f, g, h of one draw."""
    basis = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    rng = np.random.default_rng([1, seed])
    a, b, q = rng.random(count), rng.random(count), rng.random((count, 4, 5))
    weights = np.stack([a, b, q.mean(axis=(1, 2))], axis=1)
    fields = {"a": Field((), "1"), "b": Field((), "1"), "q": Field(("y", "x"), "W")}
    signature = Signature(fields, {"T": Field(("time", "y", "x"), "K")}, AXES)
    x = {"a": a.astype("float32"), "b": b.astype("float32"), "q": q.astype("float32")}
    return Memory(x, {"T": (300 + np.tensordot(weights, basis, 1)).astype("float32")}, signature)


def test_an_affine_map_is_learned():
    model, reports, _ = fit(SMALL, affine(100))
    test = affine(50, seed=7)
    assert model.predict(test.x)["T"].shape == (50, 2, 4, 5)
    apart = model.predict(test.x)["T"] - test.y["T"]
    spread = test.y["T"] - affine(100).y["T"].mean(axis=0)
    # 300 K are the mean; what counts is the error beside what varies.
    assert np.linalg.norm(apart) < 0.1 * np.linalg.norm(spread)
    assert reports[-1].metrics["train_loss"] < 0.1 * reports[0].metrics["train_loss"]


@pytest.mark.parametrize("loss", [RelativeL2(), Squared()], ids=lambda loss: loss.name)
def test_a_few_samples_are_learned_by_heart(loss):
    samples = affine(4)
    model, _, _ = fit(SMALL.replace(epochs=400, batch=4, loss=loss), samples)
    assert np.abs(model.predict(samples.x)["T"] - samples.y["T"]).max() < 0.05


@pytest.mark.parametrize(
    "axes", [(), ("x",), ("y", "x"), ("z", "y", "x"), ("dof",), ("time", "dof"), ("time",)]
)
def test_fields_of_any_shape_come_back_as_they_were(axes):
    sizes = {"x": 2, "y": 3, "z": 4, "dof": 7, "time": 5}
    fields = {"v": Field(axes, "1"), "w": Field((), "K")}
    coordinates = {a: np.arange(float(n)) for a, n in sizes.items()}
    layout = Flat.of(Signature({"b": Field((), "1")}, fields, coordinates))
    shape = tuple(sizes[a] for a in axes)
    rng = np.random.default_rng(0)
    values = {"v": rng.random((6, *shape), dtype="float32"), "w": rng.random(6, dtype="float32")}
    stacked = layout.stack(values, layout.outputs)
    assert stacked.shape == (6, int(np.prod(shape)) + 1)
    for name, back in layout.unstack(stacked).items():
        np.testing.assert_array_equal(back, values[name])


def test_a_field_has_one_scale_and_its_unit_does_not_matter():
    model, _, _ = fit(SMALL.replace(epochs=1), affine(20))
    state = model.state()
    assert len(set(state["output.spread"].tolist())) == 1
    values = affine(20).y["T"].astype("float64")
    assert state["output.mean"][0] == pytest.approx(values.mean(), rel=1e-6)
    assert state["output.spread"][0] == pytest.approx(values.std(), rel=1e-3)
    assert state["output.size"][0] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-6)
    thousand = affine(20)
    thousand.y["T"] *= 1000
    other, _, _ = fit(SMALL.replace(epochs=1, loss=Squared()), thousand)
    same, _, _ = fit(SMALL.replace(epochs=1, loss=Squared()), affine(20))
    x = affine(5, seed=3).x
    np.testing.assert_allclose(other.predict(x)["T"], 1000 * same.predict(x)["T"], rtol=1e-5)


def test_what_does_not_fit_is_refused_by_name():
    model, _, _ = fit(SMALL.replace(epochs=1), affine(8))
    x = affine(3).x
    with pytest.raises(Invalid, match="'q' is missing; there is: a, b"):
        model.predict({"a": x["a"], "b": x["b"]})
    with pytest.raises(Invalid, match=r"'q' has shape \(3, 8, 10\); the model takes \(batch, 4, 5\)"):
        model.predict({**x, "q": np.zeros((3, 8, 10))})
    with pytest.raises(Invalid, match="different numbers of samples"):
        model.predict({**x, "a": np.zeros(2)})
    with pytest.raises(Invalid, match="these arrays are not of this mlp"):
        SMALL.replace(width=16).load(model.state(), model.signature)


def test_the_work_of_an_answer_is_that_of_its_matrix_products():
    model, _, _ = fit(SMALL.replace(epochs=1), affine(8))
    x = {name: values[:1] for name, values in affine(3).x.items()}
    shapes = [v.shape for k, v in model.state().items() if k.startswith("net.") and k.endswith("weight")]
    size = model.size(x)
    assert size.operations == sum(2 * a * b for a, b in shapes)
    assert size.parameters == sum(a * b + a for a, b in shapes)
