"""``run`` and ``report``: what a flow awaits; the same under Prefect and on the plain engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import Artifact
from sciflow.component import plain
from sciflow.context import Event
from sciflow.cores import Cores, Inside
from sciflow.errors import Cancelled, Failed, Invalid
from sciflow.executor import Executor, Resources
from sciflow.provenance import recipe_of
from sciflow.site import Site, current
from sciflow.stage import label
from sciflow.store import Store
from sciflow.work import Record, Work

if TYPE_CHECKING:
    from sciflow.server.outbox import Outbox
    from sciflow.stage import Stage


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
