"""The flow of the two experiments, on a few systems of each sequence."""

import asyncio
import re
import runpy
from pathlib import Path

import pytest

from sciflow.flow import Session, within
from sciflow.store import Store

pytest.importorskip("prefect")
pytest.importorskip("numba")


def test_every_tuner_plays_both_experiments(tmp_path):
    flow = runpy.run_path(str(Path(__file__).parents[2] / "flows" / "tuned_sor.py"))["tuned_sor"]
    with within(Session(Store(tmp_path))):
        page = asyncio.run(flow.fn(count=12, members=0, seeds=1)).read_text()
    table = page[page.index("Tuners side by side") :]
    for sequence in (
        "shifted_laplacian(a=0.5, b=1.5)",
        "shifted_laplacian(a=2.0, b=6.0)",
        "heat_sequence(nx=25)",
    ):
        assert sequence in table
    for tuner in ("omega 1.8", "tsallis iw", "thompson", "thompson binned", "chebcb", "relaxation model"):
        assert len(re.findall(f"<td>{tuner}</td>", table)) == 3
    ratios = [float(v) for v in re.findall(r"<td>oracle</td>(?:<td>[^<]*</td>){6}<td>([\d.]+)</td>", table)]
    assert ratios == [1.0] * 6  # a row for each sequence, and one in each trial's own section
