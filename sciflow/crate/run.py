"""The crate of one run of a flow."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.crate.execution import COMPLETED, FAILED, Execution, action, dataset, tool
from sciflow.crate.graph import (
    METADATA,
    PROFILES,
    ROOT,
    Graph,
    Reference,
    clean,
    file,
    frame,
    moment,
    person,
    setting,
    without_secrets,
)
from sciflow.errors import Invalid
from sciflow.provenance import plugins_of, user, version_of

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.flow import Session
    from sciflow.work import Record


def write(here: Session, *, terms: str = "") -> Path:
    """Write ``ro-crate-metadata.json`` and the flow itself into the run's directory.

    Parameters
    ----------
    here : Session
        A run that has ended, well or not; written again it is replaced.
    terms : str
        URL or text under which the run may be used; unknown where empty.

    Returns
    -------
    Path
        Of the metadata file. The crate is `here.directory`: the report and the logs of the stages
        are described where they are in it.

    Raises
    ------
    Invalid
        If the run was only planned.
    """
    from sciflow.artifact.disk import Disk

    document = crate(here, terms=terms)
    name, text = _source(here)
    disk = Disk()
    disk.replace(here.directory / name, text)
    path = here.directory / METADATA
    disk.replace(path, json.dumps(document, indent=2, allow_nan=False).encode())
    return path


def crate(here: Session, *, terms: str = "") -> dict[str, Any]:
    """The RO-Crate metadata of one run.

    Parameters
    ----------
    here : Session
        A run that has ended, well or not.
    terms : str
        URL or text under which the run may be used; unknown where empty.

    Returns
    -------
    dict
        JSON-LD. It conforms to Provenance Run Crate, or to Workflow Run Crate alone where no stage
        was run.

    Raises
    ------
    Invalid
        If the run was only planned.

    Notes
    -----
    The run's source, end and outcome, and the times of its records, are read from
    ``Session.file``, ``Session.source``, ``Session.end``, ``Session.state``, ``Session.reason``,
    ``Record.start`` and ``Record.end``. Where a session lacks them the workflow is the list of its
    stages (``flow.json``), the run ended with its last artifact, and it failed if one of its stages
    never gave a result.
    """
    if here.planning:
        raise Invalid("this run was only planned, there is nothing to describe")
    return _Run(here).document(terms)


def _source(here: Session) -> tuple[str, bytes]:
    """File name and content of the workflow: the flow's source, else the stages that were asked for."""
    text = here.source
    if text:
        return here.file or f"{here.name}.py", text.encode()
    steps = [
        {"stage": without_secrets(r.stage.to_json()), "inputs": {n: a.digest for n, a in r.inputs.items()}}
        for r in here.records
    ]
    return "flow.json", json.dumps({"flow": here.name, "stages": steps}, indent=2).encode()


class _Run:
    """Builds the graph of one run, part by part."""

    def __init__(self, here: Session) -> None:
        self.here = here
        self.graph = Graph()
        self.agent = person(self.graph, user())
        self.artifacts: dict[str, Reference] = {}
        self.new = [r.artifact for r in here.records if r.state == "computed" and r.artifact is not None]
        self.made = {Execution.of(artifact).identifier for artifact in self.new}
        self.end = self._end()

    def document(self, terms: str) -> dict[str, Any]:
        """The whole crate."""
        here, graph = self.here, self.graph
        root = frame(
            graph,
            [p for p in PROFILES if here.records or "provenance" not in p],
            name=f"{here.name}, {moment(here.start)}",
            description=f"One run of the flow {here.name} with sciflow: parameters, stages, results.",
            published=self.end or here.start,
            terms=terms,
        )
        workflow, given = self._workflow()
        for artifact in self._artifacts():
            self.artifacts[artifact.digest] = dataset(graph, artifact)
        controls, error = self._steps(workflow)
        whole = self._whole(workflow, given, error)
        self._engine(whole, controls)
        self._logs(whole)
        graph.put(root, "mainEntity", workflow)
        data = [d for d in graph.of_type("Dataset") if d["@id"] != ROOT]
        graph.link(root, "hasPart", *graph.of_type("File"), *data)
        graph.link(root, "mentions", *graph.of_type("CreateAction"), *graph.of_type("OrganizeAction"))
        return graph.document()

    def _end(self) -> float | None:
        known = [self.here.end]
        if not known[0]:
            known = [r.end for r in self.here.records]
            known += [a.provenance["end"] for a in self.new]
        return max((float(e) for e in known if e), default=None)

    def _artifacts(self) -> Iterator[Artifact]:
        for record in self.here.records:
            yield from (a for a in record.inputs.values() if hasattr(a, "digest"))
            if record.artifact is not None:
                yield record.artifact

    def _workflow(self) -> tuple[Reference, list[Reference]]:
        """The flow's file with its parameters; returns it and the values that the run was given."""
        here, graph = self.here, self.graph
        name, text = _source(here)
        python = name.endswith(".py")
        about = {"name": "Python", "url": "https://www.python.org/", "version": platform.python_version()}
        if not python:
            about = {"name": "JSON", "url": "https://www.json.org/"}
        workflow = file(
            graph,
            name,
            text,
            kind=["SoftwareSourceCode", "ComputationalWorkflow", *(["HowTo"] if here.records else [])],
            alternateName=here.name,
            description="" if python else "The stages that the run asked for; the flow's source is unknown.",
            encodingFormat="text/x-python" if python else "application/json",
            programmingLanguage=graph.add("#language", "ComputerLanguage", **about),
        )
        given = []
        for parameter, value in here.parameters.items():
            made = setting(graph, f"{workflow['@id']}#set", parameter, value)
            if made is not None:
                graph.link(workflow, "input", made[0])
                given.append(made[1])
        return workflow, given

    def _steps(self, workflow: Reference) -> tuple[list[Reference], str]:
        """Steps, tools and executions; returns the steps that this run executed and what failed last."""
        graph, controls, error = self.graph, [], ""
        attempts: dict[str, list[Execution]] = {}
        for number, record in enumerate(self.here.records):
            execution = self._execution(number, record)
            attempts.setdefault(execution.step(), []).append(execution)
        for position, (key, executions) in enumerate(attempts.items()):
            used = [tool(graph, execution) for execution in executions]
            graph.link(workflow, "hasPart", *used)
            name = executions[0].stage["component"]
            step = graph.add(f"#step-{key}", "HowToStep", name=name, position=position, workExample=used[-1])
            graph.link(workflow, "step", step)
            ran = [e for e in executions if not e.result or e.identifier in self.made]
            for execution in executions:
                note = "" if execution in ran else "Not part of this run, which reused the result."
                action(graph, execution, self.artifacts, note)
            failure = "" if any(e.result for e in executions) else executions[-1].error
            error = failure or error
            if ran:
                controls.append(self._control(step, ran, failure))
        return controls, error

    def _execution(self, number: int, record: Record) -> Execution:
        if record.artifact is not None:
            return Execution.of(record.artifact)
        inputs = {n: a.digest for n, a in record.inputs.items() if hasattr(a, "digest")}
        return Execution(
            self._uuid(f"attempt {number}"),
            record.stage.to_json(),
            plugins_of(record.stage),
            inputs,
            start=record.start,
            end=record.end,
            error=clean(record.reason or record.state, self.here.store.root),
            provenance={"user": user()},
        )

    def _uuid(self, what: str) -> str:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{self.here.directory.name} {self.here.start} {what}").urn

    def _control(self, step: Reference, ran: list[Execution], failure: str) -> Reference:
        return self.graph.add(
            step["@id"].replace("#step", "#control"),
            "ControlAction",
            name=f"step {self.graph.get(step, 'name')}",
            instrument=step,
            object=[{"@id": name} for name in dict.fromkeys(e.identifier for e in ran)],
            actionStatus=FAILED if failure else COMPLETED,
            error=failure,
        )

    def _whole(self, workflow: Reference, given: list[Reference], error: str) -> Reference:
        """The execution of the flow: what it read from elsewhere, what nobody in it used up."""
        here, graph = self.here, self.graph
        used = {a.digest: None for r in here.records for a in r.inputs.values() if hasattr(a, "digest")}
        known = {r.artifact.digest for r in here.records if r.artifact is not None}
        results = [self.artifacts[a.digest] for a in self.new if a.digest not in used]
        if (here.directory / "report.html").is_file():
            results.append(self._file("report.html", "text/html"))
        failed = (here.state or ("failed" if error else "")) in ("failed", "cancelled")
        reason = clean(here.reason, here.store.root) or error
        return graph.add(
            self._uuid("run"),
            "CreateAction",
            name=f"run of {here.name}",
            description=f"The flow {here.name} on the engine {here.engine}.",
            instrument=workflow,
            object=[*given, *(self.artifacts[d] for d in used if d not in known)],
            result=results,
            startTime=moment(here.start),
            endTime=moment(self.end),
            actionStatus=FAILED if failed else COMPLETED,
            error=reason if failed else "",
            agent=self.agent,
        )

    def _engine(self, whole: Reference, controls: list[Reference]) -> None:
        """What ran the steps, where any was run."""
        if not controls:
            return
        graph, kind = self.graph, "SoftwareApplication"
        engine = graph.add("#engine", kind, name="sciflow", softwareVersion=version_of("sciflow"))
        if self.here.engine == "prefect":
            below = graph.add("#prefect", kind, name="Prefect", softwareVersion=version_of("prefect"))
            graph.link(engine, "softwareRequirements", below)
        graph.add(
            self._uuid("engine"),
            "OrganizeAction",
            name=f"sciflow ran {self.here.name}",
            instrument=engine,
            object=controls,
            result=whole,
            startTime=moment(self.here.start),
            endTime=moment(self.end),
            actionStatus=graph.get(whole, "actionStatus"),
            error=graph.get(whole, "error"),
            agent=self.agent,
        )

    def _logs(self, whole: Reference) -> None:
        """Event logs of the stages, each about the execution that wrote it."""
        about = {
            f"{r.stage.name}-{r.artifact.recipe[:8]}": {"@id": Execution.of(r.artifact).identifier}
            for r in self.here.records
            if r.artifact is not None
        }
        for path in sorted(self.here.directory.glob("stages/*/status.jsonl")):
            log = self._file(path.relative_to(self.here.directory).as_posix(), "application/jsonl")
            self.graph.put(log, "about", about.get(path.parent.name, whole))

    def _file(self, place: str, encoding: str) -> Reference:
        return file(self.graph, place, (self.here.directory / place).read_bytes(), encodingFormat=encoding)
