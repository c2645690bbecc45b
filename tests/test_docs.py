"""Every block of the tutorials is run, in order, in a directory of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["first-flow.md", "first-plugin.md", "storage.md", "outage.md"])
def test_the_blocks_of_a_page_run(page, tmp_path):
    if page == "first-flow.md":
        pytest.importorskip("torch")
    site = tmp_path / "site"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_TARGET": str(site),
        # What the tutorial installs needs nothing but the build backend, which is there.
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
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
