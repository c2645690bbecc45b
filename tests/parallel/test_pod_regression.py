"""POD with regression on several ranks is that of one with all their samples."""

import hashlib

import numpy as np
import pytest

from sciflow import Context, Field, Signature
from sciflow.context import SerialComm, exchange
from sciflow.samples import Batch, Samples
from sciflow.worker import communicator
from sciflow_rom.clusters.clusterers import KMedoids
from sciflow_rom.regress.pod_regression import PODRegression
from sciflow_rom.regress.regressors import GaussianProcess
from sciflow_rom.regress.selectors import ErrorRegression

COMM = communicator()
X = np.linspace(0, 1, 20)
SIGNATURE = Signature({"a": Field((), "m", "float64")}, {"u": Field(("x",), "K")}, {"x": X})


class Dealt(Samples):
    """A run of consecutive samples for each rank; the last rank may have fewer."""

    signature = SIGNATURE

    def __init__(self, count, comm):
        mine = np.array_split(np.linspace(0.1, 3, count), comm.size)[comm.rank]
        self.a, self.u = mine, np.sin(np.outer(mine, X)).astype("float32")
        self.length = -(-count // comm.size)

    def __len__(self):
        return self.length

    def batches(self, size, *, seed, epoch=0):
        for i in range(0, self.length, size):
            yield Batch({"a": self.a[i : i + size]}, {"u": self.u[i : i + size]})


def fit(config, comm):
    run = config.fit(Dealt(23, comm), Dealt(5, comm), Context(seed=3, comm=comm))
    report = next(run)
    try:
        next(run)
    except StopIteration as end:
        return end.value, report
    raise AssertionError("it is fitted in one go")


@pytest.mark.parametrize(
    "config",
    [
        PODRegression(),
        PODRegression(
            clusterer=KMedoids(2), selector=ErrorRegression(GaussianProcess(shared=True)), scaling="none"
        ),
    ],
    ids=["one", "clusters"],
)
def test_the_ranks_together_fit_what_one_would(config):
    together, report = fit(config, COMM)
    alone, other = fit(config, SerialComm())
    text = b"".join(v.tobytes() for _, v in sorted(together.state().items()))
    assert len(set(exchange(COMM, hashlib.sha256(text).hexdigest()))) == 1, "the same bits on every rank"
    a = {"a": np.linspace(0.2, 2.9, 40)}
    np.testing.assert_allclose(together.predict(a)["u"], alone.predict(a)["u"], atol=1e-5)
    assert report.metrics == pytest.approx(dict(other.metrics), rel=1e-2, abs=1e-6)
