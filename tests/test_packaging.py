"""What is built is whole, and works where nothing else is: in a fresh environment, beside a third "
"party's package."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "sciflow-string"
PACKAGES = (
    "sciflow",
    *(f"plugins/sciflow_{p}" for p in ("fenics", "spectral", "operators", "online", "rom", "control")),
)
UV = Path(sys.executable).with_name("uv")
"""Installs in seconds what pip takes half a minute for; pip stands in where it is missing."""
HEAVY = ("torch", "dolfinx", "petsc4py", "mpi4py", "sklearn", "numba", "zmq", "stable_baselines3", "h5py")


def clean(**more):
    """An environment in which this tree is not to be found."""
    gone = ("PYTHONPATH", "VIRTUAL_ENV", "PIP_TARGET", "SCIFLOW_STORE")
    return {**{k: v for k, v in os.environ.items() if k not in gone}, **more}


def told(command, cwd, **more):
    """Run a command and give what it printed; its errors are those of the test."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean(**more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def build(source, target, *kinds):
    """Wheel or sdist of a source tree, with the build backend that is there."""
    told([sys.executable, "-m", "hatchling", "build", *(f"-t{k}" for k in kinds), "-d", target], source)
    return {file.suffix: file for file in target.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of sciflow."""
    return build(ROOT, tmp_path_factory.mktemp("built"), "sdist", "wheel")


def contents(wheel):
    """Names and hashes of the files of a wheel, from its record."""
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [n for n in archive.namelist() if n.endswith(".dist-info/RECORD")]
        rows = [line.split(",") for line in archive.read(record).decode().splitlines()]
        return {name: digest for name, digest, _ in rows if digest}


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(built):
    found = contents(built[".whl"])
    wanted = set()
    for package in PACKAGES:
        base = (ROOT / package).parent
        for file in (ROOT / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
                wanted.add(file.relative_to(base).as_posix())
    ours = {name for name in found if ".dist-info/" not in name}
    assert ours == wanted
    for kind in ("problem", "surrogate", "controller", "stage", "step_controller", "linear_solver"):
        assert f"sciflow/templates/{kind}/template_name.py" in ours
        assert f"sciflow/templates/{kind}/check_template_name.py" in ours
    assert {f"{Path(p).name}/py.typed" for p in PACKAGES} <= ours
    assert {"sciflow_online/client/sciflow_online.h", "sciflow_online/client/sciflow_online.f90"} <= ours
    assert any(name.endswith("licenses/LICENSE") for name in found)


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[".gz"]) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safe)
    (source,) = tmp_path.iterdir()
    again = build(source, tmp_path / "again", "wheel")[".whl"]
    assert contents(again) == contents(built[".whl"])
    assert again.name == built[".whl"].name
    with zipfile.ZipFile(built[".whl"]) as one, zipfile.ZipFile(again) as other:
        for part in ("METADATA", "entry_points.txt"):
            (name,) = [n for n in one.namelist() if n.endswith(f".dist-info/{part}")]
            assert one.read(name) == other.read(name)


def test_what_the_wheel_says_of_itself(built):
    about = metadata(built[".whl"])
    needs = [r for r in about.get_all("Requires-Dist") if "extra ==" not in r]
    names = {re.split(r"[^A-Za-z0-9_.-]", r)[0].lower().replace("-", "_") for r in needs}
    assert "numpy" in names
    assert not names & {*HEAVY, "scikit_learn", "pyzmq"}
    assert about["License-Expression"] == "Apache-2.0" or about["License"] == "Apache-2.0"
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert not about.get_all("Project-URL")
    assert about["Requires-Python"] == ">=3.11"


def install(python, *what):
    """Fill an environment from PyPI; skips where there is no network."""
    command = [UV, "pip", "install", "-q", "-p", python]
    if not UV.exists():
        command = [python, "-m", "pip", "install", "-q", "--no-compile"]
    done = subprocess.run(
        [*map(str, command), *map(str, what)], env=clean(), capture_output=True, text=True, check=False
    )
    absent = (
        r"name resolution|Network is unreachable|dns error|Failed to fetch|Could not find a version.*numpy"
    )
    if done.returncode and re.search(absent, done.stderr):
        pytest.skip(f"no packages to be had: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """The commands of a fresh environment with the wheels of sciflow and of the example in it."""
    # On the disk of the caches of uv and pip, to share files with them; the tests' own may be in memory.
    (ROOT / "build").mkdir(exist_ok=True)
    place = ROOT / "build" / f"fresh-{os.getpid()}"
    example = build(EXAMPLE, tmp_path_factory.mktemp("example"), "wheel")[".whl"]
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    try:
        told([base, "-m", "venv", *(["--without-pip"] if UV.exists() else []), place], ROOT)
        install(place / "bin" / "python", built[".whl"], example, "pytest")
        yield place / "bin"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_an_example_of_a_third_party_works_in_a_fresh_environment(fresh, tmp_path):
    """Listed, its own tests, its own flow on the plain engine; and nothing heavy came along."""
    (site,) = fresh.parent.glob("lib/python*/site-packages")
    assert not [name for name in HEAVY if (site / name).exists()]
    listed = json.loads(told([fresh / "sciflow", "plugins", "--json"], tmp_path))
    assert listed["broken"] == []
    assert {p["plugin"]: p["hooks"] for p in listed["plugins"]} == dict.fromkeys(
        ("control", "core", "fenics", "online", "operators", "rom", "spectral", "string"), listed["hooks"]
    )
    ours = {c["name"]: c["state"] for c in listed["components"] if c["distribution"] == "sciflow-string 1.0"}
    assert ours == dict.fromkeys(("string", "mode_decomposition", "string_spectrum"), "ready")
    states = {c["name"]: c["state"] for c in listed["components"]}
    assert states["fno"] == "needs torch"
    assert states["burgers"] == "ready"

    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    assert "13 passed" in told([fresh / "python", "-m", "pytest", "-q", "tests"], tmp_path)
    flow = [fresh / "sciflow", "run", "plucked_strings", "--engine", "plain", "--set", "members=8"]
    report = Path(told(flow, tmp_path).split("report: ")[1].strip())
    assert "Tones of the string" in report.read_text()


def test_the_command_line_of_a_lean_installation(fresh, tmp_path):
    """Help loads nothing, a new plugin can be begun and tested, and a network says what it needs."""
    loads = "import sys; from sciflow.cli import parser; parser().format_help(); print(*sys.modules)"
    loaded = set(told([fresh / "python", "-c", loads], tmp_path).split())
    assert not loaded & {*HEAVY, "numpy", "prefect", "zarr", "scipy", "pluggy"}
    assert "new-plugin" in told([fresh / "sciflow", "--help"], tmp_path)
    told([fresh / "sciflow", "new-plugin", "my-rod"], tmp_path)
    assert "2 passed" in told([fresh / "python", "-m", "pytest", "-q"], tmp_path / "my-rod")
    assert "all hold" in told([fresh / "sciflow", "check", "string_spectrum"], tmp_path)
    done = subprocess.run(
        [fresh / "sciflow", "check", "fno"],
        cwd=tmp_path,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the surrogate 'fno' needs torch" in done.stderr
    assert "pip install" in done.stderr
