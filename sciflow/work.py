"""Work: one awaited stage of a run, from the look for its result to the published artifact."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow.artifact import explain_os_error
from sciflow.component import plain
from sciflow.context import Context, Event
from sciflow.errors import Cancelled
from sciflow.executor import Cause, Executor, Job, JobState, Resources, ended, unfinished
from sciflow.jobs import JOB, EventHandler, EventLog, JobSpec
from sciflow.provenance import collect, components_in, recipe_of
from sciflow.registry import require
from sciflow.stage import label

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.flow import Session
    from sciflow.stage import Stage
    from sciflow.store import Writer

MPI = frozenset({"mpi4py", "petsc4py", "dolfinx"})
"""Components that need one of these speak MPI."""
CONTINUATIONS = 100
"""So often a stage goes on in another job after one was ended from outside."""


@dataclass
class Record:
    """How one stage of a run went.

    Attributes
    ----------
    stage : Stage
        What ran.
    inputs : mapping of str to Artifact
        What it read.
    state : str
        ``cached``, ``computed``, ``failed`` or ``cancelled``.
    seconds : float
        Wall time, s.
    artifact : Artifact or None
        What it wrote.
    reason : str
        Why it failed.
    start, end : float or None
        When it was awaited and when it was done, seconds since the epoch.
    """

    stage: Stage
    inputs: Mapping[str, Artifact]
    state: str
    seconds: float
    artifact: Artifact | None = None
    reason: str = ""
    start: float | None = None
    end: float | None = None


class Work:
    """One awaited stage of one run: looks for the result, else makes it in a thread.

    Parameters
    ----------
    stage, inputs, executor, resources
        See `run`.
    here : Session
        The run.
    """

    def __init__(
        self,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        executor: Executor | None,
        resources: Resources,
        here: Session,
    ) -> None:
        self.stage, self.inputs, self.executor, self.resources, self.here = (
            stage,
            inputs,
            executor,
            resources,
            here,
        )
        self.cached = False
        self.marks: Event = {"stage": stage.name, "name": label(stage, inputs), "task": uuid.uuid4().hex}
        self.listener: Callable[[Event], None] | None = None
        self._cancelled = threading.Event()
        self._log: EventLog | None = None

    def emit(self, event: Event) -> None:
        """Send an event to the run directory, the terminal and the Prefect UI."""
        if self._log is not None:
            self._log(event)
        if self.here.outbox is not None:
            inputs = {n: str(a.path) for n, a in self.inputs.items()} if event["event"] == "begin" else None
            self.here.outbox.add({**event, **self.marks} | ({"inputs": inputs} if inputs else {}))
        self.here.listener(label(self.stage, self.inputs), {**event, "task": self.marks["task"]})
        if self.listener is not None:
            self.listener(event)

    def stop(self) -> None:
        """Let the stage stop at its next look; from any thread."""
        self._cancelled.set()

    async def go(self) -> Artifact:
        """Reuse or compute the result; cancelling this coroutine stops the stage first.

        Raises
        ------
        Cancelled
            If the run was cancelled.
        """
        begin = time.monotonic()
        self.here.works.append(self)
        if self.here.cancelled:
            self.stop()
        record = Record(self.stage, self.inputs, "failed", 0.0, start=time.time())
        self.here.records.append(record)
        self.emit({"event": "begin"})
        try:
            if self._cancelled.is_set():
                raise Cancelled(f"the run was cancelled {self.here.cancelled}".strip())
            found = self._find()
            record.artifact = found or await self._in_thread()
            record.state = "cached" if self.cached else "computed"
            return record.artifact
        except BaseException as error:
            stopped = isinstance(error, Cancelled | asyncio.CancelledError)
            record.state = "cancelled" if stopped else "failed"
            if isinstance(error, Cancelled) and self.here.cancelled:
                error = Cancelled(f"the run was cancelled {self.here.cancelled}")
            record.reason = f"{type(error).__name__}: {error}" if str(error) else "the run was cancelled"
            raise error
        finally:
            self.here.works.remove(self)
            record.seconds, record.end = time.monotonic() - begin, time.time()
            detail = record.reason or str(record.artifact.path if record.artifact else "")
            self.emit({"event": "end", "state": record.state, "seconds": record.seconds, "detail": detail})
            if self.here.unattended:
                self.here.describe()

    def _find(self) -> Artifact | None:
        for component in components_in(self.stage):
            require(component)
        self.stage.check(self.inputs)
        self.recipe = recipe_of(self.stage, self.inputs)
        found = self.here.store.find(self.stage.output.kind, self.recipe)
        self.cached = found is not None
        return found

    async def _in_thread(self) -> Artifact:
        running = asyncio.get_running_loop().run_in_executor(None, self._make)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._cancelled.set()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()
            raise

    def _make(self) -> Artifact:
        store, stage = self.here.store, self.stage
        told = False
        while True:
            try:
                with store.writer(stage.output, self.recipe, self._about()) as out:
                    # Another process may have published it while this one waited.
                    found = store.find(stage.output.kind, self.recipe)
                    if found is not None:
                        self.cached = True
                        return found
                    with self._placed():
                        return self._write(out)
            except BlockingIOError:
                if not told:
                    self.emit(_log_event("WARNING", "another run is computing this; waiting for it"))
                    told = True
                if self._cancelled.wait(0.5):
                    raise Cancelled(f"the run was cancelled {self.here.cancelled}".strip()) from None
            except OSError as error:
                raise explain_os_error(error, store.root, "what was finished is kept") from error

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        """Have the cores, and in this process the place, that the stage needs."""
        parts = components_in(self.stage)
        speaks = not self.stage.orchestrates and any(MPI & set(part.requires) for part in parts)
        with contextlib.ExitStack() as held:
            inside = self.executor is not None or held.enter_context(self.here.inside.entered(speaks))
            # A stage that orchestrates starts processes itself.
            if not inside and not self.stage.orchestrates:
                from sciflow.executors.mpi import Mpi

                self.executor = Mpi()
            held.enter_context(self.here.cores.taken(self._share(), self._cancelled, self._waits_for_cores))
            yield

    def _share(self) -> int:
        """Cores of this machine that the stage asked for; 0 where none were named or others count them."""
        wish, there = self.resources, self.here.cores.count
        if self.stage.orchestrates:
            here = self.executor is None or self.executor.shares
            each = wish.ranks * max(1, wish.threads)
            return each * (wish.parallel or max(1, there // each)) if here else 0
        if self.executor is None:
            return wish.ranks * wish.threads
        return wish.ranks * (wish.threads or max(1, there // wish.ranks)) if self.executor.shares else 0

    def _waits_for_cores(self) -> None:
        self.emit(
            _log_event("INFO", f"waits until {self._share()} of {self.here.cores.count} cores are free")
        )

    def _about(self) -> dict[str, Any]:
        """What `sciflow store resume` needs to go on without the flow."""
        return {
            "stage": self.stage.to_json(),
            "inputs": {n: {"name": a.path.name, "digest": a.digest} for n, a in self.inputs.items()},
            "executor": self.executor.to_json() if self.executor is not None else None,
            "resources": plain(self.resources),
        }

    def _write(self, out: Writer) -> Artifact:
        start = time.time()
        self._log = EventLog(self.here.directory / "stages" / f"{self.stage.name}-{self.recipe[:8]}")
        measured: dict[str, Any] = {}
        if self.executor is not None and not self.stage.orchestrates:
            measured = self._submit(out)
        else:
            log = logging.getLogger(f"sciflow.{self.stage.name}.{self.recipe[:8]}")
            log.propagate = False
            log.setLevel(logging.INFO)
            handler = EventHandler(self.emit)
            log.addHandler(handler)
            ctx = Context(
                getattr(self.stage, "seed", 0), out.scratch, log=log, emit=self.emit,
                executor=self.executor, resources=self.resources, cancelled=self._cancelled,
            )  # fmt: skip
            try:
                self.stage.run(self.inputs, out, ctx)
            finally:
                log.removeHandler(handler)
        provenance = collect(self.stage, self.inputs, self.resources, start, time.time())
        return out.publish(provenance | ({"job": measured} if measured else {}))

    def _submit(self, out: Writer) -> dict[str, Any]:
        """Run the stage as a job; one of an earlier process is found again, an interrupted one goes on.

        Returns
        -------
        dict
            What the job says of itself: ``seconds`` of work and ``usage``, without the wait for it.
        """
        jobs = unfinished(out.scratch)
        for continuation in range(CONTINUATIONS):
            job = jobs[-1] if jobs else self._start(out)
            if self._follow(job) == JobState.DONE:
                # Publishing settles it: killed before that, the next process finds a job that is done.
                out.refresh()
                from sciflow.worker import read_exit

                ended_ = read_exit(job.directory, JobSpec.read(job.directory / JOB).nonce) or {}
                return {name: ended_[name] for name in ("seconds", "usage") if name in ended_}
            job.settle()
            cause = job.cause()
            if cause == Cause.CANCELLED:
                raise Cancelled(job.reason())
            if cause is None or not cause.passing or continuation == CONTINUATIONS - 1:
                break
            self.emit(_log_event("WARNING", f"{job.reason()}; it goes on in another job"))
            jobs = []
        raise ended(job, f"stage {self.stage.name!r}")

    def _start(self, out: Writer) -> Job:
        assert self.executor is not None
        entries = {n: {"path": str(a.path), "digest": a.digest} for n, a in self.inputs.items()}
        seed = getattr(self.stage, "seed", 0)
        spec = JobSpec("stage", self.stage.to_json(), str(out.path), entries, seed=seed)
        job = self.executor.submit(spec, out.scratch / f"job-{spec.nonce[:12]}", self.resources)
        self.emit(_log_event("INFO", f"job {job.id}, run directory {job.directory}"))
        return job

    def _follow(self, job: Job) -> JobState:
        """Mirror what a job reports until it ends."""
        told = ""
        while True:
            state = job.wait(0.1)
            if (waiting := job.waits_for()) not in ("", told):
                self.emit(_log_event("INFO", f"job {job.id} waits in the queue: {waiting}"))
                told = waiting
            for event in job.events():
                self.emit(event)
            if state.ended:
                return state
            if self._cancelled.is_set():
                job.cancel()
                raise Cancelled(f"the run was cancelled {self.here.cancelled}".strip())


def _log_event(level: str, message: str) -> Event:
    return {"event": "log", "level": level, "message": message}
