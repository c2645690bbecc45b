"""What RO-Crate 1.1 and the Workflow Run RO-Crate profiles 0.5 demand, and ways to break it."""

from urllib.parse import unquote

from sciflow.crate import METADATA

PROFILE = "https://w3id.org/ro/wfrun/{}/0.5"
TOOLS = ("SoftwareApplication", "SoftwareSourceCode", "ComputationalWorkflow")

# Of every entity of this type that has the property (! : of every one) each value has one of the types.
POINTS = [
    ("CreateAction", "instrument!", TOOLS),
    ("CreateAction", "resourceUsage", ("PropertyValue",)),
    ("ComputationalWorkflow", "programmingLanguage!", ("ComputerLanguage",)),
    ("ComputationalWorkflow", "input", ("FormalParameter",)),
    ("ComputationalWorkflow", "output", ("FormalParameter",)),
    ("SoftwareApplication", "input", ("FormalParameter",)),
    ("SoftwareApplication", "output", ("FormalParameter",)),
    ("HowToStep", "workExample!", TOOLS),
    ("ControlAction", "instrument!", ("HowToStep",)),
    ("ControlAction", "object!", ("CreateAction",)),
    ("OrganizeAction", "instrument!", TOOLS),
    ("OrganizeAction", "object!", ("ControlAction",)),
    ("OrganizeAction", "result!", ("CreateAction",)),
]


def several(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def entities(document):
    return {e["@id"]: e for e in document["@graph"]}


def of_type(document, kind):
    return [e for e in document["@graph"] if kind in several(e["@type"])]


def targets(document, entity, name):
    known = entities(document)
    return [known.get(r["@id"], {"@id": r["@id"], "@type": []}) for r in several(entity.get(name))]


def broken_rules(document, folder):
    """Every MUST that a crate breaks, of RO-Crate 1.1 and of the profiles that it names."""
    root = entities(document)["./"]
    profiles = {t["@id"] for t in several(root.get("conformsTo"))}
    bad = [*broken_root(document, root), *broken_data(document, root, folder), *broken_points(document)]
    if PROFILE.format("process") not in profiles:
        bad.append("root: no profile")
    if PROFILE.format("workflow") in profiles:
        bad += broken_workflow(document, root)
    steps = of_type(document, "HowToStep")
    if steps and PROFILE.format("provenance") not in profiles:
        bad.append("root: steps, but not the profile of steps")
    if PROFILE.format("provenance") in profiles:
        bad += broken_steps(document, steps)
    return bad


def broken_root(document, root):
    descriptor = entities(document)[METADATA]
    if {"@id": "https://w3id.org/ro/crate/1.1"} not in several(descriptor["conformsTo"]):
        yield "descriptor: conformsTo"
    if descriptor["about"] != {"@id": "./"}:
        yield "descriptor: about"
    for name in ("name", "description", "datePublished", "license"):
        if name not in root:
            yield f"root: {name}"
    if any(t["@type"] != "CreativeWork" for t in targets(document, root, "conformsTo")):
        yield "root: conformsTo something that is not described"


def broken_data(document, root, folder):
    parts = {t["@id"] for t in several(root.get("hasPart"))}
    for entity in [*of_type(document, "File"), *of_type(document, "Dataset")]:
        name = entity["@id"]
        if name not in parts and name != "./":
            yield f"data: {name} is not part of the root"
        if ":" not in name and not (folder / unquote(name)).exists():
            yield f"data: {name} is not there"


def broken_points(document):
    for kind, name, kinds in POINTS:
        for entity in of_type(document, kind):
            found = targets(document, entity, name.rstrip("!"))
            if name.endswith("!") and not found:
                yield f"{kind}: no {name}"
            if any(not set(kinds) & set(several(t["@type"])) for t in found):
                yield f"{kind}: {name} is not a {kinds}"
    for formal in of_type(document, "FormalParameter"):
        if "additionalType" not in formal:
            yield "FormalParameter: no additionalType"
    for act in of_type(document, "CreateAction"):
        if any("propertyID" not in used for used in targets(document, act, "resourceUsage")):
            yield "resourceUsage: no propertyID"


def broken_workflow(document, root):
    main = targets(document, root, "mainEntity")
    if not main:
        return ["root: no mainEntity"]
    bad = []
    if not {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= set(several(main[0]["@type"])):
        bad.append("workflow: type")
    if not any(main[0] in targets(document, a, "instrument") for a in of_type(document, "CreateAction")):
        bad.append("workflow: was not run")
    return bad


def broken_steps(document, steps):
    workflows = of_type(document, "ComputationalWorkflow")
    used = [t for a in of_type(document, "CreateAction") for t in targets(document, a, "instrument")]
    for flow in workflows:
        tools = targets(document, flow, "hasPart")
        if not tools or any(not set(TOOLS) & set(several(t["@type"])) for t in tools):
            yield "workflow: no tools"
        if any(tool not in used for tool in tools):
            yield "tool: was not used"
        if "step" in flow and "HowTo" not in several(flow["@type"]):
            yield "workflow: has steps, but is no HowTo"
    owned = [s for flow in workflows for s in targets(document, flow, "step")]
    if any(step not in owned for step in steps):
        yield "step: of no workflow"


def loose_ends(document):
    """References to nothing in the crate, but to the specification."""
    known = {*entities(document), "https://w3id.org/ro/crate/1.1"}
    items = (i for e in document["@graph"] for v in e.values() for i in several(v))
    return {i["@id"] for i in items if isinstance(i, dict)} - known


def without(kind, name):
    """A way to break a crate: the first entity of a type loses a property."""

    def spoil(document):
        next(e for e in of_type(document, kind) if name in e).pop(name)

    spoil.__name__ = f"{kind}-without-{name}"
    return spoil


def without_profile(document):
    root = entities(document)["./"]
    root["conformsTo"] = [c for c in root["conformsTo"] if "provenance" not in c["@id"]]


def workflow_that_is_no(kind):
    def spoil(document):
        of_type(document, "ComputationalWorkflow")[0]["@type"].remove(kind)

    spoil.__name__ = f"workflow-that-is-no-{kind}"
    return spoil


def root_without(name):
    def spoil(document):
        entities(document)["./"].pop(name)

    spoil.__name__ = f"root-without-{name}"
    return spoil


def a_tool_that_nothing_used(document):
    document["@graph"].append({"@id": "#idle", "@type": "SoftwareApplication", "name": "idle"})
    of_type(document, "ComputationalWorkflow")[0]["hasPart"].append({"@id": "#idle"})


def a_file_that_is_not_there(document):
    document["@graph"].append({"@id": "lost.txt", "@type": "File", "name": "lost"})
    entities(document)["./"]["hasPart"].append({"@id": "lost.txt"})


def data_outside_of_the_root(document):
    entities(document)["./"]["hasPart"] = [
        p for p in entities(document)["./"]["hasPart"] if not p["@id"].startswith("ni:")
    ]


SPOILS = [
    *(root_without(n) for n in ("name", "description", "license", "datePublished", "mainEntity")),
    without_profile,
    *(workflow_that_is_no(kind) for kind in ("File", "SoftwareSourceCode", "HowTo")),
    *(without("ComputationalWorkflow", name) for name in ("programmingLanguage", "hasPart", "step")),
    without("HowToStep", "workExample"),
    *(without("ControlAction", name) for name in ("instrument", "object")),
    *(without("OrganizeAction", name) for name in ("instrument", "object", "result")),
    without("CreateAction", "instrument"),
    without("FormalParameter", "additionalType"),
    without("PropertyValue", "propertyID"),
    a_tool_that_nothing_used,
    a_file_that_is_not_there,
    data_outside_of_the_root,
]
