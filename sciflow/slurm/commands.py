"""Slurm's commands: what is sent, what comes back, and which failures pass by themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sciflow.errors import Failed, Missing

LIMIT = 60.0
"""Seconds that a command may take; a busy controller answers after tens of seconds."""
PASSING = (
    "unable to contact",
    "timed out",
    "connection refused",
    "communication",
    "zero bytes were transmitted",
    "try again",
    "resource temporarily unavailable",
    "slurmctld",
    "transport endpoint",
    "munge",
)
"""What a controller that is busy, restarting or away says."""


class Unreachable(Failed):
    """The controller did not answer; asking later may help."""


class Rejected(Failed):
    """The controller answered and refused."""


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run one of Slurm's commands and return what it printed.

    Raises
    ------
    Missing
        If there is no such command here.
    Unreachable
        If the controller did not answer.
    Rejected
        If it refused, with its words.
    """
    if shutil.which(command[0]) is None:
        raise Missing(
            f"{command[0]!r} is not on the PATH: Slurm is used from a login node, or from inside an "
            "allocation. `sciflow doctor` shows what is here."
        )
    env = {**(os.environ if environment is None else environment), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=LIMIT, env=env, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer within {LIMIT:.0f} s") from None
    except OSError as error:
        raise Unreachable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise refusal(command[0], done.stderr or done.stdout)
    return done.stdout


def refusal(command: str, said: str) -> Failed:
    """The error for what a command printed when it failed."""
    text = " ".join(said.split()) or "it failed and said nothing"
    text = re.sub(rf"{command}: error: ", "", text)
    passing = any(sign in text.lower() for sign in PASSING)
    return (Unreachable if passing else Rejected)(f"{command}: {text}")


@dataclass(frozen=True)
class Entry:
    """One line of the queue.

    Attributes
    ----------
    state : str
        As Slurm writes it: ``PENDING``, ``RUNNING``, ``OUT_OF_MEMORY``, ...
    reason : str
        Why it waits, or why it failed.
    node : str
        Where it runs or ran.
    name : str
        Of the job; a controller that lost its state gives ids a second time.
    """

    state: str
    reason: str = ""
    node: str = ""
    name: str = ""


def queue(jobs: Iterable[str]) -> dict[str, Entry]:
    """What the queue says of jobs, in one call however many there are.

    Parameters
    ----------
    jobs : iterable of str
        Job ids; of an array that of the whole. Old ones that are forgotten are left out.

    Returns
    -------
    dict of str to Entry
        By ``"123"``, or ``"123_4"`` for the element 4 of an array.
    """
    ids = ",".join(sorted(set(jobs)))
    if not ids:
        return {}
    try:
        text = ask(["squeue", "--noheader", "--states=all", f"--jobs={ids}", "--format=%F|%K|%T|%r|%N|%j"])
    except Rejected as error:
        # A single job that is forgotten is an error, several are not.
        if "invalid job id" in str(error).lower():
            return {}
        raise
    found: dict[str, Entry] = {}
    for line in text.splitlines():
        job, index, state, reason, node, name = (part.strip() for part in line.split("|", 5))
        entry = Entry(state.upper(), "" if reason == "None" else reason, node, name)
        for one in elements(job, index):
            found[one] = entry
    return found


def elements(job: str, index: str) -> list[str]:
    """Ids of the elements that one line of the queue stands for.

    ``("3", "N/A")`` is one job; ``("3", "1,4-6%2")`` are elements that wait together.
    """
    if index in ("N/A", "", "(null)"):
        return [job]
    names = []
    for part in index.strip("[]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        if not first.isdigit():  # cut short with "..." by a very long array
            continue
        last = last if last.isdigit() else first
        names += [f"{job}_{i}" for i in range(int(first), int(last) + 1, int(step or 1))]
    return names


def named(name: str) -> list[str]:
    """Ids of this user's jobs with a name, those that ended lately too."""
    text = ask(
        ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--name={name}", "--format=%F"]
    )
    return sorted(set(text.split()))


def partitions() -> list[str]:
    """Names of the partitions; empty where the controller does not say."""
    try:
        return sorted(set(ask(["sinfo", "--noheader", "--format=%R"]).split()))
    except (Missing, Failed):
        return []


def accounted(jobs: Iterable[str]) -> dict[str, Entry]:
    """What the accounting says of jobs; empty where there is none.

    Raises
    ------
    Unreachable
        If the database does not answer.
    """
    ids = ",".join(sorted(set(jobs)))
    if not ids or shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={ids}",
               "--starttime=now-90days", "--format=JobID,State,Reason,NodeList,JobName"]  # fmt: skip
    try:
        text = ask(command)
    except Rejected:  # "accounting storage is disabled"
        return {}
    found = {}
    for line in text.splitlines():
        job, state, reason, node, name = line.split("|", 4)
        # "CANCELLED by 1000"
        found[job] = Entry(state.split()[0].upper(), "" if reason == "None" else reason, node, name)
    return found


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs or elements of arrays, in one call; those that are gone already are no error."""
    ids = sorted(set(jobs))
    if not ids:
        return
    try:
        ask(["scancel", "--quiet", *ids])
    except Rejected as error:
        if "invalid job id" not in str(error).lower() and "already completing" not in str(error).lower():
            raise


def submit(script: Path, options: Sequence[str], environment: Mapping[str, str], out: Path) -> str:
    """Submit a script; returns the job's id.

    Parameters
    ----------
    script : Path
        What to submit.
    options : sequence of str
        Of ``sbatch``.
    environment : mapping
        All that the job inherits.
    out : Path
        What ``sbatch`` prints goes there: if this process is killed meanwhile, the next one finds the
        id in it. The file stays locked while ``sbatch`` runs, also when it outlives this process.

    Raises
    ------
    Missing, Unreachable, Rejected
        As `ask`.
    """
    import fcntl

    if shutil.which("sbatch") is None:
        raise Missing("'sbatch' is not on the PATH: start this on a login node of the cluster")
    with out.open("w+b") as file, out.with_suffix(".err").open("w+b") as words:
        # The lock belongs to the open file, which the child shares.
        fcntl.flock(file, fcntl.LOCK_EX)
        process = subprocess.Popen(
            ["sbatch", "--parsable", *options, str(script)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=words, env={**environment, "LC_ALL": "C"},
        )  # fmt: skip
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Unreachable(f"sbatch did not answer within {LIMIT:.0f} s") from None
        words.seek(0)
        if code != 0:
            raise refusal("sbatch", words.read().decode(errors="replace"))
    job = submitted(out)
    if job is None:
        raise Unreachable(f"sbatch printed no job id: {out.read_text()!r}")
    return job


def submitted(out: Path) -> str | None:
    """The id that ``sbatch`` printed into a file, once it has ended; None if it printed none."""
    import fcntl

    try:
        with out.open("r+b") as file:
            # Waits for an sbatch whose submitter was killed.
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    # "123" or "123;cluster", after whatever a site's wrapper prints.
    found = re.findall(r"^(\d+)(?:;\S*)?$", text, re.MULTILINE)
    return found[-1] if found else None
