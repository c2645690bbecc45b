"""Crates: what they say is what happened, and the profiles' MUSTs hold."""

import asyncio
import copy
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from sciflow import Failed, Invalid, run
from sciflow.artifact import DATA, Artifact
from sciflow.artifact.sealed import FILES
from sciflow.crate import METADATA, crate, crate_of, write
from sciflow.crate.execution import files_of, named
from sciflow.flow import Session, within
from sciflow.store import Store
from tests.crate_rules import (
    PROFILE,
    SPOILS,
    broken_rules,
    entities,
    loose_ends,
    of_type,
    several,
    targets,
)  # fmt: skip
from tests.test_flow import Add, Count, learn, three
from tests.toys import Wave

PARAMETERS = {"members": 32, "rate": 1e-3, "note": "", "deep": False, "sizes": [1, 2], "nothing": None}
SOURCE = "from sciflow import run\n"


@pytest.fixture(autouse=True)
def fresh():
    Count.calls.clear()


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The whole chain, run once, its session and its results; who damages a file takes `apart`."""
    made = Session(Store(tmp_path_factory.mktemp("crates") / "store"), "test", PARAMETERS)
    with within(made):
        made.results = learn(Wave())
    made.file, made.source = "my flow.py", SOURCE
    return made


@pytest.fixture
def apart(learned, tmp_path):
    """The results of the chain, in a store of their own."""
    shutil.copytree(learned.store.root, tmp_path / "apart", symlinks=True)
    return [
        Artifact.open(tmp_path / "apart" / a.path.relative_to(learned.store.root))
        for a in learned.results[:4]
    ]


def described(session):
    """The crate on disk of a run."""
    path = write(session)
    assert path == session.directory / METADATA
    return json.loads(path.read_text())


def actions(document, stage):
    return [a for a in of_type(document, "CreateAction") if a["name"] == f"run of {stage}"]


def value_of(document, act):
    found = targets(document, act, "object")
    return {e["name"]: e["value"] for e in found if "PropertyValue" in several(e["@type"])}


def test_a_run_is_described_as_it_went(learned):
    document = described(learned)
    assert broken_rules(document, learned.directory) == []
    assert loose_ends(document) == set()
    main = targets(document, entities(document)["./"], "mainEntity")[0]
    assert main["@id"] == "my%20flow.py"
    assert (learned.directory / "my flow.py").read_text() == SOURCE
    assert [s["name"] for s in targets(document, main, "step")] == ["design", "simulate", "train", "evaluate"]
    assert [s["position"] for s in targets(document, main, "step")] == [0, 1, 2, 3]
    (whole,) = actions(document, "test")
    assert value_of(document, whole) == {
        "members": 32, "rate": 1e-3, "note": "", "deep": False, "sizes": "[1, 2]"
    }  # fmt: skip
    types = {p["name"]: p["additionalType"] for p in targets(document, main, "input")}
    assert types == {
        "members": "Integer", "rate": "Float", "note": "Text", "deep": "Boolean", "sizes": "PropertyValue"
    }  # fmt: skip
    score, model, data, _, _ = learned.results
    assert {r["@id"] for r in whole["result"]} == {named(score.digest), "report.html"}
    (trained,) = actions(document, "train")
    assert trained["result"] == {"@id": named(model.digest)}
    assert {"@id": named(data.digest)} in trained["object"]
    assert value_of(document, trained)["checkpoint_every"] == 2
    assert "error" not in trained


def test_times_tools_and_digests_are_those_of_the_provenance(learned):
    document = described(learned)
    data = learned.results[2]
    (simulated,) = actions(document, "simulate")
    for name, key in (("startTime", "start"), ("endTime", "end")):
        assert datetime.fromisoformat(simulated[name]).timestamp() == pytest.approx(
            data.provenance[key], abs=1e-3
        )
    tool = targets(document, simulated, "instrument")[0]
    assert (tool["name"], tool["softwareVersion"]) == ("simulate", data.provenance["versions"]["sciflow"])
    (problem,) = targets(document, tool, "softwareRequirements")
    assert problem["name"] == "toy_wave"
    assert targets(document, problem, "isPartOf")[0]["name"] == "sciflow-toys"
    entity = entities(document)[named(data.digest)]
    assert entity["identifier"] == f"sha256:{data.digest}"
    files = [p for p in data.path.rglob("*") if p.is_file() and "meta" not in p.relative_to(data.path).parts]
    assert int(entity["contentSize"]) == sum(p.stat().st_size for p in files)
    units = {v["name"]: v["unitText"] for v in targets(document, entity, "variableMeasured")}
    assert units["u"] == "K"


def test_what_was_reused_is_not_claimed(learned):
    first = described(learned)
    again = Session(learned.store, "again")
    with within(again):
        learn(Wave())
    second = described(again)
    assert broken_rules(second, again.directory) == []
    assert of_type(second, "ControlAction") == of_type(second, "OrganizeAction") == []
    (before,), (after,) = actions(first, "train"), actions(second, "train")
    assert after["description"].startswith("Not part of this run")
    same = ("@id", "startTime", "endTime", "result", "instrument")
    assert [after[n] for n in same] == [before[n] for n in same]
    (whole,) = actions(second, "again")
    assert whole["result"] == {"@id": "report.html"}
    # A run that did one new stage claims that one.
    third = Session(learned.store, "third")
    with within(third):
        learn(Wave(), epochs=7)
    controls = of_type(described(third), "ControlAction")
    assert [c["name"] for c in controls] == ["step train", "step evaluate"]


def test_equal_results_of_two_stages_are_two_executions(plain):
    asyncio.run(run(Count(3)))
    later = Session(plain.store, "later")

    async def flow():
        one = await run(Count(3))
        assert (await three()).digest == one.digest

    with within(later):
        asyncio.run(flow())
    document = described(later)
    assert broken_rules(document, later.directory) == []
    assert sorted(c["name"] for c in of_type(document, "ControlAction")) == [
        "step add", "step count", "step count"
    ]  # fmt: skip


def test_an_event_log_is_about_the_execution_that_wrote_it(learned):
    document = described(learned)
    logs = [e for e in of_type(document, "File") if e["name"].endswith("status.jsonl")]
    about = {log["name"].split("/")[1].split("-")[0]: targets(document, log, "about")[0] for log in logs}
    assert about
    assert all(act["name"] == f"run of {stage}" for stage, act in about.items())


def test_a_failure_stands_where_it_happened_and_nowhere_else(plain):
    async def flow():
        a = await run(Count(1))
        b = await run(Count(9, failures=99))
        await run(Add(), a=a, b=b)

    with pytest.raises(Failed):
        asyncio.run(flow())
    document = described(plain)
    assert broken_rules(document, plain.directory) == []
    bad = [e for e in document["@graph"] if e.get("actionStatus", "").endswith("FailedActionStatus")]
    assert sorted((*several(e["@type"]), e["error"]) for e in bad) == sorted(
        [("CreateAction", "Failed: not yet")] * 4
        + [("ControlAction", "Failed: not yet"), ("OrganizeAction", "Failed: not yet")]
    )
    assert all("result" not in e for e in bad if e["name"] == "run of count")
    fine = [e for e in of_type(document, "CreateAction") if e not in bad]
    assert [e["name"] for e in fine] == ["run of count"]
    assert "error" not in fine[0]


def test_a_stage_that_succeeded_at_last_did_not_fail(plain):
    asyncio.run(run(Count(1, failures=2)))
    document = described(plain)
    (control,) = of_type(document, "ControlAction")
    assert len(control["object"]) == 3
    assert control["actionStatus"].endswith("CompletedActionStatus")
    attempts = actions(document, "count")
    assert [a["actionStatus"].rpartition("/")[2] for a in attempts] == [
        "FailedActionStatus", "FailedActionStatus", "CompletedActionStatus"
    ]  # fmt: skip
    (whole,) = actions(document, "test")
    assert whole["actionStatus"].endswith("CompletedActionStatus")


def test_an_attempt_that_failed_beside_one_that_did_not_is_no_failure(plain):
    asyncio.run(run(Count(1, failures=1)))
    plain.records.reverse()
    document = described(plain)
    assert [c["actionStatus"].rpartition("/")[2] for c in of_type(document, "ControlAction")] == [
        "CompletedActionStatus"
    ]
    (whole,) = actions(document, "test")
    assert "error" not in whole


def test_a_cancelled_run_did_not_complete(plain):
    async def flow():
        task = asyncio.create_task(three(60.0))
        await asyncio.sleep(0.5)
        task.cancel()
        await task

    with pytest.raises((asyncio.CancelledError, RuntimeError)):
        asyncio.run(flow())
    document = described(plain)
    assert broken_rules(document, plain.directory) == []
    (added,) = actions(document, "add")
    assert added["actionStatus"].endswith("FailedActionStatus")


def test_what_the_session_states_goes_before_what_is_guessed(plain):
    asyncio.run(three())
    plain.end, plain.state, plain.reason = plain.start + 5, "failed", "ValueError: after the last stage"
    plain.records[0].start = 0.0
    (whole,) = actions(crate(plain), "test")
    assert whole["error"] == "ValueError: after the last stage"
    assert whole["actionStatus"].endswith("FailedActionStatus")
    plain.state = "completed"
    (whole,) = actions(crate(plain), "test")
    assert "error" not in whole


def test_an_artifact_from_elsewhere_is_an_input_of_the_run(plain):
    elsewhere = asyncio.run(run(Count(1)))
    later = Session(plain.store, "later")

    async def flow():
        b = await run(Count(2))
        return await run(Add(), a=elsewhere, b=b)

    with within(later):
        asyncio.run(flow())
    (whole,) = actions(crate(later), "later")
    assert whole["object"] == {"@id": named(elsewhere.digest)}


def test_a_run_without_stages_is_a_workflow_run(plain):
    document = described(plain)
    assert broken_rules(document, plain.directory) == []
    conforms = [c["@id"] for c in entities(document)["./"]["conformsTo"]]
    assert PROFILE.format("workflow") in conforms
    assert PROFILE.format("provenance") not in conforms


def test_a_plan_is_not_a_run(plain):
    plain.planning = True
    asyncio.run(three())
    with pytest.raises(Invalid, match="only planned"):
        write(plain)


def test_writing_again_changes_nothing(learned):
    text = write(learned).read_bytes()
    assert write(learned).read_bytes() == text
    assert list(learned.directory.glob("*.partial")) == []


def test_without_its_source_the_workflow_is_the_list_of_stages(plain):
    asyncio.run(three())
    document = described(plain)
    main = targets(document, entities(document)["./"], "mainEntity")[0]
    stages = json.loads((plain.directory / main["@id"]).read_text())["stages"]
    assert [s["stage"]["component"] for s in stages] == ["count", "count", "add"]


def test_nothing_of_the_machine_and_no_secret_is_in_a_crate(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "zebra17")
    monkeypatch.setenv("SCIFLOW_API_TOKEN", "hush-environment")
    monkeypatch.setenv("SCIFLOW_STORE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sciflow"), "--password=hush-argument"])
    plain.parameters = {
        "api_key": "hush-parameter",
        "server": {"token": "hush-nested", "url": "http://me:hush-login@there/x"},
    }
    asyncio.run(three())
    plain.records[-1].artifact, plain.records[-1].state = None, "failed"
    plain.records[
        -1
    ].reason = f"OSError: {plain.store.root}/x on zebra17: {Path.home()}/y, /etc/deep/z: token=hush-reason"
    text = write(plain).read_text()
    for word in ("hush", str(tmp_path), "zebra17", str(Path.home()) + "/", "/etc/deep", "SCIFLOW_"):
        assert word not in text, word
    assert {"name": "OMP_NUM_THREADS", "value": "3"}.items() <= next(
        e for e in json.loads(text)["@graph"] if e.get("name") == "OMP_NUM_THREADS"
    ).items()
    assert "(store)/x on (host): ~/y, z" in text


@pytest.mark.parametrize("terms", ["https://creativecommons.org/licenses/by/4.0/", "ask us"])
def test_stated_terms_are_written(plain, terms):
    document = crate(plain, terms=terms)
    stated = entities(document)["./"]["license"]
    assert stated == ({"@id": terms} if ":" in terms else terms)
    assert "noassertion" not in json.dumps(document)


def test_the_rules_of_this_file_see_what_is_broken(learned):
    document = described(learned)
    unseen = []
    for spoil in SPOILS:
        spoiled = copy.deepcopy(document)
        spoil(spoiled)
        if not broken_rules(spoiled, learned.directory):
            unseen.append(spoil.__name__)
    assert unseen == []


# Exports.


def test_an_export_holds_the_data_and_the_lineage(learned, tmp_path):
    score, model, *_ = learned.results
    out = crate_of(score, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["checksums.sha256", score.path.name, METADATA]
    for file in (p for p in (score.path / DATA).rglob("*") if p.is_file()):
        copied = out / score.path.name / file.relative_to(score.path)
        assert copied.read_bytes() == file.read_bytes()
    document = json.loads((out / METADATA).read_text())
    assert broken_rules(document, out) == []
    assert loose_ends(document) == set()
    made = {a["name"]: a for a in of_type(document, "CreateAction")}
    assert set(made) == {f"run of {s}" for s in ("design", "simulate", "train", "evaluate")}
    assert made["run of evaluate"]["result"] == {"@id": f"{score.path.name}/"}
    refs = [o["@id"] for o in made["run of evaluate"]["object"]]
    assert len(refs) == len(set(refs)), "the ensemble is two inputs of it"
    assert made["run of train"]["result"] == {"@id": named(model.digest)}
    text = (out / METADATA).read_text()
    assert str(tmp_path) not in text
    assert str(learned.store.root) not in text
    assert platform.node() not in text
    # The same executions under the same names as in the crate of the run.
    of_run = {a["@id"] for a in of_type(described(learned), "CreateAction")}
    assert {a["@id"] for a in made.values()} <= of_run


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum")
def test_the_checksums_are_for_sha256sum(learned, tmp_path):
    data = learned.results[2]
    out = crate_of(data, tmp_path / "out")
    check = ["sha256sum", "--check", "--quiet", "checksums.sha256"]
    assert subprocess.run(check, cwd=out).returncode == 0
    victim = next((out / data.path.name / DATA / "u").glob("c*"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    assert subprocess.run(check, cwd=out, capture_output=True).returncode == 1


def test_files_beside_the_arrays_are_exported_and_counted(learned, tmp_path):
    model = learned.results[1]
    files = [p for p in (model.path / FILES).iterdir() if p.is_file()]
    assert files, "a model has its weights in files/"
    out = crate_of(model, tmp_path / "out")
    for file in files:
        assert (out / model.path.name / FILES / file.name).read_bytes() == file.read_bytes()
    listed = (out / "checksums.sha256").read_text()
    assert all(f"  {model.path.name}/{FILES}/{file.name}\n" in listed for file in files)


def test_an_artifact_of_the_first_format_is_described():
    manifest = {"format": 1, "files": {"zarr.json": [3, "a" * 64, 1]}}
    assert files_of(manifest) == files_of({"format": 2, "files": {f"{DATA}/zarr.json": [3, "a" * 64, 1]}})


def test_the_lineage_ends_where_the_store_does(apart, tmp_path):
    score, _, data, design = apart
    shutil.rmtree(data.path)
    document = json.loads((crate_of(score, tmp_path / "out") / METADATA).read_text())
    assert {a["name"] for a in of_type(document, "CreateAction")} == {"run of evaluate", "run of train"}
    assert entities(document)[named(data.digest)]["identifier"] == f"sha256:{data.digest}"
    assert named(design.digest) not in entities(document)


def test_an_input_that_was_moved_is_found_by_its_digest(apart, tmp_path):
    score, _, data, _ = apart
    data.path.rename(data.path.with_name("ensemble-renamed"))
    document = json.loads((crate_of(score, tmp_path / "out") / METADATA).read_text())
    assert len(of_type(document, "CreateAction")) == 4


def test_an_existing_target_is_refused_and_kept(plain, tmp_path):
    one = asyncio.run(run(Count(1)))
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(Invalid, match="exists"):
        crate_of(one, target)
    assert list(target.iterdir()) == []
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Invalid, match="exists"):
        crate_of(one, dangling)


def test_a_damaged_artifact_is_not_exported(plain, tmp_path):
    one = asyncio.run(run(Count(1)))
    victim = one.path / DATA / "n" / "c"
    before = victim.stat()
    victim.write_bytes(b"12345678abcd")
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Invalid, match="changed after publication"):
        crate_of(Artifact.open(one.path, verify=False), tmp_path / "out")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
