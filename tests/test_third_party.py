import asyncio
import json
import logging
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from sciflow import Component, Invalid, Missing, NotFound, report, run
from sciflow.registry import Registry, require
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.testing import check_component, check_problem

DIST = Path(__file__).parent / "dist"


def load(monkeypatch, *names):
    registry = Registry()
    points = []
    for name in names:
        monkeypatch.syspath_prepend(str(DIST / name))
        for dist in distributions(path=[str(DIST / name)]):
            points += list(dist.entry_points)
    registry.load(points)
    return registry


def test_a_third_party_is_a_first_class_citizen(monkeypatch, plain):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DIST / "good"), os.environ["PYTHONPATH"]]))
    found = load(monkeypatch, "good")
    cls = found.find("acme_decay")
    assert found.origin(cls).label == "acme-good 1.2"
    check_component(cls())
    check_problem(cls())
    monkeypatch.setattr("sciflow.registry.registry", lambda: found)
    monkeypatch.setattr("sciflow.worker.registry", lambda: found)
    monkeypatch.setattr("sciflow.reporting.registry", lambda: found)

    async def flow():
        data = await run(Simulate(cls()), design=await run(Design(problem=cls(), count=4)))
        return await report("Decay", data)

    assert "decay, as expected" in asyncio.run(flow()).read_text()


def test_broken_plugins_are_named_and_disturb_nobody(monkeypatch):
    found = load(monkeypatch, "broken", "good", "misspelt", "thawed", "abstract", "quits")
    errors = {p.distribution: p.error for p in found.plugins}
    assert errors["acme-good"] == ""
    assert errors["acme-broken"] == "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"
    assert "no hook 'sciflow_componets'. Did you mean 'sciflow_components'" in errors["acme-misspelt"]
    assert "must be decorated with @dataclass(frozen=True)" in errors["acme-thawed"]
    assert "Unfinished does not define: coordinates, solve" in errors["acme-abstract"]
    assert errors["acme-quits"] == "SystemExit: acme: no licence"
    assert [c.name for c, _ in found.components()] == ["acme_decay"]
    assert [name for name, _ in found.manager.list_name_plugin()] == ["acme-good:acme_good"]
    with pytest.raises(
        NotFound, match=r"Did you mean 'acme_decay'.*acme_broken of acme-broken 1.2 \(ModuleNot"
    ):
        found.find("acme_decai")


@pytest.mark.parametrize("first", ["good", "namesake"])
def test_two_distributions_may_name_their_entry_points_alike(monkeypatch, first):
    found = load(monkeypatch, *sorted(["good", "namesake"], key=lambda n: n != first))
    assert [p.error for p in found.plugins] == ["", ""]
    assert {c.name: p.label for c, p in found.components()} == {
        "acme_decay": "acme-good 1.2",
        "acme_growth": "acme-namesake 1.2",
    }
    assert len(found.manager.hook.sciflow_report.get_hookimpls()) == 1


def test_what_a_refused_plugin_hooks_into_is_not_called(monkeypatch):
    """The twin's components are refused after its module was registered."""
    found = load(monkeypatch, "good", "twin")
    owners = [impl.plugin_name for impl in found.manager.hook.sciflow_components.get_hookimpls()]
    assert owners == ["acme-good:acme_good"]


def test_a_name_taken_twice_names_both(monkeypatch):
    found = load(monkeypatch, "good", "twin")
    (error,) = [p.error for p in found.plugins if p.error]
    assert "acme-twin 1.2" in error
    assert "already provided by acme-good 1.2" in error
    assert found.origin(found.find("acme_decay")).distribution == "acme-good"


def test_something_that_is_no_component_is_refused(monkeypatch):
    found = load(monkeypatch, "good")
    with pytest.raises(Invalid, match="a component is written"):
        found.build({"name": "acme_decay"})
    assert found.build({"component": "acme_decay"}).to_json() == {"component": "acme_decay"}


def test_the_command_line_lists_good_and_broken():
    path = os.pathsep.join([*(str(DIST / n) for n in ("good", "broken")), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "sciflow.cli", "plugins"]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["acme_decay", "problem", "acme-good", "1.2", "ready"] in rows
    assert "broken: acme_broken of acme-broken 1.2" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=env, check=True)
    document = json.loads(done.stdout)
    assert document["broken"][0]["distribution"] == "acme-broken 1.2"
    assert {
        "name": "acme_decay",
        "kind": "problem",
        "distribution": "acme-good 1.2",
        "state": "ready",
    } in document["components"]


def test_flows_of_plugins_are_found_by_name_and_broken_ones_left_out(monkeypatch, caplog):
    pytest.importorskip("prefect")
    from sciflow.loading import load_flow, plugin_flows

    # Prefect takes the records of this logger away from the root.
    logging.getLogger("sciflow").addHandler(caplog.handler)
    found = load(monkeypatch, "lost", "good")
    monkeypatch.setattr("sciflow.registry.registry", lambda: found)
    assert [label for label, _ in plugin_flows()] == ["acme-good 1.2"]
    assert "/nowhere/flows.py, which is not there" in caplog.text
    assert load_flow("acme_campaign").name == "acme-campaign"
    with pytest.raises(NotFound, match=r"no plugin's flow 'acme_campain'. Did you mean 'acme_campaign'"):
        load_flow("acme_campain")
    logging.getLogger("sciflow").removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        (["gymnasium", "stable_baselines3"], r"pip install '\.\[rl\]'"),
        (["torch"], r"'\.\[operators\]'"),
        (["numba"], r"'\.\[control\]'"),
        (["rebound"], "the README says how"),
        (["numba", "dolfinx"], "the README says how"),
    ],
)
def test_missing_software_is_named_with_what_brings_it(monkeypatch, absent, words):
    needs = type("Needs", (Component,), {"name": "needs", "kind": "problem", "requires": tuple(absent)})
    monkeypatch.setattr("sciflow.registry.find_spec", lambda name: None)
    with pytest.raises(Missing, match=words):
        require(needs())
