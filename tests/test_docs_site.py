"""The documentation as a site: built strictly, complete, and with nothing from another host."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

from tests.browser import Browser, chromium
from tests.pages import DOCS, ROOT

METHODS = sorted(p for p in (DOCS / "methods").glob("*.md") if p.name != "index.md")
# What each page about a method says, by the words that its headings begin or end with.
PARTS = {
    "equation": r"(Equations?|Weak form|Discretisation)\b.*",
    "cost": r".*[Cc]ost.*",
    "accuracy": r".*([Aa]ccuracy|[Mm]easured).*",
    "when not to use it": r"When not to use (it|them)",
    "references": r"References",
}
COMMANDS = r"python -m benchmarks|make bench|sciflow run flows/|`tests/|pytest .*tests/"


class Sources(HTMLParser):
    """Addresses that a page loads by itself, in contrast to those that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(given["id"] or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given.get("href") or "")
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loaded += [given[key] or "" for key in ("src", "srcset") if given.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="pip install --group docs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def build(root, folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


def test_every_page_is_there(site):
    for page in DOCS.rglob("*.md"):
        name = "index" if page.stem == "README" else page.stem
        assert (site / page.relative_to(DOCS)).with_name(f"{name}.html").exists(), page


def test_no_page_loads_anything_from_elsewhere_or_has_an_anchor_twice(site):
    for page in site.rglob("*.html"):
        found = Sources()
        found.feed(page.read_text())
        foreign = [address for address in found.loaded if re.match(r"(https?:)?//", address)]
        assert not foreign, f"{page.relative_to(site)}: {foreign}"
        twice = [one for one, count in Counter(found.ids).items() if count > 1]
        assert not twice, f"{page.relative_to(site)}: {twice}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text()), style


def test_the_logo_leads_to_a_page_and_not_to_a_folder(site):
    assert '<a href="index.html" title="sciflow"' in (site / "campaign.html").read_text()
    assert '<a href="../index.html" title="sciflow"' in (site / "methods" / "fno.html").read_text()


def test_formulas_are_readable_without_scripts(site):
    page = (site / "methods" / "fno.html").read_text()
    assert page.count("<math") > 20
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert "arithmatex" not in text, page
        assert "$$" not in re.sub(r"<(pre|code|script)\b.*?</\1>", "", text, flags=re.DOTALL), page
        assert not re.search(r"<(mi|mo|mtext|mrow)>\\|<mi>&(amp;)?</mi>", text), page


def test_the_reference_has_all_components_and_their_fields(site):
    from dataclasses import fields

    from sciflow.registry import registry

    for cls, plugin in registry().components():
        if plugin.distribution != "sciflow":
            continue
        page = (site / "reference" / "components" / f"{cls.kind}.html").read_text()
        _, _, after = page.partition(f'<h2 id="{cls.name}">')
        described = after.partition("<h2 id=")[0]
        for field in fields(cls):
            assert f"<td><code>{field.name}</code></td>" in described, f"{cls.name}.{field.name}"


def test_the_reference_has_all_commands(site):
    from tests.pages import _commands

    page = (site / "reference" / "command-line.html").read_text()
    for name in _commands():
        assert f'id="sciflow-{name}"' in page


def test_all_components_are_written_about():
    from sciflow.registry import registry

    texts = [page.read_text() for page in DOCS.rglob("*.md")]
    for cls, plugin in registry().components():
        if plugin.distribution == "sciflow":
            pattern = re.compile(
                rf"`[^`\n]*\b({cls.__name__}|{cls.name})\b|^[^\n|]*\b{cls.__name__}\(", re.MULTILINE
            )
            assert any(pattern.search(text) for text in texts), f"no page has {cls.__name__} in code"


def test_the_gallery_shows_every_picture_with_the_command_that_made_it():
    spec = importlib.util.spec_from_file_location("make", DOCS / "gallery" / "make.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules["make"] = made
    spec.loader.exec_module(made)
    text = (DOCS / "gallery.md").read_text()
    for shot in made.SHOTS:
        assert f"sciflow run {shlex.join(shot.command)}\n" in text
        assert f"(gallery/{shot.name}.png)" in text
        assert (DOCS / "gallery" / f"{shot.name}.png").stat().st_size <= made.LARGEST
    assert len(list((DOCS / "gallery").glob("*.png"))) == len(made.SHOTS)


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_a_page_about_a_method_has_its_parts(page):
    text = page.read_text()
    headings = re.findall(r"^#{2,3} (.*)$", text, re.MULTILINE)
    lacking = [name for name, words in PARTS.items() if not any(re.fullmatch(words, h) for h in headings)]
    assert not lacking, f"{page.name} lacks {', '.join(lacking)}; it has {headings}"
    assert re.search(r"\$[^$]+\$", text), f"{page.name} has no formula"
    assert re.search(COMMANDS, text), f"{page.name} has no command that gives its numbers"


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        ("docs/index.md", "first-flow.md", "frist-flow.md", "frist-flow.md"),
        ("docs/methods/mlp.md", "# ", "# [x](fno.md#nothing) ", "nothing"),
        ("docs/methods/mlp.md", "# ", "# $\\frobnicate x$ ", "frobnicate"),
        ("mkdocs.yml", "          - Fully connected network: methods/mlp.md\n", "", "mlp.md"),
    ],
    ids=["link", "anchor", "formula", "navigation"],
)
@pytest.mark.torture
def test_what_is_broken_ends_the_build(path, old, new, said, tmp_path):
    pytest.importorskip("material")
    for name in ("docs", "sciflow", "mkdocs.yml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    file = tmp_path / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


@pytest.mark.skipif(chromium() is None, reason="no chromium")
@pytest.mark.torture
def test_the_search_works_from_a_disk(site, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{(site / 'index.html').as_uri()}?q=recycling")
        browser.wait("document.querySelectorAll('.md-search-result__item').length > 3")
