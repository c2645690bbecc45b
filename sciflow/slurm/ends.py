"""What Slurm's job states mean for a job of ours."""

from __future__ import annotations

import re

from sciflow.executor import Cause

ACTIVE = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_FED": "queued",
    "REQUEUE_HOLD": "queued",
    "SPECIAL_EXIT": "queued",
    "RESV_DEL_HOLD": "queued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
}
"""States in which more will come of a job."""
ENDED = {
    "COMPLETED": Cause.LOST,  # well for Slurm, yet there is no result file
    "FAILED": Cause.FAILED,
    "TIMEOUT": Cause.TIME_LIMIT,
    "DEADLINE": Cause.TIME_LIMIT,
    "PREEMPTED": Cause.PREEMPTED,
    "NODE_FAIL": Cause.NODE_FAILURE,
    "BOOT_FAIL": Cause.NODE_FAILURE,
    "LAUNCH_FAILED": Cause.NODE_FAILURE,
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "CANCELLED": Cause.CANCELLED,
    "REVOKED": Cause.CANCELLED,
    "FORGOTTEN": Cause.LOST,  # ours: no command knows it any more
}
"""States that are final, and why they are not a success."""
NEVER = (
    "DependencyNeverSatisfied", "BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit",
    "AccountNotAllowed", "QOSNotAllowed", "InvalidAccount", "InvalidQOS", "JobHeldUser", "JobHeldAdmin",
    "launch failed requeued held",
)  # fmt: skip
"""Reasons of waiting that do not pass by themselves; a person is told."""
_MEMORY = re.compile(r"exceeded (job |step )?memory limit|oom[-_ ]?kill|out[ -]of[ -]memory", re.IGNORECASE)
_TIME = re.compile(r"DUE TO TIME LIMIT", re.IGNORECASE)
_PREEMPTED = re.compile(r"DUE TO PREEMPTION", re.IGNORECASE)
_NODE = re.compile(r"DUE TO NODE FAILURE", re.IGNORECASE)


def cause_of(state: str, log: str) -> Cause:
    """Why a job ended.

    Parameters
    ----------
    state : str
        Slurm's final state; one that this release does not know counts as ``FAILED``.
    log : str
        The end of its log: without cgroups or accounting only the log says what happened.
    """
    cause = ENDED.get(state, Cause.FAILED)
    if cause in (Cause.FAILED, Cause.CANCELLED, Cause.LOST):
        for sign, meaning in (
            (_MEMORY, Cause.OUT_OF_MEMORY), (_TIME, Cause.TIME_LIMIT),
            (_PREEMPTED, Cause.PREEMPTED), (_NODE, Cause.NODE_FAILURE),
        ):  # fmt: skip
            if sign.search(log):
                return meaning
    return cause
