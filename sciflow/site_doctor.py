"""``sciflow doctor --site``: tries a machine before a campaign does, and says what would fail there."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.doctor import Check
from sciflow.errors import SciflowError
from sciflow.executor import Resources
from sciflow.executors.slurm import Slurm, protocol, protocols
from sciflow.jobs import JobSpec

if TYPE_CHECKING:
    from sciflow.executor import Executor
    from sciflow.site import Site

SKEW = 5.0
"""Clocks of two machines that differ by more confuse caches and logs, s."""
PATIENCE = 600.0
"""Seconds that the hello job may take, its time in the queue included."""


def checks(site: Site, folder: Path) -> Iterator[Check]:
    """Everything that can be tried, each computed when it is asked for.

    Parameters
    ----------
    site : Site
        The machine.
    folder : Path
        Where runs and artifacts will be; a directory is made in it for the time of the check.
    """
    executor = site.executor
    kind = executor.name if executor is not None else "none: stages run in the process of the flow"
    yield Check("site", "ok", f"{site.name}: {site.description or 'no description'}; executor {kind}")
    if isinstance(executor, Slurm):
        yield from _slurm(site, executor)
    yield from _hello(site, executor, folder)


def _slurm(site: Site, executor: Slurm) -> Iterator[Check]:
    from sciflow.slurm import commands

    absent = [c for c in ("sbatch", "squeue", "scancel") if shutil.which(c) is None]
    if absent:
        text = "start this on a login node of the cluster"
        yield Check("commands", "bad", f"not on the PATH: {', '.join(absent)}", text)
        return
    try:
        version = commands.ask(["sbatch", "--version"]).strip()
        began = time.monotonic()
        commands.ask(["squeue", "--noheader", "--me"])
        yield Check(
            "controller", "ok", f"{version}; squeue answers in {1e3 * (time.monotonic() - began):.0f} ms"
        )
    except SciflowError as error:
        yield Check("controller", "bad", str(error), "is SLURM_CONF right, and does the controller run?")
        return
    yield _accounting()
    yield _launcher(executor)
    yield from _partitions(site, executor)


def _accounting() -> Check:
    from sciflow.slurm import commands

    try:
        commands.ask(["sacct", "--noheader", "--allocations", "--starttime=now"])
    except SciflowError as error:
        return Check("accounting", "absent", f"{error}; states are taken from files and the queue")
    return Check("accounting", "ok", "sacct answers")


def _launcher(executor: Slurm) -> Check:
    offered = ", ".join(protocols()) or "nothing"
    command = " ".join(executor.launch(2)[:4])
    if executor.launcher == "mpirun" or (executor.launcher == "auto" and not (executor.mpi or protocol())):
        return Check("launcher", "ok", f"{command} (srun --mpi=list offers {offered})")
    if executor.mpi and executor.mpi not in protocols():
        return Check("launcher", "bad", f"srun does not offer --mpi={executor.mpi}, but {offered}",
                     "choose another one, or launcher = \"mpirun\"")  # fmt: skip
    return Check("launcher", "ok", f"{command} (of {offered})")


def _partitions(site: Site, executor: Slurm) -> Iterator[Check]:
    """Whether the scheduler would take each kind of job that the site file describes."""
    from sciflow.slurm import commands

    kinds = {"defaults": Resources(**dict(site.defaults))}
    for name, place in site.stages.items():
        kinds[f"stage {name}"] = Resources(**{**site.defaults, **place.resources})
    for name, resources in kinds.items():
        options = executor.options(resources, "sciflow-doctor", "/dev/null")
        try:
            commands.ask(["sbatch", "--test-only", *options, "--wrap=true"])
        except SciflowError as error:
            yield Check(name, "bad", str(error), f"partitions here: {', '.join(commands.partitions())}")
        else:
            yield Check(name, "ok", "the scheduler would take such a job")


def _hello(site: Site, executor: Executor | None, folder: Path) -> Iterator[Check]:
    """Two ranks that say hello, in a job as stages will be."""
    from sciflow.executors.mpi import Mpi
    from sciflow.hello import here, read

    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="doctor-", dir=folder))
    try:
        marker = f"{time.time_ns()}"
        (place / "marker").write_text(marker)
        wish = replace(Resources(**dict(site.defaults)), ranks=2)
        wish = replace(wish, minutes=min(wish.minutes, 5.0) or 5.0)
        spec = JobSpec("hello", {}, str(place))
        began = time.monotonic()
        try:
            job = (executor or Mpi()).submit(spec, place / "job", wish)
        except SciflowError as error:
            yield Check("hello job", "bad", str(error))
            return
        try:
            state = job.wait(PATIENCE)
        finally:
            if not job.state().ended:
                job.cancel()
        took = time.monotonic() - began
        if state != "done":
            waits = f"; it waits in the queue: {job.waits_for()}" if job.waits_for() else ""
            reason = job.reason() or f"it is {state} after {took:.0f} s{waits}"
            yield Check("hello job", "bad", f"job {job.id}: {reason}", "" if job.reason() else job.log(8))
            return
        yield from _compare(here(), read(place), marker, took)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _compare(mine: dict[str, Any], theirs: dict[str, Any], marker: str, took: float) -> Iterator[Check]:
    """What the job saw beside what this process sees."""
    hosts = ", ".join(sorted(set(theirs["hosts"])))
    threads = theirs["threads"] or "any number of"
    text = f"{theirs['ranks']} ranks on {hosts} after {took:.1f} s; {theirs['cores']} cores"
    text += f", {threads} threads each"
    yield Check("hello job", "ok", text)
    if theirs["marker"] == marker:
        yield Check("shared files", "ok", "the node sees what is written here")
    else:
        text = "put the store on a file system that all nodes share (--store)"
        yield Check("shared files", "bad", "the node does not see this directory", text)
    differ = [
        f"{name} {mine['versions'].get(name, 'absent')} here, {theirs['versions'].get(name, 'absent')} there"
        for name in sorted({*mine["versions"], *theirs["versions"]})
        if mine["versions"].get(name) != theirs["versions"].get(name)
    ]
    if mine["python"].rpartition(".")[0] != theirs["python"].rpartition(".")[0]:
        differ.insert(0, f"Python {mine['python']} here, {theirs['python']} there")
    if mine["code"] != theirs["code"]:
        differ.append("the code of sciflow differs")
    if differ:
        text = "use one environment on both sides (python = ..., prologue = ... in the site file)"
        yield Check("versions", "bad", "; ".join(differ), text)
    else:
        yield Check("versions", "ok", f"Python {mine['python']} and the same packages on both sides")
    skew = abs(theirs["time"] - time.time())
    if skew > took + SKEW:
        yield Check("clocks", "bad", f"they differ by {skew:.0f} s", "tell the administrator")
    for name, state, found, advice in theirs["files"]:
        if state != "ok":
            yield Check(f"files: {name}", "bad" if state == "bad" else "absent", found, advice)
    speed = next((f"{found}" for name, _, found, _ in theirs["files"] if name == "writing"), "")
    sync = next((f"{found}" for name, _, found, _ in theirs["files"] if name == "fsync"), "")
    yield Check("file system", "ok", f"from the node: writing {speed}; fsync {sync}")
