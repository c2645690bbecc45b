"""The flow of the table of tasks refuses names that it does not know before it solves anything."""

import asyncio
import runpy
from pathlib import Path

import pytest

pytest.importorskip("prefect")
pytest.importorskip("torch")
from sciflow import Invalid


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"tasks": ("navierstokes",)}, "no task 'navierstokes'; the tasks are burgers, darcy"),
        ({"models": ("equino",)}, "the task burgers has none of the models equino; it has fno"),
        ({"tasks": ("rve",), "models": ("fnoo",)}, "the task rve has none of the models fnoo"),
    ],
)
def test_names_of_nothing_are_refused(names, message):
    flow = runpy.run_path(str(Path(__file__).parents[2] / "flows" / "operators_table.py"))["operators_table"]
    with pytest.raises(Invalid, match=message):
        asyncio.run(flow.fn(**names))
