"""Crates before the validator of the RO-Crate community, where it is installed; without network."""

import asyncio
import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from sciflow import Failed, run
from sciflow.crate import METADATA, crate_of, write
from sciflow.flow import Session, within
from sciflow.store import Store
from tests.conftest import ROOT
from tests.crate_rules import SPOILS, a_file_that_is_not_there, without
from tests.test_flow import Count, learn
from tests.toys import Wave

# The terms of the RO-Crate 1.1 context that the crates use; a validator that is offline resolves the
# context to these. A term that is not among them is refused by it.
_SCHEMA_ORG = """
    ComputerLanguage ControlAction CreateAction CreativeWork Dataset HowTo HowToStep OrganizeAction Person
    PropertyValue SoftwareApplication SoftwareSourceCode about actionStatus additionalType agent alternateName
    contentSize dateCreated datePublished description encodingFormat endTime error exampleOfWork hasPart
    identifier instrument isPartOf license mainEntity mentions name object position programmingLanguage
    propertyID result softwareRequirements softwareVersion startTime step unitCode unitText url value
    variableMeasured version workExample
"""
TERMS = {
    **{term: f"http://schema.org/{term}" for term in _SCHEMA_ORG.split()},
    "File": "http://schema.org/MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}

# It asks for other versions of some packages than the tools of this project: it may live in a
# directory of its own (the set-up makes .venv/roc-validator).
_ASIDE = ROOT / ".venv" / "roc-validator"
_LIBRARIES = os.environ.get("ROC_VALIDATOR_LIBRARIES", str(_ASIDE) if _ASIDE.is_dir() else "")
needs_validator = pytest.mark.skipif(
    not _LIBRARIES and importlib.util.find_spec("rocrate_validator") is None,
    reason="roc-validator is not installed",
)

# The validator reads the RO-Crate context from its cache of web pages: put it there first.
_VALIDATE = """
import io, json, sys
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse

class Fixed(HTTPAdapter):
    def send(self, request, **options):
        body = io.BytesIO(json.dumps({"@context": asked["terms"]}).encode())
        kind = {"Content-Type": "application/ld+json"}
        answer = HTTPResponse(body=body, headers=kind, status=200, preload_content=False)
        return self.build_response(request, answer)

asked = json.load(sys.stdin)
session = CachedSession(asked["cache"], backend="sqlite", expire_after=-1)
session.mount("https://", Fixed())
assert session.get("https://w3id.org/ro/crate/1.1/context").ok
session.close()

from rocrate_validator import services
found = []
for profile, path in asked["crates"]:
    result = services.validate({
        "rocrate_uri": path, "profile_identifier": profile, "requirement_severity": "REQUIRED",
        "offline": True, "cache_path": asked["cache"], "abort_on_first": False,
    })
    found.append([issue.message for issue in result.get_issues()])
json.dump(found, open(asked["answer"], "w"))
"""


@pytest.fixture(autouse=True)
def fresh():
    Count.calls.clear()


@pytest.fixture
def learned(store):
    """The whole chain, run once and written down."""
    made = Session(store, "test", {"members": 32, "deep": False, "sizes": [1, 2]})
    with within(made):
        made.results = learn(Wave())
    made.file, made.source = "my flow.py", "from sciflow import run\n"
    write(made)
    return made


def validate(tmp_path, crates):
    """What the validator finds in each crate at severity REQUIRED."""
    asked = {
        "cache": str(tmp_path / "cache"),
        "answer": str(tmp_path / "answer.json"),
        "terms": TERMS,
        "crates": [(profile, str(folder)) for profile, folder in crates],
    }
    path = os.pathsep.join(filter(None, [_LIBRARIES, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", _VALIDATE],
        input=json.dumps(asked),
        env={**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "answer.json").read_text())


@needs_validator
def test_the_validator_accepts_the_crates(learned, tmp_path):
    failing = Session(learned.store, "failing")
    with within(failing), pytest.raises(Failed):
        asyncio.run(run(Count(9, failures=99)))
    again = Session(learned.store, "again")
    with within(again):
        learn(Wave())
    empty = Session(Store(tmp_path / "other"), "empty")
    for session in (learned, failing, again, empty):
        write(session)
    out = crate_of(learned.results[0], tmp_path / "out")
    crates = [
        ("provenance-run-crate-0.5", learned.directory),
        ("workflow-run-crate-0.5", learned.directory),
        ("process-run-crate-0.5", learned.directory),
        ("provenance-run-crate-0.5", failing.directory),
        ("provenance-run-crate-0.5", again.directory),
        ("workflow-run-crate-0.5", empty.directory),
        ("process-run-crate-0.5", out),
    ]
    assert validate(tmp_path, crates) == [[]] * len(crates)


def accepted(folder, tmp_path, spoils):
    """Those ways to break a crate that the validator does not see."""
    document, crates = json.loads((folder / METADATA).read_text()), []
    for spoil in spoils:
        copied = tmp_path / spoil.__name__
        shutil.copytree(folder, copied)
        spoiled = copy.deepcopy(document)
        spoil(spoiled)
        (copied / METADATA).write_text(json.dumps(spoiled))
        crates.append(("provenance-run-crate-0.5", copied))
    found = validate(tmp_path, crates)
    return [s.__name__ for s, issues in zip(spoils, found, strict=True) if not issues]


@needs_validator
def test_the_validator_refuses_a_broken_crate(learned, tmp_path):
    some = [s for s in SPOILS if s.__name__ in ("root-without-license", "without_profile")]
    some += [without("ControlAction", "instrument"), a_file_that_is_not_there]
    assert accepted(learned.directory, tmp_path, some) == []


@needs_validator
@pytest.mark.torture
def test_the_validator_refuses_what_the_rules_of_this_file_refuse(learned, tmp_path):
    assert accepted(learned.directory, tmp_path, SPOILS) == []
