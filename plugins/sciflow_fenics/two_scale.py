"""Stages of two-scale computations: a structure whose law is a cell or a model of one; comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.homogenisation import CellProblem, Homogenised
from sciflow.registry import registry, require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.train import MODEL, load_model
from sciflow_fenics.checks import DOLFINX, check_count
from sciflow_fenics.rve import RVE
from sciflow_fenics.structures import CookMembrane, Structure

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_fenics.macro import Macro, Step


def _number(unit: str, description: str, dtype: str = "float64") -> Field:
    return Field(("step",), unit, dtype, description)


TWO_SCALE = Schema(
    "two_scale",
    {
        "force": _number("N mm-1", "on the loaded edge, per thickness"),
        "displacement": _number("mm", "mean of the loaded edge in the direction of the force"),
        "newton": _number("1", "Newton steps", "int64"),
        "calls": _number("1", "evaluations of the law: points times sweeps", "int64"),
        "outside": _number("1", "points whose strain is beyond the bounds", "int64"),
        "micro_seconds": _number("s", "in the law"),
        "macro_seconds": _number("s", "elsewhere"),
        "u": Field(("step", "dof"), "mm", "float64", "displacement by node and direction"),
        "strain": Field(("step", "point", "component"), "1", "float64", "xx, yy, twice xy"),
        "stress": Field(("step", "point", "component"), "MPa", "float64", "xx, yy, xy"),
    },
)
"""A force-displacement curve, the fields at the end of every load step, and what they cost."""

COMPARISON = Schema(
    "two_scale_comparison",
    {
        "force": TWO_SCALE["force"],
        "displacement": _number("mm", "of the model"),
        "reference": _number("mm", "of the reference"),
        "curve_error": _number("1", "their difference over the largest displacement of the reference"),
        "u_error": _number("1", "relative L2 error of the displacements"),
        "stress_error": _number("1", "relative L2 error of the stresses"),
    },
)


@dataclass(frozen=True)
class TwoScale(Stage):
    """Loads a structure step by step; the law of its points is a cell, or a model of that cell.

    Without a model the cell is solved at every point and every Newton step (FE2). With one, fitted by
    the stage ``train``, the model answers for all points at once.

    Attributes
    ----------
    structure : Structure
        Mesh, supports and load.
    cell : CellProblem
        The representative volume element; the model must be one of it.
    force : float
        The largest one, N per mm of thickness, reached in equal steps.
    steps : int
        Load steps.

    Raises
    ------
    Invalid
        If `cell` or `force` has a value that it cannot have.
    """

    name: ClassVar[str] = "two_scale"
    requires: ClassVar[tuple[str, ...]] = DOLFINX
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL}
    optional: ClassVar[tuple[str, ...]] = ("model",)
    output: ClassVar[Schema] = TWO_SCALE
    structure: Structure = CookMembrane()
    cell: CellProblem = RVE()
    force: float = 120.0
    steps: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.cell, CellProblem):
            raise Invalid(f"cell must be a cell problem such as rve, got {self.cell.name!r}")
        if tuple(self.cell.components) != ("exx", "eyy", "gxy"):
            raise Invalid(f"a plane structure has strains exx, eyy, gxy, the cell {self.cell.components}")
        check_count("steps", self.steps, 1)
        if not math.isfinite(self.force) or self.force == 0:
            raise Invalid(f"the force must be finite and not zero, got {self.force} N/mm")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a model that names another cell in its configuration."""
        super().check(inputs)
        require(self.cell)
        if "model" in inputs:
            mine = self.cell.to_json()
            for cell in _cells(inputs["model"].attributes.get("surrogate")):
                if cell != mine:
                    changed = sorted(k for k in {*mine, *cell} if cell.get(k) != mine.get(k))
                    raise Invalid(
                        f"{inputs['model'].path} is a model of another cell: {', '.join(changed)} differ"
                    )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """March through the load steps and keep all of them."""
        import numpy as np

        from sciflow_fenics.macro import Macro

        model = inputs.get("model")
        law = self.law(model)
        bounds = law.bounds()
        if bounds is None:
            bounds = np.array([[p.low, p.high] for p in self.cell.parameters.values()])
        macro = Macro(self.structure, ctx)
        forces = self.force * np.arange(1, self.steps + 1) / self.steps
        rows: list[dict[str, Any]] = []
        for number, step in enumerate(macro.march(law, forces)):
            row = self._row(macro, step, float(forces[number]), bounds)
            rows.append(row)
            if row["outside"] and model is not None:
                ctx.log.warning("load step %d: %s", number + 1, _beyond(row, self.cell.components, bounds))
            figures = {"displacement": f"{step.displacement:.4g} mm", "newton": str(row["newton"])}
            ctx.progress(number + 1, self.steps, "load steps", figures)
        if ctx.comm.rank:
            return
        for name, field in TWO_SCALE.fields.items():
            out.write(name, np.array([row[name] for row in rows]), field)
        for name, (field, values) in _mesh(self.structure).items():
            out.write(name, values, field)
        out.describe(
            structure=self.structure.to_json(),
            cell=self.cell.to_json(),
            model=None if model is None else model.digest,
            law=self.cell.name if model is None else model.attributes["surrogate"]["component"],
            points=macro.count,
            bounds=bounds.tolist(),
            residuals=[list(row["residuals"]) for row in rows],
        )

    def law(self, model: Artifact | None) -> Homogenised:
        """The law of the structure's points.

        Raises
        ------
        Invalid
            If the model has no law to offer.
        """
        if model is None:
            return self.cell.direct()
        found = load_model(model)
        if not isinstance(found, Homogenised):
            raise Invalid(
                f"{model.path}: the model of {model.attributes['surrogate']['component']!r} gives no "
                "stresses and tangents for mean strains (sciflow.homogenisation.Homogenised); equino does"
            )
        return found

    def _row(self, macro: Macro, step: Step, force: float, bounds: np.ndarray) -> dict[str, Any]:
        """What is kept of a step, the fields whole; collective."""
        size = 2 * (2 * self.structure.cells + 1) ** 2
        strain = macro.whole(macro.form.places, step.strain, macro.count)
        beyond = (strain < bounds[:, 0]) | (strain > bounds[:, 1])
        return {
            "force": force,
            "displacement": step.displacement,
            "newton": len(step.residuals) - 1,
            "calls": step.calls,
            "outside": int(beyond.any(axis=1).sum()),
            "micro_seconds": step.micro,
            "macro_seconds": step.macro,
            "u": macro.whole(macro.form.rows, step.u, size),
            "strain": strain,
            "stress": macro.whole(macro.form.places, step.stress, macro.count),
            "residuals": step.residuals,
        }


def _cells(document: Any) -> Iterator[Mapping[str, Any]]:
    """Configurations of cell problems anywhere in that of another component."""
    if isinstance(document, Mapping):
        if _is_cell(document.get("component")):
            yield document
        for value in document.values():
            yield from _cells(value)


def _is_cell(name: object) -> bool:
    """Whether a component of this name is a cell problem, as far as plugins that are installed tell."""
    cells = (c for c, _ in registry().components() if issubclass(c, CellProblem))
    return any(c.name == name for c in cells)


def _beyond(row: Mapping[str, Any], components: tuple[str, ...], bounds: np.ndarray) -> str:
    """How far the strains are beyond the bounds, in words."""
    import numpy as np

    strain = row["strain"]
    far = np.maximum(bounds[:, 0] - strain, strain - bounds[:, 1])
    point, component = np.unravel_index(int(far.argmax()), far.shape)
    low, high = bounds[component]
    return (
        f"{row['outside']} of {len(strain)} points are strained beyond what the model was made for, the "
        f"farthest is point {point}: {components[component]} = {strain[point, component]:.4g}, bounds "
        f"{low:.4g} and {high:.4g}"
    )


def _mesh(structure: Structure) -> dict[str, tuple[Field, np.ndarray]]:
    """Nodes and triangles of a structure, in the order of its points."""
    import numpy as np

    from sciflow_fenics.lattice import mesh_arrays

    corners = structure.corners().reshape(-1, 2)
    triangles = np.sort(mesh_arrays(structure.cells, 1, 1.0, "1")["triangles"][1], axis=1)
    place = {d: Field(("node",), "mm", "float64", f"{d} of each node") for d in "xy"}
    return {
        "node_x": (place["x"], corners[:, 0].copy()),
        "node_y": (place["y"], corners[:, 1].copy()),
        "triangles": (Field(("face", "corner"), "1", "int64", "nodes of each triangle"), triangles),
    }


@dataclass(frozen=True)
class TwoScaleComparison(Stage):
    """Compares a two-scale computation with a reference: curve, fields and time.

    The reference is the computation without a model, both with the same structure, cell and forces.
    """

    name: ClassVar[str] = "two_scale_comparison"
    inputs: ClassVar[Mapping[str, Schema]] = {"reference": TWO_SCALE, "other": TWO_SCALE}
    output: ClassVar[Schema] = COMPARISON
    light: ClassVar[bool] = True

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls()

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a reference by a model, and computations of different structures, cells or forces."""
        super().check(inputs)
        one, other = inputs["reference"], inputs["other"]
        if one.attributes["model"] is not None:
            raise Invalid(
                f"{one.path} is the computation of a model; give one without a model as the reference"
            )
        for what in ("structure", "cell"):
            if one.attributes[what] != other.attributes[what]:
                raise Invalid(f"{one.path} and {other.path} differ in their {what}")
        if one.read("force").tolist() != other.read("force").tolist():
            raise Invalid(f"{one.path} and {other.path} were loaded by different forces")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the errors of every load step and the times."""
        import numpy as np

        one, other = inputs["reference"], inputs["other"]
        exact, found = one.read("displacement"), other.read("displacement")
        values = {
            "force": one.read("force"),
            "displacement": found,
            "reference": exact,
            "curve_error": np.abs(found - exact) / np.abs(exact).max(),
            "u_error": _relative(other.read("u"), one.read("u")),
            "stress_error": _relative(other.read("stress"), one.read("stress")),
        }
        for name, field in COMPARISON.fields.items():
            out.write(name, values[name], field)
        seconds = {
            f"{label}_{part}": float(artifact.read(f"{part}_seconds").sum())
            for label, artifact in (("reference", one), ("other", other))
            for part in ("micro", "macro")
        }
        calls = {"reference": int(one.read("calls").sum()), "other": int(other.read("calls").sum())}
        out.describe(
            seconds=seconds,
            calls=calls,
            laws={"reference": one.attributes["law"], "other": other.attributes["law"]},
            offline=_offline(other),
            outside=int(other.read("outside").max()),
            points=one.attributes["points"],
        )


def _relative(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Relative L2 error of each step, shape (step,)."""
    import numpy as np

    difference = (found - exact).reshape(len(exact), -1)
    size = np.linalg.norm(exact.reshape(len(exact), -1), axis=1)
    return np.asarray(np.linalg.norm(difference, axis=1) / size)


def _offline(artifact: Artifact) -> dict[str, float]:
    """Wall seconds of what a computation's model was made from, by kind of artifact; still there ones."""
    from sciflow.artifact import Artifact

    found: dict[str, dict[str, float]] = {}
    waiting = [artifact]
    while waiting:
        one = waiting.pop()
        for entry in one.provenance.get("inputs", {}).values():
            if Path(entry["path"]).is_dir():
                below = Artifact.open(Path(entry["path"]), verify=False)
                took = float(below.provenance["end"] - below.provenance["start"])
                found.setdefault(below.schema.kind, {})[below.digest] = took
                waiting.append(below)
    return {kind: sum(each.values()) for kind, each in found.items()}
