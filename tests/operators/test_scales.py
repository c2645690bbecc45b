"""Means and spreads in one pass: as exact as the samples are stored, also where the mean is large."""

import numpy as np
import pytest

from sciflow.samples import Batch, Samples, Signature
from sciflow.schema import Field

torch = pytest.importorskip("torch")

from sciflow.context import SerialComm
from sciflow_operators.fields.channels import Layout, scales


class Given(Samples):
    """Two fields on a line, a few samples at a time."""

    def __init__(self, u, v):
        self.u, self.v = u, v
        x = {"x": np.linspace(0, 1, u.shape[1])}
        self.signature = Signature({"u": Field(("x",), "1")}, {"v": Field(("x",), "1")}, x)

    def __len__(self):
        return len(self.u)

    def batches(self, size, *, seed, epoch=0, start=0):
        for i in range(0, len(self.u), 7):
            yield Batch({"u": self.u[i : i + 7]}, {"v": self.v[i : i + 7]})


@pytest.mark.parametrize("mean", [0.0, 1.0, -1e3, 1e4, 3e5])
@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e6])
def test_a_large_mean_costs_the_spread_no_digits(mean, spread):
    rng = np.random.default_rng(1)
    u, v = ((spread * (mean + rng.standard_normal((300, 40)))).astype("f4") for _ in range(2))
    samples = Given(u, v)
    x, y = scales(samples, Layout.of(samples.signature), SerialComm())
    for scale, values in ((x, u), (y, v)):
        exact = values.astype(np.longdouble)
        assert scale.mean.item() == pytest.approx(float(exact.mean()), rel=1e-6, abs=1e-6 * spread)
        assert scale.spread.item() == pytest.approx(float(exact.std()), rel=1e-4)


def test_a_constant_that_single_precision_rounds_is_a_constant():
    samples = Given(np.full((50, 8), 1013.25, "f4"), np.full((50, 8), 0.1, "f4"))
    x, y = scales(samples, Layout.of(samples.signature), SerialComm())
    assert x.spread.item() == 1.0
    assert y.spread.item() == 0.0
