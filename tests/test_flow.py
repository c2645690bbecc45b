import asyncio
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Cancelled, Failed, Field, Invalid, Missing, Schema, Stage, report, run
from sciflow.artifact import Artifact
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.flow import PlanEnds, Planned
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow.store import Store
from tests.toys import Least, Wave

NUMBER = Schema("number", {"n": Field((), "1", "int64")})


@dataclass(frozen=True)
class Count(Stage):
    """Writes a number; fails as often as it is told to."""

    name: ClassVar[str] = "count"
    output: ClassVar[Schema] = NUMBER
    retries: ClassVar[int] = 2
    n: int = 1
    failures: int = 0
    label: str = ""

    calls: ClassVar[list] = []

    def identity(self):
        return {"n": self.n}

    def run(self, inputs, out, ctx):
        self.calls.append(self.n)
        if len(self.calls) <= self.failures:
            raise Failed("not yet")
        out.write("n", np.array(self.n), NUMBER["n"])


@dataclass(frozen=True)
class Add(Stage):
    """Adds two numbers, slowly if asked to."""

    name: ClassVar[str] = "add"
    inputs: ClassVar[dict] = {"a": NUMBER, "b": NUMBER}
    output: ClassVar[Schema] = NUMBER
    seconds: float = 0.0

    def run(self, inputs, out, ctx):
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            ctx.progress(0, 1, "seconds")
            time.sleep(0.01)
        out.write("n", inputs["a"].read("n") + inputs["b"].read("n"), NUMBER["n"])


@pytest.fixture(autouse=True)
def fresh():
    Count.calls.clear()


async def three(seconds=0.0):
    a, b = await asyncio.gather(run(Count(1)), run(Count(2)))
    return await run(Add(seconds), a=a, b=b)


def test_a_second_run_computes_nothing_and_gives_the_same(plain):
    first = asyncio.run(three())
    assert first.read("n") == 3
    assert sorted(Count.calls) == [1, 2]
    again = asyncio.run(three())
    assert sorted(Count.calls) == [1, 2]
    assert again.digest == first.digest
    assert [r.state for r in plain.records[3:]] == ["cached"] * 3


def test_what_is_not_identity_does_not_run_again_and_what_is_does(plain):
    asyncio.run(run(Count(1)))
    asyncio.run(run(Count(1, label="other")))
    assert Count.calls == [1]
    asyncio.run(run(Count(5)))
    assert Count.calls == [1, 5]


def test_a_changed_input_runs_what_depends_on_it(plain):
    async def flow(n):
        a, b = await asyncio.gather(run(Count(n)), run(Count(2)))
        return await run(Add(), a=a, b=b)

    assert asyncio.run(flow(1)).read("n") == 3
    assert asyncio.run(flow(7)).read("n") == 9
    assert sorted(Count.calls) == [1, 2, 7]


def test_the_same_stage_asked_for_twice_at_once_runs_once(plain):
    async def flow():
        return await asyncio.gather(*(run(Count(4)) for _ in range(3)))

    digests = {a.digest for a in asyncio.run(flow())}
    assert len(digests) == 1
    assert Count.calls == [4]


@dataclass(frozen=True)
class Meet(Count):
    """Ends only when another one runs at the same time."""

    name: ClassVar[str] = "meet"
    retries: ClassVar[int] = 0
    place: ClassVar[threading.Barrier] = threading.Barrier(2)

    def run(self, inputs, out, ctx):
        self.place.wait(timeout=60)
        out.write("n", np.array(self.n), NUMBER["n"])


def test_independent_stages_run_at_the_same_time(plain):
    async def flow():
        return await asyncio.gather(run(Meet(1)), run(Meet(2)))

    assert [int(a.read("n")) for a in asyncio.run(flow())] == [1, 2]


def test_a_stage_that_asks_for_it_is_tried_again(plain):
    artifact = asyncio.run(run(Count(1, failures=2)))
    assert artifact.read("n") == 1
    assert len(Count.calls) == 3
    Count.calls.clear()
    with pytest.raises(Failed, match="not yet"):
        asyncio.run(run(Count(9, failures=3)))
    assert len(Count.calls) == 3


def test_cancelling_stops_the_stage_and_leaves_no_artifact(plain):
    async def flow():
        task = asyncio.create_task(three(60.0))
        await asyncio.sleep(0.5)
        task.cancel()
        await task

    begin = time.monotonic()
    with pytest.raises((asyncio.CancelledError, Cancelled)):
        asyncio.run(flow())
    assert time.monotonic() - begin < 30, "the stage was waited for"
    assert plain.records[-1].state == "cancelled"
    assert len(list(plain.store.artifacts())) == 2


def test_provenance_tells_where_an_artifact_comes_from(plain):
    artifact = asyncio.run(three())
    p = Artifact.open(artifact.path).provenance
    assert p["stage"] == {"component": "add", "seconds": 0.0}
    assert set(p["inputs"]) == {"a", "b"}
    assert p["inputs"]["a"]["digest"] == Artifact.open(p["inputs"]["a"]["path"]).digest
    assert p["versions"]["numpy"] == np.__version__
    assert p["start"] <= p["end"]


def test_missing_software_is_named_before_anything_runs(plain):
    @dataclass(frozen=True)
    class Needy(Count):
        name: ClassVar[str] = "needy"
        requires: ClassVar[tuple] = ("no_such_module",)

    with pytest.raises(Missing, match="needs no_such_module"):
        asyncio.run(run(Needy()))


def learn(problem, epochs=6, stop_at=0, checkpoint_every=2):
    async def flow():
        design = await run(Design(problem=problem, count=32))
        data = await run(Simulate(problem), design=design)
        train = Train(
            Least(epochs, stop_at), ("a", "b", "q"), ("u",), valid=0.1, checkpoint_every=checkpoint_every
        )
        model = await run(train, ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        return score, model, data, design, await report("A <test>", score, model, data, design)

    return asyncio.run(flow())


def test_the_whole_chain(plain):
    score, model, data, _, path = learn(Wave())
    # u is linear in a and b, so least squares is exact but for the geometric steps.
    assert np.median(score.read("relative_l2")) < 1e-4
    assert np.median(score.read("baseline_mean")) > 0.05
    members = [set(model.read(f"{part}_members").tolist()) for part in ("train", "valid", "test")]
    assert set.union(*members) == set(range(32))
    assert sum(map(len, members)) == 32
    assert set(score.read("members").tolist()) == members[2]
    truth = data.read("u")[sorted(members[2])]
    fitted = load_model(model)
    x = {n: data.read("parameters")[sorted(members[2]), i] for i, n in enumerate(("a", "b"))}
    guess = fitted.predict({**x, "q": data.read("q")[sorted(members[2])]})["u"]
    exact = np.linalg.norm((guess - truth).reshape(len(truth), -1), axis=1) / np.linalg.norm(
        truth.reshape(len(truth), -1), axis=1
    )
    np.testing.assert_allclose(score.read("relative_l2"), exact, rtol=1e-3, atol=1e-7)
    page = path.read_text()
    assert "A &lt;test&gt;" in page
    assert page.count("data:image/") >= 5
    assert "http://" not in page
    assert "https://" not in page
    for word in (
        "Errors on unseen members",
        "Learning curves",
        "Simulations",
        "Design of experiments",
        "computed",
    ):
        assert word in page


def test_training_goes_on_after_a_crash_to_the_same_bits(plain, tmp_path):
    whole = learn(Wave())[1]
    plain.store = Store(tmp_path / "second")
    with pytest.raises(RuntimeError, match="the power went"):
        learn(Wave(), stop_at=5)
    kept = list(plain.store.root.glob("partial/model-*/scratch/checkpoint-*.safetensors"))
    assert [k.name for k in kept] == ["checkpoint-000004-00000000.safetensors"]
    # The configuration of the crashed attempt differs, as a mended cause would make it; its
    # checkpoint is given to the attempt that is to be continued.
    again = learn(Wave(), stop_at=5)[1]
    assert again.file("model.safetensors").read_bytes() == whole.file("model.safetensors").read_bytes()
    assert len(again.read("history_train_loss")) == 6


def test_evaluating_on_members_that_were_seen_is_refused(plain):
    _, model, data, _, _ = learn(Wave())
    with pytest.raises(Invalid, match="evaluate it with members='test'"):
        asyncio.run(run(Evaluate("all"), model=model, ensemble=data, training=data))
    other = learn(Wave(points=9))[2]
    with pytest.raises(Invalid, match="was not trained on"):
        asyncio.run(run(Evaluate(), model=model, ensemble=other, training=other))


def test_one_name_in_place_of_a_tuple_is_refused():
    """Its letters would be the names."""
    with pytest.raises(Invalid, match=r"outputs_of is a tuple of names: write \('temperature',\)"):
        Train(Least(), ("a",), "temperature")


def test_unknown_fields_are_refused_before_training(plain):
    async def flow(inputs, outputs):
        design = await run(Design(problem=Wave(), count=5))
        data = await run(Simulate(Wave()), design=design)
        await run(Train(Least(), inputs, outputs), ensemble=data)

    for inputs, outputs, message in (
        (("a",), ("v",), "no field or parameter 'v'"),
        (("q[0]",), ("u",), "has no time axis"),
        (("u[3]",), ("u",), "there are 3 time levels"),
        (("u[x]",), ("u",), "is not a field"),
    ):
        with pytest.raises((Invalid, LookupError), match=message.replace("[", r"\[")):
            asyncio.run(flow(inputs, outputs))


@pytest.mark.parametrize("executor", [Local(), Mpi()])
def test_a_stage_as_a_job_gives_what_it_gives_here(plain, tmp_path, executor):
    here = asyncio.run(run(Design(problem=Wave(), count=9)))
    plain.store = Store(tmp_path / "jobs")
    there = asyncio.run(run(Design(problem=Wave(), count=9), executor=executor))
    assert there.digest == here.digest


def test_a_plan_runs_nothing(plain):
    plain.planning = True
    result = asyncio.run(three())
    assert isinstance(result, Planned)
    assert Count.calls == []
    states = [(stage, e["state"]) for stage, e in plain.events]
    assert states == [("count", "would run"), ("count", "would run"), ("add", "would run")]
    with pytest.raises(PlanEnds, match="the result of 'add'"):
        result.read("n")
    plain.planning = False
    asyncio.run(three())
    plain.planning, before = True, len(plain.events)
    asyncio.run(three())
    assert [e["state"] for _, e in plain.events[before:]] == ["cached"] * 3


def test_a_broken_artifact_in_the_store_is_made_again(plain):
    first = asyncio.run(run(Count(1)))
    (first.path / "data.zarr" / "n" / "c").write_bytes(b"12345678abcd")
    again = asyncio.run(run(Count(1)))
    assert Count.calls == [1, 1]
    assert again.digest == first.digest
    assert len(list((plain.store.root / "damaged").iterdir())) == 1


def test_importing_the_core_loads_nothing_heavy():
    code = (
        "import sys, sciflow, sciflow.cli, sciflow.registry as r; r.registry();"
        "heavy = ('numpy', 'torch', 'prefect', 'dolfinx', 'petsc4py', 'mpi4py', 'zarr', 'pydantic');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_events_of_a_stage_are_kept_in_the_run_directory(plain):
    learn(Wave())
    files = list(plain.directory.glob("stages/train-*/status.jsonl"))
    events = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert [e["n"] for e in events] == list(range(len(events)))
    assert sum(e["event"] == "metric" for e in events) == 6
