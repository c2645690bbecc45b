"""The code blocks of the pages, and what can be said of one without running it."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COMMANDS = re.compile(r"`((?:sciflow|make|python -m)(?: [^`\n]+)?)`")
# What a block may take as given: it goes on in a flow, or in a program with a solver.
GIVEN = {"run", "report", "solve", "Resources"}
# First words of lines that are not ours to check.
FOREIGN = {
    *(
        "cat",
        "cc",
        "cd",
        "cmp",
        "conda",
        "echo",
        "export",
        "gfortran",
        "git",
        "grep",
        "mpirun",
        "pip",
        "sbatch",
    ),
    *("pytest", "sinfo", "source", "ssh", "torchrun"),
}


@dataclass(frozen=True)
class Block:
    """A code block between two fences.

    Attributes
    ----------
    page : str
        Path of its page below the repository.
    line : int
        Where it begins.
    language, options, text : str
        What stands behind the fence, and in the block.
    """

    page: str
    line: int
    language: str
    options: str
    text: str

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page with code that a reader may type."""
    return [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page.

    Raises
    ------
    AssertionError
        If a fence has no language or no end, or code stands there by its indentation alone: such
        blocks would be seen by nobody.
    """
    name = str(page.relative_to(ROOT))
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    body: list[str] = []
    before = ""
    in_list = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"^( *)(```+|~~~+)(.*)$", line)
        if opened is not None:
            if line.rstrip() == "```":
                found.append(Block(name, opened[0], opened[1], opened[2], "".join(body)))
                opened = None
            else:
                body.append(line + "\n")
        elif fence:
            assert fence[1] == "", (
                f"{name}:{number}: a fence that is indented is not checked; put it at the margin"
            )
            words = re.fullmatch(r"(\w+)(?: +([^`]+))?", fence[3])
            assert words, f"{name}:{number}: a block without a language is not checked; write text for prose"
            opened, body = (number, words[1], words[2] or ""), []
        else:
            if line.strip():
                in_list = bool(re.match(r"^\s*([-*]|\d+\.) ", line)) or (in_list and line.startswith(" "))
            indented = line.startswith("    ") and not before.strip() and not in_list
            assert not indented, f"{name}:{number}: code by indentation is not checked; put it between fences"
        before = line
    assert opened is None, f"{name}:{opened and opened[0]}: a block without an end"
    return found


@cache
def components() -> dict[str, Any]:
    """Classes of all registered components by their names."""
    from sciflow.registry import registry

    return {cls.__name__: cls for cls, _ in registry().components()}


def names_in(module: str) -> set[str] | None:
    """What a module of ours defines or imports, read from its source; None if there is no such module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    if module == "sciflow":
        import sciflow

        found |= set(sciflow.__all__)
    submodules = Path(spec.origin).parent if spec.submodule_search_locations else None
    if submodules is not None:
        found |= {p.stem for p in submodules.iterdir()}
    return found


def _bound(tree: ast.AST) -> set[str]:
    """Names that a block gives a value to."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return found


def python_faults(text: str) -> Iterator[str]:
    """What is wrong with Python that is not run: names that do not exist, arguments that nobody takes."""
    tree = compile(text, "<block>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    known: dict[str, Any] = dict(components())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sciflow"):
            there = names_in(node.module or "")
            if there is None:
                yield f"there is no module {node.module}"
                continue
            yield from (f"{node.module} has no {a.name}" for a in node.names if a.name not in there)
    bound = _bound(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        name = node.func.id
        if name in known:
            yield from _call_faults(known[name], node)
        elif name not in bound and not hasattr(builtins, name) and name not in GIVEN:
            yield f"nobody says what {name} is: import it in the block"


def _call_faults(cls: Any, node: ast.Call) -> Iterator[str]:
    """Arguments that a component does not take."""
    if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
        return
    try:
        inspect.signature(cls).bind_partial(*node.args, **{k.arg or "": None for k in node.keywords})
    except TypeError as error:
        yield f"{cls.__name__}: {error}"


def lines(text: str) -> list[str]:
    """The commands of a block of the shell: one a line, continued lines joined, remarks gone."""
    joined = text.replace("\\\n", " ")
    return [line for line in (_without_remark(one).strip() for one in joined.splitlines()) if line]


def _without_remark(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line)


def shell_faults(line: str) -> Iterator[str]:
    """What is wrong with a command line: commands, options, flows and parameters that do not exist."""
    words = shlex.split(line)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    for end in (">", "2>", "|", "&&", "||"):
        if end in words:
            words = words[: words.index(end)]
    if not words:
        return
    if words[0] == "sciflow":
        yield from _sciflow_faults(words[1:])
    elif words[0] == "make":
        yield from _make_faults(words[1:])
    elif words[:2] == ["python", "-m"]:
        yield from _module_faults(words[2:])
    elif words[0].startswith("hpc/") and (ROOT / words[0]).exists():
        return
    elif words[0] not in FOREIGN:
        yield f"nobody knows the command {words[0]}"


def _make_faults(words: list[str]) -> Iterator[str]:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    yield from (f"make has no target {word}" for word in words if "=" not in word and word not in targets)


def _sciflow_faults(words: list[str]) -> Iterator[str]:
    from sciflow.cli import parser

    try:
        options = parser().parse_args(words)
    except SystemExit as end:
        # A command that is named without its arguments is no command to type.
        if end.code and not (len(words) == 1 and words[0] in _commands()):
            yield f"sciflow does not take {' '.join(words)}"
        return
    flow = getattr(options, "flow", None)
    if not isinstance(flow, str) or not flow.startswith("flows/"):
        return
    if not (ROOT / flow).exists():
        yield f"there is no {flow}"
    elif getattr(options, "set", None):
        yield from _parameter_faults(flow, tuple(options.set))


def _commands() -> set[str]:
    import argparse

    from sciflow.cli import parser

    (sub,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return set(sub.choices)


@cache
def _flow(path: str) -> Any:
    from sciflow.loading import load_flow

    return load_flow(str(ROOT / path)).fn


def _parameter_faults(flow: str, settings: tuple[str, ...]) -> Iterator[str]:
    from sciflow.errors import SciflowError
    from sciflow.loading import parameters_of

    try:
        parameters_of(_flow(flow), settings, None)
    except SciflowError as error:
        yield f"{flow}: {error}"


@cache
def _groups() -> list[str]:
    """Names that ``python -m benchmarks -k`` searches, read from the sources."""
    found = []
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        area = path.stem.removeprefix("bench_")
        found += [f"{area}/{g}" for g in re.findall(r"^def bench_(\w+)\(", path.read_text(), re.MULTILINE)]
    return found


def _module_faults(words: list[str]) -> Iterator[str]:
    module = words[0]
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    if not there and not (ROOT / (module.replace(".", "/") + ".py")).exists():
        yield f"there is no module {module}"
    if module == "benchmarks" and words[1:2] == ["-k"]:
        pattern = words[2]
        if pattern.isupper():
            return
        if not any(pattern in group for group in _groups()):
            yield f"no benchmark has {pattern} in its name"
