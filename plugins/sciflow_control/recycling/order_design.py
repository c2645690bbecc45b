"""The ``order_design`` stage: a design whose neighbours follow each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.design import DESIGN

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

ORDERED = Schema(
    DESIGN.kind,
    {
        **DESIGN.fields,
        "permutation": Field(("member",), "1", "int64", "row of the design that was given"),
    },
)


@dataclass(frozen=True)
class OrderDesign(Stage):
    """Puts the points of a design into an order in which neighbours are alike.

    Each parameter is scaled to its bounds first, on its logarithm where the design says so. Member ``i`` of
    an ensemble over the ordered design is row ``permutation[i]`` of the design that was given. What a
    problem draws from a member's seed, such as a random medium, belongs to ``i`` and is not sorted.

    Attributes
    ----------
    method : {"greedy", "hilbert", "none"}
        Each time the nearest point that is left; along Hilbert's curve; as given.
    group : int
        Most points of one greedy path; larger designs are cut into pieces of the curve first.

    Raises
    ------
    Invalid
        If `group` has a value that it cannot have.
    """

    name: ClassVar[str] = "order_design"
    inputs: ClassVar[Mapping[str, Schema]] = {"design": DESIGN}
    output: ClassVar[Schema] = ORDERED
    light: ClassVar[bool] = True
    method: Literal["greedy", "hilbert", "none"] = "greedy"
    group: int = 2000

    def __post_init__(self) -> None:
        check_choices(self)
        if self.group < 2:
            raise Invalid(f"a greedy path needs at least two points, got group={self.group}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the points in their new order."""
        from sciflow_control.recycling.ordering import order, path_length

        design = inputs["design"]
        points = design.read("parameters")
        unit = scaled(points, design)
        permutation = order(unit, self.method, self.group)
        out.write("parameters", points[permutation], DESIGN["parameters"])
        out.write("permutation", permutation, ORDERED["permutation"])
        before, after = path_length(unit, order(unit, "none")), path_length(unit, permutation)
        out.describe(
            **{
                **design.attributes,
                "method": f"{design.attributes['method']}, ordered: {self.method}",
                "path_length": after,
                "path_length_given": before,
            }
        )
        ctx.log.info("the way through the design is %.3g of what it was", after / before if before else 1.0)


def scaled(points: np.ndarray, design: Artifact) -> np.ndarray:
    """The points of a design between their bounds.

    Parameters
    ----------
    points : ndarray, shape (member, parameter)
        In each parameter's unit.
    design : Artifact
        Its bounds and logarithms.

    Returns
    -------
    ndarray, shape (member, parameter)
        In [0, 1]; 0 for a parameter that is fixed.

    Raises
    ------
    Invalid
        If a value is not finite; the message names member and parameter.
    """
    import numpy as np

    names = design.attributes["parameters"]
    bad = np.argwhere(~np.isfinite(points))
    if len(bad):
        row, column = bad[0]
        raise Invalid(f"{design.path}: member {row}, parameter {names[column]!r} is {points[row, column]}")
    unit = np.zeros_like(points)
    for i, ((low, high), log) in enumerate(
        zip(design.attributes["bounds"], design.attributes["log"], strict=True)
    ):
        if high > low:
            of = np.log if log else np.asarray
            unit[:, i] = (of(points[:, i]) - of(low)) / (of(high) - of(low))
    return unit
