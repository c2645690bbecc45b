"""Executions of stages: their tools, what they read and wrote, and how they went, as entities."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sciflow.crate.graph import Graph, Reference, moment, person, setting, tag, without_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from sciflow.artifact import Artifact

COMPLETED = "http://schema.org/CompletedActionStatus"
FAILED = "http://schema.org/FailedActionStatus"
_ZARR = "https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html"
_USAGE = "https://man7.org/linux/man-pages/man2/getrusage.2.html"
_UNIT = "https://qudt.org/vocab/unit/"


@dataclass(frozen=True)
class Execution:
    """One attempt to run a stage.

    Attributes
    ----------
    identifier : str
        Its URI.
    stage : mapping
        Configuration, as `Component.to_json` gives it.
    plugins : sequence of mapping
        Who provides the components, the stage first; empty where nobody recorded it.
    inputs : mapping of str to str
        Digest of each artifact that it read, by name.
    result : str
        Digest of the artifact that it wrote; empty where there is none.
    start, end : float or None
        Seconds since the epoch.
    error : str
        Why it failed; empty where it did not.
    provenance : mapping
        The artifact's, where there is one.
    """

    identifier: str
    stage: Mapping[str, Any]
    plugins: Sequence[Mapping[str, str]]
    inputs: Mapping[str, str]
    result: str = ""
    start: float | None = None
    end: float | None = None
    error: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, artifact: Artifact) -> Execution:
        """The one that made an artifact, whenever that was."""
        p = artifact.provenance
        return cls(
            uuid.uuid5(uuid.NAMESPACE_URL, f"{named(artifact.digest)}#{artifact.recipe}@{p['start']}").urn,
            p["stage"],
            p.get("plugins", ()),
            {name: i["digest"] for name, i in p["inputs"].items()},
            artifact.digest,
            p["start"],
            p["end"],
            provenance=p,
        )

    def step(self) -> str:
        """Equal for the attempts at the same stage with the same inputs."""
        return tag(self.stage, self.inputs)


def named(digest: str) -> str:
    """The name of an artifact in every crate: a URI made of its digest (RFC 6920)."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")


def files_of(manifest: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Size in bytes and SHA-256 of every file of an artifact, by its path in the artifact."""
    from sciflow.artifact import DATA

    inside = f"{DATA}/" if manifest["format"] == 1 else ""
    listed = sorted(manifest["files"].items())
    return {inside + name: (int(size), str(sha256)) for name, (size, sha256, *_) in listed}


def dataset(graph: Graph, artifact: Artifact, identifier: str = "") -> Reference:
    """Add an artifact.

    Parameters
    ----------
    graph : Graph
        Gets it.
    artifact : Artifact
        Published.
    identifier : str
        Its path in the crate; left out for one that lies outside.
    """
    from sciflow.artifact.sealed import read_manifest

    kind, manifest = artifact.schema.kind, read_manifest(artifact.path)
    zarr = graph.add(_ZARR, "CreativeWork", name="Zarr core specification, version 3")
    schema = graph.add(
        f"#schema-{kind}", "CreativeWork", name=f"sciflow {kind}", version=str(manifest["format"])
    )
    fields = [
        graph.add(
            f"#field-{artifact.digest[:16]}-{name}",
            "PropertyValue",
            name=name,
            unitText=f.unit,
            description=f"{f.description or name}: {f.dtype}, axes ({', '.join(f.axes)})",
        )
        for name, f in artifact.schema.fields.items()
    ]
    return graph.add(
        identifier or named(artifact.digest),
        "Dataset",
        name=f"{kind} {artifact.digest[:12]}",
        alternateName=_place(artifact.path),
        identifier=f"sha256:{artifact.digest}",
        contentSize=str(sum(size for size, _ in files_of(manifest).values())),
        dateCreated=moment(artifact.provenance["end"]),
        conformsTo=[zarr, schema],
        variableMeasured=fields,
    )


def unknown_dataset(graph: Graph, digest: str) -> Reference:
    """Add an artifact of which only the digest is known."""
    about = {"name": f"artifact {digest[:12]}", "identifier": f"sha256:{digest}"}
    return graph.add(named(digest), "Dataset", **about)


def _place(path: Path) -> str:
    """An artifact's directory relative to its store."""
    return f"{path.parent.name}/{path.name}/"


def tool(graph: Graph, execution: Execution) -> Reference:
    """Add the stage of an execution as a tool, and the components in it as what the tool requires."""
    name = execution.stage["component"]
    first, *others = execution.plugins or [{"kind": "stage", "component": name}]
    parts = [_component(graph, f"#component-{tag(plugin)}", plugin) for plugin in others]
    made = _component(graph, f"#tool-{name}-{tag(execution.plugins)}", first)
    if parts:
        graph.link(made, "softwareRequirements", *parts)
    return made


def _component(graph: Graph, identifier: str, plugin: Mapping[str, str]) -> Reference:
    distribution, version = plugin.get("distribution", ""), plugin.get("version", "")
    about = f"{plugin['kind']} {plugin['component']}"
    package = None
    if distribution:
        about += f" of {distribution} {version}, entry point {plugin['entry_point']}"
        place = f"#distribution-{distribution}-{version}"
        package = graph.add(place, "SoftwareApplication", name=distribution, softwareVersion=version)
    return graph.add(
        identifier,
        "SoftwareApplication",
        name=plugin["component"],
        description=about,
        softwareVersion=version,
        isPartOf=package,
    )


def action(graph: Graph, execution: Execution, results: Mapping[str, Reference], note: str = "") -> Reference:
    """Add an execution with its tool and parameters.

    Parameters
    ----------
    graph : Graph
        Gets them.
    execution : Execution
        What ran.
    results : mapping of str to dict
        References to artifacts by digest; those that it read and are not there are added.
    note : str
        Put in front of the description.
    """
    if execution.identifier in graph:
        return {"@id": execution.identifier}
    used, p = tool(graph, execution), execution.provenance
    objects = []
    for name, digest in execution.inputs.items():
        read = results.get(digest) or unknown_dataset(graph, digest)
        _slot(graph, used, "input", name, read)
        if read not in objects:  # one artifact may be two inputs
            objects.append(read)
    for name, value in execution.stage.items():
        made = setting(graph, f"{used['@id']}-set", name, value) if name != "component" else None
        if made is not None:
            graph.link(used, "input", made[0])
            objects.append(made[1])
    written = [results[execution.result]] if execution.result else []
    for one in written:
        _slot(graph, used, "output", "result", one)
    return graph.add(
        execution.identifier,
        "CreateAction",
        name=f"run of {execution.stage['component']}",
        description=" ".join(filter(None, [note, _described(execution)])),
        instrument=used,
        object=objects,
        result=written,
        startTime=moment(execution.start),
        endTime=moment(execution.end),
        actionStatus=FAILED if execution.error else COMPLETED,
        error=execution.error,
        agent=person(graph, p.get("user", "")),
        environment=_environment(graph, p.get("environment", {}).get("variables", {})),
        resourceUsage=_usage(graph, execution),
    )


def _slot(graph: Graph, used: Reference, direction: str, name: str, data: Reference) -> None:
    """Say that an artifact filled an input or the output of a tool."""
    formal = graph.add(
        f"{used['@id']}-{direction}-{name}", "FormalParameter", name=name, additionalType="Dataset"
    )
    graph.link(used, direction, formal)
    graph.link(data, "exampleOfWork", formal)


def _described(execution: Execution) -> str:
    text = json.dumps(without_secrets(dict(execution.stage)), sort_keys=True)
    resources = execution.provenance.get("resources", {})
    asked = ", ".join(f"{name} {value}" for name, value in resources.items())
    return f"Settings: {text}." + (f" Resources: {asked}." if asked else "")


def _environment(graph: Graph, variables: Mapping[str, str]) -> list[Reference]:
    """The recorded variables but sciflow's own, which may hold paths and decide no result."""
    return [
        graph.add(f"#variable-{tag(name, value)}", "PropertyValue", name=name, value=value)
        for name, value in variables.items()
        if not name.startswith("SCIFLOW_")
    ]


def _usage(graph: Graph, execution: Execution) -> list[Reference]:
    about = {
        "process": "of the flow's process since it began, until this stage ended",
        "children": "of the jobs and other children of the flow's process that had ended by then",
    }
    kinds = {
        "cpu_seconds": ("CPU time", "ru_utime+ru_stime", "SEC"),
        "peak_rss_bytes": ("peak memory", "ru_maxrss", "BYTE"),
    }
    recorded = execution.provenance.get("environment", {}).get("usage", {})
    return [
        graph.add(
            f"#usage-{tag(execution.identifier, who, what)}",
            "PropertyValue",
            name=f"{kinds[what][0]}, {who}",
            description=f"{kinds[what][0]} {about[who]}",
            propertyID=f"{_USAGE}#{kinds[what][1]}",
            unitCode=_UNIT + kinds[what][2],
            value=value,
        )
        for who, numbers in recorded.items()
        for what, value in numbers.items()
        if who in about and what in kinds
    ]
