import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Field, Invalid, Signature
from sciflow_operators.components import FNO
from sciflow_operators.fields.port import Port
from sciflow_operators.wrappers.conditioned import Conditioned
from sciflow_operators.wrappers.conditioned_net import DepthWise
from tests.operators.test_training import Memory, fit

INNER = FNO(width=8, modes=8, layers=2)
SMALL = Conditioned(
    inner=INNER,
    features=4,
    hidden=16,
    modes=8,
    epochs=10,
    batch=16,
    learning_rate=1e-2,
    threads=1,
    device="cpu",
)


def advection(count, seed=0, speeds=(0.02, 0.2), n=32):
    """u(x - c): a shift by a speed that is a parameter."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(*speeds, count)
    k = np.arange(1, 6)
    z = (rng.standard_normal((count, 5)) + 1j * rng.standard_normal((count, 5))) / k
    x = np.arange(n) / n

    def waves(shift):
        phase = np.exp(2j * np.pi * k * (x[:, None] - shift[:, None, None]))
        return np.real((phase * z[:, None]).sum(-1)).astype("float32")

    signature = Signature(
        {"u": Field(("x",), "1"), "c": Field((), "m/s")}, {"u": Field(("x",), "1")}, {"x": x}, ("x",)
    )
    return Memory({"u": waves(0 * c), "c": c.astype("float32")}, {"u": waves(c)}, signature)


def error(model, test):
    apart = np.linalg.norm(model.predict(test.x)["u"] - test.y["u"], axis=1)
    return float(np.median(apart / np.linalg.norm(test.y["u"], axis=1)))


@pytest.mark.parametrize("periodic", [(True,), (False,), (True, False)])
def test_the_depth_wise_convolution_is_its_sum(periodic):
    torch.manual_seed(0)
    layer = DepthWise(2, 3, 3, periodic).double()
    x = torch.randn(1, *(5, 4)[: len(periodic)], 2, dtype=torch.float64)
    found = layer(x)
    weight, bias = layer.convolution.weight, layer.convolution.bias
    for place in np.ndindex(*x.shape[1:-1]):
        for out in range(6):
            total = bias[out].clone()
            for offset in np.ndindex(*weight.shape[2:]):
                at = [p + o - 1 for p, o in zip(place, offset, strict=True)]
                at = [
                    a % n if p else min(max(a, 0), n - 1)
                    for a, n, p in zip(at, x.shape[1:-1], periodic, strict=True)
                ]
                total = total + weight[(out, 0, *offset)] * x[(0, *at, out // 3)]
            assert found[(0, *place, out)].item() == pytest.approx(total.item(), rel=1e-9, abs=1e-12)


def test_the_parameters_decide_through_the_masks_alone():
    torch.manual_seed(0)
    port = Port((0,), (1,), 1, (16,), (True,), ("u", "c"))
    net = SMALL.module(port)
    x = torch.randn(2, 16, 2)
    x[..., 1] = 0.3
    other = x.clone()
    other[..., 1] = -0.9
    apart = (net(x) - net(other)).abs().amax(dim=(0, 1))
    assert (apart > 1e-4).all(), "prediction and rough prediction"
    with torch.no_grad():
        net.masks[-1].weight.zero_()
    torch.testing.assert_close(net(x)[..., 1], net(other)[..., 1])
    masks = torch.sigmoid(net.masks(torch.randn(100, 1)))
    assert ((masks > 0) & (masks < 1)).all()


def test_the_rough_prediction_is_pulled_to_the_truth():
    samples = advection(40)
    model, _, _ = fit(SMALL.replace(epochs=1), samples)
    x = torch.from_numpy(model.layout.stack(samples.x, model.layout.inputs))
    y = torch.from_numpy(samples.y["u"])[..., None]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses, predicted = model.step(x, y, draw, 0.0)
        torch.testing.assert_close(predicted, model.apply(x))
        model.config = model.config.replace(pull=0.0)
        torch.testing.assert_close(
            model.objective(x, y, draw, 0.0), model.config.loss(predicted, y, x, model.target)
        )
        assert (losses > model.objective(x, y, draw, 0.0)).all()
    pulled, left = (fit(SMALL.replace(pull=p, epochs=20), samples)[0] for p in (1.0, 0.0))
    rough = []
    for fitted in (pulled, left):
        fitted.apply = lambda v, fitted=fitted: fitted.both(v)[1]
        rough.append(error(fitted, samples))
    assert rough[0] < 0.75 * rough[1]


def test_parameters_that_were_not_seen_are_predicted():
    model, _, _ = fit(SMALL.replace(epochs=30), advection(200))
    assert error(model, advection(50, seed=9)) < 0.1


def test_modes_that_the_training_grid_does_not_carry_are_not_made():
    """Their weights would stay random, and a finer grid would meet them."""
    torch.manual_seed(0)
    net = SMALL.replace(modes=32).module(Port((0,), (), 1, (8,), (True,), ("u",)))
    short = torch.cos(2 * torch.pi * 6 * torch.arange(32) / 32)[None, :, None]
    with torch.no_grad():
        found = net.spectral(short, torch.zeros(1, 32, net.spectral.channels_out))
    assert found.abs().max() < 1e-5
    plane = SMALL.replace(modes=6).module(Port((0,), (), 1, (8, 4), (True, True), ("u",)))
    assert plane.spectral.modes == (6, 4)


def test_bad_configurations_are_refused():
    with pytest.raises(Invalid, match="kernel must be odd"):
        SMALL.replace(kernel=4)
    with pytest.raises(Invalid, match="pull cannot be negative"):
        SMALL.replace(pull=-1.0)
    with pytest.raises(Invalid, match="needs an input that is a field, there are c"):
        SMALL.module(Port((), (0,), 1, (8,), (True,), ("c",)))
