"""What a public docstring must say, read from the source: parameters, shapes, units, errors, sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

SECTIONS = {"Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples"}
# One array; what is named in a mapping or stands in a sequence is described by what made it.
ARRAY = re.compile(r"(?:np\.ndarray|ndarray|(?:torch\.)?Tensor)(?: \| (?:None|float|int))*")
NUMBER = re.compile(r"(?:str \| )?float(?: \| None)?|tuple\[float, (?:\.\.\.|float)\]")
SHAPED = re.compile(r"\bshapes?\b|\bscalar\b|\bdtype\b|(?<!\w)\((?:\*?\w+(?: \w+)?|\.\.\.), [^)=]*\)")
ELSEWHERE = re.compile(r"\b[Ss]ee\s+`|\b[Aa]s for\s+`|, as\s+`|[Mm]ade by\s+`")
# A number that is said to be one of these has a unit, or is said to be a part or multiple of something.
QUANTITY = re.compile(
    r"\b(?:time|lengths?|durations?|periods?|force|stress|temperature|pressure|velocity|speed"
    r"|distance|frequency|density|viscosity|diffusivity|conductivity|permeability|memory|energy)\b",
    re.IGNORECASE,
)
UNIT = re.compile(
    r"(?<![\w`])(?:s|h|K|W|m|mm|um|Pa|MPa|GPa|J|kg|Hz|rad|N|1|[KMG]i?B|bytes|AU)(?=[\s,;:.)/^(*-]|$)"
    r"|\b(?:units?|seconds|minutes|years|relative|fractions?|ratio|share|factor|over|proportion\w*|quantile"
    r"|number of|how (?:many|often)|exponent|multipl\w+|tolerance|weight)\b",
    re.IGNORECASE,
)
# Components that are a method of somebody, and the bases by which they are known.
METHODS = {
    "Surrogate", "Clusterer", "Dissimilarity", "Controller", "Tuner", "StepController", "Integrator",
    "HyperReduction", "Regressor", "Selector", "LinearSolver", "Reservoir", "Steering",
}  # fmt: skip


@dataclass(frozen=True)
class Doc:
    """A docstring in its sections.

    Attributes
    ----------
    text : str
        All of it.
    parts : mapping of str to list of str
        Lines below each heading; those before the first under ``""``.
    """

    text: str
    parts: dict[str, list[str]]

    @classmethod
    def of(cls, node: ast.AST) -> Doc:
        """The docstring of a class, function or module."""
        text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
        parts: dict[str, list[str]] = {"": []}
        heading, lines = "", text.splitlines()
        for line, after in zip_longest(lines, lines[1:], fillvalue=""):
            if line.strip() in SECTIONS and after.strip() and set(after.strip()) == {"-"}:
                heading = line.strip()
                parts[heading] = []
            elif not (heading and not parts[heading] and set(line.strip()) == {"-"}):
                parts[heading].append(line)
        return cls(text, parts)

    def entries(self, *headings: str) -> dict[str, str]:
        """What is said of each name of a list: its line, and what is indented below."""
        found: dict[str, str] = {}
        for heading in headings:
            names: list[str] = []
            for line in self.parts.get(heading, []):
                if line and not line[0].isspace():
                    names = [n.strip().lstrip("*") for n in line.split(" : ")[0].split(",")]
                for name in names:
                    found[name] = found.get(name, "") + line + "\n"
        return found

    def raises(self, name: str) -> bool:
        """Whether an error stands under Raises, or the docstring sends the reader to where it does."""
        named = " ".join(self.parts.get("Raises", []))
        return bool(re.search(rf"\b{name}\b", named) or ELSEWHERE.search(self.text))


class Library:
    """Every class of some packages by its name, to find what a method inherits.

    Parameters
    ----------
    files : sequence of Path
        Python sources.
    root : Path
        What their names in messages are relative to.
    """

    def __init__(self, files: list[Path], root: Path) -> None:
        self.trees = {str(f.relative_to(root)): ast.parse(f.read_text()) for f in files}
        self.classes: dict[str, ast.ClassDef] = {}
        for tree in self.trees.values():
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, node)

    def above(self, cls: ast.ClassDef) -> Iterator[ast.ClassDef]:
        """The bases of a class and theirs, as far as they are ours; nearest first."""
        for base in cls.bases:
            node = base.value if isinstance(base, ast.Subscript) else base
            name = getattr(node, "id", getattr(node, "attr", ""))
            found = self.classes.get(name)
            if found is not None and found is not cls:
                yield found
                yield from self.above(found)

    def inherited(self, cls: ast.ClassDef | None, name: str) -> Doc | None:
        """The docstring of the method of a base that is overridden."""
        for base in self.above(cls) if cls else ():
            for node in base.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                    return Doc.of(node)
        return None

    def faults(self) -> Iterator[str]:
        """What is missing, each as ``file:line name: what``."""
        for file, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                    yield from self._of_function(node, None, file)
                elif isinstance(node, ast.ClassDef) and node.name[0] != "_":
                    yield from self._of_class(node, tree, file)

    def _of_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, cls: ast.ClassDef | None, file: str
    ) -> Iterator[str]:
        where = f"{file}:{node.lineno} {cls.name + '.' if cls else ''}{node.name}"
        doc, above = Doc.of(node), self.inherited(cls, node.name)
        listed = doc.entries("Parameters")
        there = parameters(node, cls is not None)
        yield from (f"{where}: there is no parameter {n}" for n in listed if n not in there)
        for name, annotation in there.items():
            if listed and name not in listed:
                yield f"{where}: {name} is not under Parameters"
            elif ARRAY.fullmatch(annotation):
                said = listed.get(name, doc.text)
                if not (SHAPED.search(said) or ELSEWHERE.search(said) or (above and not listed)):
                    yield f"{where}: the shape of {name} is not said"
        for error in sorted(raised(node)):
            if not (doc.raises(error) or (above and above.raises(error))):
                yield f"{where}: {error} is not under Raises"

    def _of_class(self, cls: ast.ClassDef, tree: ast.Module, file: str) -> Iterator[str]:
        where = f"{file}:{cls.lineno} {cls.name}"
        doc = Doc.of(cls)
        listed = doc.entries("Parameters", "Attributes")
        for base in self.above(cls):
            listed = {**Doc.of(base).entries("Parameters", "Attributes"), **listed}
        yield from (f"{where}: {fault}" for fault in of_fields(cls, doc, listed))
        for node in cls.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name in ("__init__", "__post_init__"):
                yield from (f"{where}: {fault}" for fault in of_construction(node, doc, listed))
            elif node.name[0] != "_" and not any("setter" in ast.unparse(d) for d in node.decorator_list):
                yield from self._of_function(node, cls, file)
        if {b.name for b in self.above(cls)} & METHODS and names_itself(cls):
            sources = [doc, Doc.of(tree), *(Doc.of(n) for n in cls.body if isinstance(n, ast.FunctionDef))]
            if not any("References" in d.parts or OWN.search(d.text) for d in sources):
                yield f"{where}: no source under References, nor that it is our own"


def of_fields(cls: ast.ClassDef, doc: Doc, listed: dict[str, str]) -> Iterator[str]:
    """What is missing of the fields of a class."""
    elsewhere, bare = ELSEWHERE.search(doc.text), "dimensionless" in doc.text
    for name, annotation in fields(cls):
        said = listed.get(name)
        if said is None:
            if not elsewhere:
                yield f"the field {name} is not under Attributes"
        elif ARRAY.fullmatch(annotation) and not (SHAPED.search(said) or ELSEWHERE.search(said)):
            yield f"the shape of the field {name} is not said"
        elif NUMBER.fullmatch(annotation) and QUANTITY.search(said) and not (UNIT.search(said) or bare):
            yield f"the unit of the field {name} is not said"


def of_construction(
    node: ast.FunctionDef | ast.AsyncFunctionDef, doc: Doc, listed: dict[str, str]
) -> Iterator[str]:
    """What the docstring of a class lacks of how one is made."""
    for name in parameters(node, True):
        if name not in listed and not re.search(rf"`{name}\b", doc.text) and not ELSEWHERE.search(doc.text):
            yield f"{name} is not under Parameters"
    for error in sorted(raised(node)):
        if not (doc.raises(error) or Doc.of(node).raises(error)):
            yield f"{error} is not under Raises"


OWN = re.compile(r"\b(?:our own|of our own|ours)\b|\bSee\s+`|as `")


def names_itself(cls: ast.ClassDef) -> bool:
    """Whether a class sets the name that it is registered under."""
    return any(isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "name" and n.value for n in cls.body)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> dict[str, str]:
    """Parameters and their annotations, without the instance or class."""
    a = node.args
    found = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs]
    found += [a.kwarg] if a.kwarg else []
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    found = found[1:] if method and not static else found
    return {p.arg: ast.unparse(p.annotation) if p.annotation else "" for p in found if p.arg[0] != "_"}


def fields(cls: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Public fields of a dataclass or named tuple, and their annotations."""
    kinds = [ast.unparse(d) for d in cls.decorator_list] + [ast.unparse(b) for b in cls.bases]
    if not any(word in kind for kind in kinds for word in ("dataclass", "NamedTuple")):
        return
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation = ast.unparse(node.annotation)
            if node.target.id[0] != "_" and "ClassVar" not in annotation:
                yield node.target.id, annotation


def raised(node: ast.AST) -> set[str]:
    """Names of the errors that leave a body; those of inner functions, and what is caught again, left out."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            error = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            name = getattr(error, "id", getattr(error, "attr", ""))
            # A variable holds what was caught; classes have a capital.
            found |= {name} if name[:1].isupper() else set()
        found |= raised(child)
    if isinstance(node, ast.Try):
        for body in node.body:
            if isinstance(body, ast.Raise) or raised(body):
                inside = raised(ast.Module([*node.body], []))
                caught = " ".join(ast.unparse(h.type) if h.type else "Exception" for h in node.handlers)
                kept = raised(ast.Module([*node.handlers, *node.orelse, *node.finalbody], []))
                found = kept | {n for n in inside if n not in caught and "Exception" not in caught}
                break
    return found - {"NotImplementedError", "AssertionError"}
