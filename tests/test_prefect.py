"""On a real Prefect server, started on loopback for this module and stopped by its pid."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.prefect
pytest.importorskip("prefect")
from sciflow.server import engine

FLOW = """
import asyncio
from pathlib import Path
from prefect import flow
from sciflow import report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from tests.toys import Block, Least, Wave

@flow
async def shown(problem: Wave | Block = Wave(), count: int = 24, minimum: float = 0.5) -> Path:
    \"\"\"A small campaign.

    Args:
        count: Members.
    \"\"\"
    points = await run(Design(problem=problem, count=count))
    data = await run(Simulate(problem, minimum=minimum), design=points)
    model = await run(Train(Least(), ("a", "b"), ("u",)), ensemble=data)
    score = await run(Evaluate(), model=model, ensemble=data, training=data)
    return await report("Shown", score, model, data, points)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Environment with a server of its own."""
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["SCIFLOW_HOME"] = str(home)
    url = engine.ensure_server()
    env = {**os.environ}
    os.environ.clear()
    os.environ.update(before)
    yield {"env": env, "url": url, "home": home}
    os.environ["SCIFLOW_HOME"] = str(home)
    assert engine.stop_server()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shown_flow.py").write_text(FLOW)
    return tmp_path


def sciflow(served, folder, *arguments):
    env = {**served["env"]}
    env.pop("PREFECT_API_URL")  # found again through server.json
    command = [sys.executable, "-m", "sciflow.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=200
    )


def api(served, path, body):
    request = urllib.request.Request(
        f"{served['url']}/api/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for last in (False, False, False, True):
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            # The server's SQLite is locked now and then; its pages ask again as well.
            if error.code != 503 or last:
                raise
            time.sleep(1)
    raise AssertionError("unreachable")


def eventually(check, seconds=120.0):
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def test_a_flow_shows_in_the_ui_and_gives_the_artifacts_of_the_plain_engine(served, folder):
    first = sciflow(served, folder, "run", "shown_flow.py", "--engine", "prefect")
    assert first.returncode == 0, first.stderr
    assert f"Prefect UI: {served['url']}" in first.stderr
    plain = sciflow(served, folder, "run", "shown_flow.py", "--engine", "plain", "--store", "other")
    assert plain.returncode == 0, plain.stderr

    def digests(store):
        found = (folder / store / "artifacts").iterdir()
        return {p.name: json.loads((p / "meta/manifest.json").read_text())["digest"] for p in found}

    assert digests("sciflow-store") == digests("other")
    again = sciflow(served, folder, "run", "shown_flow.py")
    assert again.stderr.count(" cached ") == 4

    def states():
        runs = api(served, "task_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        names = sorted((r["name"], r["state"]["name"]) for r in runs)
        stages = ("design toy_wave", "evaluate", "simulate toy_wave", "train toy_least")
        assert names == [(n, s) for n in stages for s in ("Cached", "Completed")]
        done = [r for r in runs if r["name"].startswith("simulate") and r["state"]["name"] == "Completed"]
        arrows = [i for inputs in done[0]["task_inputs"].values() for i in inputs]
        assert any(i["input_type"] == "task_run" for i in arrows), "no arrow from the design"

    eventually(states)

    def shown():
        keys = {a["key"] for a in api(served, "artifacts/filter", {})}
        assert {"report", "train-metrics", "train-curves"} <= keys
        return next(a for a in api(served, "artifacts/filter", {}) if a["key"] == "report")

    assert "data:image/png;base64," in eventually(shown)["data"]


def test_a_failing_stage_is_failed_in_the_ui_with_its_reason(served, folder):
    done = sciflow(
        served, folder, "run", "shown_flow.py", "--engine", "prefect", "--set", "minimum=1.0",
        "--set", "problem.fail=diverge", "--set", "problem.component=toy_wave",
    )  # fmt: skip
    assert done.returncode == 1
    assert "fewer than the minimum of 100%" in done.stderr
    assert "Traceback" not in done.stderr

    def failed():
        runs = api(served, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}})
        assert len(runs) == 1
        return runs[0]

    assert "fewer than the minimum" in eventually(failed)["state"]["message"]


def test_the_form_offers_the_fields_of_components_and_a_choice_of_problems(folder):
    from prefect.utilities.callables import parameter_schema

    from sciflow.loading import load_flow

    schema = parameter_schema(load_flow(str(folder / "shown_flow.py"))).model_dump()
    text = json.dumps(schema)
    problem = schema["properties"]["problem"]
    assert len(problem["anyOf"]) == 2
    assert "oneOf" not in text
    assert {"points", "fail"} <= set(schema["definitions"]["Wave"]["properties"])
    assert schema["definitions"]["Wave"]["properties"]["points"]["type"] == "integer"
    assert schema["properties"]["count"]["description"] == "Members."


def test_served_flows_run_from_the_api_as_from_the_ui(served, folder):
    env = {**served["env"]}
    env.pop("PREFECT_API_URL")
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "sciflow.cli", "serve", "shown_flow.py"],
        cwd=folder,
        env=env,
        stdout=log,
        stderr=log,
    )
    try:

        def deployed():
            assert process.poll() is None, (folder / "serve.log").read_text()
            found = api(served, "deployments/filter", {})
            assert found
            return found[0]

        deployment = eventually(deployed)
        parameters = {"problem": {"points": 5}, "count": 9}
        made = api(served, f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})

        def finished():
            (run,) = api(served, "flow_runs/filter", {"flow_runs": {"id": {"any_": [made["id"]]}}})
            assert run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")
            return run

        run = eventually(finished, 150)
        assert run["state"]["type"] == "COMPLETED", (folder / "serve.log").read_text()[-3000:]
    finally:
        process.terminate()
        process.wait(120)
        log.close()
    (report,) = (folder / "sciflow-store" / "runs").glob("shown-*/report.html")
    assert "Errors on unseen members" in report.read_text()
    crate = json.loads(report.with_name("ro-crate-metadata.json").read_text())
    assert any("ComputationalWorkflow" in e["@type"] for e in crate["@graph"])


def test_a_server_is_reused_and_idle(served):
    known = json.loads((Path(served["home"]) / "server.json").read_text())
    assert known["url"].startswith("http://127.0.0.1:")
    # Its pages must ask this server for their data, also when it is not on port 4200.
    with urllib.request.urlopen(f"{known['url']}/ui-settings", timeout=60) as answer:
        assert json.loads(answer.read())["api_url"] == f"{known['url']}/api"

    def ticks():
        return sum(int(n) for n in Path(f"/proc/{known['pid']}/stat").read_text().split()[13:15])

    def idle():
        before = ticks()
        time.sleep(2)
        assert ticks() - before < 0.6 * 2 * os.sysconf("SC_CLK_TCK"), "an idle server keeps a core busy"

    eventually(idle)


def test_a_server_that_took_the_port_at_the_same_moment_is_not_taken_for_ones_own(
    served, monkeypatch, tmp_path
):
    taken, free = int(served["url"].rsplit(":", 1)[1]), engine._free_port
    monkeypatch.setenv("SCIFLOW_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "_free_port", lambda h, first=4200: free(h, 0) if first == 0 else taken)
    known = engine._start("127.0.0.1")
    try:
        assert known["url"] != served["url"]
        assert engine._answer(known, "admin/settings")["home"] == str(tmp_path / "prefect")
    finally:
        assert engine.stop_server()


def test_the_local_server_needs_no_token_and_a_public_one_does(monkeypatch, tmp_path):
    started = {}

    class Fake:
        pid = os.getpid()

        def __init__(self, command, **options):
            started.update(command=command, env=options["env"])

        def poll(self):
            return None

    monkeypatch.setenv("SCIFLOW_HOME", str(tmp_path))
    monkeypatch.setattr(engine.subprocess, "Popen", Fake)
    monkeypatch.setattr(engine, "_healthy", lambda known: True)
    monkeypatch.setattr(engine, "_answer", lambda known, path: None)
    assert engine._start("127.0.0.1")["token"] == ""
    assert "PREFECT_SERVER_API_AUTH_STRING" not in started["env"]
    public = engine._start("0.0.0.0")
    assert started["env"]["PREFECT_SERVER_API_AUTH_STRING"] == public["token"]
    assert len(public["token"]) > 20
    assert (tmp_path / "server.json").stat().st_mode & 0o077 == 0
    assert asyncio.iscoroutinefunction(engine.run_task)
