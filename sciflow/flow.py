"""``run`` and ``report``: what a flow awaits; the same under Prefect and on the plain engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import Artifact, explain_os_error
from sciflow.component import plain
from sciflow.context import Context, Event
from sciflow.cores import Cores, Inside
from sciflow.errors import Cancelled, Failed, Invalid
from sciflow.executor import Cause, Executor, Job, JobState, Resources, ended, unfinished
from sciflow.jobs import JOB, EventHandler, EventLog, JobSpec
from sciflow.provenance import collect, components_in, recipe_of
from sciflow.registry import require
from sciflow.server.forms import label
from sciflow.site import Site, current
from sciflow.store import Store

if TYPE_CHECKING:
    from sciflow.server.outbox import Outbox
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


@dataclass
class Session:
    """One run of a flow.

    Attributes
    ----------
    store : Store
        Where artifacts are.
    name : str
        Of the flow.
    parameters : mapping
        It was started with, plain JSON.
    engine : str
        ``plain`` or ``prefect``.
    listener : callable
        Gets every event with what its stage is called, such as ``train fno``.
    planning : bool
        Nothing is run; `run` only says what would be.
    file, source : str
        Name of the flow's file, without directories, and its text when the run began.
    unattended : bool
        Nobody will call `close`: the crate is written after every stage.
    site : Site
        Where stages run.
    end : float or None
        When the flow ended, seconds since the epoch.
    state, reason : str
        ``completed``, ``failed`` or ``cancelled``, and why; empty while it runs.
    outbox : Outbox or None
        Keeps what a Prefect server is to know; None where it need not.
    cancelled : str
        By whom the run was cancelled; empty if it was not.
    works : list of Work
        What is awaited now.
    cores : Cores
        What stages that are computed on this machine share.
    inside : Inside
        Which of them go on as threads of this process.
    records : list of Record
        How each stage went, in the order in which they ended.
    start : float
        When the run began, seconds since the epoch.
    """

    store: Store
    name: str = "flow"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "plain"
    listener: Callable[[str, Event], None] = lambda stage, event: None
    planning: bool = False
    file: str = ""
    source: str = ""
    unattended: bool = False
    site: Site = field(default_factory=Site)
    end: float | None = None
    state: str = ""
    reason: str = ""
    outbox: Outbox | None = None
    cancelled: str = ""
    works: list[Work] = field(default_factory=list)
    cores: Cores = field(default_factory=Cores)
    inside: Inside = field(default_factory=Inside)
    records: list[Record] = field(default_factory=list)
    start: float = field(default_factory=time.time)

    @property
    def directory(self) -> Path:
        """The run's own directory below the store."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.start))
        return self.store.root / "runs" / f"{self.name}-{stamp}-{os.getpid()}"

    def cancel(self, by: str) -> None:
        """Stop every stage at its next look, with its jobs, and begin no other one; from any thread."""
        self.cancelled = by
        for work in list(self.works):
            work.stop()

    def keep_output(self) -> None:
        """Send what a process prints that nobody looks at to ``output.txt`` of the run; a terminal stays."""
        null = Path(os.devnull).stat()
        with contextlib.suppress(OSError):
            streams = [n for n in (1, 2) if os.path.samestat(os.fstat(n), null)]
            if streams:
                self.directory.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                file = os.open(self.directory / "output.txt", flags, 0o600)
                for stream in streams:
                    os.dup2(file, stream)
                os.close(file)

    def note_source(self, function: Any) -> None:
        """Keep the text of the file that defines a flow's function, as far as there is one."""
        import inspect

        with contextlib.suppress(OSError, TypeError, UnicodeDecodeError):
            path = Path(inspect.getsourcefile(function) or "")
            self.file, self.source = path.name, path.read_text()

    def close(self, error: BaseException | None = None) -> None:
        """Note how the run ended and write its crate (`sciflow.crate`)."""
        self.end = time.time()
        stopped = isinstance(error, Cancelled | asyncio.CancelledError | KeyboardInterrupt)
        self.state = "completed" if error is None else "cancelled" if stopped else "failed"
        self.reason = "" if error is None else f"{type(error).__name__}: {error}"
        if self.outbox is not None and self.engine == "plain":
            self.outbox.add({"event": "done", "state": self.state, "reason": self.reason})
            self.outbox.close()
        self.describe()

    def describe(self) -> None:
        """Write the crate as far as the run has come; a full disk does not end the run."""
        if self.planning or not self.records:
            return
        from sciflow.crate import write

        try:
            write(self)
        except OSError as error:
            logging.getLogger("sciflow").warning("the run could not be described: %s", error)


class PlanEnds(Invalid):
    """A flow that is only planned looked into a result that is not there yet."""


@dataclass(frozen=True)
class Planned:
    """Stands for an artifact that a plan would have to compute first.

    Attributes
    ----------
    name : str
        What the stage is called.
    recipe : str
        Digest of its configuration and inputs.
    """

    name: str
    recipe: str

    def __getattr__(self, attribute: str) -> Any:
        raise PlanEnds(
            f"the plan ends here: the flow looks into the result of {self.name!r}, which is not there yet"
        )


_SESSION: ContextVar[Session | None] = ContextVar("sciflow_session", default=None)
_BY_FLOW_RUN: dict[str, Session] = {}


def default_store() -> Store:
    """The store named by ``SCIFLOW_STORE``, else ``sciflow-store`` below the working directory."""
    return Store(os.environ.get("SCIFLOW_STORE", "sciflow-store"))


def _flow_run() -> Any:
    """Prefect's context of the current flow run, without importing Prefect for it."""
    context = sys.modules.get("prefect.context")
    return context.FlowRunContext.get() if context is not None else None


@contextlib.contextmanager
def within(here: Session) -> Iterator[Session]:
    """Make `here` the session of everything that is run inside the block."""
    token = _SESSION.set(here)
    try:
        yield here
    finally:
        _SESSION.reset(token)


def session() -> Session:
    """The session of the current run; made on first use in a flow that Prefect itself started."""
    here = _SESSION.get()
    if here is not None:
        return here
    run_context = _flow_run()
    if run_context is None or run_context.flow_run is None:
        made = Session(default_store(), "script", site=current())
        _SESSION.set(made)
        return made
    key = str(run_context.flow_run.id)
    if key not in _BY_FLOW_RUN:
        name = re.sub(r"\W+", "_", run_context.flow.name)
        parameters = plain(run_context.parameters or {})
        made = Session(default_store(), name, parameters, "prefect", unattended=True, site=current())
        made.note_source(run_context.flow.fn)
        made.keep_output()
        _BY_FLOW_RUN[key] = made
    return _BY_FLOW_RUN[key]


async def run(
    stage: Stage,
    /,
    *,
    executor: Executor | None = None,
    resources: Resources | None = None,
    **inputs: Artifact,
) -> Artifact:
    """Run a stage, or reuse its result if it is there.

    Parameters
    ----------
    stage : Stage
        With its configuration.
    executor : Executor or None
        Where it runs; None leaves it to the site of the run, which is this process unless another one
        was named (an ensemble chooses ``mpi`` there where its problem needs it).
    resources : Resources or None
        What it gets, see `Site.place`. Neither is part of the result's identity.
    **inputs : Artifact
        By the names in ``stage.inputs``.

    Returns
    -------
    Artifact
        Published and verified. Independent calls run concurrently (``asyncio.gather``).

    Raises
    ------
    Invalid
        If configuration and inputs do not fit together.
    Missing
        If software that the stage needs is not installed.
    Failed
        If it did not end well, with the reason.
    Cancelled
        If the run was cancelled.
    """
    here = session()
    if here.planning:
        planned: Artifact = _plan(stage, inputs, here)
        return planned
    work = Work(stage, inputs, *here.site.place(stage, executor, resources), here)
    if _flow_run() is not None:
        from sciflow.server.engine import run_task

        return await run_task(work)
    for attempt in range(stage.retries + 1):
        try:
            return await work.go()
        except Failed:
            if attempt == stage.retries:
                raise
    raise AssertionError("unreachable")


def _plan(stage: Stage, inputs: Mapping[str, Any], here: Session) -> Any:
    waiting = [n for n, a in inputs.items() if isinstance(a, Planned)]
    event: Event = {"event": "end", "seconds": 0.0}
    if waiting:
        here.listener(label(stage), {**event, "state": "would run", "detail": f"after {', '.join(waiting)}"})
        return Planned(stage.name, "")
    stage.check(inputs)
    recipe = recipe_of(stage, inputs)
    found = here.store.find(stage.output.kind, recipe)
    state, detail = ("cached", str(found.path)) if found else ("would run", f"recipe {recipe[:16]}")
    here.listener(label(stage, inputs), {**event, "state": state, "detail": detail})
    return found or Planned(stage.name, recipe)


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


async def report(title: str, *artifacts: Artifact) -> Path:
    """Write the run's report: one self-contained HTML file.

    Parameters
    ----------
    title : str
        Its heading.
    *artifacts : Artifact
        What it shows, in this order: designs, ensembles, models, evaluations, or anything that a
        plugin's ``sciflow_report`` hook knows.

    Returns
    -------
    Path
        Of the file; Prefect shows its main figures as an artifact too.
    """
    here = session()
    if here.planning:
        return here.directory / "report.html"
    from sciflow.reporting import build

    begin = time.monotonic()
    here.listener("report", {"event": "begin"})
    loop = asyncio.get_running_loop()
    document = await loop.run_in_executor(None, build, title, artifacts, here)
    path = here.directory / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document.html)
    if _flow_run() is not None:
        from sciflow.server.engine import attach

        attach(here)
    if here.outbox is not None:
        text = f"# {title}\n\n{document.markdown}\n\nWhole report: `{path}`\n"
        here.outbox.add({"event": "report", "title": title, "text": text})
    took = time.monotonic() - begin
    here.listener("report", {"event": "end", "state": "written", "seconds": took, "detail": str(path)})
    return path
