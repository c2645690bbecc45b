"""What mkdocs does beyond Markdown: the reference is made, formulas become MathML, blocks get titles."""

import logging
from pathlib import Path
from typing import Any

import catalogue
import fences
import formulas
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference import PAGES, Reference

# Warnings under this name end a strict build.
log = logging.getLogger("mkdocs.hooks.sciflow")


class _ToMkdocs(logging.Handler):
    """Warnings of griffe, about docstrings, as warnings of the site."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage())


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation, and the records of decisions by their numbers."""
    griffe = logging.getLogger("griffe")
    griffe.handlers[:] = [_ToMkdocs(logging.WARNING)]
    griffe.propagate = False
    written: list[Any] = [{title: f"reference/{key}.md"} for key, (title, _, _) in PAGES.items()]
    kinds = [
        {kind.replace("_", " ").capitalize(): f"reference/components/{kind}.md"} for kind in catalogue.kinds()
    ]
    made = [
        {"Command line": "reference/command-line.md"},
        {"Registered components": kinds},
        {"Python interface": written},
        {"Hooks": "reference/hooks.md"},
        {"Conformance checks": "reference/testing.md"},
    ]
    for group in config.nav or []:
        if "Reference" in group:
            group["Reference"] = [*group["Reference"], *made]
        if "Decisions" in group:
            records = sorted(Path(config.docs_dir, "adr").glob("[0-9]*.md"))
            group["Decisions"] = [*group["Decisions"], *(f"adr/{record.name}" for record in records)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    reference = Reference()
    documents = {
        file.src_uri: file.content_string
        for file in files.documentation_pages()
        if "adr/" not in file.src_uri
    }
    pages = {f"reference/{name}": text for name, text in reference.pages()}

    def link(name: str) -> str:
        target = reference.link(name)
        return f"../{target}" if target else ""

    for name, text in catalogue.pages(link, documents):
        pages[f"reference/components/{name}"] = text
    pages["reference/command-line.md"] = catalogue.command_line()
    font = formulas.font()
    files.append(File.generated(config, f"assets/{font.name}", abs_src_path=str(font)))
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """First lines of blocks that the site can show."""
    return fences.plain(markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Formulas as MathML; one that cannot be converted is a warning."""
    try:
        return formulas.rendered(html)
    except ValueError as error:
        log.warning("%s: %s", page.file.src_uri, error)
        return html
