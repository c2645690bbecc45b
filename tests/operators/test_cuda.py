"""On a GPU where there is one: the same operator, the same training, the same resumption."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

from sciflow_operators.fourier.decompose import factorise
from sciflow_operators.fourier.layers import FNONet
from tests.operators.test_training import SMALL, fit, smoothing


@pytest.mark.parametrize(("points", "modes"), [((64,), (16,)), ((32, 24), (12, 8))])
def test_forward_and_gradients_agree_with_the_cpu(points, modes):
    torch.manual_seed(0)
    net = FNONet(2, 3, 8, modes, 3, (True,) * len(points), 0.0).double()
    x = torch.randn(4, *points, 2, dtype=torch.float64)
    here = net(x)
    grads = torch.autograd.grad(here.square().sum(), list(net.parameters()))
    net = net.cuda()
    there = net(x.cuda())
    others = torch.autograd.grad(there.square().sum(), list(net.parameters()))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-10)
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", ["tucker", "cp", "tt"])
def test_weights_on_a_gpu_are_factorised_there(kind):
    torch.manual_seed(0)
    net = FNONet(1, 1, 4, (4, 4), 1, (True, True)).cuda()
    x = torch.randn(1, 8, 8, 1, device="cuda")
    made = factorise(net, kind, 1.0)
    assert {p.device.type for p in made.parameters()} == {"cuda"}
    assert made(x).shape == x.shape


def test_training_on_a_gpu_learns_and_resumes_to_the_same_bits():
    config = SMALL.replace(device="cuda", epochs=20, learning_rate=1e-2)
    whole, reports, checkpoint = fit(config, smoothing(100), stop=8)
    assert reports[-1].metrics["train_loss"] < 0.3 * reports[0].metrics["train_loss"]
    resumed, _, _ = fit(config, smoothing(100), resume=checkpoint)
    for name, values in whole.state().items():
        np.testing.assert_allclose(resumed.state()[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    x = smoothing(5, seed=7).x
    cpu = SMALL.load(whole.state(), whole.signature).predict(x)["v"]
    np.testing.assert_allclose(whole.predict(x)["v"], cpu, rtol=1e-3, atol=1e-4)


def test_the_spectral_problems_run_on_the_gpu():
    from sciflow import Context
    from sciflow_spectral.components import Burgers

    mu = {"viscosity": np.full(4, 0.1), "member": np.arange(4)}
    here, there = (
        [s.fields["u"] for s in problem.solve_batch(mu, Context(seed=1))]
        for problem in (Burgers(), Burgers(backend="torch", device="cuda"))
    )
    np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-10)
