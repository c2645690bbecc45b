"""Every code block of every page is run or, where it needs minutes, a cluster or a reader's data, checked."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.pages import COMMANDS, DOCS, ROOT, Block, blocks, components, pages, python_faults, shell_faults
from tests.pages import lines as commands

# All blocks of these are run one after the other, in a directory of their own.
PAGES = [
    "first-flow.md",
    "first-plugin.md",
    "storage.md",
    "cluster.md",
    "outage.md",
    "online.md",
    "rom.md",
    "operators.md",
    "control.md",
    "step-control.md",
    "closing-the-loop.md",
]


# Blocks that are not run, by page and something that stands in them, and why. They are checked all the same:
# names that are imported or called exist, components take the arguments, commands have the options, flows the
# parameters.
CHECKED = {
    ("docs/operators.md", "flows/operators_table.py"): "trains for minutes",
    ("docs/evaluation.md", "Rollout(leads="): "goes on with a model and an ensemble of the reader's",
    ("docs/evaluation.md", "Convergence("): "goes on with an ensemble of the reader's",
    ("docs/evaluation.md", "Resolution("): "goes on with models and ensembles of the reader's",
    ("docs/evaluation.md", "SampleEfficiency("): "goes on with models and ensembles of the reader's",
    ("docs/export.md", "load_file("): "run by tests/operators/test_export.py, with a model",
    ("docs/bring-your-solver.md", "client.members()"): "waits for a trainer; tests/online runs such solvers",
    ("docs/methods/adaptive-rom.md", "Enrich("): "goes on with a model and an ensemble of the reader's",
    ("docs/methods/conformal.md", "DeepEnsemble("): "goes on with an ensemble of the reader's",
    ("docs/methods/learned-directions.md", "TrainDirections("): "trains for 20 s",
    ("docs/methods/learned-steps.md", "TrainPolicy("): "trains for minutes",
    (
        "docs/methods/moving-heat.md",
        "MovingHeat(",
    ): "says which settings and parameters, the rest is left open",
    ("docs/methods/n-body.md", "Hermite("): "compiles for seconds; docs/step-control.md runs the same",
    ("docs/methods/ordering.md", "OrderDesign("): "goes on with a problem of the reader's",
    ("docs/methods/pod.md", "Compress("): "goes on with an ensemble of the reader's",
    ("docs/methods/probconserv.md", "around(model)"): "one line needs a model of the reader's",
    ("docs/methods/pymor.md", "to_vectors("): "goes on with arrays of the reader's",
    ("docs/methods/recycling.md", "RecyclingKSP("): "stands in a program of the reader's",
    ("docs/methods/relaxation.md", "CostTable("): "measures for minutes",
    (
        "docs/methods/runge-kutta.md",
        "RungeKutta(",
    ): "compiles for seconds; docs/step-control.md runs the same",
    ("docs/methods/runge-kutta.md", "steer("): "stands in a program of the reader's",
    ("docs/methods/step-controllers.md", "Stepping("): "stands in a program of the reader's",
    ("docs/methods/tuned-solvers.md", "TunedKSP("): "stands in a program of the reader's",
    ("README.md", "async def heat_fno"): "the flow of `make demo`, for minutes",
}
# Lines of a shell outside of `PAGES` are always only checked: they start servers, jobs or long trainings.


def only_checked(block: Block) -> bool:
    """Whether a block stands in `CHECKED`."""
    return any(page == block.page and text in block.text for page, text in CHECKED)


def skip_without(page: str) -> None:
    """Skip a page whose software is missing."""
    needs = {
        "first-flow.md": ("torch",),
        "cluster.md": ("torch",),
        "online.md": ("torch", "zmq"),
        "operators.md": ("torch",),
        "control.md": ("dolfinx",),
        "step-control.md": ("dolfinx", "numba", "stable_baselines3"),
        "rom.md": ("dolfinx", "sklearn"),
        "closing-the-loop.md": ("dolfinx", "sklearn"),
    }
    absent = [name for name in needs.get(page, ()) if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"the page needs {', '.join(absent)}")


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path):
    skip_without(page)
    if page == "cluster.md":
        path = f"{os.environ['PATH']}:/usr/sbin"
        if any(shutil.which(b, path=path) is None for b in ("slurmctld", "munged")):
            pytest.skip("no Slurm to run the page on: apt-get install slurm-wlm munge")
        (tmp_path / "hpc").symlink_to(DOCS.parent / "hpc")
        first = next(b for b in blocks(DOCS / "first-flow.md") if "first.py" in b.options)
        (tmp_path / "first.py").write_text(first.text)
    site = tmp_path / "site"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_TARGET": str(site),
        # What the tutorial installs needs nothing but the build backend, which is there.
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        # Sockets have short names.
        "SLURM_LOCAL_DIR": f"/tmp/sciflow-docs-{os.getpid()}",
        "SLURM_LOCAL_PORT": str(30000 + os.getpid() % 9000),
    }
    env["PYTHONPATH"] = f"{site}:{env['PYTHONPATH']}"
    ran = 0
    for block in blocks(DOCS / page):
        place = re.search(r"file=(\S+)", block.options)
        wanted = int((re.search(r"exit=(\d+)", block.options) or [0, 0])[1])
        if place:
            file = tmp_path / place[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
            continue
        if block.language in ("text", "json") or only_checked(block):
            continue
        command = {"sh": ["bash", "-e"], "python": [sys.executable]}[block.language]
        done = subprocess.run(
            [*command, "-c", block.text], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == wanted, f"{block.where}\n{block.text}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 2


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_other_pages_run_or_hold(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if page.parent == DOCS and page.name in PAGES and not only_checked(block):
            continue
        LANGUAGES[block.language](block)


def of_python(block: Block) -> None:
    assert not list(python_faults(block.text)), block.where
    if only_checked(block):
        return
    try:
        exec(compile(block.text, block.where, "exec"), dict(components()))
    except (NameError, SyntaxError) as error:
        pytest.fail(
            f"{block.where}: {error}; a block that cannot run alone belongs into CHECKED, with its reason"
        )


def of_shell(block: Block) -> None:
    for line in commands(block.text):
        assert not list(shell_faults(line)), f"{block.where}: {line}"


def of_c(block: Block) -> None:
    """A part of a program, within a function whose variables are those of the text."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    head, _, body = block.text.partition("\n\n")
    program = (
        f"#include <stdio.h>\n{head}\nint rank, ranks, more, code;\n"
        "double parameters[2], time, *u; size_t first, count;\n"
        f"void solve(void) {{\n{body}\n}}\n"
    )
    from sciflow_online.client import FOLDER

    command = ["cc", "-std=c99", "-Wall", "-Werror", "-fsyntax-only", f"-I{FOLDER}", "-xc", "-"]
    subprocess.run(command, input=program, text=True, check=True)


def of_fortran(block: Block) -> None:
    """A part of a program: its declarations stand before a blank line."""
    if shutil.which("gfortran") is None:
        pytest.skip("no Fortran compiler")
    head, _, body = block.text.partition("\n\n")
    program = (
        f"program solver\n{head}\ninteger :: more, code, nx, ny\nreal(8) :: parameters(2), time, u(9, 9)\n"
        f"{body}\nend\n"
    )
    from sciflow_online.client import FOLDER

    Path("solver.f90").write_text(program)
    module = str(FOLDER / "sciflow_online.f90")
    subprocess.run(["gfortran", "-fsyntax-only", module, "solver.f90"], check=True)


LANGUAGES = {
    "python": of_python,
    "sh": of_shell,
    "c": of_c,
    "fortran": of_fortran,
    "toml": lambda block: tomllib.loads(block.text),
    "json": lambda block: json.loads(block.text),
    "text": lambda block: None,
}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_the_text_can_be_typed(page):
    for command in COMMANDS.findall(page.read_text()):
        assert not list(shell_faults(command)), f"{page.name}: {command}"


def test_what_is_only_checked_is_there():
    seen = [block for page in pages() for block in blocks(page)]
    for name, text in CHECKED:
        fitting = [block.where for block in seen if block.page == name and text in block.text]
        assert len(fitting) == 1, f"{name}, {text}: {fitting}"


@pytest.mark.parametrize(
    "text",
    [
        "from sciflow import Stagee",
        "from sciflow.stagees.design import Design",
        "FNO(widht=8)",
        "Evaluate(1, 2, 3, 4, 5, 6, 7, 8, 9)",
        "await run(Evaluat(), model=model)",
        "load_model(artifact)",
    ],
)
def test_python_that_does_not_hold_is_found(text):
    assert list(python_faults(text))


@pytest.mark.parametrize(
    "line",
    [
        "sciflow rum flows/heat_fno.py",
        "sciflow run flows/heat_fno.py --sett members=3",
        "sciflow run flows/heat_fnoo.py",
        "sciflow run flows/heat_fno.py --set membres=3",
        "sciflow run flows/heat_fno.py --set surrogate.widht=3",
        "sciflow plan flows/heat_fno.py --set members=many",
        "make tset",
        "python -m benchmark",
        "python -m benchmarks -k nothing/of_this",
        "frobnicate",
    ],
)
def test_command_lines_that_do_not_hold_are_found(line):
    assert list(shell_faults(line))


@pytest.mark.parametrize(
    "text", ["```\nls\n```\n", "    sciflow run\n", "- a\n\n  ```sh\n  ls\n  ```\n", "```sh\nls\n"]
)
def test_code_that_no_test_would_see_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n" + text)
    with pytest.raises(AssertionError, match="page.md"):
        blocks(page)


def test_links_of_the_readme_lead_somewhere():
    # Those between the pages are checked where the site is built.
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name}: {target}"
