"""Programs in any language as full-order models: stored, streamed, and all the ways in which they end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sciflow import (
    Context,
    Diverged,
    Failed,
    Field,
    Invalid,
    Missing,
    Parameter,
    Resources,
    SciflowError,
    run,
)
from sciflow.executors.mpi import Mpi
from sciflow.flow import within
from sciflow.registry import registry
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow_online.components import Program
from tests.online.runs import running, session, settled_uses, stage, train, wait_until
from tests.online.test_native_clients import INTERVAL, LEVELS, N, build, explicit, heat

pytest.importorskip("zmq")
assert build, "fixtures of the module that compiles the clients"
assert heat

MU = {"kappa": 0.5, "amplitude": 1.5}
SPACE = {"kappa": Parameter(0.3, 1.0, "m2 s-1"), "amplitude": Parameter(1.0, 2.0, "K")}


def program(*command, **more):
    line = (1 / (N + 1), N / (N + 1), N)
    return Program(
        command=tuple(map(str, command)), space=SPACE,
        axes={"time": (0.0, (LEVELS - 1) * INTERVAL, LEVELS), "y": line, "x": line},
        sends={"temperature": Field(("time", "y", "x"), "K", "float64")}, **{"patience": 0.5, **more},
    )  # fmt: skip


def script(text, **more):
    """A program in Python; the client is at hand."""
    head = "import sys, time\nfrom sciflow_online.sending import connect\nimport numpy as np\n"
    return program(sys.executable, "-c", head + text, **more)


def states(problem, tmp_path, mu=MU):
    return list(problem.solve(mu, Context(scratch=tmp_path / "scratch")))


def test_the_c_example_yields_the_discrete_solution(heat, tmp_path):
    found = states(program(heat, N, LEVELS, INTERVAL), tmp_path)
    assert [s.time for s in found] == pytest.approx([i * INTERVAL for i in range(LEVELS)])
    for state, exact in zip(found, explicit(**MU), strict=True):
        np.testing.assert_allclose(state.fields["temperature"].ravel(), exact, atol=1e-10)
    assert list((tmp_path / "scratch").iterdir()) == [], "nothing is left"


def test_the_order_of_the_parameters_survives_a_file(tmp_path):
    """A program is given numbers without names; JSON with sorted keys must not mix them up."""
    made = program("heat")
    said = json.loads(json.dumps(made.to_json(), sort_keys=True))
    again = registry().build(said, kind="problem")
    assert list(again.parameters) == list(made.parameters) == ["kappa", "amplitude"]
    other = made.replace(order=("amplitude", "kappa"))
    assert other.to_json() != made.to_json()
    assert list(other.parameters) == ["amplitude", "kappa"]


def test_the_c_example_is_stored_and_streamed_alike(heat, tmp_path):
    problem, here = program(heat, N, LEVELS, INTERVAL), session(tmp_path)
    made = stage(problem, inputs_of=("kappa", "amplitude", "time"), outputs_of=("temperature",), keep=True)
    model = train(here, made, 10)
    settled_uses(model, 6 * LEVELS, 4)

    async def flow(store):
        points = await run(Design(problem=problem, count=10))
        return await run(Simulate(problem), design=points, resources=Resources(parallel=1))

    with within(here):
        kept = asyncio.run(flow(here))
    assert here.records[-1].state == "cached"
    with within(session(tmp_path / "apart")):
        apart = asyncio.run(flow(None))
    assert kept.digest == apart.digest
    points = kept.read("parameters")
    for member in (0, 9):
        np.testing.assert_allclose(
            kept.read("temperature")[member].reshape(LEVELS, -1), explicit(*points[member]), atol=1e-10
        )
    assert running(tmp_path) == []


WORK = """
client = connect()
for member in client.members():
    for level in range(5):
        u = np.full((12, 12), float(level))
        if level == 2: GO_WRONG
        client.send(level * 0.005, {"temperature": u})
    client.finish()
client.close()
"""


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("print('no input file', flush=True); sys.exit(3)", Failed, "code 3 after 2 of 5 .*said: .*no input"),
        ("import os; os.abort()", Failed, r"was ended by signal 6 after \d of 5"),
        ("client.finish('residual 1e9'); sys.exit(1)", Diverged, "residual 1e9"),
        ("u[3] = np.nan", Failed, "'temperature' is not finite"),
        ("break", Diverged, "stopped after 2 of 5 time levels"),
        ("sys.exit(0)", Failed, "ended with code 0 after 2 of 5"),
        ("u = u[:5]", Failed, "60 values, this run takes 144"),
    ],
)  # fmt: skip
def test_a_program_that_goes_wrong_says_how(tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        states(script(WORK.replace("GO_WRONG", text)), tmp_path)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_program_that_works_in_other_words_is_fine(tmp_path):
    found = states(script(WORK.replace("GO_WRONG", "pass")), tmp_path)
    assert [float(s.fields["temperature"][0, 0]) for s in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("where", ["time.sleep(100)", None])
def test_a_program_that_hangs_is_given_up(tmp_path, where):
    """In the middle, or before it ever says a word."""
    text = WORK.replace("GO_WRONG", where) if where else "time.sleep(100)"
    begin = time.monotonic()
    with pytest.raises((Failed, Diverged), match="no new time level came for 1.8 s"):
        states(script(text, patience=0.03), tmp_path)
    assert time.monotonic() - begin < 20
    assert running("time.sleep(100)") == []


def test_what_is_not_there_cannot_be_started(tmp_path):
    with pytest.raises(Missing, match="'./no-such-thing' cannot be started: there is no such program"):
        states(program("./no-such-thing"), tmp_path)


def test_a_program_lives_in_its_directory(tmp_path):
    (tmp_path / "go").write_text(f"#!{sys.executable}\nimport os, sys\nsys.exit(os.getcwd())\n")
    (tmp_path / "go").chmod(0o755)
    with pytest.raises(Failed, match=f"it said: {tmp_path}"):
        states(program("./go", directory=str(tmp_path)), tmp_path)


def test_a_program_brings_its_own_ranks(tmp_path):
    class Two:
        rank, size = 0, 2

    with pytest.raises(Invalid, match="a program brings its own ranks: ask for ranks=1"):
        list(program("heat").solve(MU, Context(comm=Two())))


def test_a_program_ends_with_the_worker_that_is_killed(tmp_path):
    here = session(tmp_path)
    problem = script("time.sleep(1000)  # of " + str(tmp_path))

    async def flow():
        points = await run(Design(problem=problem, count=2))
        return await run(Simulate(problem), design=points, resources=Resources(parallel=1), executor=Mpi())

    def work():
        with within(here), contextlib.suppress(SciflowError):
            asyncio.run(flow())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    mark = "time.sleep(1000)  # of " + str(tmp_path)
    (pid, *_) = wait_until(lambda: running(mark), "the program did not start")
    parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: pid not in running(mark), "the program outlives its worker", 10)
    here.cancel("by the test")
    thread.join(30)
    wait_until(lambda: running(mark) == [], "the program outlives the run", 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": ()}, "needs a command"),
        ({"space": {}}, "at least one parameter"),
        ({"sends": {}}, "sends at least one field"),
        ({"sends": {"u": Field(("time", "z"), "K")}}, "field 'u' has the axis 'z'"),
        (
            {"axes": {"time": (1.0, 0.0, 3), "x": (0, 1, 2), "y": (0, 1, 2)}},
            "axis 'time' runs from 1.0 to 0.0",
        ),
        ({"patience": 0.0}, "patience must be positive"),
        ({"order": ("kappa",)}, "order names kappa, the parameters are kappa, amplitude"),
    ],
)
def test_programs_that_make_no_sense_are_refused(change, words):
    with pytest.raises(Invalid, match=words):
        program("heat").replace(**change)
