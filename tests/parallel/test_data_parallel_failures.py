"""What happens to one rank of a training happens to all of them, in time; the same tests on one rank."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Context, Diverged, Failed, Invalid
from sciflow.context import exchange
from sciflow_operators.components import FNO
from sciflow_operators.training.fitted import Fitted
from tests.parallel.test_data_parallel import COMM, RANK, SIZE, Dealt, digests

CONFIG = FNO(width=4, modes=4, layers=2, epochs=3, batch=8 * SIZE, threads=1, device="cpu")


class Bad(Dealt):
    """Samples of which the last rank's are not finite, from an epoch on."""

    since = 0
    resumable = True

    def batches(self, size, *, seed, epoch=0, start=0):
        for number, batch in enumerate(super().batches(size, seed=seed, epoch=epoch)):
            if self.rank == self.ranks - 1 and epoch >= self.since and (seed is not None or not self.since):
                batch.y["u"][1, 3] = np.nan
            if number >= start:
                yield batch


class Good(Bad):
    """All samples are finite."""

    since = 10**9


def learn(config, samples, resume=None):
    """All reports with their checkpoints, and the model."""
    reports = []
    fit = config.fit(samples, Dealt(9, RANK, SIZE), Context(seed=3, comm=COMM), resume)
    while True:
        try:
            report = next(fit)
        except StopIteration as end:
            return reports, end.value
        reports.append((report, report.checkpoint()))


@pytest.mark.parametrize("since", [0, 1])
def test_all_ranks_end_when_one_has_samples_that_are_not_finite(since):
    samples = Bad(44, RANK, SIZE)
    samples.since = since
    with pytest.raises((Invalid, Failed), match=r"output 'u' of sample 1 of a batch is nan, point x 3"):
        learn(CONFIG, samples)
    assert len(set(exchange(COMM, "here"))) == 1, "the ranks still understand each other"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_ranks_end_when_one_has_too_little_memory(monkeypatch, accumulate):
    real, calls = Fitted.objective, []

    def objective(self, x, y, draw, progress):
        calls.append(len(x))
        if SIZE - 1 == RANK and len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, x, y, draw, progress)

    monkeypatch.setattr(Fitted, "objective", objective)
    half = f"batch={4 * SIZE} with accumulate={2 * accumulate}"
    with pytest.raises(Failed, match=half):
        learn(CONFIG.replace(accumulate=accumulate), Good(44, RANK, SIZE))
    assert len(set(exchange(COMM, "here"))) == 1


def test_all_ranks_end_when_the_loss_is_not_finite():
    with pytest.raises(Diverged, match="try a smaller learning_rate"):
        learn(CONFIG.replace(learning_rate=1e30, clip=0.0), Good(44, RANK, SIZE))


def test_from_amid_an_epoch_all_ranks_go_on_to_the_same_bits():
    config = CONFIG.replace(report_every=1, accumulate=2, ema=0.9, noise=0.01)
    reports, whole = learn(config, Good(44 * SIZE, RANK, SIZE))
    assert [(r.epoch, r.batches) for r, _ in reports[:4]] == [(0, 2), (0, 4), (1, 0), (1, 2)]
    for report, checkpoint in reports[1:5:2]:
        assert report.batches
        _, resumed = learn(config, Good(44 * SIZE, RANK, SIZE), checkpoint)
        assert digests(whole) == digests(resumed)
    one = dict(reports[1][1])
    one["about"] = np.frombuffer(bytes(one["about"]).replace(b'"ranks": ', b'"ranks": 7'), dtype=np.uint8)
    with pytest.raises(Invalid, match=f"ranks is 7{SIZE} in the checkpoint and {SIZE} here"):
        learn(config, Good(44 * SIZE, RANK, SIZE), one)


def test_accumulated_batches_of_several_ranks_are_large_ones():
    large, small = (
        learn(CONFIG.replace(batch=n * SIZE, accumulate=a), Good(44, RANK, SIZE))[1]
        for n, a in ((8, 1), (4, 2))
    )
    assert len(digests(small)) == 1
    if SIZE == 1:  # else the samples of a batch are dealt differently
        for key, values in large.state().items():
            np.testing.assert_allclose(small.state()[key], values, rtol=2e-3, atol=2e-5, err_msg=key)
