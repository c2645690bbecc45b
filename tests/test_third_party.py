import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, distributions, version
from pathlib import Path
from types import ModuleType

import pytest

from sciflow import Component, Invalid, Missing, NotFound, hookimpl, report, run
from sciflow.compatibility import check_hooks, check_stated
from sciflow.registry import Registry, registry, require
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
    monkeypatch.setattr("sciflow.reporting.page.registry", lambda: found)

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
        NotFound, match=r"acme_broken of acme-broken 1.2 \(ModuleNot.*Did you mean 'acme_decay'"
    ):
        found.find("acme_decai")


def test_a_plugin_for_other_hooks_is_refused_in_words(monkeypatch):
    found = load(monkeypatch, "future", "older", "garbled", "unborn", "good")
    errors = {p.distribution: p.error for p in found.plugins}
    assert errors["acme-good"] == ""
    assert "written for version 1.7 of sciflow's hooks, here is 1.0: install a newer" in errors["acme-future"]
    assert errors["acme-future"].endswith("install a newer sciflow, or an older acme-future")
    assert errors["acme-older"].endswith("install a newer acme-older, or an older sciflow")
    assert "sciflow_api is 1.0; write it as text, sciflow_api = '1.0'" in errors["acme-garbled"]
    # It does not even import; what it states is read from its source.
    assert "written for version 2.0" in errors["acme-unborn"]
    with pytest.raises(
        NotFound, match=r"acme_future of acme-future 3.0 \(Invalid: it is written for version 1.7"
    ):
        found.find("acme_future_thing")


@pytest.mark.parametrize(
    ("here", "stated", "words"),
    [
        ((1, 0), "1.0", None),
        ((1, 3), "1.2", None),
        ((1, 3), "1.4", "install a newer sciflow"),
        ((2, 0), "1.9", "install a newer acme"),
        ((1, 10), "1.9", None),
        ((1, 9), "1.10", "install a newer sciflow"),
        ((1, 0), "1", "write it as text"),
        ((1, 0), "1.0.0", "write it as text"),
    ],
)
def test_what_a_version_promises(monkeypatch, here, stated, words):
    """Everything written for this major version and this or an older minor one loads, and nothing else."""
    monkeypatch.setattr("sciflow.hooks.API", here)
    if words is None:
        assert check_stated(stated, "acme") == stated
    else:
        with pytest.raises(Invalid, match=words):
            check_stated(stated, "acme")


def test_what_is_not_stated_is_not_checked(monkeypatch):
    monkeypatch.setattr("sciflow.hooks.API", (7, 0))
    (good,) = load(monkeypatch, "good").plugins
    assert (good.error, good.api) == ("", "")


def test_every_plugin_of_this_distribution_states_the_version_of_the_hooks():
    ours = [p for p in registry().plugins if p.distribution == "sciflow"]
    assert len(ours) == 7
    assert {p.api for p in ours} == {"1.0"}


def test_a_hook_with_other_arguments_is_one_clear_line(monkeypatch):
    (deaf,) = load(monkeypatch, "deaf").plugins
    assert deaf.error == (
        "Invalid: the hook sciflow_report takes 'artefact', it is called with (artifact). Did you mean "
        "'artifact'? There is: artifact. Arguments that it does not use are left out"
    )


def test_a_hook_that_takes_anything_is_refused():
    module = ModuleType("acme_anything")

    def sciflow_report(**anything):
        return None

    module.sciflow_report = hookimpl(sciflow_report)
    with pytest.raises(Invalid, match=r"takes \*\*anything; it is called with \(artifact\)"):
        check_hooks(module)


@pytest.mark.parametrize("given", [None, Component, "Component"])
def test_components_that_are_no_list_are_refused_in_words(monkeypatch, given):
    module = ModuleType("acme_alone")
    module.sciflow_components = hookimpl(lambda: given)
    monkeypatch.setitem(sys.modules, "acme_alone", module)
    found = Registry()
    found.load([EntryPoint("acme", "acme_alone", "sciflow")])
    (plugin,) = found.plugins
    assert plugin.error.endswith(f"returned {given!r}: return a list of Component classes")


def test_what_pluggy_refuses_is_one_line_as_well(monkeypatch):
    """A wrapper that yields nothing: pluggy says so in three lines."""
    module = ModuleType("acme_wrapper")
    module.sciflow_report = hookimpl(wrapper=True)(lambda artifact: None)
    monkeypatch.setitem(sys.modules, "acme_wrapper", module)
    registry = Registry()
    registry.load([EntryPoint("acme", "acme_wrapper", "sciflow")])
    (plugin,) = registry.plugins
    assert re.match(r"PluginValidationError: Plugin .*sciflow_report.*generator", plugin.error)
    assert registry.manager.list_name_plugin() == []


def test_methods_that_a_class_leaves_out_are_named_with_the_versions(monkeypatch):
    (error,) = [p.error for p in load(monkeypatch, "good", "abstract").plugins if p.error]
    assert "does not define: coordinates, solve; every problem does" in error
    assert "the plugin states no version of sciflow's hooks, here is 1.0" in error


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
    assert ["acme_good", "acme-good", "1.2", "not", "stated"] in rows
    assert ["core", "sciflow", version("sciflow"), "1.0"] in rows
    assert "broken: acme_broken of acme-broken 1.2" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=env, check=True)
    document = json.loads(done.stdout)
    assert document["broken"][0]["distribution"] == "acme-broken 1.2"
    assert document["hooks"] == "1.0"
    assert {"plugin": "acme_good", "distribution": "acme-good 1.2", "hooks": None} in document["plugins"]
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
