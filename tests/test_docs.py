"""Every block of the tutorials is run, in order, in a directory of its own."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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
]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path):
    if page in ("first-flow.md", "cluster.md", "online.md", "operators.md"):
        pytest.importorskip("torch")
    if page == "online.md":
        pytest.importorskip("zmq")
    if page == "control.md" and importlib.util.find_spec("dolfinx") is None:
        pytest.skip("the page needs dolfinx")
    if page == "step-control.md" and any(
        importlib.util.find_spec(n) is None for n in ("dolfinx", "numba", "stable_baselines3")
    ):
        pytest.skip("the page needs dolfinx, numba and stable-baselines3")
    if page == "rom.md" and any(importlib.util.find_spec(n) is None for n in ("dolfinx", "sklearn")):
        pytest.skip("the page needs dolfinx and scikit-learn")
    if page == "cluster.md":
        path = f"{os.environ['PATH']}:/usr/sbin"
        if any(shutil.which(b, path=path) is None for b in ("slurmctld", "munged")):
            pytest.skip("no Slurm to run the page on: apt-get install slurm-wlm munge")
        (tmp_path / "hpc").symlink_to(DOCS.parent / "hpc")
        first = next(b for b in BLOCK.findall((DOCS / "first-flow.md").read_text()) if "first.py" in b[1])
        (tmp_path / "first.py").write_text(first[2])
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
    for language, options, text in BLOCK.findall((DOCS / page).read_text()):
        place = re.search(r"file=(\S+)", options)
        wanted = int((re.search(r"exit=(\d+)", options) or [0, 0])[1])
        if place:
            file = tmp_path / place[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            continue
        command = {"sh": ["bash", "-e"], "python": [sys.executable]}[language]
        done = subprocess.run(
            [*command, "-c", text], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == wanted, f"{text}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 2


def test_links_between_pages_lead_somewhere():
    root = DOCS.parent
    for page in [*DOCS.rglob("*.md"), root / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
