"""Odd answers, from scripts that stand in for Slurm's commands: no cluster is needed here."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sciflow import Invalid, Resources
from sciflow.errors import Missing
from sciflow.executor import Cause, JobState, cancel_all, unfinished
from sciflow.executors import slurm as executor_module
from sciflow.executors.slurm import Slurm
from sciflow.jobs import EXIT, LOG, JobSpec, replace_json
from sciflow.slurm import job, queue
from sciflow.slurm.commands import Rejected, elements
from tests.toys import Wave

FAKE = """#!/bin/sh
# Says what the test wrote into files beside it.
here=$(dirname "$0"); name=$(basename "$0")
echo "$name $*" >> "$here/calls"
[ -e "$here/$name.out" ] && cat "$here/$name.out"
[ -e "$here/$name.err" ] && cat "$here/$name.err" >&2
[ -e "$here/$name.sh" ] && . "$here/$name.sh"
exit $(cat "$here/$name.code" 2>/dev/null || echo 0)
"""


class Fake:
    """The stand-in; what a command says is set by `says`."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("sbatch", "squeue", "scancel", "sacct", "scontrol", "srun"):
            (folder / name).write_text(FAKE)
            (folder / name).chmod(0o755)
        self.says("sbatch", "4711\n")
        self.says("sacct", err="Slurm accounting storage is disabled\n", code=1)

    def says(self, command, out="", err="", code=0):
        for suffix, text in ((".out", out), (".err", err), (".code", str(code))):
            (self.folder / (command + suffix)).write_text(text)

    def calls(self, command):
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.split()[0] == command]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SCIFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(queue, "_QUEUES", {})
    monkeypatch.setattr(job, "GRACE", 0.1)
    monkeypatch.setattr(job, "SOON", 0.1)
    executor_module.protocols.cache_clear()
    executor_module.protocol.cache_clear()
    return Fake(folder)


def submit(tmp_path, resources=None, **settings):
    spec = JobSpec("members", Wave().to_json(), str(tmp_path / "out"))
    executor = Slurm(poll=0.01, submits_per_minute=1000, **settings)
    return executor.submit(spec, tmp_path / "run", resources or Resources())


def line(one, state, reason="None", job="4711", index="N/A", name=None):
    return f"{job}|{index}|{state}|{reason}|n7|{name or one._name}\n"


def settle(one, seconds=30.0):
    end = time.monotonic() + seconds
    while not one.state().ended and time.monotonic() < end:
        time.sleep(0.02)
    return one.state()


@pytest.mark.parametrize(
    ("state", "log", "cause"),
    [
        ("TIMEOUT", "", Cause.TIME_LIMIT),
        ("OUT_OF_MEMORY", "", Cause.OUT_OF_MEMORY),
        ("FAILED", "slurmstepd: error: Detected 1 oom-kill event(s) in step", Cause.OUT_OF_MEMORY),
        ("FAILED", "*** JOB 1 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***", Cause.TIME_LIMIT),
        ("NODE_FAIL", "", Cause.NODE_FAILURE),
        ("PREEMPTED", "", Cause.PREEMPTED),
        ("CANCELLED", "", Cause.CANCELLED),
        ("COMPLETED", "", Cause.LOST),
        ("BOOT_FAIL", "", Cause.NODE_FAILURE),
        ("DEADLINE", "", Cause.TIME_LIMIT),
        ("A_STATE_OF_2030", "", Cause.FAILED),
    ],
)
def test_every_end_has_a_cause_and_a_sentence(fake, tmp_path, state, log, cause):
    one = submit(tmp_path)
    fake.says("squeue", line(one, "RUNNING"))
    assert one.state() == JobState.RUNNING
    (one.directory / LOG).write_text(log)
    fake.says("squeue", line(one, state))
    assert settle(one) == (JobState.CANCELLED if cause == Cause.CANCELLED else JobState.FAILED)
    assert one.cause() == cause
    assert "job 4711 on n7" in one.reason()
    assert state in one.reason()


@pytest.mark.parametrize(
    "state", ["PENDING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT"]
)
def test_states_that_pass_are_not_an_end(fake, tmp_path, state):
    one = submit(tmp_path)
    fake.says("squeue", line(one, state))
    for _ in range(5):
        time.sleep(0.02)
        assert not one.state().ended


def test_a_result_file_needs_no_queue(fake, tmp_path):
    fake.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    one = submit(tmp_path)
    replace_json(one.directory / EXIT, {"nonce": one._nonce, "code": 0, "reason": "", "rank": 0})
    assert one.state() == JobState.DONE


def test_a_stale_result_of_an_earlier_attempt_is_not_believed(fake, tmp_path):
    one = submit(tmp_path)
    fake.says("squeue", line(one, "RUNNING"))
    replace_json(one.directory / EXIT, {"nonce": "of another attempt", "code": 0, "reason": "", "rank": 0})
    assert one.state() == JobState.RUNNING
    fake.says("squeue", line(one, "FAILED"))
    assert settle(one) == JobState.FAILED


def test_a_job_that_was_requeued_is_not_ended_by_what_it_left(fake, tmp_path):
    one = submit(tmp_path)
    again = {"nonce": one._nonce, "code": 75, "reason": "told to stop", "rank": 0, "again": True}
    replace_json(one.directory / EXIT, again)
    for state in ("PENDING", "RUNNING"):
        fake.says("squeue", line(one, state))
        time.sleep(0.05)
        assert not one.state().ended
    # It may also have left before Slurm had to end it.
    fake.says("squeue", line(one, "FAILED"))
    assert settle(one) == JobState.FAILED
    assert one.cause() == Cause.PREEMPTED


def test_a_controller_that_is_away_ends_nothing(fake, tmp_path):
    one = submit(tmp_path)
    fake.says(
        "squeue", err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", code=1
    )
    for _ in range(10):
        time.sleep(0.03)
        assert one.state() == JobState.QUEUED
    fake.says("squeue", line(one, "TIMEOUT"))
    assert settle(one) == JobState.FAILED


@pytest.mark.parametrize("known", ["", "4711|N/A|RUNNING|None|n7|somebody-elses\n"])
def test_a_job_that_the_controller_forgot_is_lost_even_if_its_id_is_given_again(fake, tmp_path, known):
    one = submit(tmp_path)
    fake.says("squeue", line(one, "RUNNING"))
    assert one.state() == JobState.RUNNING
    fake.says("squeue", known)
    assert settle(one) == JobState.FAILED
    assert one.cause() == Cause.LOST
    assert one.cause().passing


def test_the_accounting_is_asked_about_forgotten_jobs(fake, tmp_path):
    one = submit(tmp_path)
    fake.says("squeue", err="slurm_load_jobs error: Invalid job id specified\n", code=1)
    fake.says("sacct", f"4711|CANCELLED by 1000|None|n7|{one._name}\n")
    assert settle(one) == JobState.CANCELLED


def test_one_look_for_many_jobs_and_not_before_its_time(fake, tmp_path):
    executor = Slurm(poll=0.5, submits_per_minute=1000)
    specs = [JobSpec("members", Wave().to_json(), str(tmp_path / "out")) for _ in range(40)]
    jobs = executor.submit_all(specs, tmp_path / "run", Resources(), 4)
    fake.says("squeue", line(jobs[0], "PENDING", index="0-39%4"))
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        assert all(one.state() == JobState.QUEUED for one in jobs)
    assert 2 <= len(fake.calls("squeue")) <= 3
    (call,) = fake.calls("sbatch")
    assert "--array=0-39%4" in call


def test_the_rate_of_submissions_has_a_limit(fake, tmp_path, monkeypatch):
    slept = []
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr(executor_module, "time", clock)
    executor = Slurm(submits_per_minute=3)
    for i in range(5):
        executor.submit(JobSpec("members", Wave().to_json(), "out"), tmp_path / str(i), Resources())
    assert len(slept) == 2
    assert 50 < slept[0] <= 60


@pytest.mark.parametrize(
    ("err", "resources"),
    [
        ("sbatch: error: invalid partition specified: gpus\nsbatch: error: Batch job submission failed: "
         "Invalid partition name specified\n", Resources(partition="gpus")),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid\n",
         Resources(minutes=1e6)),
    ],
)  # fmt: skip
def test_a_rejected_job_says_what_slurm_said(fake, tmp_path, err, resources):
    fake.says("sbatch", err=err, code=1)
    with pytest.raises(Rejected, match="Batch job submission failed"):
        submit(tmp_path, resources)
    assert len(fake.calls("sbatch")) == 1


def test_an_answer_that_was_lost_is_looked_for_before_submitting_again(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(executor_module.time, "sleep", lambda seconds: None)
    fake.says(
        "sbatch", err="sbatch: error: Batch job submission failed: Socket timed out on send/recv\n", code=1
    )
    fake.says("squeue", "99\n")
    one = submit(tmp_path)
    assert one.id == "99"
    assert len(fake.calls("sbatch")) == 1


def test_a_killed_submitter_leaves_the_id_behind(fake, tmp_path):
    """The process that called sbatch is gone before it answers; the next one waits for the answer."""
    (fake.folder / "sbatch.sh").write_text('touch "$here/begun"; sleep 1; echo 4712\n')
    fake.says("sbatch")
    code = (
        "from pathlib import Path; from sciflow import Resources; from sciflow.jobs import JobSpec\n"
        "from sciflow.executors.slurm import Slurm; from tests.toys import Wave\n"
        f"spec = JobSpec('members', Wave().to_json(), 'out')\n"
        f"Slurm().submit(spec, Path({str(tmp_path / 'jobs' / 'one')!r}), Resources())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (fake.folder / "begun").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    (one,) = unfinished(tmp_path / "jobs")
    assert one.id == "4712"
    one.settle()
    assert unfinished(tmp_path / "jobs") == []


def test_a_note_without_a_submission_is_no_job(fake, tmp_path):
    fake.says("sbatch", err="sbatch: error: nope\n", code=1)
    with pytest.raises(Rejected):
        submit(tmp_path)
    fake.says("squeue", "")
    assert unfinished(tmp_path) == []


def test_without_slurm_the_error_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SCIFLOW_HOME", str(tmp_path / "home"))
    with pytest.raises(Missing, match="'sbatch' is not on the PATH"):
        submit(tmp_path)


def test_nothing_of_a_configuration_reaches_a_shell(fake, tmp_path):
    """Names and parameters are words of a JSON file and single arguments; the script holds none."""
    evil = "x; touch pwned; $(touch pwned) `touch pwned` \n touch pwned '"
    folder = tmp_path / "a 'quoted' $(touch pwned) %j dir"
    spec = JobSpec("members", {**Wave().to_json(), "fail": evil}, evil, payload={"members": [], "evil": evil})
    one = Slurm(prologue="", submits_per_minute=1000).submit(spec, folder, Resources())
    script = folder / "job.sh"
    assert evil not in script.read_text()
    (call,) = fake.calls("sbatch")
    assert "%%j" in call
    env = {**os.environ, "SLURM_JOB_ID": "1", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", str(script)], cwd=tmp_path, env=env, capture_output=True, timeout=60)
    assert (folder / "ended").exists()
    assert not list(tmp_path.rglob("pwned"))
    assert not Path("pwned").exists()
    with pytest.raises(Invalid, match="partition"):
        Resources(partition="x; rm -rf /")
    with pytest.raises(Invalid, match="extra"):
        Resources(extra=("--wrap=x\n#SBATCH -p y",))
    assert one.id == "4711"


def test_files_are_private_and_hold_no_secret(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")
    (fake.folder / "sbatch.sh").write_text('env > "$here/env"\n')
    one = submit(tmp_path)
    assert one.directory.stat().st_mode & 0o077 == 0
    for file in [*one.directory.rglob("*"), fake.folder / "env"]:
        if file.is_file():
            assert "hunter2" not in file.read_text(), file
    assert (one.directory / "job.sh").stat().st_mode & 0o077 == 0


def test_every_resource_is_an_option_of_sbatch(fake, tmp_path):
    wish = Resources(
        ranks=8, threads=4, minutes=90.5, nodes=2, gpus=1, memory=1.5, partition="gpu", account="a",
        qos="q", constraint="x&y", extra=("--exclusive", "--mail-type=END"),
    )  # fmt: skip
    submit(tmp_path, wish, launcher="mpirun")
    (call,) = fake.calls("sbatch")
    for option in (
        "--ntasks=8 ", "--cpus-per-task=4 ", "--time=91 ", "--nodes=2 ", "--gpus=1 ", "--mem=1536M ",
        "--partition=gpu ", "--account=a ", "--qos=q ", "--constraint=x&y ", "--signal=B:USR1@120 ",
        "--exclusive --mail-type=END ", "--requeue ",
    ):  # fmt: skip
        assert option in call, (option, call)


def test_ids_of_arrays():
    assert elements("3", "N/A") == ["3"]
    assert elements("3", "7") == ["3_7"]
    assert elements("3", "1,4-6%2") == ["3_1", "3_4", "3_5", "3_6"]
    assert elements("3", "[0-6:3]") == ["3_0", "3_3", "3_6"]
    assert elements("3", "0-2,...") == ["3_0", "3_1", "3_2"]
    assert job.together(["3_2", "3_10", "4", "3_1"]) == ["3_[1,2,10]", "4"]


def test_cancelled_elements_are_named_in_one_call(fake, tmp_path):
    executor = Slurm(poll=0.01, submits_per_minute=1000)
    specs = [JobSpec("members", Wave().to_json(), str(tmp_path / "out")) for _ in range(3)]
    jobs = executor.submit_all(specs, tmp_path / "run", Resources(), 4)
    cancel_all(jobs[1:])
    assert fake.calls("scancel") == ["scancel --quiet 4711_[1,2]"]
    assert [one.state() for one in jobs[1:]] == [JobState.CANCELLED] * 2


def test_the_protocol_is_found_in_what_srun_lists(fake):
    fake.says("srun", err="srun: MPI types are...\nsrun: none\nsrun: pmi2\nsrun: pmix_v3\nsrun: pmix\n")
    assert "pmix" in executor_module.protocols()
    executor_module.protocols.cache_clear()
    fake.says(
        "srun",
        "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n",
    )
    assert set(executor_module.protocols()) >= {"pmix", "pmi2"}


def test_waiting_that_does_not_pass_is_said(fake, tmp_path):
    one = submit(tmp_path)
    fake.says("squeue", line(one, "PENDING", "Priority"))
    one.state()
    assert one.waits_for() == "Priority"
    fake.says("squeue", line(one, "PENDING", "QOSNotAllowed"))
    time.sleep(0.05)
    one.state()
    assert "does not pass by itself" in one.waits_for()
