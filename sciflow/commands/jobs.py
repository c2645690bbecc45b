"""``sciflow jobs``: jobs of a store that are queued or running, whoever submitted them."""

from __future__ import annotations

import argparse
from typing import Any

from sciflow.commands import chosen_store


def add(commands: Any) -> None:
    """Add the command to the command line."""
    text = "list the jobs of a store that are queued or running, or cancel them"
    jobs = commands.add_parser("jobs", help=text, description=text)
    jobs.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")
    jobs.add_argument("--cancel", action="store_true", help="cancel all of them; what was finished is kept")


def main(options: argparse.Namespace) -> int:
    """List, or cancel, the jobs of every artifact that is being written."""
    from sciflow.executor import cancel_all, unfinished
    from sciflow.jobs import JOB, JobSpec

    store = chosen_store(options)
    found = []
    for partial in sorted(store.root.glob("partial/*/scratch")):
        found += [(partial.parent.name, job) for job in unfinished(partial) if not job.state().ended]
    if not found:
        print(f"no job of {store.root} is queued or running")
        return 0
    print(f"{'job':<14} {'state':<10} {'artifact':<34} what")
    for artifact, job in found:
        spec = JobSpec.read(job.directory / JOB)
        members = spec.payload.get("members", [])
        what = f"{len(members)} members" if spec.task == "members" else spec.task
        waits = job.waits_for()
        state = f"{job.state()}"
        print(f"{job.id:<14} {state:<10} {artifact:<34} {what}{f', waits: {waits}' if waits else ''}")
    if options.cancel:
        cancel_all([job for _, job in found])
        print(f"{len(found)} jobs cancelled; what was finished is kept")
    return 0
