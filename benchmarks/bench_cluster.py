"""What a cluster and the Prefect UI cost: jobs through Slurm, ensembles, cancelling, the database."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure, NotRun
from sciflow import Resources
from sciflow.executors.slurm import Slurm
from sciflow.jobs import JobSpec
from sciflow.slurm.queue import shared

ROOT = Path(__file__).parents[1]
EXECUTOR = Slurm(submits_per_minute=10_000, parallel=4)


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """The throw-away Slurm; its environment is this process's while it runs."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if any(shutil.which(name, path=path) is None for name in ("slurmctld", "munged")):
        raise NotRun("no Slurm here: apt-get install slurm-wlm munge")
    folder = tempfile.mkdtemp(prefix="slurm-")
    env = {**os.environ, "SLURM_LOCAL_DIR": folder, "SLURM_LOCAL_PORT": str(20000 + os.getpid() % 20000)}
    script = str(ROOT / "hpc" / "local-slurm")
    subprocess.run([script, "start", "--nodes", "2", "--cpus", "4"], env=env, check=True, capture_output=True)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = f"{folder}/etc/slurm.conf"
    try:
        yield env
    finally:
        subprocess.run([script, "clean"], env=env, check=True, capture_output=True)
        os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


def bench_slurm() -> Iterator[Figure]:
    """A stage as a job beside a bare ``sbatch --wait`` that runs the same worker on the same job."""
    with cluster(), tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        little = Resources(memory=0.3)

        def bare(n: int) -> float:
            place = Path(folder) / f"bare-{n}"
            spec = JobSpec("hello", {}, str(place))
            job = spec.write(place)
            command = ["sbatch", "--wait", "--mem=300M", "--output=/dev/null", "--wrap"]
            begin = time.perf_counter()
            subprocess.run(
                [*command, f"{sys.executable} -m sciflow.worker {job}"], check=True, capture_output=True
            )
            return time.perf_counter() - begin

        def ours(n: int) -> float:
            place = Path(folder) / f"ours-{n}"
            begin = time.perf_counter()
            job = EXECUTOR.submit(JobSpec("hello", {}, str(place / "out")), place, little)
            (place / "out").mkdir()
            assert job.wait(60) == "done", job.reason()
            return time.perf_counter() - begin

        pairs = [(bare(n), ours(n)) for n in range(7)]
        plain, through = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        beyond = statistics.median(o - b for b, o in pairs)
        yield Figure("slurm_beyond_sbatch_wait", beyond, 1, " s", "<=", f"{through:.2f} s and {plain:.2f} s")

        queue = shared(EXECUTOR.poll)
        looks, begin = queue.looks, time.perf_counter()
        specs = [JobSpec("hello", {}, f"{folder}/many") for _ in range(60)]
        jobs = EXECUTOR.submit_all(specs, Path(folder) / "array", little, 4)
        while sum(job.state().ended for job in jobs) < len(jobs):
            time.sleep(0.2)
        seconds = time.perf_counter() - begin
        rate = (queue.looks - looks - 1) / max(1.0, seconds / EXECUTOR.poll)
        note = f"60 jobs in {seconds:.0f} s, {queue.looks - looks} calls"
        yield Figure("squeue_per_10_s", rate, 1, "", "<=", note)


TEN = """
from prefect import flow
from benchmarks.bench_campaign import Nothing
from sciflow import run
@flow
async def ten() -> str:
    for n in range(10):
        await run(Nothing(n))
"""
MANY = """
from prefect import flow
from sciflow import run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.toys import Wave
@flow
async def many(count: int = 10000) -> str:
    points = await run(Design(problem=Wave(), count=count))
    data = await run(Simulate(Wave()), design=points)
    return data.digest
"""
THREE = """
import asyncio, os, sys, time
from sciflow.server import engine as prefect_engine
prefect_engine.ensure_server()
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
from prefect import flow
from benchmarks.bench_campaign import Nothing
from sciflow import Store, run
from sciflow.flow import Session, within

@flow
async def three(first: int):
    for n in range(first, first + 3):
        await run(Nothing(n))

times = []
for n in range(7):
    with within(Session(Store(sys.argv[1]), f"three{n}")):
        begin = time.perf_counter()
        asyncio.run(three(3 * n))
        times.append(time.perf_counter() - begin)
print("RESULT", sorted(times[2:])[2])
"""


def _environment(folder: str) -> dict[str, str]:
    path = f"{ROOT}:{ROOT / 'tests' / 'toys_dist'}:{os.environ.get('PYTHONPATH', '')}"
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    return env | {"SCIFLOW_HOME": folder, "PREFECT_HOME": f"{folder}/none", "PYTHONPATH": path}


def _sciflow(folder: str, *arguments: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sciflow.cli", *arguments], cwd=folder, env=_environment(folder),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotRun((done.stderr.strip().splitlines() or ["no message"])[-1])
    return time.perf_counter() - begin


def _api(folder: str, path: str) -> Any:
    known = json.loads((Path(folder) / "server.json").read_text())
    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{known['url']}/api/{path}", b"{}", header)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def _database(folder: str) -> int:
    return sum(p.stat().st_size for p in Path(folder).rglob("prefect.db*"))


def bench_flows() -> Iterator[Figure]:
    """Whole flows: started again with everything there, of 10 000 members, of three stages under Prefect."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ten.py").write_text(TEN)
        (Path(folder) / "many.py").write_text(MANY)
        _sciflow(folder, "run", "ten.py", "--engine", "plain")
        again = min(_sciflow(folder, "run", "ten.py", "--engine", "plain") for _ in range(3))
        yield Figure("ten_stages_again", again, 3, " s", "<=", "a new process, everything cached")
        seconds = _sciflow(folder, "run", "many.py", "--engine", "plain", "--store", "plain")
        note = "a solver that does next to nothing, local executor"
        yield Figure("ten_thousand_members", seconds, 60, " s", "<=", note)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", THREE, "three"], cwd=folder, env=_environment(folder),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        if not found:
            raise NotRun((done.stderr.strip().splitlines() or ["no result"])[-1])
        three = float(found[0].split()[1])
        yield Figure("prefect_three_stages", three, 0.6, " s", "<=", "the call of the flow, server warm")
        before = _api(folder, "task_runs/count")
        _sciflow(folder, "run", "many.py", "--engine", "prefect", "--store", "other")
        time.sleep(3)
        tasks = _api(folder, "task_runs/count") - before
        yield Figure("ten_thousand_members_task_runs", tasks, 20, "", "<=")
        before, size = _api(folder, "task_runs/count"), _database(folder)
        for n in range(5):
            _sciflow(folder, "run", "ten.py", "--engine", "prefect", "--store", f"s{n}")
        time.sleep(5)
        count = _api(folder, "task_runs/count") - before
        kilobytes = (_database(folder) - size) / 1e3 / count
        yield Figure("prefect_database_per_stage", kilobytes, 25, " kB", "<=", f"{count} stages in 5 runs")
        subprocess.run(
            [sys.executable, "-m", "sciflow.cli", "serve", "--stop"], env=_environment(folder), check=False,
            capture_output=True,
        )  # fmt: skip


def bench_cancel() -> Iterator[Figure]:
    """From cancelling in the UI to an empty queue, with eight jobs of one run."""
    with cluster(), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "many.py").write_text(MANY.replace("Wave()", "Wave(pause=3)").replace("10000", "64"))
        (Path(folder) / "site.toml").write_text(
            '[executor]\ncomponent = "slurm"\nsubmits_per_minute = 1000\nparallel = 8\n'
            "[defaults]\nmemory = 0.3\n"
        )
        command = [sys.executable, "-m", "sciflow.cli", "run", "many.py", "--engine", "prefect"]
        env = _environment(folder) | {"SLURM_CONF": os.environ["SLURM_CONF"]}
        process = subprocess.Popen(
            [*command, "--site", "site.toml"], cwd=folder, env=env, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def lines() -> list[str]:
            asked = ["squeue", "--noheader", "--format=%T"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()

        until = time.monotonic() + 90
        while lines().count("RUNNING") < 8:
            if time.monotonic() > until:
                raise NotRun("the jobs did not start")
            time.sleep(0.1)
        time.sleep(2)  # a job that is being launched is ended by Slurm after that
        known = json.loads((Path(folder) / "server.json").read_text())
        header = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{known['url']}/api/flow_runs/filter", b"{}", header)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            (run,) = json.loads(answer.read())
        body = b'{"state": {"type": "CANCELLING"}}'
        cancelling = urllib.request.Request(
            f"{known['url']}/api/flow_runs/{run['id']}/set_state", body, header
        )
        begin = time.perf_counter()
        urllib.request.urlopen(cancelling, timeout=30).close()
        while lines():
            time.sleep(0.05)
        seconds = time.perf_counter() - begin
        process.wait(60)
        subprocess.run(
            [sys.executable, "-m", "sciflow.cli", "serve", "--stop"],
            env=env,
            check=False,
            capture_output=True,
        )
    yield Figure("cancel_in_the_ui", seconds, 5, " s", "<=", "8 jobs whose solver takes 1 s a step")
