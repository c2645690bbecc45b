"""The best of some models: who is chosen, in which format it is written, and what is said of it."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from sciflow import Invalid, NotFound, hookimpl, report, run
from sciflow.errors import Failed
from sciflow.flow import Session, within
from sciflow.registry import registry
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.export_best import ExportBest
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Least, Wave


@pytest.fixture(autouse=True)
def here(tmp_path):
    with within(Session(Store(tmp_path))):
        yield


class Writer:
    """A plugin that writes some formats, and is wrong in one of them."""

    def __init__(self):
        self.asked = []

    @hookimpl
    def sciflow_export(self, artifact, path, points, known):
        self.asked.append((path.suffix, None if known is None else len(known["a"])))
        if path.suffix == ".onnx":
            path.with_suffix(".rest").write_bytes(b"half")
            raise Failed("the graph answers otherwise")
        if path.suffix != ".pt2":
            return None
        path.write_bytes(b"graph of " + artifact.digest.encode())
        return [("random inputs", "1e-07 relative difference")]


@pytest.fixture
def writer():
    plugin = Writer()
    registry().manager.register(plugin)
    yield plugin
    registry().manager.unregister(plugin)


def compared(*stages, ensemble=True):
    async def flow():
        data = await run(Simulate(Wave(), seed=1), design=await run(Design(problem=Wave(), count=20)))
        inputs = {"both": ("a", "b"), "one": ("a",)}
        models = {n: await run(Train(Least(), i, ("u",)), ensemble=data) for n, i in inputs.items()}
        scores = {
            f"{n}_score": await run(Evaluate(), model=m, ensemble=data, training=data)
            for n, m in models.items()
        }
        table = await run(SideBySide(tuple(models), queries=3), ensemble=data, **models, **scores)
        known = {"ensemble": data} if ensemble else {}
        found = [
            await run(stage, comparison=table, **known, **{n: models[n] for n in stage.models})
            for stage in stages
        ]
        return models, table, found, await report("The best", *found)

    return asyncio.run(flow())


def test_a_model_that_nobody_writes_is_kept_as_its_arrays():
    models, table, (made,), page = compared(ExportBest(("both", "one")))
    errors = table.read("error_mean")
    assert errors[0] < errors[1]
    about = made.attributes
    assert (about["chosen"], about["format"], about["model"]) == (
        "both",
        ".safetensors",
        models["both"].digest,
    )
    assert about["reason"] == f"the least error_mean ({errors[0]:.3g}) of 2 of 2 models"
    assert [text.split(":")[0] for text in about["passed_over"]] == [".onnx", ".pt2"]
    kept = load_file(made.file(about["file"]))
    for name, values in load_file(models["both"].file("model.safetensors")).items():
        np.testing.assert_array_equal(kept[name], values)
    side = json.loads(made.file("model.json").read_text())
    assert side["model"] == models["both"].digest
    assert side["surrogate"]["component"] == "toy_least"
    text = page.read_text()
    assert "The best model as a file" in text
    assert "no plugin writes a toy_least so" in text


def test_the_first_format_that_answers_as_the_model_does_is_taken(writer):
    models, _, (made, other), _ = compared(
        ExportBest(("both", "one")), ExportBest(("one",), formats=(".pt2",))
    )
    assert made.file("model.pt2").read_bytes() == b"graph of " + models["both"].digest.encode()
    assert made.attributes["passed_over"] == [".onnx: the graph answers otherwise"]
    assert made.attributes["checks"] == [["random inputs", "1e-07 relative difference"]]
    assert [file.name for file in (made.path / "files").iterdir()] == ["model.pt2"]
    assert other.attributes["chosen"] == "one"
    assert writer.asked == [(".onnx", 8), (".pt2", 8), (".pt2", 8)]
    assert compared(ExportBest(("both",)), ensemble=False)[2][0].attributes["format"] == ".pt2"
    assert writer.asked[-1] == (".pt2", None)


class Table(SimpleNamespace):
    def read(self, name):
        return np.array(self.columns[name])


def table():
    columns = {
        "error_mean": [0.01, 0.05, np.inf, 0.01],
        "error_p95": [0.2, 0.1, np.inf, np.nan],
        "query_seconds": [1e-1, 1e-3, 1e-5, 2e-1],
        "break_even_whole": [np.inf, 50.0, 3.0, 9.0],
    }
    return Table(columns=columns, attributes={"models": ["slow", "fast", "lost", "same"]})


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({}, "slow"),  # of two that are equally good the quicker
        ({"criterion": "error_p95"}, "fast"),
        ({"criterion": "query_seconds"}, "lost"),
        ({"criterion": "query_seconds", "largest": 0.1}, "fast"),
        ({"longest": 1e-2}, "fast"),
        ({"criterion": "break_even_whole", "largest": 0.02}, "same"),
    ],
)
def test_who_is_the_best(settings, best):
    stage = ExportBest(("slow", "fast", "lost", "same"), **settings)
    name, reason = stage.choose(table())
    assert name == best
    assert reason.startswith(f"the least {stage.criterion} (")


def test_models_that_are_not_asked_for_are_not_chosen_and_bounds_that_leave_none_are_told():
    assert ExportBest(("fast", "lost")).choose(table())[0] == "fast"
    with pytest.raises(
        Invalid, match=r"no model keeps to the bounds longest=0.0001, largest=0.1: slow: 0.01 in"
    ):
        ExportBest(("slow", "fast", "lost"), longest=1e-4, largest=0.1).choose(table())


def test_what_cannot_be_is_refused():
    for settings in ({"models": ()}, {"longest": -1.0}, {"formats": ("onnx",)}, {"criterion": "beauty"}):
        with pytest.raises(Invalid):
            ExportBest(**{"models": ("a",), **settings})

    async def flow():
        data = await run(Simulate(Wave(), seed=1), design=await run(Design(problem=Wave(), count=20)))
        models = [await run(Train(Least(), i, ("u",)), ensemble=data) for i in (("a", "b"), ("a",))]
        score = await run(Evaluate(), model=models[0], ensemble=data, training=data)
        beside = await run(SideBySide(("m",), queries=1), ensemble=data, m=models[0], m_score=score)
        with pytest.raises(NotFound, match="the table has no model 'n'. There is: m"):
            await run(ExportBest(("n",)), comparison=beside, n=models[0])
        with pytest.raises(Invalid, match="is not what the table calls m"):
            await run(ExportBest(("m",)), comparison=beside, m=models[1])

    asyncio.run(flow())
