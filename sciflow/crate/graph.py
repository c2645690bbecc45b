"""Graph: the entities of a crate, and the few that every crate has."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sciflow.environment import HIDDEN, redact, secret

Reference = dict[str, str]
"""``{"@id": ...}``."""

METADATA = "ro-crate-metadata.json"
ROOT = "./"
RO_CRATE = "https://w3id.org/ro/crate/1.1"
WORKFLOW_RO_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    WORKFLOW_RO_CRATE: "Workflow RO-Crate",
}
"""Name of each profile that a crate may conform to."""
NO_LICENSE = "http://spdx.org/rdf/terms#noassertion"

_TERMS = "https://w3id.org/ro/terms/workflow-run#"
CONTEXT = [
    f"{RO_CRATE}/context",
    {name: _TERMS + name for name in ("environment", "resourceUsage", "sha256")},
]


class Graph:
    """Entities by identifier; what is unknown or empty is left out of them."""

    def __init__(self) -> None:
        self._entities: dict[str, dict[str, Any]] = {}

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._entities

    def add(self, identifier: str, kind: str | Sequence[str], /, **properties: Any) -> Reference:
        """Add an entity unless it is there.

        Parameters
        ----------
        identifier : str
            Its ``@id``.
        kind : str or sequence of str
            Its ``@type``.
        **properties
            Strings, numbers, references and lists of them. None, ``""`` and ``[]`` are left out.

        Returns
        -------
        dict
            A reference to it.
        """
        known = {name: value for name, value in properties.items() if value not in (None, "", [])}
        types = kind if isinstance(kind, str) else list(kind)
        self._entities.setdefault(identifier, {"@id": identifier, "@type": types, **known})
        return {"@id": identifier}

    def put(self, subject: Reference, name: str, value: Any) -> None:
        """Set a property, to an empty value too."""
        self._entities[subject["@id"]][name] = value

    def get(self, subject: Reference, name: str) -> Any:
        """A property of an entity, None where it has none."""
        return self._entities[subject["@id"]].get(name)

    def link(self, subject: Reference, name: str, *targets: Reference) -> None:
        """Add references to a property of an entity, each once."""
        values = self._entities[subject["@id"]].setdefault(name, [])
        values.extend(t for t in targets if t not in values)

    def of_type(self, kind: str) -> list[Reference]:
        """References to every entity that has this ``@type``, in the order they were added."""
        return [
            {"@id": name}
            for name, entity in self._entities.items()
            if kind == entity["@type"] or (isinstance(entity["@type"], list) and kind in entity["@type"])
        ]

    def document(self) -> dict[str, Any]:
        """The JSON-LD; a list of one is written as that one, as compacted JSON-LD is."""
        compact = [
            {n: v[0] if isinstance(v, list) and len(v) == 1 else v for n, v in entity.items()}
            for entity in self._entities.values()
        ]
        return {"@context": CONTEXT, "@graph": compact}


def frame(
    graph: Graph,
    profiles: Iterable[str],
    *,
    name: str,
    description: str,
    published: float,
    terms: str = "",
) -> Reference:
    """Add the metadata descriptor and the root; returns the root.

    Parameters
    ----------
    graph : Graph
        Gets them.
    profiles : iterable of str
        Keys of `PROFILES` that the crate conforms to.
    name, description : str
        Of the crate.
    published : float
        Seconds since the epoch.
    terms : str
        URL or text; SPDX's NOASSERTION where empty.
    """
    conforms = list(profiles)
    versions = [RO_CRATE, *(p for p in conforms if p == WORKFLOW_RO_CRATE)]
    graph.add(METADATA, "CreativeWork", about={"@id": ROOT}, conformsTo=[{"@id": v} for v in versions])
    stated: Any = terms if terms and "://" not in terms else {"@id": terms or NO_LICENSE}
    root = graph.add(
        ROOT,
        "Dataset",
        name=name,
        description=description,
        datePublished=moment(published),
        license=stated,
        conformsTo=[{"@id": p} for p in conforms],
    )
    for profile in conforms:
        graph.add(profile, "CreativeWork", name=PROFILES[profile], version=profile.rpartition("/")[2])
    if not terms:
        about = "Nobody has stated under which terms this crate may be used."
        graph.add(NO_LICENSE, "CreativeWork", name="NOASSERTION", description=about)
    elif "://" in terms:
        graph.add(terms, "CreativeWork", name=terms, description="The licence of this crate.")
    return root


def person(graph: Graph, name: str) -> Reference | None:
    """Who started an action, by login name; None where it is unknown."""
    return graph.add(f"#agent-{tag(name)}", "Person", name=name) if name else None


def file(graph: Graph, path: str, data: bytes | None, *, kind: Sequence[str] = (), **more: Any) -> Reference:
    """Add a file of the crate.

    Parameters
    ----------
    graph : Graph
        Gets it.
    path : str
        Relative to the crate.
    data : bytes or None
        Content, for its size and SHA-256; None where it still grows.
    kind : sequence of str
        Types beside ``File``.
    **more
        Further properties.
    """
    facts: dict[str, Any] = {"name": path}
    if data is not None:
        facts.update(contentSize=str(len(data)), sha256=hashlib.sha256(data).hexdigest())
    return graph.add(quote(path), ["File", *kind], **{**facts, **more})


def value_type(value: Any) -> str:
    """The schema.org type of a parameter with this value."""
    if isinstance(value, bool):
        return "Boolean"
    names = {int: "Integer", float: "Float", str: "Text"}
    return names.get(type(value), "PropertyValue")


def setting(graph: Graph, owner: str, name: str, value: Any) -> tuple[Reference, Reference] | None:
    """Add a parameter of a tool or workflow and one value of it.

    Parameters
    ----------
    graph : Graph
        Gets both.
    owner : str
        Identifier that the parameter's own begins with.
    name : str
        Of the parameter.
    value : object
        Plain JSON; lists and mappings are written as JSON text. Secrets are hidden.

    Returns
    -------
    (dict, dict) or None
        References to the FormalParameter and the PropertyValue; None for a value of None.
    """
    if value is None:
        return None
    formal = graph.add(f"{owner}-{name}", "FormalParameter", name=name, additionalType=value_type(value))
    shown = without_secrets(value, name)
    if value_type(value) == "PropertyValue" or (isinstance(value, float) and not math.isfinite(value)):
        shown = json.dumps(shown, sort_keys=True)
    identifier = f"#value-{tag(formal['@id'], shown)}"
    actual = graph.add(identifier, "PropertyValue", name=name, exampleOfWork=formal)
    # Not through `add`, which takes an empty text for something unknown.
    graph.put(actual, "value", shown)
    return formal, actual


def without_secrets(value: Any, name: str = "") -> Any:
    """Plain JSON with every text hidden that stands under a secret-looking name."""
    if isinstance(value, Mapping):
        return {n: without_secrets(v, str(n)) for n, v in value.items()}
    if isinstance(value, list):
        return [without_secrets(v, name) for v in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if secret(name) else redact(value)


def moment(seconds: float | None) -> str:
    """ISO 8601 in UTC with milliseconds; empty for None."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def tag(*parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for some plain JSON."""
    from sciflow.component import digest_of

    return digest_of(parts)[:16]


def clean(text: str, store: Path) -> str:
    """An error message without secrets, host name and the directories of this machine."""
    for place, shown in ((store, "(store)"), (Path.cwd(), "."), (Path.home(), "~")):
        if len(place.parts) > 1:
            text = text.replace(str(place), shown)
    if len(platform.node()) > 3:
        text = re.sub(rf"\b{re.escape(platform.node())}\b", "(host)", text)
    return redact(re.sub(r"""(?<![\w/:.~)])(?:/[^\s/:'",;]+)+/(?=[^\s/])""", "", text))
