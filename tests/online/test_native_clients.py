"""The clients in C and Fortran, compiled here, against a stand-in trainer and numpy."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zmq")

from sciflow_online import client, wire
from sciflow_online.wire import Kind
from tests.online.peer import Field, Peer

EXAMPLES = client.FOLDER / "examples"
STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", client.cflags())
N, LEVELS, INTERVAL = 12, 5, 0.005
MEMBERS = [(1.0, 2.0), (0.3, -1.5), (2.0, 0.25)]


def compiler(name):
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    return name


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Folder of what is compiled, with the object of the C client."""
    folder = tmp_path_factory.mktemp("native")
    (folder / "zmq.c").write_text("#include <zmq.h>\nint main(void) { return !zmq_ctx_new; }\n")
    if run(compiler("cc"), "zmq.c", *client.LIBRARIES, "-o", "zmq", cwd=folder, check=False).returncode:
        pytest.skip("there is no libzmq to compile with (Debian: libzmq3-dev)")
    run("cc", *STRICT, "-fPIC", "-c", client.C_SOURCE, cwd=folder)
    return folder


def run(*command, cwd=None, check=True, **environment):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SCIFLOW_ONLINE_PATIENCE": "20", **environment}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def heat(build):
    run("cc", *STRICT, EXAMPLES / "heat.c", "sciflow_online.o", "-lzmq", "-lm", "-o", "heat", cwd=build)
    return build / "heat"


@pytest.fixture(scope="module")
def heat_mpi(build):
    flags = ("-std=c99", "-O2", "-Wall", "-Werror", client.cflags(), "-DWITH_MPI")
    source = EXAMPLES / "heat.c"
    run(compiler("mpicc"), *flags, source, "sciflow_online.o", "-lzmq", "-lm", "-o", "heat_mpi", cwd=build)
    return build / "heat_mpi"


@pytest.fixture(scope="module")
def heat_fortran(build):
    flags = ("-std=f2003", "-O2", "-Wall", "-Wextra", "-Werror")
    sources = (client.FORTRAN_SOURCE, EXAMPLES / "heat.f90", "sciflow_online.o")
    run(compiler("gfortran"), *flags, *sources, "-lzmq", "-o", "heat_fortran", cwd=build)
    return build / "heat_fortran"


def mpirun(ranks):
    return compiler("mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", ranks


YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1"}


def peer(tmp_path, **kwargs):
    kwargs = {"members": MEMBERS, "fields": [Field("temperature", N * N)], **kwargs}
    return Peer(tmp_path, **kwargs)


def explicit(kappa, amplitude, n=N, levels=LEVELS):
    """The discrete solution of heat.c: the sine is an eigenvector of the five-point stencil."""
    h = 1 / (n + 1)
    steps = int(np.ceil(INTERVAL * kappa / (0.2 * h * h)))
    growth = 1 - 8 * kappa * INTERVAL / steps / h**2 * np.sin(np.pi * h / 2) ** 2
    sine = np.sin(np.pi * h * np.arange(1, n + 1))
    return np.array([amplitude * growth ** (k * steps) * np.outer(sine, sine).ravel() for k in range(levels)])


def implicit(kappa, amplitude, nx, ny, levels):
    """The discrete solution of heat.f90, axes (y, x)."""
    hx, hy = 1 / (nx + 1), 1 / (ny + 1)
    decay = 4 / hx**2 * np.sin(np.pi * hx / 2) ** 2 + 4 / hy**2 * np.sin(np.pi * hy) ** 2
    x, y = np.arange(1, nx + 1) * hx, np.arange(1, ny + 1) * hy
    mode = np.outer(np.sin(2 * np.pi * y), np.sin(np.pi * x)).ravel()
    return np.array([amplitude / (1 + kappa * INTERVAL * decay) ** k * mode for k in range(levels)])


def finished(served):
    return {m.header.member: m.text["status"] for m in served.of_kind(Kind.FINISH)}


# ---- the examples against numpy ----


@pytest.mark.parametrize(("trainers", "spread"), [(1, "level"), (2, "level"), (3, "member")])
def test_every_level_of_the_c_example_arrives_once_and_is_the_discrete_solution(
    heat, tmp_path, trainers, spread
):
    with peer(tmp_path, trainers=trainers, spread=spread) as served:
        run(heat, N, LEVELS, INTERVAL, SCIFLOW_ONLINE=str(served.address))
    found = served.received()
    assert sorted(found) == [0, 1, 2]
    for member, parameters in enumerate(MEMBERS):
        np.testing.assert_allclose(found[member], explicit(*parameters), rtol=0, atol=1e-10)
    assert finished(served) == dict.fromkeys(range(3), "ok")
    assert {m.header.level for m in served.of_kind(Kind.FINISH)} == {LEVELS}
    # After BYE the trainer knows that the solver goes.
    assert served.messages[-1].header.kind == Kind.ASK
    assert served.of_kind(Kind.LEAVE) == []


def test_the_example_in_fortran_sends_the_discrete_solution(heat_fortran, tmp_path):
    with peer(tmp_path, trainers=2, fields=[Field("temperature", 8 * 5)]) as served:
        run(heat_fortran, 8, 5, 4, SCIFLOW_ONLINE=str(served.address))
    found = served.received()
    assert sorted(found) == [0, 1, 2]
    for member, parameters in enumerate(MEMBERS):
        np.testing.assert_allclose(found[member], implicit(*parameters, 8, 5, 4), rtol=0, atol=1e-10)


def test_a_field_in_single_precision_is_the_rounded_one(heat, tmp_path):
    with peer(tmp_path, fields=[Field("temperature", N * N, "float32")]) as served:
        run(heat, N, LEVELS, INTERVAL, SCIFLOW_ONLINE=str(served.address))
    for member, parameters in enumerate(MEMBERS):
        np.testing.assert_allclose(served.received()[member], explicit(*parameters), rtol=2e-7, atol=1e-12)


@pytest.mark.mpi
def test_the_number_of_ranks_does_not_change_what_arrives(heat, heat_mpi, tmp_path):
    with peer(tmp_path) as alone:
        run(heat, N, LEVELS, INTERVAL, SCIFLOW_ONLINE=str(alone.address))
    for ranks in (1, 2, 3):
        with peer(tmp_path, trainers=2) as served:
            where = {"SCIFLOW_ONLINE": str(served.address), **YIELD}
            run(*mpirun(ranks), heat_mpi, N, LEVELS, INTERVAL, **where)
        assert len({m.text["group"] for m in served.of_kind(Kind.HELLO)}) == 1
        assert {(m.header.rank, m.header.ranks) for m in served.messages} == {
            (r, ranks) for r in range(ranks)
        }
        assert len(served.of_kind(Kind.FINISH)) == ranks * len(MEMBERS)
        for member, values in alone.received().items():
            np.testing.assert_array_equal(served.received()[member], values)


def test_two_solvers_alone_are_two_groups_that_share_the_members(heat, tmp_path):
    with peer(tmp_path) as served:
        env = {**os.environ, "SCIFLOW_ONLINE": str(served.address)}
        both = [subprocess.Popen([heat, str(N), str(LEVELS)], env=env) for _ in range(2)]
        assert [p.wait(120) for p in both] == [0, 0]
    assert len(set(served.groups.values())) == 2
    assert sorted(served.received()) == [0, 1, 2]


@pytest.mark.parametrize("name", ["heat.c", "heat.f90"])
def test_an_example_needs_fewer_than_ten_lines(name):
    lines = (EXAMPLES / name).read_text().splitlines()
    marked = [i for i, line in enumerate(lines) if re.search(r"(/\*|!) sciflow \d+", line)]
    assert 4 < len(marked) < 9
    # Nothing that belongs to sciflow is left unmarked, but for what the head says of compiling.
    head = next(i for i, line in enumerate(lines) if line.startswith(("#include", "program")))
    uses = [i for i, line in enumerate(lines) if i > head and re.search(r"sciflow_\w+|online%", line)]
    assert set(uses) <= set(marked)


# ---- faults, seen from outside ----


def test_a_wrong_token_is_refused_by_name_and_the_program_fails(heat, tmp_path):
    with peer(tmp_path, token="another") as served:
        done = run(heat, N, check=False, SCIFLOW_ONLINE=str(served.address))
    assert done.returncode == 1
    assert "the token is not the trainer's" in done.stderr


def test_another_version_is_refused_by_name_and_the_program_fails(build, tmp_path):
    sources = (EXAMPLES / "heat.c", client.C_SOURCE)
    run("cc", *STRICT, "-DSCIFLOW_PROTOCOL=2", *sources, "-lzmq", "-lm", "-o", "heat2", cwd=build)
    # The address file says 1: the client sees it before it connects.
    with peer(tmp_path) as served:
        done = run(build / "heat2", N, check=False, SCIFLOW_ONLINE=str(served.address))
    assert done.returncode == 1
    assert "speaks protocol version 1, this solver was built with version 2" in done.stderr
    # It says 2, but who answers is of version 1: the refusal is read whatever its version.
    with peer(tmp_path, protocol=2) as served:
        done = run(build / "heat2", N, check=False, SCIFLOW_ONLINE=str(served.address))
    assert done.returncode == 1
    assert "protocol version 2, this side speaks version 1" in done.stderr


def test_what_the_user_forgot_is_said(heat, tmp_path):
    done = run(heat, check=False, SCIFLOW_ONLINE="")
    assert done.returncode == 1
    assert "Set SCIFLOW_ONLINE" in done.stderr
    late = {"SCIFLOW_ONLINE": str(tmp_path / "none.json"), "SCIFLOW_ONLINE_PATIENCE": "0.3"}
    done = run(heat, check=False, **late)
    assert "no trainer wrote its address into" in done.stderr
    done = run(heat, check=False, SCIFLOW_ONLINE=str(tmp_path))
    assert f"{tmp_path} is no address file of a trainer" in done.stderr
    (tmp_path / "odd.json").write_text('{"protocol": 1, "endpoints": []}')
    done = run(heat, check=False, SCIFLOW_ONLINE=str(tmp_path / "odd.json"))
    assert "odd.json is no address file" in done.stderr


def test_a_grid_that_is_not_the_problems_fails_the_member_and_the_next_is_tried(heat, tmp_path):
    with peer(tmp_path) as served:
        run(heat, N + 1, LEVELS, INTERVAL, SCIFLOW_ONLINE=str(served.address))
    assert finished(served) == dict.fromkeys(range(3), "failed")
    reasons = {m.text["reason"] for m in served.of_kind(Kind.FINISH)}
    assert len(reasons) == 1
    assert f"field temperature has {N * N} values in a level, but {(N + 1) ** 2}" in reasons.pop()
    assert served.of_kind(Kind.DATA) == []


def test_no_more_than_the_granted_messages_arrive(heat, tmp_path):
    with peer(tmp_path, credits=2, grant=False) as served:
        env = {**os.environ, "SCIFLOW_ONLINE": str(served.address)}
        solver = subprocess.Popen([heat, str(N), str(LEVELS)], env=env)
        served.wait_for(2, Kind.DATA)
        time.sleep(0.5)
        assert len(served.of_kind(Kind.DATA)) == 2
        served.grant = True
        assert solver.wait(120) == 0
    assert sorted(served.received()) == [0, 1, 2]
    assert 0.4 < float(served.of_kind(Kind.FINISH)[0].text["blocked"]) < 20


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_member_that_is_aborted_is_left_by_all_ranks_and_the_next_is_computed(heat_mpi, tmp_path, ranks):
    with peer(tmp_path, abort=(1, 2 * ranks), credits=1) as served:
        run(*mpirun(ranks), heat_mpi, N, 40, INTERVAL, SCIFLOW_ONLINE=str(served.address), **YIELD)
    of = [m.header.member for m in served.of_kind(Kind.DATA)]
    assert 2 * ranks <= of.count(1) < 40 * ranks
    assert of.count(0) == of.count(2) == 40 * ranks
    # Of the aborted attempt nobody says that it went well.
    assert {m.text["status"] for m in served.of_kind(Kind.FINISH) if m.header.member == 1} <= {"failed"}


def test_a_trainer_that_disappears_is_an_error_not_a_hang(heat, tmp_path):
    with peer(tmp_path, dies_after=3, credits=2) as served:
        began = time.monotonic()
        where = {"SCIFLOW_ONLINE": str(served.address), "SCIFLOW_ONLINE_PATIENCE": "1.5"}
        done = run(heat, N, 50, check=False, **where)
        spent = time.monotonic() - began
    assert done.returncode == 1
    assert "said nothing for 1.5 s" in done.stderr
    assert 1.5 < spent < 10


def test_a_trainer_that_is_not_there_is_an_error_not_a_hang(heat, tmp_path):
    with peer(tmp_path) as served:
        pass
    done = run(heat, N, check=False, SCIFLOW_ONLINE=str(served.address), SCIFLOW_ONLINE_PATIENCE="0.3")
    assert done.returncode == 1
    assert "while this solver waited for its welcome" in done.stderr


# ---- the library, call by call ----


class Library:
    """sciflow_online.h through ctypes, in this process."""

    def __init__(self, file):
        self.c = ctypes.CDLL(str(file))
        p, text, i, f, u = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_double,
            ctypes.c_size_t,
        )
        for name, result, *arguments in (
            ("connect", p, text, text, i, i),
            ("next", i, p, p, i),
            ("send", i, p, f, text, p, u, u),
            ("index", i, p, text, p, u, u),
            ("finish", i, p, i, text),
            ("alive", i, p),
            ("close", None, p),
            ("error", text, p),
            ("member", ctypes.c_int64, p),
            ("seed", ctypes.c_uint64, p),
        ):
            call = getattr(self.c, f"sciflow_{name}")
            call.restype, call.argtypes = result, arguments

    def connect(self, served, group=None, rank=0, ranks=1):
        self.client = self.c.sciflow_connect(str(served.address).encode(), group, rank, ranks)
        return self

    def next(self, n=2):
        parameters = np.full(n, np.nan)
        return self.c.sciflow_next(self.client, parameters.ctypes.data, n), parameters

    def send(self, at, name, values, start=0):
        values = np.ascontiguousarray(values, dtype=float)
        return self.c.sciflow_send(
            self.client, at, name.encode(), values.ctypes.data, start, values.size
        )  # fmt: skip

    def index(self, name, positions, start=0):
        positions = np.ascontiguousarray(positions, dtype=np.int64)
        data = positions.ctypes.data
        return self.c.sciflow_index(self.client, name.encode(), data, start, positions.size)

    def finish(self, ok=True, reason=None):
        return self.c.sciflow_finish(self.client, ok, reason)

    def close(self):
        self.c.sciflow_close(self.client)

    @property
    def error(self):
        return self.c.sciflow_error(self.client).decode()


@pytest.fixture(scope="module")
def shared(build):
    run("cc", "-shared", "sciflow_online.o", "-lzmq", "-o", "client.so", cwd=build)
    return build / "client.so"


@pytest.fixture
def library(shared, monkeypatch):
    monkeypatch.setenv("SCIFLOW_ONLINE_PATIENCE", "20")
    return Library(shared)


def test_headers_are_those_of_the_wire_byte_for_byte(library, tmp_path):
    fields = [Field("a", 50), Field("b", 70, "float32")]
    with peer(tmp_path, fields=fields, first=2**40 + 3, attempt=5, members=MEMBERS[:1]) as served:
        library.connect(served, b"g", rank=2, ranks=3)
        assert library.next()[0] == 1
        assert library.send(0.25, "b", np.arange(7.0), 11) == 0
        assert library.send(0.75, "b", np.arange(7.0), 11) == 0
        library.finish()
        library.close()
    wanted = wire.Header(
        Kind.DATA, dtype=2 - 1, field=1, rank=2, ranks=3, member=2**40 + 3, attempt=5, level=1, time=0.75,
        start=11, count=7,
    )  # fmt: skip
    assert served.of_kind(Kind.DATA)[1].raw == wanted.pack()
    np.testing.assert_array_equal(served.of_kind(Kind.DATA)[1].values, np.arange(7, dtype=np.float32))
    for m in served.messages:
        assert m.header.pack() == m.raw


def test_seed_member_and_parameters_are_the_trainers(library, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIFLOW_MEMBER", "7")
    exact = (0.1, 1e-300)
    with peer(tmp_path, first=7, members=[exact], waits=2) as served:
        library.connect(served)
        code, parameters = library.next()
        assert (code, tuple(parameters)) == (1, exact)
        assert library.c.sciflow_member(library.client) == 7
        assert library.c.sciflow_seed(library.client) == 2**63 + 7
        assert library.finish() == 0
        assert library.next()[0] == 0
        assert library.next()[0] == 0
        library.close()
    assert served.of_kind(Kind.HELLO)[0].text["member"] == "7"
    assert [m.header.level for m in served.of_kind(Kind.ASK)] == [0, 0, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_of_values_that_are_not_finite_nothing_is_sent(library, tmp_path, bad):
    with peer(tmp_path) as served:
        library.connect(served)
        library.next()
        assert library.send(0.0, "temperature", np.ones(4)) == 0
        assert library.send(0.5, "temperature", [1.0, bad]) == 2
        assert library.error == "field temperature is not finite at time 0.5"
        assert library.finish(ok=False) == 0
        assert library.next()[0] == 1
        library.finish(ok=False, reason=b"of\nmy own")
        library.close()
    assert len(served.of_kind(Kind.DATA)) == 1
    first, second = served.of_kind(Kind.FINISH)
    assert first.text["reason"] == "field temperature is not finite at time 0.5"
    assert first.header.level == 1
    assert (first.text["final"], second.text["final"]) == ("1", "0")
    assert second.text["reason"] == "of my own"


def test_a_value_too_large_for_single_precision_is_an_error(library, tmp_path):
    with peer(tmp_path, fields=[Field("u", 4, "float32")]) as served:
        library.connect(served)
        library.next()
        assert library.send(1.0, "u", [1e300]) == 2
        assert library.error == "field u is too large for float32 at time 1"
        library.close()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda c: [c.send(0.0, "p", [1.0]), c.finish()][1], "sent field p; this run takes: temperature, v"),
        (lambda c: c.send(0.0, "temperature", [1.0, 2.0], N * N - 1), "but 2 values from number 143"),
        (lambda c: c.send(np.nan, "temperature", [1.0]), "for a time that is not finite"),
        (lambda c: [c.send(t, "temperature", [1.0]) for t in (2.0, 1.0)][1], "for time 1 after 2: send the"),
        (lambda c: c.index("temperature", [N * N]), "position 144 is outside of field temperature"),
        (lambda c: c.index("temperature", [-1]), "position -1 is outside"),
        (lambda c: -2 * c.next()[0], "member 0 is not finished: call sciflow_finish before"),
        (lambda c: c.send(0.0, "v", [1.0]), "field v holds int32; this client sends float32 and float64"),
        (lambda c: [c.finish(), c.finish()][1], "no member is being computed: call sciflow_next before"),
        (lambda c: [c.finish(), c.send(0.0, "temperature", [1.0])][1], "no member is being computed"),
        (lambda c: [c.finish(), -2 * c.next(3)[0]][1], "3 parameters, the problem has 2: kappa, amplitude"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_and_the_client_goes_on(library, tmp_path, call, sentence):
    with peer(tmp_path, fields=[Field("temperature", N * N), Field("v", 3, "int32")]) as served:
        library.connect(served)
        library.next()
        assert call(library) == 2
        assert sentence in library.error
        library.finish(ok=False)
        code, _ = library.next()
        assert (code, library.error) == (1, "")
        library.close()


def test_after_a_dead_connection_every_call_returns_at_once(library, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIFLOW_ONLINE_PATIENCE", "0.2")
    with peer(tmp_path) as served:
        pass
    library.connect(served)
    began = time.monotonic()
    said = library.error
    calls = (library.next()[0], library.send(0.0, "u", [1.0]), library.index("u", [0]), library.finish())
    assert calls == (-1, 2, 2, 2)
    assert library.error == said
    assert "said nothing for 0.2 s" in said
    assert time.monotonic() - began < 0.1
    library.close()


def test_scattered_positions_go_to_each_trainer_before_their_first_values(library, tmp_path):
    fields = [Field("u", 6), Field("k", 6, timed=False)]
    with peer(tmp_path, fields=fields, trainers=2) as served:
        library.connect(served)
        library.index("u", [5, 0, 3], start=0)
        for _ in range(2):
            library.next()
            for level in range(4):
                library.send(level, "u", [1.0, 2.0, 3.0])
            library.finish()
        assert library.index("u", [5, 0, 3]) == 0
        library.next()
        library.send(0.0, "u", np.ones(3))
        library.index("u", [1, 2, 4])
        library.send(1.0, "u", np.ones(3))
        library.finish()
        library.close()
    index = served.of_kind(Kind.INDEX)
    assert [(m.trainer, list(m.values)) for m in index] == [(0, [5, 0, 3]), (1, [5, 0, 3]), (1, [1, 2, 4])]
    for j in range(2):
        kinds = [m.header.kind for m in served.of_kind(Kind.INDEX, Kind.DATA) if m.trainer == j]
        assert kinds[0] == Kind.INDEX


def test_a_field_without_time_goes_to_every_trainer_at_level_0(library, tmp_path):
    with peer(tmp_path, fields=[Field("u", 2), Field("k", 3, "float32", timed=False)], trainers=3) as served:
        library.connect(served)
        library.next()
        library.send(4.0, "k", [1.0, 2.0, 3.0])
        library.send(4.0, "u", [1.0, 2.0])
        library.send(4.0, "u", [], start=2)
        library.send(5.0, "u", [], start=2)
        library.finish()
        library.close()
    data = [(m.trainer, m.header.level) for m in served.of_kind(Kind.DATA) if m.header.field == 1]
    assert sorted(data) == [(0, 0), (1, 0), (2, 0)]
    assert len(served.of_kind(Kind.DATA)) == 4
    assert served.of_kind(Kind.FINISH)[0].header.level == 2


def test_parts_of_a_level_count_as_one_level(library, tmp_path):
    with peer(tmp_path, fields=[Field("u", 5), Field("v", 2)]) as served:
        library.connect(served)
        library.next()
        for at in (0.5, 0.75, 2.0):
            library.send(at, "u", [at, at], 0)
            library.send(at, "v", [at, at])
            library.send(at, "u", [at, at, at], 2)
        library.finish()
        library.close()
    np.testing.assert_array_equal(served.received(0)[0], np.outer([0.5, 0.75, 2.0], np.ones(5)))
    np.testing.assert_array_equal(served.received(1)[0], np.outer([0.5, 0.75, 2.0], np.ones(2)))


def test_a_solver_that_is_slow_gives_signs_of_life(library, tmp_path):
    with peer(tmp_path, heartbeat=0.05) as served:
        library.connect(served)
        library.next()
        for at in range(3):
            time.sleep(0.1)
            assert library.c.sciflow_alive(library.client) == 0
            if at == 0:
                library.send(0.0, "temperature", [1.0])
        library.close()
    alive = served.of_kind(Kind.ALIVE)
    assert [(m.header.member, m.header.level) for m in alive] == [(0, 0), (0, 1), (0, 1)]


def test_signs_of_life_are_given_while_waiting_for_credit(library, tmp_path):
    with peer(tmp_path, heartbeat=0.1, grant=False, credits=1) as served:
        library.connect(served)
        library.next()
        library.send(0.0, "temperature", [1.0])
        waker = threading.Timer(0.8, lambda: setattr(served, "grant", True))
        waker.start()
        assert library.send(1.0, "temperature", [1.0]) == 0
        waker.join()
        library.close()
    assert 3 <= len(served.of_kind(Kind.ALIVE)) <= 9


def test_an_abort_is_seen_by_send_and_finish_sends_nothing_more(library, tmp_path):
    with peer(tmp_path, abort=(0, 1), credits=1) as served:
        library.connect(served)
        library.next()
        assert library.send(0.0, "temperature", [1.0]) == 0
        assert library.send(1.0, "temperature", [1.0]) == 1
        assert library.send(1.0, "temperature", [1.0]) == 1
        assert library.error == "the trainer gave member 0 up: the test says so"
        assert library.finish(ok=False) == 1
        assert library.next()[0] == 1
        assert library.c.sciflow_member(library.client) == 1
        assert library.send(0.0, "temperature", [1.0]) == 0
        assert library.finish() == 0
        library.close()
    assert finished(served) == {0: "failed", 1: "ok"}
    (first, _) = served.of_kind(Kind.FINISH)
    assert first.text["reason"] == "the trainer gave member 0 up: the test says so"
    assert first.text["final"] == "0"


def test_after_an_abort_the_next_member_may_be_asked_for_at_once(library, tmp_path):
    with peer(tmp_path, abort=(0, 1), credits=1) as served:
        library.connect(served)
        library.next()
        library.send(0.0, "temperature", [1.0])
        assert library.send(1.0, "temperature", [1.0]) == 1
        assert library.next()[0] == 1
        assert (library.finish(), library.error) == (0, "")
        library.close()
    assert finished(served) == {0: "failed", 1: "ok"}


def test_what_is_said_of_another_attempt_means_nothing(library, tmp_path):
    with peer(tmp_path, stale=True) as served:
        library.connect(served)
        for _ in MEMBERS:
            assert library.next()[0] == 1
            time.sleep(0.05)
            assert library.send(0.0, "temperature", [1.0]) == 0
            assert library.finish() == 0
        library.close()
    assert finished(served) == dict.fromkeys(range(3), "ok")


def test_finish_waits_until_everything_was_taken(library, tmp_path):
    with peer(tmp_path, grant=False, trainers=2) as served:
        library.connect(served)
        library.next()
        for level in range(2):
            library.send(level, "temperature", [1.0])
        early = []

        def take():
            early.extend(served.of_kind(Kind.FINISH))
            served.grant = True

        waker = threading.Timer(0.3, take)
        waker.start()
        assert library.finish() == 0
        waker.join()
        library.close()
    assert early == []
    assert float(served.of_kind(Kind.FINISH)[0].text["blocked"]) > 0.2


def test_a_failed_member_does_not_wait_for_the_trainer_to_take_its_values(library, tmp_path):
    with peer(tmp_path, grant=False) as served:
        library.connect(served)
        library.next()
        library.send(0.0, "temperature", [1.0])
        assert library.finish(ok=False, reason=b"the flow separates") == 0
        library.close()
    assert [m.text["final"] for m in served.of_kind(Kind.FINISH)] == ["0"]


def test_a_field_that_the_run_does_not_take_is_left_out(library, tmp_path):
    with peer(tmp_path) as served:
        library.connect(served)
        library.next()
        assert library.send(0.0, "temperature", [1.0]) == 0
        assert library.send(0.0, "pressure", np.ones(9)) == 0
        assert library.index("pressure", [10**6]) == 0
        assert library.finish() == 0
        library.close()
    assert [m.header.field for m in served.of_kind(Kind.DATA)] == [0]


def test_of_a_test_member_nothing_is_sent(library, tmp_path):
    with peer(tmp_path, purpose="test") as served:
        library.connect(served)
        library.next()
        assert library.send(0.0, "temperature", [1.0]) == 0
        assert library.finish() == 0
        library.close()
    assert served.of_kind(Kind.DATA) == []
    assert finished(served) == {0: "ok"}


def test_a_solver_may_start_before_its_trainer(heat, tmp_path):
    env = {**os.environ, "SCIFLOW_ONLINE": str(tmp_path / "address.json")}
    solver = subprocess.Popen([heat, str(N), str(LEVELS)], env=env)
    time.sleep(0.3)
    with peer(tmp_path) as served:
        assert solver.wait(120) == 0
    assert sorted(served.received()) == [0, 1, 2]


def test_ranks_that_cannot_name_their_job_are_told_what_to_set(library, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("PMIX", "OMPI", "SLURM", "SCIFLOW")):
            monkeypatch.delenv(name)
    # MPI, started by a test before this one, leaves its own where Python does not see them.
    for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_precondition_transports"):
        os.unsetenv(name)
    with peer(tmp_path) as served:
        library.connect(served, rank=1, ranks=2)
        assert "set SCIFLOW_GROUP" in library.error
        library.close()
        library.connect(served, rank=2, ranks=2)
        assert "rank 2 of 2 ranks does not exist" in library.error
        library.close()
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        monkeypatch.setenv("SLURM_STEP_ID", "3")
        library.connect(served, rank=1, ranks=2).close()
        monkeypatch.setenv("SCIFLOW_GROUP", "mine")
        library.connect(served, rank=1, ranks=2).close()
        library.connect(served, b"yours", rank=1, ranks=2).close()
    groups = [m.text["group"] for m in served.of_kind(Kind.HELLO)]
    assert groups == ["17.3.", "mine", "yours"]


PROBE = """
#include "sciflow_online.h"
#include <stdio.h>
int main(void)
{
    double p[2], u[3] = {1, 2, 3}, zero = 0, bad[1];
    int64_t positions[3] = {2, 0, 1};
    sciflow_client *c = sciflow_connect(NULL, NULL, 0, 1);
    bad[0] = 0 / zero;
    sciflow_close(sciflow_connect("/", NULL, 0, 1));
    sciflow_index(c, "u", positions, 0, 3);
    while (sciflow_next(c, p, 2) == 1) {
        sciflow_send(c, 0, "k", u, 0, 3);
        sciflow_send(c, 0, "u", u, 0, 3);
        sciflow_send(c, 1, "none", u, 0, 3);
        sciflow_send(c, 1, "u", bad, 0, 1);
        if (sciflow_member(c) < 2)
            sciflow_finish(c, 0, NULL);
        else
            break;
    }
    puts(sciflow_error(c));
    sciflow_close(c);
    return 0;
}
"""


def test_nothing_leaks_and_nothing_unset_is_read(build, tmp_path):
    (tmp_path / "probe.c").write_text(PROBE)
    run("cc", *STRICT, "-g", tmp_path / "probe.c", "sciflow_online.o", "-lzmq", "-o", "probe", cwd=build)
    checked = (compiler("valgrind"), "-q", "--leak-check=full", "--error-exitcode=9")
    fields = [Field("u", 3), Field("k", 3, "float32", timed=False)]
    with peer(tmp_path, fields=fields, trainers=2) as served:
        done = run(*checked, build / "probe", SCIFLOW_ONLINE=str(served.address), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "field u is not finite at time 1\n"
    assert len(served.of_kind(Kind.LEAVE)) == 1


def test_the_command_tells_how_to_compile(build, tmp_path):
    ask = (sys.executable, "-m", "sciflow_online.client")
    flags = run(*ask, "--cflags", "--sources", "--libs").stdout.split()
    run("cc", "-std=c99", EXAMPLES / "heat.c", *flags, "-lm", "-o", tmp_path / "heat")
    lines = run(*ask).stdout.splitlines()
    assert Path(lines[0]) == client.FOLDER
    for line, example in zip(lines[1:], ("heat.c", "heat.c", "heat.f90"), strict=True):
        compiler(line.split()[0])
        compiler("gfortran")
        shutil.copy(EXAMPLES / example, tmp_path / f"solver{Path(example).suffix}")
        run("sh", "-c", line, cwd=tmp_path)


def test_the_header_is_one_for_cpp_as_well(tmp_path):
    (tmp_path / "a.cpp").write_text(
        '#include "sciflow_online.h"\nint main() { return sciflow_close == 0; }\n'
    )
    run(compiler("g++"), "-Wall", "-Wextra", client.cflags(), "-c", "a.cpp", cwd=tmp_path)
