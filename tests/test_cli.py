import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sciflow.cli import main
from sciflow.loading import parameters_of
from sciflow.stages.design import Design

FLOW = """
from pathlib import Path
from prefect import flow
from sciflow import report, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.toys import Wave

@flow
async def small(problem: Wave = Wave(), count: int = 6) -> Path:
    \"\"\"Small.\"\"\"
    points = await run(Design(problem=problem, count=count))
    data = await run(Simulate(problem), design=points)
    return await report("Small", data, points)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small_flow.py"
    path.write_text(FLOW)
    return str(path)


def test_run_plan_show(file, capsys):
    assert main(["plan", file]) == 0
    assert "would run" in capsys.readouterr().out
    assert main(["run", file, "--engine", "plain"]) == 0
    out, err = capsys.readouterr()
    assert Path(out.split("report: ")[1].strip()).is_file()
    assert re.search("simulate toy_wave +computed", err)
    assert "2 stages: 2 computed" in err
    assert "most of the time: " in err
    crate = json.loads(Path(out.split("report: ")[1].strip()).with_name("ro-crate-metadata.json").read_text())
    actions = [e for e in crate["@graph"] if e["@type"] == "CreateAction"]
    assert len(actions) == 3, "the flow and its two stages"
    assert all(a["actionStatus"].endswith("CompletedActionStatus") for a in actions)
    assert "async def small" in next(Path("sciflow-store").glob("runs/*/small_flow.py")).read_text()
    assert main(["run", file, "--engine", "plain"]) == 0
    err = capsys.readouterr().err
    assert re.search("simulate toy_wave +cached", err)
    assert "2 stages: 2 cached" in err
    assert main(["plan", file, "--set", "count=7"]) == 0
    assert capsys.readouterr().out.count("would run") == 2
    assert main(["show", "ensemble-", "--verify"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["u", *["member", "6", "x", "time", "3", "x", "x", "8"], "float32", "K"] in rows
    assert "every file has the published content" in shown
    assert main(["show", "ensembel"]) == 1
    assert "no artifact 'ensembel'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "problem.pionts=3"], "problem: toy_wave has no setting 'pionts'. Did you mean 'points'"),
        (["--set", "count=many"], "count: Input should be a valid integer"),
        (["--set", "cuont=3"], "no parameter 'cuont'. Did you mean 'count'"),
        (["--set", "count"], "write NAME=VALUE"),
        (["--set", "problem.component=toy_block"], "a toy_wave was expected, got 'toy_block'"),
        (["--params", "nothing.json"], "no such parameter file"),
    ],
)
def test_wrong_parameters_are_refused_with_one_clear_line(file, capsys, arguments, message):
    assert main(["run", file, "--engine", "plain", *arguments]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("json", '{"count": 4, "problem": {"points": 5}}'),
        ("toml", "count = 4\n[problem]\npoints = 5\n"),
        ("yaml", "count: 4\nproblem:\n  points: 5\n"),
    ],
)
def test_parameters_from_files(tmp_path, suffix, text):
    from tests.toys import Wave

    async def flow(problem: Wave = Wave(), count: int = 6):  # noqa: B008
        return None

    path = tmp_path / f"p.{suffix}"
    path.write_text(text)
    assert parameters_of(flow, [], str(path)) == {"problem": Wave(points=5), "count": 4}
    assert parameters_of(flow, ["problem.above=1.5"], str(path))["problem"] == Wave(points=5, above=1.5)
    assert parameters_of(flow, [], None) == {"problem": Wave(), "count": 6}
    path.write_text("[broken")
    with pytest.raises(ValueError, match=f"p.{suffix}"):
        parameters_of(flow, [], str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import a_module_that_nobody_has", "does not import: No module named 'a_module_that_nobody_has'"),
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("x = 1", "defines no Prefect flow"),
    ],
)
def test_a_flow_file_that_is_none_is_explained(tmp_path, capsys, text, message):
    path = tmp_path / "odd_flow.py"
    path.write_text(text)
    assert main(["plan", str(path)]) == 1
    assert message in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "odd_flwo.py")]) == 1
    assert "no such file. Did you mean 'odd_flow.py'" in capsys.readouterr().err


def test_no_server_is_started_for_a_file_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sciflow.cli._prepare_engine", lambda engine: pytest.fail("an engine was prepared"))
    assert main(["run", str(tmp_path / "nowhere.py")]) == 1
    assert "nowhere.py: no such file" in capsys.readouterr().err


def test_a_run_that_prefect_ends_on_sigterm_says_so_in_a_line(file, capsys, monkeypatch):
    signals = pytest.importorskip("prefect.exceptions")

    async def ended(function, parameters):
        raise signals.TerminationSignal(signal=15)

    monkeypatch.setattr("sciflow.cli._until_told", ended)
    assert main(["run", file, "--engine", "plain"]) == 143
    assert "told to stop; what was finished is kept" in capsys.readouterr().err


def test_two_flows_in_a_file_need_a_name(file, capsys):
    Path(file).write_text(FLOW + FLOW.replace("def small", "def other"))
    assert main(["plan", file]) == 1
    assert "holds 2 flows (small, other): write" in capsys.readouterr().err
    assert main(["plan", file + ":other"]) == 0
    assert main(["plan", file + ":othr"]) == 1


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys\nfrom sciflow.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = ('numpy', 'torch', 'prefect', 'pydantic', 'zarr', 'dolfinx')\n"
        "print('HEAVY', [m for m in heavy if m in sys.modules])"
    )
    for arguments in (["--help"], ["run", "--help"], ["plugins"], []):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().endswith("HEAVY []"), arguments


def test_doctor_finds_what_is_there(capsys):
    from sciflow import doctor

    found = {check.name: check for check in doctor.checks()}
    assert found["python"].state == "ok"
    assert sys.version.split()[0] in found["python"].found
    assert found["plugins"].state == "ok"
    for check in found.values():
        assert check.found
        assert check.state in ("ok", "absent", "bad")


def test_the_demo_says_so_where_dolfinx_is_missing(monkeypatch, capsys):
    from sciflow import demo

    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo.flow_file() == "flows/burgers_fno.py"
    assert "running the embedded default" in capsys.readouterr().err


LONG = ("operators_table", "campaign")


def test_flows_of_the_repository_can_be_planned(tmp_path, capsys):
    root = Path(__file__).parent.parent
    for flow in sorted((root / "flows").glob("*.py")):
        assert main(["plan", str(flow), "--store", str(tmp_path)]) == 0
        assert "would run" in capsys.readouterr().out
        # Half of those with several tasks or problems at three sizes says what they are.
        assert len(flow.read_text().splitlines()) <= (180 if flow.stem in LONG else 80)


def test_a_design_in_json_is_what_the_form_sends():
    document = json.loads(
        json.dumps(Design(parameters={"k": {"low": 1.0, "high": 2.0, "unit": "W"}}).to_json())
    )
    assert Design.from_json(document).count == 100
    assert os.environ["DO_NOT_TRACK"] == "1"
