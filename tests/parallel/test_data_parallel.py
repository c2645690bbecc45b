"""Training on several ranks is training on one with all their samples; the same tests on one rank."""

import hashlib
import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
from sciflow import Cancelled, Context, Field, Signature
from sciflow.context import SerialComm, exchange
from sciflow.samples import Batch, Samples
from sciflow.worker import communicator
from sciflow_operators.components import FNO, MLP, MPPDE
from sciflow_operators.fields.channels import Layout, scales

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
POINTS = 16
CONFIGS = {
    "fno": FNO(width=4, modes=4, layers=2, learning_rate=1e-3),
    "mlp": MLP(width=8, layers=2),
    "mp_pde": MPPDE(width=4, layers=2, learning_rate=1e-3),
}


class Dealt(Samples):
    """Every `ranks`-th sample of each batch of a whole, from `rank` on; what is fed back is kept."""

    def __init__(self, count, rank, ranks, seed=0):
        self.rank, self.ranks = rank, ranks
        rng = np.random.default_rng(seed)
        self.u = np.cumsum(rng.standard_normal((count, POINTS)), axis=1).astype("float32")
        self.v = (self.u + 0.3 * np.roll(self.u, 1, axis=1)).astype("float32")
        field = Field(("x",), "K")
        self.signature = Signature({"u": field}, {"u": field}, {"x": np.arange(POINTS) / POINTS}, ("x",))
        self.told = []

    def __len__(self):
        return (len(self.u) + self.ranks - 1) // self.ranks

    def batches(self, size, *, seed, epoch=0):
        whole = size * self.ranks
        order = np.random.default_rng([seed or 0, epoch]).permutation(len(self.u))
        for i in range(0, len(self.u), whole):
            pick = order[i : i + whole][self.rank :: self.ranks]
            yield Batch({"u": self.u[pick]}, {"u": self.v[pick]})

    def feedback(self, losses):
        self.told.append(losses.copy())


def fit(config, comm, count=44, resume=None, stop=0):
    samples, valid = (Dealt(n, comm.rank, comm.size, seed=n) for n in (count, 9))
    reports, kept = [], None
    run = config.fit(samples, valid, Context(seed=3, comm=comm), resume)
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            return end.value, reports, samples, kept
        reports.append(report)
        if report.epoch == stop:
            kept = {k: np.array(v) for k, v in report.checkpoint().items()}


def digests(model):
    """Of every rank's weights."""
    text = b"".join(v.tobytes() for _, v in sorted(model.state().items()))
    return set(exchange(COMM, hashlib.sha256(text).hexdigest()))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_ranks_together_train_as_one_would_with_whole_batches(name):
    # 44 samples in batches of 8: the last one has 4.
    config = CONFIGS[name].replace(epochs=3, batch=8 * SIZE, threads=1, device="cpu")
    together, reports, _, _ = fit(config, COMM)
    alone, others, _, _ = fit(config, SerialComm())
    assert len(digests(together)) == 1, "the same bits on every rank"
    for key, values in alone.state().items():
        np.testing.assert_allclose(together.state()[key], values, rtol=2e-3, atol=2e-5, err_msg=key)
    for one, other in zip(reports, others, strict=True):
        for metric in ("train_loss", "valid_error", "learning_rate"):
            assert one.metrics[metric] == pytest.approx(other.metrics[metric], rel=1e-3), metric


def test_scales_are_those_of_all_samples():
    mine, whole = Dealt(44, RANK, SIZE), Dealt(44, 0, 1)
    layout = Layout.of(mine.signature, increments=True)
    for one, other in zip(scales(mine, layout, COMM), scales(whole, layout, SerialComm()), strict=True):
        for kind in ("mean", "spread", "size"):
            np.testing.assert_allclose(getattr(one, kind), getattr(other, kind), rtol=1e-6)


def test_each_rank_is_told_the_losses_of_its_own_samples():
    config = CONFIGS["mlp"].replace(epochs=2, batch=8 * SIZE, threads=1, device="cpu")
    _, reports, samples, _ = fit(config, COMM)
    sizes = [len(b) for e in range(2) for b in samples.batches(8, seed=3, epoch=e)]
    assert [t.shape for t in samples.told] == [(n,) for n in sizes]
    assert all(t.dtype.kind == "f" for t in samples.told)
    steps = len(samples.told) // 2
    for epoch, report in enumerate(reports):
        told = np.concatenate(samples.told[epoch * steps : (epoch + 1) * steps])
        sums = [float(s) for s in exchange(COMM, repr(float(told.sum(dtype=np.float64))))]
        assert sum(sums) / 44 == pytest.approx(report.metrics["train_loss"], rel=1e-5)


def test_a_rank_without_samples_waits_for_the_others():
    """With one sample in the last batch all ranks but one have an empty one."""
    config = CONFIGS["mp_pde"].replace(epochs=2, batch=8 * SIZE, threads=1, device="cpu")
    model, reports, samples, _ = fit(config, COMM, count=8 * SIZE + 1)
    assert len(samples.told[-1]) == (1 if RANK == 0 else 0)
    assert len(digests(model)) == 1
    assert np.isfinite(reports[-1].metrics["train_loss"])


def test_going_on_from_a_checkpoint_gives_the_same_bits_on_every_rank():
    config = CONFIGS["fno"].replace(epochs=4, batch=8 * SIZE, threads=1, device="cpu")
    whole, _, _, kept = fit(config, COMM, stop=2)
    resumed, later, _, _ = fit(config, COMM, resume=kept)
    assert [r.epoch for r in later] == [3, 4]
    assert digests(whole) == digests(resumed)


def test_going_on_amid_an_epoch_gives_the_same_bits_and_curves_on_every_rank():
    class Again(Dealt):
        resumable = True

        def batches(self, size, *, seed, epoch=0, start=0):
            return itertools.islice(super().batches(size, seed=seed, epoch=epoch), start, None)

    config = CONFIGS["mlp"].replace(epochs=3, batch=8 * SIZE, report_every=1, threads=1, device="cpu")

    def follow(resume=None):
        samples, valid = (Again(n, RANK, SIZE, seed=n) for n in (70, 9))
        run, found = config.fit(samples, valid, Context(seed=3, comm=COMM), resume), []
        while True:
            try:
                report = next(run)
            except StopIteration as end:
                return end.value, found
            kept = {k: np.array(v) for k, v in report.checkpoint().items()}
            found.append((report.epoch, report.batches, report.metrics["train_loss"], kept))

    whole, reports = follow()
    for i, (_, batches, _, kept) in enumerate(reports):
        if batches:
            resumed, later = follow(kept)
            assert digests(resumed) == digests(whole)
            assert [r[:3] for r in later] == [r[:3] for r in reports[i + 1 :]]


def test_a_rank_that_is_told_to_stop_stops_all():
    config = CONFIGS["mlp"].replace(epochs=3, batch=8 * SIZE, threads=1, device="cpu")
    ctx = Context(seed=3, comm=COMM)
    run = config.fit(Dealt(44, RANK, SIZE), Dealt(9, RANK, SIZE), ctx)
    next(run)
    if RANK == SIZE - 1:
        ctx.stopping.set()
        ctx.cancelled.set()
    with pytest.raises(Cancelled):
        next(run)
