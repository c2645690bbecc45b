"""The flow of three stars, on a few short runs and with a training that teaches nothing."""

import asyncio
import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from sciflow.flow import Session, within
from sciflow.store import Store

pytest.importorskip("prefect")
pytest.importorskip("numba")
pytest.importorskip("stable_baselines3")


def test_policies_are_trained_compared_and_passed_on(tmp_path):
    flow = runpy.run_path(str(Path(__file__).parents[2] / "flows" / "three_body.py"))["three_body"]
    with within(Session(Store(tmp_path))):
        page = asyncio.run(flow.fn(count=2, steps=120, years=1.0)).read_text()
    _, first, passed = re.split("<h2[^>]*>(?:Error against work|One policy on every integrator)</h2>", page)
    for curve in (
        "fixed: fixed_step(value=0.01)",
        "PI: pi(tolerance=0.001",
        "learned: learned(",
        "equal steps",
    ):
        assert curve in first
    others = ["hermite", "leapfrog"]
    if find_spec("rebound"):
        others += ["ias15", "bulirsch_stoer", "whfast"]
        assert "ias15: fixed_step(value=1e-09)" in first
    for name in others:
        # Three tolerances beside the fallback alone.
        assert len(re.findall(rf"<td>{name}</td><td>guarded: ", passed)) == 3
    assert page.count('class="body"') == 6
    assert "transfer=True" in passed
