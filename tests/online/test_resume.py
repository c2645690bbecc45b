"""A trainer that is killed goes on; in a fixed order to the bit, whoever was quicker."""

import contextlib
import random
import threading
import time

import numpy as np
import pytest

from sciflow import Context, Resources
from sciflow_online.components import OnlineTrain
from sciflow_online.reservoirs import FIFO, FIRO, Reservoir
from sciflow_online.sending import Gone
from sciflow_online.solver import Solver
from sciflow_online.trainer import Trainer
from tests.online.memory import MemoryLink, MemoryServer
from tests.online.parts import client
from tests.toys import Wave

pytest.importorskip("torch")
from sciflow_operators.components import FNO

POINTS = np.column_stack([np.linspace(0.6, 1.7, 14), np.linspace(0.01, 0.9, 14)])


class Hasty(Wave):
    """The toy with pauses that differ from run to run."""

    def solve(self, mu, ctx):
        for state in super().solve(mu, ctx):
            time.sleep(random.random() * 0.004)
            yield state


def stage(order="fixed", policy=None, **more):
    return OnlineTrain(
        Hasty(), FNO(width=4, modes=4, layers=2, epochs=6, batch=4, threads=1, device="cpu"),
        ("a", "b", "q", "time"), ("u",), window=(0, 1), train=0.7, valid=0.15,
        reservoir=policy or Reservoir(capacity=12, threshold=4), order=order, lanes=2,
        checkpoint_seconds=0.0, trainer=Resources(ranks=1), **more,
    )  # fmt: skip


class Killed(Exception):
    """What stands for SIGKILL."""


def solvers(server, count):
    """Threads that compute members until the trainer is gone."""

    def solve(name):
        with contextlib.suppress(Gone, RuntimeError):
            Solver(Hasty(), client(MemoryLink(server), name, patience=5.0), None, Context()).run()

    threads = [threading.Thread(target=solve, args=(f"g{i}",), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads


def train(made, folder, kill_after=0, late=0.0):
    """Weights of a training; or `Killed` after some reports, with its checkpoints in the folder."""
    server = MemoryServer()
    one = Trainer(made, POINTS, server, [], folder, Context(seed=made.seed), "word")
    if kill_after:

        def metric(step, **values):
            if step > kill_after:
                raise Killed

        one._ctx.metric = metric
    threads = solvers(server, 2)
    try:
        model = one.run()
    finally:
        one.dismiss()
        for thread in threads:
            thread.join(10)
    return one, {k: np.array(v) for k, v in model.state().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_in_a_fixed_order_speed_does_not_matter_and_a_killed_training_ends_with_the_same_bits(tmp_path):
    made = stage()
    first, weights = train(made, tmp_path / "a")
    _, again = train(made, tmp_path / "b")
    assert same(weights, again), "other pauses, other bits"
    for kill in (1, 3, 5):
        folder = tmp_path / f"killed{kill}"
        with pytest.raises(Killed):
            train(made, folder, kill_after=kill)
        resumed, after = train(made, folder)
        assert same(weights, after), f"killed after report {kill}, other bits"
        assert resumed.reception.tally.samples == first.reception.tally.samples
    _, other = train(stage(seed=1), tmp_path / "c")
    assert not same(weights, other), "the test cannot tell trainings apart"


@pytest.mark.parametrize("policy", [Reservoir(capacity=12, threshold=4), FIFO(capacity=8), FIRO(capacity=8)])
def test_in_order_of_arrival_every_sample_is_learned_from_as_often_as_it_must(tmp_path, policy):
    """Also over a kill: what was learned from before the checkpoint is not learned from again."""
    made = stage("arrival", policy)
    with pytest.raises(Killed):
        train(made, tmp_path, kill_after=2)
    one, _ = train(made, tmp_path)
    uses = one._buffer.uses_histogram()
    total = 10 * 3
    assert uses.sum() == total, "every sample came once"
    assert one.reception.intake.known[one.reception.plan.purposes == 0].all()
    drawn = int((uses * np.arange(len(uses))).sum())
    if policy.reuse:
        assert drawn == total * 6
        assert uses[0] == 0, "a sample was never drawn"
    else:
        assert drawn == total
        assert uses[1] == total, "a sample was not used exactly once"
