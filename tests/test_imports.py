"""No module begins by importing one that begins by importing it; what is imported is installed with it."""

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = [ROOT / "sciflow", *sorted((ROOT / "plugins").glob("sciflow_*"))]
BESIDE = {"pydantic_core": "pydantic", "cycler": "matplotlib", "llvmlite": "numba"}
"""Modules that their distribution cannot do without."""
NOT_OURS = {"mpi4py", "petsc4py", "dolfinx", "ufl", "basix", "rebound", "pytest"}
"""Those that pip cannot install well, or a user has for a reason of his own; `requires` names them."""
IMPORT = re.compile(r"^ *(?:import (?=[\w., ]+(?:#|$))|from (?=[\w.]+ import ))([A-Za-z]\w*)", re.MULTILINE)


def first(body):
    """Imports that are made when a module is: none within functions, none for a type checker alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            yield from () if "TYPE_CHECKING" in ast.unparse(node.test) else first(node.body)
            yield from first(node.orelse)
        elif isinstance(node, ast.Try):
            yield from first([*node.body, *(n for h in node.handlers for n in h.body), *node.orelse])
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from first(node.body)


def graph(packages):
    """Modules, each with those that it needs to begin with; `a.b` needs `a`, not the other way round."""
    files = {}
    for package in packages:
        for file in package.rglob("*.py"):
            name = ".".join(file.relative_to(package.parent).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = file
    needs = {}
    for name, file in files.items():
        found = set()
        for node in first(ast.parse(file.read_text()).body):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            else:
                # `from package import module` needs the module; `from module import name` the module.
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {f if f in files else node.module for f in full}
        needs[name] = {f for f in found if f in files and f != name}
    return needs


def test_no_module_needs_itself():
    needs = graph(PACKAGES)
    assert sum(map(len, needs.values())) > 1000
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
    assert len(order) == len(needs)


@pytest.mark.parametrize(
    ("back", "cycle"),
    [
        ("from thing.a import A", True),
        ("import thing.a", True),
        ("from thing import a", True),
        ("try:\n    import thing.a\nexcept ImportError:\n    pass", True),
        ("def f():\n    from thing.a import A", False),
        ("if TYPE_CHECKING:\n    from thing.a import A", False),
    ],
)
def test_a_cycle_is_found(back, cycle, tmp_path: Path):
    package = tmp_path / "thing"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from thing.b import B\n")
    (package / "b.py").write_text("from thing.c import C\n")
    (package / "c.py").write_text(back + "\n")
    sorter = TopologicalSorter(graph([package]))
    if cycle:
        with pytest.raises(CycleError):
            sorter.prepare()
    else:
        sorter.prepare()


def test_what_is_imported_is_declared():
    """Not left to what another distribution happens to bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        d for extra in project["optional-dependencies"].values() for d in extra
    ]
    declared = {_plain(re.split("[^A-Za-z0-9._-]", line)[0]) for line in lines}
    known, unknown = packages_distributions(), {}
    for package in PACKAGES:
        for file in package.rglob("*.py"):
            modules = {m[1] for m in IMPORT.finditer(file.read_text())}
            for module in modules - sys.stdlib_module_names - NOT_OURS:
                brings = {_plain(d) for d in known.get(module, [module])} | {BESIDE.get(module, module)}
                if not brings & declared and not module.startswith("sciflow"):
                    unknown[module] = str(file.relative_to(ROOT))
    assert unknown == {}


def _plain(name):
    return re.sub("[-_.]+", "-", name).lower()
