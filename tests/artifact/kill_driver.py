"""Writes an ensemble that can be killed anywhere: ``python -m tests.artifact.kill_driver ROOT``.

Every value depends on the state that a restart point carries, so that a wrong continuation shows.
What is computed and what is acknowledged is noted in files beside the store.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from sciflow.artifact.share import Share
from sciflow.schema import Field, Schema
from sciflow.store import Store
from sciflow.worker import communicator

MEMBERS, LEVELS, DOFS = 3, 7, 700
PAUSE = float(os.environ.get("KILL_DRIVER_PAUSE", "0"))
FIELDS = {
    "q": (Field(("member", "x"), "W"), (5,)),
    "u": (Field(("member", "time", "x"), "K"), (LEVELS, 5)),
    "v": (Field(("member", "time", "dof"), "Pa", "float64"), (LEVELS, DOFS)),
}


def step(state, member, level):
    return np.cos(3 * state + level) + member


def truth(member):
    """Every field of a member."""
    state, u, v = np.linspace(0, 1, DOFS), [], []
    q = (state[:5] + member).astype("f4")
    for level in range(LEVELS):
        state = step(state, member, level)
        u.append(state[:5].astype("f4"))
        v.append(state)
    return {"q": q, "u": np.array(u), "v": np.array(v)}


def note(file, text):
    with file.open("a") as out:
        out.write(text + "\n")


def simulate(out, member, root, comm):
    """One member, from where an earlier attempt left it."""
    first = comm.rank == 0
    # Unequal shares, in an order that is not the canonical one.
    cuts = [0, *(DOFS * (r + 1) // comm.size - 13 * (r + 1 < comm.size) for r in range(comm.size))]
    mine = np.arange(DOFS)[::-1][cuts[comm.rank] : cuts[comm.rank + 1]]
    with out.member(member, comm) as one:
        state = np.linspace(0, 1, DOFS) if one.restart is None else one.restart.arrays["state"]
        for level in range(one.resume_from, LEVELS):
            values = {"v": Share(state[mine], mine)}
            if first:
                note(root / "computed", f"{member} {level}")
                values |= {"q": (state[:5] + member)} if level == 0 else {}
            time.sleep(PAUSE)
            state = step(state, member, level)
            values["v"] = Share(state[mine], mine)
            if first:
                values["u"] = state[:5]
            one.append(values, restart=lambda state=state: {"state": state})
        assert one.commit({"status": 1})
    if first:
        note(root / "acknowledged", str(member))


def write(root: Path, comm) -> str:
    """All members and their publication; the digest of the artifact."""
    store = Store(root / "store", "rename")
    if comm.rank:
        from sciflow.artifact.writer import Writer

        comm.barrier()
        out = Writer.attach(root / "store" / "partial" / "ensemble-aaaaaaaaaaaaaaaa" / "artifact")
        members = np.empty(MEMBERS, dtype=np.int64)
        comm.Bcast(members)
        for member in members[members >= 0].tolist():
            simulate(out, member, root, comm)
        return ""
    if (found := store.find("ensemble", "a" * 64)) is not None:
        return found.digest
    with store.writer(Schema("ensemble"), "a" * 64) as out:
        for name, (field, shape) in FIELDS.items():
            out.create(name, field, (MEMBERS, *shape), member=True)
        out.recover()
        done = out.committed()
        missing = [m for m in range(MEMBERS) if m not in done]
        if comm.size > 1:
            comm.barrier()
            comm.Bcast(np.array([*missing, *[-1] * (MEMBERS - len(missing))], dtype=np.int64))
        for member in missing:
            simulate(out, member, root, comm)
        for name in sorted({n for r in out.committed().values() for n in r["numberings"].values()}):
            out.adopt(name)
        return out.publish({"stage": {"component": "test"}, "start": 0.0, "end": 0.0}).digest


if __name__ == "__main__":
    made = write(Path(sys.argv[1]), communicator())
    if made:
        (Path(sys.argv[1]) / f"digest.{os.getpid()}").write_text(made)
