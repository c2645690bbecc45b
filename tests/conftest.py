"""Fixtures shared by all tests, and a distribution of toy components that jobs find as well."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The toys are an installed distribution to this process and to the jobs that it starts.
sys.path.append(str(ROOT / "tests" / "toys_dist"))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "toys_dist"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Half the time of the suite would be waits for a disk. What a power loss takes is a test of its own, with a
# disk of its own making.
MEMORY = Path("/dev/shm")
if (
    os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(MEMORY).free > 4e9
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

import pytest
from hypothesis import settings

from sciflow.flow import Session, within
from sciflow.store import Store

# No test asserts a time, and no example may: another process may have the machine just then.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def plain(store):
    """A session on the plain engine; its `events` collect what a terminal would show."""
    events = []
    made = Session(store, "test", listener=lambda stage, event: events.append((stage, event)))
    made.events = events
    with within(made):
        yield made
