"""Whatever dies, hangs or lies in an online training: it goes on, or says why it does not."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sciflow import Cancelled, Context, Failed, Resources
from sciflow.artifact import Artifact
from sciflow_online import roles
from sciflow_online.sending import connect
from sciflow_online.steering import Breed
from sciflow_online.trainer import ADDRESS, FINISHED
from sciflow_online.wire import MAGIC, Header, Kind, entries, text, unpack
from sciflow_online.zmq_transport import write_address
from tests.online.runs import Apart, jobs, kill, messages, running, settled_uses, stage, wait_until
from tests.online.toys import Mean, Moody

pytest.importorskip("zmq")
TRAINED = 6 * 4
"""Samples of the training members."""


@pytest.fixture
def apart(tmp_path):
    """Starts trainings that are cancelled at the end of the test, of which then no process is left."""
    made = []

    def start(stage, count=10, **resources):
        made.append(Apart(tmp_path, stage, count, **resources))
        return made[-1]

    yield start
    for one in made:
        one.here.cancel("by the test")
        one.thread.join(60)
    wait_until(lambda: running(tmp_path) == [], f"left behind: {running(tmp_path)}")


# ---- deaths ----


def test_a_solver_killed_in_mid_member_is_replaced_and_nothing_is_lost_or_doubled(apart):
    one = apart(stage(Moody(pause=0.1)))
    wait_until(lambda: one.metrics() >= 1, "no report")
    kill(one.wait_for_job("solver"))
    model = one.end()
    settled_uses(model, TRAINED, 4)
    assert model.attributes["failures"] == {}
    assert model.attributes["online"]["resubmitted"] == 1
    assert any("another one takes its place" in m for m in messages(one.here))
    assert len(jobs(one.root, "solver")) == 0  # published: nothing partial is left


def test_a_trainer_killed_after_some_reports_goes_on_from_its_checkpoint(apart, tmp_path):
    made = stage(Moody(pause=0.03), Mean(crash=str(tmp_path / "crashed")), keep=True)
    one = apart(made)
    model = one.end()
    assert (tmp_path / "crashed").exists()
    settled_uses(model, TRAINED, 4)
    assert any("another one goes on from its checkpoint" in m for m in messages(one.here))
    assert any("training goes on after report 1" in m for m in messages(one.here, "INFO"))
    assert len(model.read("history_draws")) == 4
    assert model.attributes["failures"] == {}
    assert "ensemble" in model.attributes


def test_a_trainer_killed_while_it_writes_the_model_is_followed_by_one_that_writes_it(apart, tmp_path):
    made = stage(surrogate=Mean(end_crash=str(tmp_path / "crashed")))
    model = apart(made).end()
    assert (tmp_path / "crashed").exists()
    settled_uses(model, TRAINED, 4)
    assert len(model.read("history_draws")) == 4


def test_a_steered_training_goes_on_with_the_points_that_were_chosen(apart, tmp_path):
    made = stage(
        Moody(pause=0.03), Mean(crash=str(tmp_path / "crashed")), steering=Breed(initial=2), keep=True
    )
    model = apart(made).end()
    settled_uses(model, TRAINED, 4)
    (ensemble,) = tmp_path.glob("artifacts/ensemble-*")
    assert Artifact.open(ensemble).read("parameters").tobytes() == model.read("points").tobytes()
    # Every value says by which parameters it was computed.
    u = Artifact.open(ensemble).read("u")
    np.testing.assert_allclose(u[:, 0, 0], model.read("points")[:, 0], rtol=1e-6)


def test_a_solver_whose_trainer_never_answers_looks_for_the_next(tmp_path):
    """The address of a trainer that has just died; nothing that was meant for it holds the solver up."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    write_address(tmp_path / ADDRESS, [endpoint], "word", "first")
    solver = threading.Thread(
        target=roles.solver, args=(stage(patience=1.0), tmp_path, None, "g", 1, Context()), daemon=True
    )
    solver.start()
    time.sleep(0.5)
    assert solver.is_alive()
    write_address(tmp_path / ADDRESS, [endpoint], "word", "second")
    time.sleep(1.5)
    (tmp_path / FINISHED).touch()
    solver.join(8)
    assert not solver.is_alive()


DRIVER = """
import sys
import tests.conftest
from tests.online.runs import session, stage, train
from tests.online.toys import Moody
model = train(session(sys.argv[1]), stage(Moody(pause=0.1), keep=True), 10)
print(model.path)
"""


def drive(root, **more):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root)], stdout=subprocess.PIPE, text=True, **more
    )


def test_a_driver_killed_leaves_no_process_and_its_successor_goes_on(tmp_path):
    first = drive(tmp_path)
    wait_until(
        lambda: list(tmp_path.glob("partial/*/scratch/online/checkpoints/*.safetensors")), "no checkpoint"
    )
    mine = running(tmp_path)
    assert len(mine) >= 3
    first.kill()
    first.wait()
    first.stdout.close()
    wait_until(lambda: running(tmp_path) == [], "processes of the run outlive it")
    second = drive(tmp_path)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    model = Artifact.open(said.strip())
    settled_uses(model, TRAINED, 4)
    assert running(tmp_path) == []


# ---- members that go wrong ----

MOODS = {
    "diverge": ("Diverged: residual 1e9 after 50 iterations", 0),
    "raise": ("RuntimeError: a bug in the solver", 1),
    "nan": ("Diverged: field 'u' is not finite at time level 1", 0),
    "shape": ("Invalid: field 'u': 5 values, this run takes 6 a level", 0),
    "kill": ("", 1),
}


@pytest.mark.parametrize("mood", MOODS)
def test_members_that_go_wrong_are_tried_up_to_the_limit_and_left_out(apart, mood):
    words, again = MOODS[mood]
    one = apart(stage(Moody(mood=mood, above=1.6), minimum=0.3, attempts=2))
    model = one.end()
    purposes = stage().purposes(10)
    # Those of the test are not computed.
    failed = set(np.flatnonzero((model.read("points")[:, 0] > 1.6) & (purposes != 2)).tolist())
    given = {int(m): r for m, r in model.attributes["failures"].items()}
    assert set(given) == failed
    assert given, "nothing failed"
    assert all(words in r for r in given.values()), given
    assert model.attributes["online"]["resubmitted"] == again * len(given)
    assert not failed & set(model.read("train_members").tolist())
    # The first level of members that failed later was good, came once, and was learned from.
    fragments = sum(purposes[m] == 0 for m in given)
    assert model.read("uses").sum() == 4 * len(model.read("train_members")) + fragments


def test_a_member_that_fails_once_is_computed_again(apart, tmp_path):
    (tmp_path / "notes").mkdir()
    problem = Moody(mood="raise", above=1.2, once=str(tmp_path / "notes"))
    model = apart(stage(problem, keep=True, minimum=1.0)).end()
    assert model.attributes["failures"] == {}
    assert model.attributes["online"]["resubmitted"] == len(list((tmp_path / "notes").iterdir())) > 0
    settled_uses(model, TRAINED, 4)
    (ensemble,) = tmp_path.glob("artifacts/ensemble-*")
    assert (Artifact.open(ensemble).read("status") == 1).all()


def test_a_solver_that_hangs_is_found_and_ended_and_its_member_left_out(apart):
    one = apart(stage(Moody(mood="hang", above=1.8), patience=0.02, heartbeat=0.2, attempts=1, minimum=0.5))
    model = one.end()
    assert model.attributes["failures"]
    assert all("no new time level came for" in r for r in model.attributes["failures"].values())
    assert any("hangs and is ended" in m for m in messages(one.here))


@pytest.mark.torture  # a stopped process is slow to kill
def test_a_stopped_solver_is_silent_and_lost(apart):
    """SIGSTOP stands for a node that does not answer: no heart beats there."""
    one = apart(stage(Moody(pause=0.08), heartbeat=0.2))
    wait_until(lambda: one.metrics() >= 1, "no report")
    kill(one.wait_for_job("solver"), signal.SIGSTOP)
    model = one.end()
    settled_uses(model, TRAINED, 4)
    assert any("nothing was heard of its solver" in m for m in messages(one.here))
    assert model.attributes["failures"] == {}


@pytest.mark.parametrize(
    ("above", "minimum", "words"),
    [
        (0.0, 0.0, "no validation member succeeded: member .*residual 1e9"),
        (1.3, 0.9, r"members failed, so fewer than the minimum of 90% can succeed"),
    ],
)
def test_too_few_members_end_the_run_with_the_reason(apart, above, minimum, words):
    one = apart(stage(Moody(mood="diverge", above=above), minimum=minimum))
    with pytest.raises(Failed, match=words):
        one.end()


@pytest.mark.mpi
def test_too_few_members_end_trainers_of_several_ranks_too(apart):
    pytest.importorskip("mpi4py")
    made = stage(Moody(mood="diverge", above=1.3), minimum=0.9, trainer=Resources(ranks=2))
    with pytest.raises(Failed, match="fewer than the minimum of 90%"):
        apart(made).end()


# ---- strangers ----


def dealer(endpoint, *frames):
    """Send frames from a new connection; the answer."""
    import zmq

    context = zmq.Context()
    link = context.socket(zmq.DEALER)
    link.set(zmq.LINGER, 0)
    link.connect(endpoint)
    link.send_multipart(frames)
    answer = link.recv_multipart() if link.poll(10_000) else None
    link.close()
    context.term()
    return answer


def reason(answer):
    header = unpack(answer[0])
    assert header.kind == Kind.REFUSED
    return entries(answer[1])["reason"]


def test_strangers_are_refused_by_name_and_the_run_goes_on(apart):
    one = apart(stage(Moody(pause=0.1)))
    said = json.loads(one.address.read_text())
    assert one.address.stat().st_mode & 0o077 == 0
    (endpoint,) = said["endpoints"]
    hello = {"group": "stranger", "client": "python 1"}
    wrong = dealer(endpoint, Header(Kind.HELLO).pack(), text({"token": "guess", **hello}))
    assert "the token is not that of this run" in reason(wrong)
    without = dealer(endpoint, Header(Kind.ASK).pack(), b"")
    assert "say HELLO with the token" in reason(without)
    packed = bytearray(Header(Kind.HELLO).pack())
    packed[4] = 9
    other = dealer(endpoint, bytes(packed), text({"token": said["token"], **hello}))
    assert "protocol version 9, this side speaks version 1" in reason(other)
    for frames in ([b"GET / HTTP/1.1"], [b""], [MAGIC, b"x", b"y"], [b"x" * 64, b"", b"more"]):
        assert "message" in reason(dealer(endpoint, *frames))
    nobody = dealer(
        endpoint, Header(Kind.HELLO, rank=3, ranks=2).pack(), text({"token": said["token"], **hello})
    )
    assert "HELLO needs a group and a rank" in reason(nobody)
    # Bytes that are not even ZeroMQ, and one who says nothing at all.
    host, port = endpoint.removeprefix("tcp://").split(":")
    silent = socket.create_connection((host, int(port)))
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(os.urandom(4096))
    model = one.end()
    silent.close()
    settled_uses(model, TRAINED, 4)
    assert model.attributes["online"]["refused"] >= 8
    said = [m for m in messages(one.here) if m.startswith("refused: ")]
    assert len(said) == model.attributes["online"]["refused"]
    assert any("a message of 14 bytes is shorter" in m for m in said)


def test_a_message_that_is_too_long_is_not_taken_in(apart):
    one = apart(stage(Moody(pause=0.1)))
    (endpoint,) = json.loads(one.address.read_text())["endpoints"]
    import zmq

    context = zmq.Context()
    link = context.socket(zmq.DEALER)
    link.set(zmq.LINGER, 0)
    link.connect(endpoint)
    link.send_multipart([Header(Kind.DATA).pack(), bytes(8 << 20)])
    trainer = one.wait_for_job("trainer")
    time.sleep(0.3)
    with contextlib.suppress(OSError):
        assert int(Path(f"/proc/{trainer}/statm").read_text().split()[1]) * 4096 < 1 << 30
    settled_uses(one.end(), TRAINED, 4)
    link.close()
    context.term()


# ---- come and go ----


def test_another_client_joins_computes_and_leaves_in_the_middle(apart):
    problem = Moody(pause=0.1)
    one = apart(stage(problem, attempts=1))
    client = connect(one.address, patience=20.0)
    mine = []
    for assigned in client.members():
        for i, state in enumerate(problem.solve(assigned.parameters, Context())):
            client.send(state.time, state.fields)
            if len(mine) == 1 and i == 1:
                break
        else:
            client.finish()
            mine.append(assigned.member)
            continue
        client.leave()
        break
    client.close()
    model = one.end()
    assert len(mine) == 1
    settled_uses(model, TRAINED, 4)
    assert model.attributes["failures"] == {}, "who leaves in good order costs no attempt"
    assert model.attributes["online"]["resubmitted"] == 0


def test_cancelling_ends_all_jobs_promptly(apart):
    one = apart(stage(Moody(pause=0.1)))
    wait_until(lambda: one.metrics() >= 1, "no report")
    begin = time.monotonic()
    one.here.cancel("by the test")
    with pytest.raises(Cancelled, match="by the test"):
        one.end(20)
    assert time.monotonic() - begin < 10
    assert running(one.root) == []


# ---- long ----


@pytest.mark.torture
def test_clients_killed_at_random_for_minutes_leave_nothing_behind(apart):
    """Memory, descriptors and processes do not grow; every sample comes once."""
    one = apart(
        stage(Moody(pause=0.2, levels=4), Mean(epochs=40), repeats=4.0, attempts=100, minimum=1.0),
        300,
        parallel=3,
    )
    wait_until(lambda: one.metrics() >= 2, "no report")
    trainer, rng = one.wait_for_job("trainer"), np.random.default_rng(0)
    looks, killed = [], 0
    until = time.monotonic() + 90
    while one.thread.is_alive() and time.monotonic() < until:
        time.sleep(float(rng.uniform(0.2, 1.5)))
        alive = [p for p, _ in jobs(one.root, "solver") if Path(f"/proc/{p}").exists()]
        if alive:
            kill(int(rng.choice(alive)))
            killed += 1
        with contextlib.suppress(OSError):
            rss = int(Path(f"/proc/{trainer}/statm").read_text().split()[1]) * 4096
            looks.append((rss, len(list(Path(f"/proc/{trainer}/fd").iterdir())), len(running(one.root))))
    model = one.end(200)
    assert killed > 40
    settled_uses(model, 180 * 4, 4)
    looks = np.array(looks)
    early, late = looks[3 : len(looks) // 4], looks[-len(looks) // 4 :]
    assert late[:, 0].max() < early[:, 0].max() + (24 << 20), "memory"
    assert late[:, 1].max() <= early[:, 1].max() + 12, "descriptors"
    assert late[:, 2].max() <= 12, "processes"
