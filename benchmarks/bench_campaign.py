"""What the orchestration itself costs: stages, the Prefect UI, imports, the command line."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.figure import Figure, NotRun, medians
from sciflow import Artifact, Field, Schema, Stage, Store, run
from sciflow.flow import Session, within


@dataclass(frozen=True)
class Nothing(Stage):
    """Writes one number."""

    name: ClassVar[str] = "nothing"
    output: ClassVar[Schema] = Schema("number", {"n": Field((), "1", "int64")})
    n: int = 0

    def run(self, inputs: Any, out: Any, ctx: Any) -> None:
        import numpy as np

        out.write("n", np.array(self.n), self.output["n"])


def bench_plain() -> Iterator[Figure]:
    """Stages that do nothing, and stages that are cached, on the plain engine."""
    with tempfile.TemporaryDirectory() as folder:

        async def stages(first: int, count: int) -> float:
            begin = time.perf_counter()
            for n in range(first, first + count):
                await run(Nothing(n))
            return (time.perf_counter() - begin) / count

        with within(Session(Store(folder))):
            asyncio.run(stages(-5, 5))
            fresh = asyncio.run(stages(0, 50))
            cached = asyncio.run(stages(0, 50))
    yield Figure(
        "plain_stage", 1e3 * fresh, 10, " ms", "<=", "a stage that writes one number, fsync included"
    )
    yield Figure("plain_cached_stage", 1e3 * cached, 10, " ms", "<=")


PREFECT = """
import asyncio, statistics, sys, time
from sciflow.server import engine as prefect_engine
prefect_engine.ensure_server()
import os
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from benchmarks.bench_campaign import Nothing
from sciflow import Store, run
from sciflow.flow import Session, within

@task(cache_policy=NO_CACHE, persist_result=False)
async def plain(n):
    return n

@flow
async def both(count: int = 40):
    times = {"task": [], "stage": []}
    with within(Session(Store(sys.argv[1]))):
        for n in range(count):
            for name, call in (("task", lambda: plain(n)), ("stage", lambda: run(Nothing(n % 2)))):
                begin = time.perf_counter()
                await call()
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(v[5:]) for name, v in times.items()}

print("RESULT", *asyncio.run(both()).values())
prefect_engine.stop_server()
"""


def bench_prefect() -> Iterator[Figure]:
    """A cached stage as a Prefect task beside a Prefect task that returns its argument."""
    with tempfile.TemporaryDirectory() as folder:
        env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        env |= {"SCIFLOW_HOME": folder, "PREFECT_HOME": f"{folder}/none"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PREFECT, f"{folder}/store"],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise NotRun((done.stderr.strip().splitlines() or ["no result"])[-1])
    task, stage = (float(x) for x in lines[0].split()[1:])
    note = f"task {1e3 * task:.1f} ms, stage {1e3 * stage:.1f} ms"
    yield Figure("prefect_stage", stage / task, 1.5, "x", "<=", note)


def bench_imports() -> Iterator[Figure]:
    """Cold starts: new processes, in turn."""

    def python(code: str) -> Any:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    script = Path(sys.executable).with_name("sciflow")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "sciflow.cli"]

    def cli(*arguments: str) -> Any:
        return lambda: subprocess.run([*command, *arguments], check=True, capture_output=True)

    core = "import sciflow.flow, sciflow.store, sciflow.registry, sciflow.stage, sciflow.problem"
    runs = {
        "numpy": python("import numpy"),
        "core": python(core),
        "help": cli("--help"),
        "plugins": cli("plugins"),
    }
    seconds = medians(runs, repeats=9)
    note = f"core {1e3 * seconds['core']:.0f} ms, numpy {1e3 * seconds['numpy']:.0f} ms"
    yield Figure("import_core_over_numpy", seconds["core"] / seconds["numpy"], 2, "x", "<=", note)
    yield Figure("help", seconds["help"], 0.15, " s", "<=")
    yield Figure("plugins", seconds["plugins"], 0.25, " s", "<=")


def bench_demo() -> Iterator[Figure]:
    """`make demo` without its set-up, twice; where dolfinx is missing, the embedded default."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sciflow.demo", "--engine", "plain", "--store", folder]
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotRun((done.stderr.strip().splitlines() or ["no message"])[-1])
            seconds.append(time.perf_counter() - begin)
        path = next(Path(folder).glob("artifacts/evaluation-*"))
        import numpy as np

        evaluation = Artifact.open(path)
        error = 100 * float(np.median(evaluation.read("relative_l2")))
        what = f"{evaluation.attributes['example_of']}, {len(evaluation.read('members'))} unseen members"
    yield Figure("demo_median_error", error, 2, " %", "<=", what)
    yield Figure("demo", seconds[0] / 60, 4, " min", "<=", "set-up not counted")
    yield Figure("demo_again", seconds[1], 15, " s", "<=", "everything cached")
