"""A training that is killed, wherever that is, ends with the bits of one that was not."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Context, Diverged
from sciflow.flow import Session, run, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Checkpoints, Train
from sciflow.store import Store
from sciflow_operators.components import MLP, Pushforward, RollOut, Squared
from tests.operators.test_training import SMALL, Memory, smoothing
from tests.operators.test_training_unroll import marching
from tests.toys import March

CONFIG = SMALL.replace(epochs=4, batch=4, report_every=1)
EVERYTHING = CONFIG.replace(noise=0.02, ema=0.9, keep="best", accumulate=2, loss=Squared(), schedule="step")


def follow(config, samples, valid, resume=None, keep=True):
    """All reports with their checkpoints, and the model."""
    reports, found = [], config.fit(samples, valid, Context(seed=1), resume)
    while True:
        try:
            report = next(found)
        except StopIteration as end:
            return reports, end.value
        reports.append((report, report.checkpoint() if keep else None))


def curve(reports):
    return [{**r.metrics, "samples_per_second": 0} for r, _ in reports if not r.batches]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG, id="plain"),
        pytest.param(EVERYTHING, id="everything"),
        pytest.param(CONFIG.replace(unroll=Pushforward(steps=2, ramp=0.5), ema=0.8), id="pushforward"),
        pytest.param(CONFIG.replace(unroll=RollOut(steps=3, by="probability"), keep="best"), id="roll_out"),
        pytest.param(CONFIG.replace(precision="bfloat16", keep="best", patience=1), id="bfloat16"),
    ],
)
def test_from_every_update_training_goes_on_to_the_same_bits(config):
    samples, valid = marching(count=18) if config.horizon > 1 else (smoothing(18), smoothing(6, seed=3))
    reports, whole = follow(config, samples, valid)
    often = [(r.epoch, r.batches) for r, _ in reports]
    step = config.accumulate
    expected = [(e + (b == 0), b) for e in range(4) for b in (*range(step, 5, step), 0)]
    assert often == expected[: len(often)]
    assert len(often) == len(expected) or config.patience
    for report, checkpoint in reports[:: 3 if len(reports) < 15 else 4]:
        assert all(v.dtype.kind in "fiub" for v in checkpoint.values())
        later, resumed = follow(config, samples, valid, checkpoint, keep=False)
        assert curve(later) == curve(reports)[report.epoch :]
        for name, values in whole.state().items():
            assert values.tobytes() == resumed.state()[name].tobytes(), (name, report.epoch, report.batches)


def test_how_often_is_reported_and_kept_changes_no_number():
    one, other = (
        follow(c, smoothing(18), smoothing(6), keep=k)
        for c, k in ((CONFIG, True), (CONFIG.replace(report_every=0), False))
    )
    assert curve(one[0]) == curve(other[0])
    for name, values in one[1].state().items():
        assert values.tobytes() == other[1].state()[name].tobytes()


def test_samples_that_cannot_begin_amid_an_epoch_are_not_interrupted():
    class Live(Memory):
        resumable = False

    memory = smoothing(18)
    reports, _ = follow(CONFIG, Live(memory.x, memory.y, memory.signature), memory)
    assert [(r.epoch, r.batches) for r, _ in reports] == [(e, 0) for e in (1, 2, 3, 4)]


def start(folder, config, pause=0.0):
    command = [
        sys.executable,
        "-m",
        "tests.operators.killed",
        str(folder),
        json.dumps(config.to_json()),
        str(pause),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(folder, config):
    """Digest of the weights and curves of a training that comes to its end."""
    process = start(folder, config)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return text.split("weights ")[1].strip()


def test_a_training_that_is_killed_amid_an_epoch_ends_with_the_same_bits(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = start(tmp_path / "whole", EVERYTHING)
    process = start(tmp_path / "killed", EVERYTHING, pause=0.1)
    for line in process.stdout:
        if line.split() == ["1", "4"]:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    history, resume = Checkpoints(tmp_path / "killed").latest()
    assert len(history) == 1
    assert int(resume["course.batches"]) == 4
    text, _ = whole.communicate(timeout=200)
    assert finish(tmp_path / "killed", EVERYTHING) == text.split("weights ")[1].strip()


@pytest.mark.torture
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    rng, kills = random.Random(0), 0
    (tmp_path / "whole").mkdir()
    config = EVERYTHING.replace(epochs=12)
    whole = finish(tmp_path / "whole", config)
    for number in range(50):
        folder = tmp_path / f"killed{number}"
        folder.mkdir()
        while True:
            process = start(folder, config, pause=0.02)
            # At any moment: before the first update, while a checkpoint is written, in the last epoch.
            time.sleep(rng.uniform(1.0, 5.0))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            kills += 1
        process.stdout.close()
        assert finish(folder, config) == whole
        if kills >= 25:
            break
    assert kills >= 25


class Killed(Exception):
    """What stands for SIGKILL."""


def test_the_stage_keeps_updates_by_time_and_goes_on_from_them(tmp_path, monkeypatch):
    surrogate = MLP(width=8, layers=2, epochs=4, batch=4, report_every=1, threads=1, device="cpu")
    train = Train(surrogate, ("u",), ("u",), window=(1, 1), checkpoint_seconds=0.0)
    kill_at, saved, real = {"killed": 6}, [], Checkpoints.save

    def save(self, history, state, batches=0):
        real(self, history, state, batches)
        saved.append((len(history), batches))
        if len(saved) == kill_at.get(name):
            raise Killed

    async def flow():
        data = await run(Simulate(March(), seed=1), design=await run(Design(problem=March(), count=12)))
        return await run(train, ensemble=data)

    monkeypatch.setattr(Checkpoints, "save", save)
    weights = []
    for name in ("whole", "killed"):
        with within(Session(Store(tmp_path / name))):
            if name in kill_at:
                saved.clear()
                with pytest.raises(Killed):
                    asyncio.run(flow())
                assert saved[-1][1] > 0, "not amid an epoch"
            model = asyncio.run(flow())
            weights.append(model.file("model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert len(saved) == len({*saved}), "an update that was kept was made again"
    often = {"checkpoint_every": 7, "checkpoint_seconds": 1.0}
    assert train.identity() == train.replace(**often).identity()


def test_a_kill_amid_writing_costs_no_later_checkpoint(tmp_path):
    """What is half-written has a name that sorts behind that of the whole file."""
    kept, state = Checkpoints(tmp_path), {"weight": np.arange(3.0)}
    kept.save([{"loss": 1.0}], state)
    torn = tmp_path / "checkpoint-000002-00000000.safetensors.17-0123abcd.partial"
    for history, batches in (([{"loss": 1.0}], 3), ([{"loss": 1.0}, {"loss": 0.5}], 0)):
        torn.write_bytes(b"half")
        kept.save(history, {"weight": state["weight"] + batches}, batches)
        found, resume = kept.latest()
        assert found == history
        np.testing.assert_array_equal(resume["weight"], state["weight"] + batches)
        assert len(list(tmp_path.iterdir())) == 1


def test_a_training_that_diverges_leaves_the_last_good_checkpoint(tmp_path):
    kept, good = Checkpoints(tmp_path), smoothing(18)

    class Wild(Memory):
        def batches(self, size, *, seed, epoch=0, start=0):
            for batch in super().batches(size, seed=seed, epoch=epoch, start=start):
                if epoch == 2 and seed is not None:
                    batch.y["v"][:] = 1e38
                yield batch

    def learn():
        history = []
        for report in CONFIG.fit(Wild(good.x, good.y, good.signature), good, Context(seed=1)):
            if not report.batches:
                history.append(dict(report.metrics))
                kept.save(history, report.checkpoint())

    with pytest.raises(Diverged, match="in epoch 3 .after .*The last good one is epoch 2"):
        learn()
    history, resume = kept.latest()
    assert len(history) == 2
    assert all(np.isfinite(v).all() for k, v in resume.items() if not k.startswith("course"))
    later, _ = follow(CONFIG, good, good, resume)
    assert [r.epoch for r, _ in later if not r.batches] == [3, 4]
