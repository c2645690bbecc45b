"""Provenance: what is recorded is there, what must not be is not."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import distribution

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow import environment, run
from sciflow.environment import HIDDEN, redact, redact_arguments, variables
from sciflow.executor import Resources
from sciflow.provenance import collect, plugins_of
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.test_flow import Count
from tests.toys import Wave

CHOSEN = {
    "OMP_NUM_THREADS": "4",
    "MKL_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_PARTITION": "short",
    "SLURM_CLUSTER_NAME": "elbe",
    "OMPI_COMM_WORLD_SIZE": "8",
    "SCIFLOW_STORE": "results",
}
SECRETS = {
    "SCIFLOW_TOKEN": "hush",
    "SCIFLOW_API_KEY": "hush",
    "SCIFLOW_PASSWORD": "hush",
    "SCIFLOW_CLIENT_SECRET": "hush",
    "MY_SECRET_NUM_THREADS": "hush",
    "AWS_SECRET_ACCESS_KEY": "hush",
    "HOME": "hush",
    "PATH": "hush",
    "USER": "hush",
    "SLURM_JOB_USER": "hush",
}


def test_variables_are_chosen_by_a_list():
    assert variables({**CHOSEN, **SECRETS, "OTHER": "hush"}) == CHOSEN


def test_a_login_in_a_chosen_variable_is_hidden():
    found = variables({"SCIFLOW_STORE": "s3://me:hush@bucket/x"})
    assert found == {"SCIFLOW_STORE": f"s3://{HIDDEN}@bucket/x"}


letters = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=20)
# Tilde and caret keep a random secret from being a word that stands there anyway.
secrets = st.builds(lambda a, b: f"{a}~^{b}", letters, letters)


@given(
    secrets,
    st.sampled_from(["token", "API_KEY", "db.password", "client-secret", "Auth", "credentials", "passwd"]),
    st.sampled_from(["postgres", "https", "s3"]),
)
def test_a_secret_on_a_command_line_is_hidden(word, name, scheme):
    line = [
        "/home/me/bin/sciflow", "run", "flow.py", f"--{name}", word, f"--{name}={word}",
        "--set", f"{name}={word}", "--set", f'server={{"{name}": "{word}", "port": 80}}',
        f"{scheme}://me:{word}@host/path", f"{scheme}://{word}@host", f"{scheme}://me:{word}/{word}@host",
        f"https://host/path?{name}={word}&x=1", f"--header=Authorization: Bearer {word}",
    ]  # fmt: skip
    shown = redact_arguments(line)
    assert word not in " ".join(shown)
    assert len(shown) == len(line)
    assert shown[:3] == ["sciflow", "run", "flow.py"]
    assert "host/path" in shown[10]
    assert "80" in shown[9]


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a" * 36,
        "hf_" + "b" * 30,
        "pnu_" + "c" * 36,
        "AKIA" + "D" * 16,
        "eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl",
    ],
)
def test_a_token_without_a_name_is_known_by_its_shape(token):
    assert token not in redact(f"cannot log in with {token}.")


def test_what_is_no_secret_stays():
    plain = [
        "sciflow", "run", "flows/heat_fno.py", "--set", "members=400", "--store", "/data/me", "--author=Ann",
        "https://host:8080/path", "a@b.c",
    ]  # fmt: skip
    assert redact_arguments(plain) == plain
    # The option after a secret flag without a value is not its value.
    assert redact_arguments(["x", "--use-token", "--set", "a=1"]) == ["x", "--use-token", "--set", "a=1"]


def test_a_record_holds_no_secret_and_what_was_asked_for(plain, monkeypatch):
    for name, value in {**CHOSEN, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    # Other tests may have loaded the library, which knows better than the environment.
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    monkeypatch.setattr(sys, "argv", ["/opt/sciflow", "--password", "hush", "https://me:hush@there/"])
    stage = Count(1)
    p = collect(stage, {}, Resources(), 1.0, 2.0)
    assert "hush" not in json.dumps(p["environment"])
    found = p["environment"]
    assert CHOSEN.items() <= found["variables"].items()
    assert found["argv"] == ["sciflow", "--password", HIDDEN, f"https://{HIDDEN}@there/"]
    assert found["mpi"]["size"] == 8
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["usage"]["process"]["cpu_seconds"] > 0
    # A Python with numpy takes more than ten and less than a hundred thousand megabytes.
    assert 1e7 < found["usage"]["process"]["peak_rss_bytes"] < 1e11
    assert json.loads(json.dumps(p, allow_nan=False)) == p


def test_every_component_is_recorded_with_who_provides_it(plain):
    first, second = plugins_of(Simulate(Wave()))
    assert (first["kind"], first["component"], first["distribution"]) == ("stage", "simulate", "sciflow")
    assert first["version"] == distribution("sciflow").version
    assert first["entry_point"] == "core = sciflow.components"
    assert (second["component"], second["distribution"], second["version"]) == (
        "toy_wave", "sciflow-toys", "0",
    )  # fmt: skip
    assert second["entry_point"] == "toys = tests.toys"
    # A class that no entry point provides has no distribution to invent.
    (alone,) = plugins_of(Count(1))
    assert set(alone) == {"kind", "component", "module", "code"}
    design = asyncio.run(run(Design(problem=Wave(), count=3)))
    assert [p["component"] for p in design.provenance["plugins"]] == ["design", "toy_wave"]


def test_the_digest_of_the_distributions_can_be_recomputed(tmp_path, monkeypatch):
    for folder, name, number in (("a", "B_one", "2"), ("a", "aaa", "1"), ("b", "b-one", "9")):
        place = tmp_path / folder / f"{name}-{number}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
    environment.distributions_digest.cache_clear()
    try:
        expected = hashlib.sha256(b"aaa==1\nb-one==2\n").hexdigest()
        assert environment.distributions_digest() == expected
    finally:
        environment.distributions_digest.cache_clear()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "nobody@example.org")
    (tmp_path / "code.py").write_text("a = 1\n")
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    yield tmp_path
    environment.diff_digest.cache_clear()


def diff_now():
    environment.diff_digest.cache_clear()
    return environment.diff_digest()


def test_a_change_is_recorded_by_its_digest_alone(repository):
    assert diff_now() == ""
    assert "diff" not in environment.record()
    (repository / "code.py").write_text("password = 'hush'\n")
    one = diff_now()
    assert len(one) == 64
    assert environment.record()["diff"] == one
    assert "hush" not in json.dumps(environment.record())
    (repository / "code.py").write_text("a = 3\n")
    assert diff_now() not in ("", one)
    (repository / "code.py").write_text("password = 'hush'\n")
    for key, value in (("diff.noprefix", "true"), ("diff.context", "9"), ("diff.external", "false")):
        subprocess.run(["git", "config", key, value], check=True)
    assert diff_now() == one
    (repository / "code.py").write_text("a = 1\n")
    assert diff_now() == ""


def test_outside_of_git_no_change_is_claimed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert diff_now() == ""
    environment.diff_digest.cache_clear()


def test_torch_is_not_loaded_to_ask_for_its_flags():
    code = (
        "import sys; from sciflow.environment import record, torch_flags; found = record();"
        "assert 'torch' not in sys.modules and 'mpi4py' not in sys.modules; assert 'torch' not in found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_flags_of_torch_are_recorded_where_it_is_loaded():
    torch = pytest.importorskip("torch")
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for wanted in (True, False):
            torch.use_deterministic_algorithms(wanted)
            found = environment.torch_flags()
            assert found["deterministic"] is wanted
            assert found["threads"] == torch.get_num_threads()
    finally:
        torch.use_deterministic_algorithms(before)
