"""The campaign is killed again and again and goes on: nothing that was finished is computed twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciflow.artifact import Artifact

ROOT = Path(__file__).parent.parent
CELL = json.dumps({"component": "rve", "cells": 6})
COMMAND = [
    *(sys.executable, "-m", "sciflow.cli", "run", str(ROOT / "flows" / "campaign.py"), "--engine", "plain"),
    *("--set", f"problem={CELL}", "--set", "members=52", "--set", "study=0"),
]
KINDS = {"design", "ensemble", "model", "evaluation", "calibration", "side_by_side", "export"}
MODELS = ("online_mlp", "equino", "equino_newton", "mlp", "pod_regression")


def published(store):
    """Digest of every artifact, and when it was made."""
    found = [Artifact.open(path, verify=False) for path in (store / "artifacts").glob("*-*")]
    return {one.path.name: (one.digest, one.provenance["start"]) for one in found}


def begin(store):
    # On one thread and in a process group of its own, so that only the driver is hit.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--store", str(store)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=store
    )


def killed_at(store, count, patience=200.0):
    """Start the campaign, and end it with SIGKILL once so many artifacts are there."""
    driver, end = begin(store), time.monotonic() + patience
    while len(published(store)) < count and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert driver.poll() is None, driver.communicate()[0]
    driver.kill()
    driver.communicate()
    return published(store)


@pytest.mark.torture
def test_a_campaign_that_is_killed_goes_on_where_it_was(tmp_path):
    pytest.importorskip("torch")
    before = {}
    for count in (1, 2, 4, 6, 9, 14):
        now = killed_at(tmp_path, count)
        assert len(now) >= count
        # What is published stays as it is.
        assert {name: now[name] for name in before} == before
        before = now
    driver = begin(tmp_path)
    text = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, text
    now = published(tmp_path)
    assert {name: now[name] for name in before} == before
    assert text.count(" cached ") >= len(before)
    found = [Artifact.open(path) for path in sorted((tmp_path / "artifacts").glob("*-*"))]
    assert {one.schema.kind for one in found} == KINDS
    (table,) = [one for one in found if one.schema.kind == "side_by_side"]
    assert tuple(table.attributes["models"]) == MODELS
    assert (table.read("error_mean") < 0.3).all()
    assert sum(one.schema.kind == "model" for one in found) == len(MODELS)
    again = begin(tmp_path)
    text = again.communicate(timeout=120)[0]
    assert again.returncode == 0, text
    assert " computed " not in text.partition(" stages:")[0]
    assert published(tmp_path) == now
