"""What a Prefect server missed is delivered later, once and in order, whatever is killed in between."""

import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from datetime import UTC, datetime

import pytest

from sciflow.errors import Failed
from sciflow.flow import Session
from sciflow.server import engine, outbox
from sciflow.server.outbox import Outbox, Progress, lines, undelivered

FLOW = """
import asyncio, time
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from prefect import flow
from sciflow import Failed, Field, Schema, Stage, report, run

NUMBER = Schema("number", {"n": Field((), "1", "int64")})

@dataclass(frozen=True)
class Talk(Stage):
    name: ClassVar[str] = "talk"
    output: ClassVar[Schema] = NUMBER
    n: int = 1
    count: int = 7
    pause: float = 0.0
    fail: bool = False

    def run(self, inputs, out, ctx):
        for i in range(self.count):
            ctx.log.info("the same words")
            ctx.log.warning("line %d of %d", i, self.n)
            ctx.progress(i + 1, self.count, "lines", {"spoken": f"{i + 1} words"})
            ctx.metric(i, loss=1 / (i + 1))
            time.sleep(self.pause)
        if self.fail:
            raise Failed("the stage went wrong")
        out.write("n", np.array(self.n), NUMBER["n"])

@dataclass(frozen=True)
class Sum(Stage):
    name: ClassVar[str] = "sum"
    inputs: ClassVar[dict] = {"a": NUMBER, "b": NUMBER}
    output: ClassVar[Schema] = NUMBER

    def run(self, inputs, out, ctx):
        ctx.log.info("adding")
        out.write("n", inputs["a"].read("n") + inputs["b"].read("n"), NUMBER["n"])

@flow(name="two-talks")
async def talks(count: int = 7, pause: float = 0.0, fail: bool = False):
    a, b = await asyncio.gather(run(Talk(1, count, pause)), run(Talk(2, count, pause, fail)))
    c = await run(Sum(), a=a, b=b)
    return await report("Talks", c)
"""
NOBODY = "http://127.0.0.1:9/api"
KILLER = """
import os, signal, sys, time
from pathlib import Path
from sciflow.server import delivery
from sciflow.server.outbox import Progress
import prefect.client.orchestration, httpx, sciflow.reporting

run, delivery.SETTLE, delivery.BATCH = Path(sys.argv[1]), 0.3, 5
ask = delivery.Server.ask

def killed_at(number, after):
    count = [0]
    def mortal(self, method, path, body=None):
        count[0] += 1
        if count[0] == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = ask(self, method, path, body)
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    delivery.Server.ask = mortal
    delivery.deliver(run)

def attempt(work, delay=None):
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

points = [(1, 0), (2, 1), (3, 1), (4, 1), (5, 0), (4, 1), (3, 1), (4, 1)]
kills = sum(attempt(lambda n=n, a=a: killed_at(n, a)) for n, a in points)
for delay in (0.35, 0.38, 0.41, 0.45, 0.5, 0.55):
    kills += attempt(lambda: delivery.deliver(run), delay)
print(kills, Progress.read(run).done)
"""


def digests(store):
    found = (store / "artifacts").iterdir()
    return {p.name: json.loads((p / "meta/manifest.json").read_text())["digest"] for p in found}


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


class Place:
    """A directory with the flow, and a server that can be started and stopped."""

    def __init__(self, folder, home):
        self.folder, self.home = folder, home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        self.env |= {"SCIFLOW_HOME": str(home)}
        folder.mkdir(exist_ok=True)
        (folder / "talk_flow.py").write_text(FLOW)

    def popen(self, *arguments, **env):
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=self.env | env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def sciflow(self, *arguments, **env):
        process = self.popen("-m", "sciflow.cli", *arguments, **env)
        out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def server(self, what):
        code = f"from sciflow.server import engine as p; print(p.{what}())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pid(self):
        return json.loads((self.home / "server.json").read_text())["pid"]

    def api(self, path, body):
        url = json.loads((self.home / "server.json").read_text())["url"]
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/api/{path}", json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def told(self, run):
        """All that the server knows of the run in a directory."""
        about = next(lines(run)).event
        everyone = self.api("flow_runs/filter", {})
        mine = {about["run"], about.get("flow_run_id", "")}
        (flow_run,) = [r for r in everyone if {r["id"], r["idempotency_key"]} & mine]
        one = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
        logs = self.api("logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}})
        return {
            "flow_run": flow_run,
            "tasks": sorted(self.api("task_runs/filter", one), key=lambda t: t["name"]),
            "logs": [log for log in logs if log["name"].startswith("sciflow.")],
            "artifacts": self.api("artifacts/filter", one),
        }


@pytest.fixture
def started():
    """Processes that end with the test, however that ends."""
    found = []
    yield found
    for process in found:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place whose server is up; it is stopped at the end."""
    pytest.importorskip("prefect")
    made = Place(tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("home"))
    made.server("ensure_server")
    yield made
    made.server("stop_server")


@pytest.fixture
def apart(place, tmp_path):
    """A directory of its own with the server of the module."""
    return Place(tmp_path / "apart", place.home)


def only_run(place, store="sciflow-store"):
    (run,) = (place.folder / store / "runs").iterdir()
    return run


def check_talks(told, run, count=7, exact=True):
    """Every event is there once, in order, with its time."""
    written = [line.event for line in lines(run)]
    mine = [e for e in written if e["event"] == "log"]
    assert len(mine) == 4 * count + 1
    assert [log["message"] for log in told["logs"]] == [e["message"] for e in mine]
    assert [seconds(log["timestamp"]) for log in told["logs"]] == [e["time"] for e in mine]
    names = {t["id"]: t["name"].split("-")[0] for t in told["tasks"]}
    assert [names[log["task_run_id"]] for log in told["logs"]] == [e["stage"] for e in mine]
    assert sorted(names.values()) == ["sum", "talk", "talk"]
    assert {t["state"]["type"] for t in told["tasks"]} == {"COMPLETED"}
    assert told["flow_run"]["state"]["type"] == "COMPLETED"
    begins, ends = ([e for e in written if e["event"] == k] for k in ("begin", "end"))
    if exact:
        assert sorted(seconds(t["start_time"]) for t in told["tasks"]) == [e["time"] for e in begins]
        assert sorted(seconds(t["end_time"]) for t in told["tasks"]) == [e["time"] for e in ends]
    (last,) = (t for t in told["tasks"] if names[t["id"]] == "sum")
    arrows = {i["id"] for found in last["task_inputs"].values() for i in found if "id" in i}
    assert arrows == {t["id"] for t in told["tasks"]} - {last["id"]}
    keys = Counter(a["key"] for a in told["artifacts"])
    assert keys == {"talk-progress": 2, "talk-curves": 2, "talk-metrics": 2, "report": 1}
    for artifact in told["artifacts"]:
        if artifact["key"] == "talk-progress":
            assert artifact["data"] == 100
            assert f"| spoken | {count} words |" in artifact["description"]
        if artifact["key"] == "talk-metrics":
            assert [row["step"] for row in json.loads(artifact["data"])] == list(range(count))


# Without a server.


class Stub:
    """Takes whatever is asked of a server and keeps it."""

    def __init__(self):
        self.asked = []

    def ask(self, method, path, body=None):
        self.asked.append((method, path, body))
        return {"id": f"made-{len(self.asked)}", "flow_run_id": None}

    def all(self, path, body):
        return []


def test_the_curves_of_a_running_stage_are_one_page_that_changes(tmp_path, monkeypatch):
    from sciflow.server import delivery

    monkeypatch.setattr(delivery, "REDRAWN", 0.0)
    box = Outbox(tmp_path)
    box.begin("f", {}, time.time(), flow_run_id="run")
    box.add({"event": "begin", "task": "a", "stage": "train", "name": "train", "task_run_id": "t"})
    server = Stub()
    sender = delivery.Delivery(tmp_path, server, live=True)
    for step in range(1, 5):
        box.add({"event": "metric", "task": "a", "step": step, "values": {"loss": 1 / step}})
        box.add({"event": "progress", "task": "a", "done": 9, "total": 9, "what": "epochs"})
        sender.go()
    made = [(m, p, b) for m, p, b in server.asked if "learning curves" in str((b or {}).get("data"))]
    assert [b["key"] for m, _, b in made if m == "POST"] == ["train-live"]
    changed = [b["description"] for m, _, b in made if m == "PATCH"]
    assert changed == ["After 3 reports", "After 4 reports"]


def test_lines_are_numbered_and_no_two_have_the_same_time(tmp_path):
    box = Outbox(tmp_path / "run")
    box.begin("f", {}, 0.0)
    for i in range(1000):
        box.add({"event": "log", "message": str(i), "n": -1, "time": 0.0})
    found = [line.event for line in lines(tmp_path / "run")]
    assert [e["n"] for e in found] == list(range(1001))
    times = [round(e["time"] * 1e6) for e in found]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert abs(times[-1] / 1e6 - time.time()) < 10


def test_progress_that_comes_fast_is_one_line_and_the_newest_is_there_before_what_follows(tmp_path):
    box = Outbox(tmp_path)
    for i in range(100):
        box.add({"event": "progress", "task": "a", "done": i, "total": 1000})
        box.add({"event": "progress", "task": "b", "done": i, "total": 99})
    box.add({"event": "end", "task": "a"})
    box.add({"event": "end", "task": "b"})
    found = [line.event for line in lines(tmp_path)]
    for task, last in (("a", 99), ("b", 99)):
        mine = [e for e in found if e["task"] == task]
        assert len(mine) < 50
        assert [e.get("done") for e in mine[-2:]] == [last, None]


def test_a_torn_last_line_is_left_out_and_read_once_it_is_whole(tmp_path):
    box = Outbox(tmp_path)
    box.begin("f", {}, 0.0)
    box.close()
    whole = (tmp_path / "outbox.jsonl").read_bytes()
    (tmp_path / "outbox.jsonl").write_bytes(whole + b'{"event": "lo')
    (first,) = lines(tmp_path)
    assert first.end == len(whole)
    (tmp_path / "outbox.jsonl").write_bytes(whole + b'{"event": "log"}\n')
    assert [line.event["event"] for line in lines(tmp_path, first.end)] == ["log"]


def test_a_full_disk_ends_nothing_and_loses_nothing(tmp_path, monkeypatch):
    box = Outbox(tmp_path)
    box.begin("f", {}, 0.0)
    write, room = os.write, [30]

    def full(file, data):
        if room[0] is None:
            return write(file, data)
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        took, room[0] = min(room[0], len(data)), 0
        return write(file, data[:took])

    monkeypatch.setattr(outbox.os, "write", full)
    for i in range(5):
        box.add({"event": "log", "message": str(i)})
    assert (tmp_path / "outbox.jsonl").read_bytes().endswith(b"\n")
    room[0] = None
    box.add({"event": "log", "message": "5"})
    assert [line.event.get("message") for line in lines(tmp_path)] == [None, "0", "1", "2", "3", "4", "5"]


def test_a_run_is_alive_while_its_process_has_the_outbox_open(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from sciflow.server.outbox import Outbox;"
        "b = Outbox(Path(sys.argv[1])); b.begin('f', {}, 0.0); print('there', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "there\n"
        assert outbox.alive(tmp_path)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not outbox.alive(tmp_path)


def test_one_deliverer_at_a_time(tmp_path):
    with outbox.claimed(tmp_path) as first, outbox.claimed(tmp_path) as second:
        assert (first, second) == (True, False)
    with outbox.claimed(tmp_path) as again:
        assert again


def test_runs_that_are_delivered_are_not_looked_at_again(tmp_path):
    for name in ("a", "b"):
        Outbox(tmp_path / "runs" / name).begin("f", {}, 0.0)
    assert [p.name for p in undelivered(tmp_path)] == ["a", "b"]
    Progress(10, done=True).write(tmp_path / "runs" / "a")
    assert [p.name for p in undelivered(tmp_path)] == ["b"]


def test_a_session_without_an_outbox_writes_none(store):
    Session(store, "f").close()
    assert undelivered(store.root) == []


def test_a_server_that_accepts_but_does_not_answer_is_given_up_in_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/api"
        begin = time.monotonic()
        assert not engine.reachable(url)
        assert time.monotonic() - begin < engine.REACH + 1
        monkeypatch.setenv("PREFECT_API_URL", url)
        with pytest.raises(Failed, match="does not answer"):
            engine.ensure_server()


def test_the_server_of_the_active_profile_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILE", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert not engine.configured()
    profiles = (
        '[profiles.a]\nPREFECT_API_URL = "http://a/api"\n[profiles.b]\nPREFECT_API_URL = "http://b/api"\n'
    )
    (tmp_path / "profiles.toml").write_text(f'active = "b"\n{profiles}')
    assert engine.configured_url() == "http://b/api"
    monkeypatch.setenv("PREFECT_PROFILE", "a")
    assert engine.configured_url() == "http://a/api"


def test_writing_an_outbox_loads_nothing_heavy():
    code = (
        "import sys, sciflow.server.outbox, sciflow.commands.deliver, sciflow.cli as c; c.parser();"
        "print([m for m in ('prefect', 'numpy', 'httpx', 'sqlite3', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# With one.


@pytest.mark.torture
@pytest.mark.prefect
def test_a_run_without_its_server_is_delivered_once_however_often_the_deliverer_is_killed(place):
    begin = time.monotonic()
    away = place.sciflow("run", "talk_flow.py", "--engine", "auto", PREFECT_API_URL=NOBODY)
    assert away.returncode == 0, away.stderr
    assert time.monotonic() - begin < 15
    (said,) = (line for line in away.stderr.splitlines() if "Prefect" in line)
    assert "does not answer" in said
    assert "sciflow deliver" in said
    run = only_run(place)
    normal = place.sciflow("run", "talk_flow.py", "--engine", "plain", "--store", "other")
    assert normal.returncode == 0
    assert digests(place.folder / "sciflow-store") == digests(place.folder / "other")
    assert undelivered(place.folder / "other") == []

    with (run / "outbox.jsonl").open("a") as file:
        file.write('{"event": "torn')
    url = json.loads((place.home / "server.json").read_text())["url"]
    killer = place.popen("-c", KILLER, str(run), PREFECT_API_URL=f"{url}/api")
    out, err = killer.communicate(timeout=100)
    assert int(out.split()[0]) >= 8, out + err
    done = place.sciflow("deliver")
    assert done.returncode == 0, done.stderr
    told = place.told(run)
    check_talks(told, run)
    flow_run, written = told["flow_run"], [line.event for line in lines(run)]
    assert flow_run["parameters"] == {"count": 7, "pause": 0.0, "fail": False}
    times = [datetime.fromtimestamp(t, UTC) for t in (written[0]["start"], written[-1]["time"])]
    said = "ran from {:%Y-%m-%d %H:%M:%S} to {:%Y-%m-%d %H:%M:%S} UTC, delivered later".format(*times)
    assert said in flow_run["state"]["message"]
    (flow,) = place.api("flows/filter", {"flows": {"id": {"any_": [flow_run["flow_id"]]}}})
    assert flow["name"] == "two-talks"

    assert place.sciflow("deliver").stdout.strip() == "nothing to deliver"
    (run / "outbox.delivered").unlink()
    Progress(0, sending=True).write(run)
    assert place.sciflow("deliver", run.name).returncode == 0
    again = place.told(run)
    for key, at in (("logs", "id"), ("artifacts", "id"), ("tasks", "id")):
        assert [x[at] for x in again[key]] == [x[at] for x in told[key]]
    assert again["flow_run"]["end_time"] == flow_run["end_time"]


@pytest.mark.prefect
def test_how_a_run_failed_or_was_killed_is_delivered_with_the_next_run(apart, started):
    failed = apart.sciflow(
        "run", "talk_flow.py", "--engine", "prefect", "--set", "fail=true", "--set", "count=1",
        PREFECT_API_URL=NOBODY,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "the stage went wrong" in failed.stderr
    first = only_run(apart)
    killed = apart.popen(
        "-m", "sciflow.cli", "run", "talk_flow.py", "--set", "pause=20", PREFECT_API_URL=NOBODY
    )
    started.append(killed)
    end = time.monotonic() + 120
    while not (runs := [r for r in undelivered(apart.folder / "sciflow-store") if r != first]) or not any(
        line.event["event"] == "log" for line in lines(runs[0])
    ):
        assert time.monotonic() < end
        time.sleep(0.1)
    # The server is back while the run goes on: it gets what there is so far.
    early = apart.sciflow("deliver", runs[0].name)
    assert "as far as it has come" in early.stdout, early.stderr
    told = apart.told(runs[0])
    assert told["flow_run"]["state"]["type"] == "RUNNING"
    assert {t["state"]["type"] for t in told["tasks"]} == {"RUNNING"}
    assert len(told["logs"]) == 4
    killed.kill()
    killed.communicate()
    after = apart.sciflow("run", "talk_flow.py", "--set", "pause=0.3", "--set", "count=9")
    assert after.returncode == 0, after.stderr
    assert Progress.read(first).done, "the next run did not deliver it"
    assert apart.sciflow("deliver").returncode == 0
    told = apart.told(first)
    assert told["flow_run"]["state"]["type"] == "FAILED"
    assert "the stage went wrong" in told["flow_run"]["state"]["message"]
    # Whether the other stage was stopped in time is chance; the outbox knows.
    ends = [line.event["state"] for line in lines(first) if line.event["event"] == "end"]
    states = {"computed": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED"}
    assert sorted(t["state"]["type"] for t in told["tasks"]) == sorted(states[e] for e in ends)
    (bad,) = (t for t in told["tasks"] if t["state"]["type"] == "FAILED")
    assert "the stage went wrong" in bad["state"]["message"]
    told = apart.told(runs[0])
    assert told["flow_run"]["state"]["type"] == "CRASHED"
    assert {t["state"]["type"] for t in told["tasks"]} == {"CRASHED"}
    assert len(told["logs"]) == 4
    assert undelivered(apart.folder / "sciflow-store") == []


@pytest.mark.torture
@pytest.mark.prefect
def test_a_server_that_goes_away_in_the_middle_changes_nothing_but_when_it_is_told(place, apart, started):
    url = json.loads((place.home / "server.json").read_text())["url"]
    arguments = ("-m", "sciflow.cli", "run", "talk_flow.py", "--engine", "prefect")
    settings = ("--set", "count=8", "--set", "pause=0.5")
    attended = apart.popen(*arguments, *settings, "--store", "a")
    code = "import asyncio, talk_flow; asyncio.run(talk_flow.talks(8, 0.5))"
    alone = apart.popen("-c", code, PREFECT_API_URL=f"{url}/api", SCIFLOW_STORE="b", PYTHONPATH=(
        f"{apart.folder}:{apart.env['PYTHONPATH']}"
    ))  # fmt: skip
    started += [attended, alone]
    end = time.monotonic() + 120
    stores = [apart.folder / "a", apart.folder / "b"]
    while not all(
        any(line.event["event"] == "log" for run in undelivered(s) for line in lines(run)) for s in stores
    ):
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(1.5)
    os.killpg(place.pid(), signal.SIGKILL)
    for process in (attended, alone):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    assert digests(stores[0]) == digests(stores[1])
    place.server("ensure_server")
    for store in stores:
        (run,) = undelivered(store)
        assert not Progress.read(run).done
        done = apart.sciflow("deliver", "--store", str(store))
        assert done.returncode == 0, done.stderr
        begun = next(lines(run)).event
        (flow_run,) = place.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [begun["flow_run_id"]]}}})
        check_talks(place.told(run), run, count=8, exact=False)
        assert flow_run["state"]["type"] == "COMPLETED"
