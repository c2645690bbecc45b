"""Runs a program for one member and receives the levels that it sends, as a full-order model does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.context import Context
from sciflow.errors import Diverged, Failed, Invalid, Missing
from sciflow.jobs import tail
from sciflow.problem import State
from sciflow_online.intake import Recipe
from sciflow_online.reception import UNREACHABLE, Reception
from sciflow_online.roles import SLACK
from sciflow_online.roster import Roster, Standing
from sciflow_online.sending import ADDRESS, GROUP, PATIENCE
from sciflow_online.terms import TRAIN, Plan, Terms
from sciflow_online.zmq_transport import ZmqServer, new_token, write_address

if TYPE_CHECKING:
    from sciflow_online.components import Program

AHEAD = 4
"""Levels that a program may be ahead of whoever takes them."""


class _Levels:
    """Levels that were not yielded yet."""

    def __init__(self) -> None:
        self.waiting: dict[int, Mapping[str, np.ndarray]] = {}

    def room(self) -> bool:
        return len(self.waiting) < AHEAD

    def put(self, arrays: Mapping[str, np.ndarray], member: int, sample: int) -> None:
        # The arrays may look into the transport's memory, which is about to be used again.
        self.waiting[sample] = {k: np.array(v) for k, v in arrays.items()}


def _command(program: Program) -> list[str]:
    """The command, which is killed with this process where the system can do that.

    Raises
    ------
    Missing
        If there is no such program.
    """
    found = shutil.which(program.command[0])
    if found is None and program.directory:
        found = shutil.which(str(Path(program.directory) / program.command[0]))
    if found is None:
        raise Missing(f"{program.command[0]!r} cannot be started: there is no such program on the PATH")
    bound = shutil.which("setpriv")
    return [*([bound, "--pdeathsig", "KILL"] if bound else []), found, *program.command[1:]]


def solve(program: Program, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
    """Start the program and yield what it sends; see `Problem.solve`."""
    if ctx.comm.size > 1:
        raise Invalid(
            f"a program brings its own ranks: ask for ranks=1, and write mpirun into its command "
            f"({' '.join(program.command)})"
        )
    mu = program.parameters.checked(mu)
    timed = [n for n, f in program.fields.items() if f.axes[:1] == ("time",)]
    static = [n for n in program.fields if n not in timed]
    recipe = Recipe(program, static, timed, (0, 1)) if timed else Recipe(program, (), static, None)
    quiet = Context(ctx.seed, ctx.scratch, log=ctx.log, cancelled=ctx.cancelled)
    levels, token = _Levels(), new_token()
    terms = Terms(token, uuid.uuid4().hex, heartbeat=60 * program.patience, patience=60 * program.patience)
    plan = Plan(np.array([[mu[n] for n in program.parameters]]), np.array([TRAIN]))
    server = ZmqServer(largest=8 * max(f.size for f in recipe.fields) + SLACK)
    try:
        reception = Reception(server, recipe, levels, plan, terms, Roster([0], 1), quiet)
        ctx.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="program-", dir=ctx.scratch) as folder:
            write_address(Path(folder) / "address.json", [server.endpoint], token, terms.session)
            with _started(program, Path(folder)) as process:
                yield from _levels(program, reception, levels, process, Path(folder) / "log.txt", bool(timed))
    finally:
        server.close()


@contextlib.contextmanager
def _started(program: Program, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = {
        **os.environ,
        ADDRESS: str(folder / "address.json"),
        GROUP: uuid.uuid4().hex,
        PATIENCE: str(60 * program.patience),
    }
    try:
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                _command(program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=program.directory or None,
                start_new_session=True,
            )
    except OSError as error:
        raise Failed(f"{program.command[0]!r} cannot be started: {error}") from None
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)


def _levels(
    program: Program, reception: Reception, levels: _Levels, process: subprocess.Popen[bytes], log: Path,
    timed: bool,
) -> Iterator[State]:  # fmt: skip
    roster = reception.roster
    assert roster is not None
    times = program.coordinates().get("time", np.zeros(1))
    statics: dict[str, np.ndarray] = {}
    for level, moment in enumerate(times):
        until = time.monotonic() + 60 * program.patience
        while level not in levels.waiting:
            # Ended before looked at: what it sent before its end is taken in first.
            code = process.poll()
            reception.poll(0.02)
            if level in levels.waiting:
                break
            if roster.standing[0] == Standing.FAILED:
                raise _failed(program, roster, process, level, len(times), log)
            if code is not None:
                raise _ended(program, code, level, len(times), log)
            if time.monotonic() > until:
                raise Failed(
                    f"{program.command[0]}: no new time level came for {60 * program.patience:g} s, after "
                    f"{level} of {len(times)}"
                )
        arrays = levels.waiting.pop(level)
        fields = {k[2:]: v for k, v in arrays.items()}
        if timed and level:
            fields = {n: v for n, v in fields.items() if n not in statics}
        statics = {k[2:]: v for k, v in arrays.items() if k.startswith("x:")}
        yield State(float(moment), fields)
    _finish(program, reception, process, log)


def _finish(program: Program, reception: Reception, process: subprocess.Popen[bytes], log: Path) -> None:
    """Let the program say that it is through, and end."""
    roster = reception.roster
    assert roster is not None
    until = time.monotonic() + 60 * program.patience
    while process.poll() is None and time.monotonic() < until:
        reception.poll(0.02)
    if roster.standing[0] == Standing.FAILED:
        raise _failed(program, roster, process, 0, 0, log)
    if process.poll():
        raise _ended(program, process.returncode, 0, 0, log)


def _failed(
    program: Program, roster: Roster, process: subprocess.Popen[bytes], level: int, levels: int, log: Path
) -> Exception:
    """Why a member failed; a program whose connection is gone has most likely ended, and that says more."""
    reason = roster.reasons.get(0, "it failed")
    if reason == UNREACHABLE:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.returncode:
            return _ended(program, process.returncode, level, levels, log)
    return Diverged(f"{program.command[0]}: {reason}")


def _ended(program: Program, code: int, level: int, levels: int, log: Path) -> Failed:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    where = f" after {level} of {levels} time levels" if levels else ""
    words: Any = " | ".join(line for line in tail(log, 5).splitlines() if line.strip())
    return Failed(f"{program.command[0]} {how}{where}{f'; it said: {words}' if words else ''}")
