"""`sciflow serve`: from a form in a real browser to a finished run, on a Prefect server of the tests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciflow import Invalid, NotFound
from sciflow.component import attributes
from sciflow.server.forms import defaults_of, form, generated, run_name
from tests.browser import Browser, chromium
from tests.test_prefect import FLOW, api, eventually, served  # noqa: F401 - a fixture

pytestmark = pytest.mark.prefect
pytest.importorskip("prefect")

SLEEPS = """
from prefect import flow
from sciflow import Resources, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.toys import Wave

@flow
async def sleeps(pause: float = 9.0) -> str:
    print("a word of the flow")
    points = await run(Design(problem=Wave(pause=pause), count=3))
    print("another word")
    return (await run(Simulate(Wave(pause=pause)), design=points)).digest
"""


@pytest.fixture(scope="module")
def serving(served, tmp_path_factory):  # noqa: F811
    """`sciflow serve` with two flows; its folder."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "shown_flow.py").write_text(FLOW)
    (folder / "sleeps.py").write_text(SLEEPS)
    process = start(served, folder, "shown_flow.py", "sleeps.py", "--schedule", "shown=0 3 * * *")
    yield {**served, "folder": folder}
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, (folder / "serve.log").read_text()[-2000:]


def start(served, folder, *arguments):  # noqa: F811
    env = {k: v for k, v in served["env"].items() if k != "PREFECT_API_URL"}
    with (folder / "serve.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sciflow.cli", "serve", *arguments],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
        )

    def ready():
        assert process.poll() is None, (folder / "serve.log").read_text()
        assert "Ctrl-C ends" in (folder / "serve.log").read_text()
        assert "started!" in (folder / "serve.log").read_text()

    eventually(ready)
    return process


def deployment(serving, flow):
    found = api(serving, "deployments/filter", {})
    return next(d for d in found if d["entrypoint"].endswith(f":{flow}"))


def run_of(serving, made, *types):
    def look():
        (run,) = api(serving, "flow_runs/filter", {"flow_runs": {"id": {"any_": [made["id"]]}}})
        assert run["state"]["type"] in (types or ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        return run

    return eventually(look)


@pytest.mark.skipif(chromium() is None, reason="no browser here: apt-get install chromium")
def test_a_run_is_started_from_the_form_and_shown(serving, tmp_path):
    found = deployment(serving, "shown")
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{serving['url']}/deployments/deployment/{found['id']}/run")
        browser.wait("document.body?.innerText.includes('Members.')")
        browser.wait("document.body?.innerText.includes('Grid points.')")
        browser.picture(tmp_path / "form.png")
        made = submitted(browser, serving, 17)
        run = run_of(serving, made)
        assert run["state"]["type"] == "COMPLETED", (serving["folder"] / "serve.log").read_text()[-3000:]
        assert run["name"] == "shown count=17"
        assert set(run["tags"]) >= {"here", "shown_flow"}
        browser.open(f"{serving['url']}/runs/flow-run/{run['id']}")
        browser.wait("document.body?.innerText.includes('simulate toy_wave')")
        time.sleep(2)
        picture = browser.picture(tmp_path / "run.png")
        browser.click("Artifacts")
        browser.wait("document.body?.innerText.includes('train-curves')")
    if os.environ.get("SCIFLOW_SCREENSHOTS"):
        for name in ("form.png", "run.png"):
            (Path(os.environ["SCIFLOW_SCREENSHOTS"]) / name).write_bytes((tmp_path / name).read_bytes())
    import matplotlib.image
    import numpy as np

    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[0] > 800
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 100, "the picture is blank"


def there(folder, pattern):
    assert list(folder.glob(pattern)), pattern


def submitted(browser, serving, count):
    """Fill in and send the form as a person would: who sees that nothing was sent presses again."""
    for last in (False, False, False, True):
        browser.fill("count", str(count))
        browser.click("Submit")
        try:
            return eventually(lambda: started(serving, count), 15)
        except AssertionError as error:
            if last:
                raise AssertionError(f"{error}; the page: {browser.text()}") from None
    raise AssertionError("unreachable")


def started(serving, count):
    found = [r for r in api(serving, "flow_runs/filter", {}) if r["parameters"].get("count") == count]
    assert found, "the form started no run"
    return found[0]


def test_cancelling_in_the_ui_ends_the_run_and_its_jobs(serving):
    found = deployment(serving, "sleeps")
    made = api(serving, f"deployments/{found['id']}/create_flow_run", {})
    run_of(serving, made, "RUNNING")
    store = serving["folder"] / "sciflow-store"
    eventually(lambda: there(store, "partial/ensemble-*/scratch/job-*/status.jsonl"))
    api(serving, f"flow_runs/{made['id']}/set_state", {"state": {"type": "CANCELLING"}})
    assert run_of(serving, made)["state"]["type"] == "CANCELLED"


@pytest.mark.torture
def test_a_killed_worker_leaves_its_runs_alone_and_the_next_one_takes_over(served, tmp_path):  # noqa: F811
    (tmp_path / "hpc").mkdir()
    (tmp_path / "hpc" / "other.toml").write_text('description = "another"\nflows = 3\n')
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    process = start(served, tmp_path, "sleeps.py", "--site", "other")
    started = [process]
    try:
        killed_and_continued(served, tmp_path, started)
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def killed_and_continued(served, tmp_path, started):  # noqa: F811
    (process,) = started
    found = next(d for d in api(served, "deployments/filter", {}) if d["work_pool_name"] == "sciflow-other")
    made = api(served, f"deployments/{found['id']}/create_flow_run", {"parameters": {"pause": 2.0}})
    eventually(lambda: there(tmp_path, "sciflow-store/partial/ensemble-*/scratch/job-*"))
    process.kill()
    process.wait()
    started.append(start(served, tmp_path, "sleeps.py", "--site", "other"))
    run = run_of(served, made)
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    more = api(served, f"deployments/{found['id']}/create_flow_run", {"parameters": {"pause": 0.0}})
    assert run_of(served, more)["state"]["type"] == "COMPLETED"
    assert "another word" in next(tmp_path.glob("sciflow-store/runs/*/output.txt")).read_text()
    (pool,) = api(served, "work_pools/filter", {"work_pools": {"name": {"any_": ["sciflow-other"]}}})
    assert pool["concurrency_limit"] == 3


def test_deployments_say_what_they_are(serving):
    found = deployment(serving, "shown")
    assert found["description"].startswith("A small campaign.")
    assert [s["schedule"]["cron"] for s in found["schedules"]] == ["0 3 * * *"]
    assert found["enforce_parameter_schema"] is True
    assert "oneOf" not in json.dumps(found["parameter_openapi_schema"])
    assert deployment(serving, "sleeps")["schedules"] == []
    environment = found["job_variables"]["env"]
    assert environment["SCIFLOW_STORE"] == str(serving["folder"] / "sciflow-store")
    assert not any("AUTH" in name or "KEY" in name for name in environment)


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ("shown", Invalid, "write FLOW="),
        ("shwon=0 3 * * *", NotFound, "Did you mean 'shown'"),
        ("shown=every day", Invalid, "no cron expression"),
    ],
)
def test_a_wrong_schedule_is_refused(tmp_path, schedule, error, message):
    from sciflow.server.serving import offers, schedules_of

    (tmp_path / "shown_flow.py").write_text(FLOW)
    with pytest.raises(error, match=message):
        schedules_of([schedule], offers([tmp_path / "shown_flow.py"]))


def test_every_field_of_the_flows_of_this_project_is_described():
    pytest.importorskip("torch")
    from prefect.utilities.callables import parameter_schema

    from sciflow.loading import flows_in
    from tests.conftest import ROOT

    for file in sorted((ROOT / "flows").glob("*.py")):
        for name, flow in flows_in(file).items():
            schema = form(parameter_schema(flow).model_dump(), name)
            for parameter, field in schema["properties"].items():
                assert field.get("description"), f"{name}.{parameter}"
            for title, definition in schema["definitions"].items():
                assert "Attributes" not in definition["description"]
                for key, field in definition["properties"].items():
                    assert field.get("description"), f"{name}: {title}.{key}"


def test_descriptions_are_those_of_the_docstring():
    text = (
        "One.\n\nAttributes\n----------\na, b : int\n    Two lines\n    of ``text``, s.\nc : str\n    End.\n"
        "\nNotes\n-----\nx : y\n    no\n"
    )
    assert dict(attributes(text)) == {"a": "Two lines of text, s.", "b": "Two lines of text, s.", "c": "End."}


def test_a_parameter_without_a_type_is_refused():
    with pytest.raises(Invalid, match="'x' has no type that a form can show"):
        form({"properties": {"x": {"title": "x"}}}, "f")


def test_choices_are_shown_as_such():
    schema = {"properties": {"x": {"oneOf": [{"type": "integer"}], "discriminator": {}}}}
    assert form(schema, "f")["properties"]["x"] == {"anyOf": [{"type": "integer"}]}


def test_an_abstract_field_is_a_choice_of_what_plugins_offer_and_comes_back_as_it_was_chosen():
    pytest.importorskip("torch")
    from prefect.utilities.callables import parameter_schema

    from sciflow_operators.components import MLP, RelativeL2, Squared

    usual = MLP(loss=Squared())

    def flow(model: MLP = usual) -> None:
        """Do it."""

    shown = form(parameter_schema(flow).model_dump(), "flow", {"model": usual})
    assert shown["properties"]["model"]["default"] == usual.to_json()
    loss = shown["definitions"]["MLP"]["properties"]["loss"]
    assert {"$ref": "#/definitions/Squared"} in loss["anyOf"]
    assert loss["default"] == RelativeL2().to_json()
    named = shown["definitions"]["Squared"]["properties"]["component"]
    assert named["enum"] == ["squared"]
    assert MLP.from_json({"loss": {"component": named["default"]}}).loss == Squared()


def test_names_say_what_is_not_as_usual():
    def flow(members: int = 4, tolerance: float = 1e-3, name: str = "x"):
        """Nothing."""

    usual = defaults_of(flow)
    assert run_name("f", usual, usual) == "f, defaults"
    assert run_name("f", {**usual, "members": 9, "tolerance": 1e-6}, usual) == "f members=9, tolerance=1e-06"
    old = {"problem": {"component": "heat", "cells": 32}}
    assert run_name("f", {"problem": {"component": "heat", "cells": 8}}, old) == "f problem.cells=8"
    assert run_name("f", {"problem": {"component": "darcy", "cells": 32}}, old) == "f problem darcy"
    steered = {"problem": {**old["problem"], "stepping": {"component": "pi", "tolerance": 1e-4}}}
    assert run_name("f", steered, old) == "f problem.stepping pi"
    assert len(run_name("f", {"text": "x" * 500}, {})) == 80
    assert all(generated(n) for n in ("brave-otter", "theta234-cestus", "Handmade-Kiwi", "nu6"))
    assert not any(generated(n) for n in ("my run", "heat, defaults", "run"))
