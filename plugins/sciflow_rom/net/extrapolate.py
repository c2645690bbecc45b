"""The ``extrapolate`` stage: a reduced model with more steps than its training had, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid
from sciflow.registry import require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.reduction import Reducible
    from sciflow.store import Writer

_SAMPLE, _LEVELS = ("sample",), ("sample", "time")
EXTRAPOLATION = Schema(
    "extrapolation",
    {
        "members": Field(_SAMPLE, "1", "int64"),
        "time": Field(("time",), "s", "float64"),
        "relative_l2": Field(_SAMPLE, "1", "float64", "of the unknown, over all levels"),
        "last_l2": Field(_SAMPLE, "1", "float64", "of the unknown, over the last levels"),
        "estimate": Field(_SAMPLE, "1", "float64", "what the model says of its error; NaN without indicator"),
        "upper": Field(_SAMPLE, "1", "float64", "its bound of the error"),
        "seconds": Field(_SAMPLE, "s", "float64", "time of an answer, with the indicator"),
        "lift_seconds": Field(_SAMPLE, "s", "float64", "time to rebuild all fields on the mesh"),
        "level_errors": Field(_LEVELS, "1", "float64", "error of a level over the mean size of the levels"),
    },
)


@dataclass(frozen=True)
class Extrapolate(Stage):
    """Answers the members of an ensemble that has more steps, or fewer, than a ROM-net was trained with.

    The ensemble's problem differs from that of the model in the number of steps alone: in how many load
    cycles there are. Compared are the unknown, lifted from the coefficients, and the dual fields with one
    component, rebuilt from the points of the cubature; of each of the latter ``relative_l2_<name>``,
    ``last_l2_<name>``, ``level_errors_<name>``, what its modes cannot follow at the points
    (``gaps_<name>``), and its largest value at each level (``peak_<name>``, ``peak_truth_<name>``) are kept.

    Attributes
    ----------
    last : int
        Levels at the end whose errors are also given alone: those of the last cycle.

    Raises
    ------
    Invalid
        If `last` has a value that it cannot have.
    """

    name: ClassVar[str] = "extrapolate"
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL, "ensemble": ENSEMBLE}
    output: ClassVar[Schema] = EXTRAPOLATION
    last: int = 1

    def __post_init__(self) -> None:
        if self.last < 1:
            raise Invalid(f"last counts levels at the end and must be at least 1, got {self.last}")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a model that is no ROM-net, and members that it was made of."""
        super().check(inputs)
        model, ensemble = inputs["model"], inputs["ensemble"]
        if "rom" not in model.attributes:
            raise Invalid(f"{model.path} is no ROM-net; only a model that solves can take further steps")
        if model.attributes["ensemble"] == ensemble.digest:
            raise Invalid(
                f"{model.path} was made of members of this ensemble; give one that was simulated for another "
                "number of steps, or evaluate the model"
            )
        problem = problem_of(ensemble)
        require(problem)
        if "time" not in problem.fields[problem.unknown].axes:
            raise Invalid(f"{problem.name} is steady: it has no steps to extrapolate in; evaluate the model")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Solve, rebuild, compare; the first rank does it."""
        from sciflow_rom.net.extrapolation import extrapolate

        error: BaseException | None = None
        if ctx.comm.rank == 0:
            try:
                extrapolate(self, inputs, out, ctx)
            # All ranks end together, whatever it was.
            except Exception as reason:
                error = reason
        ctx.all_ok(error)


def problem_of(ensemble: Artifact) -> Reducible:
    """The problem that an ensemble was simulated with.

    Raises
    ------
    Invalid
        If it does not offer its weak form.
    """
    from sciflow.reduction import Reducible
    from sciflow.registry import registry

    document = ensemble.attributes.get("problem")
    problem = None if document is None else registry().build(document, kind="problem")
    if not isinstance(problem, Reducible):
        raise Invalid(
            f"{ensemble.path}: its problem does not offer its weak form, no reduced model solves it"
        )
    return problem
