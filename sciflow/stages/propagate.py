"""The ``propagate`` stage: what uncertain parameters do to a quantity, by a model and few full solves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.problem import Problem
from sciflow.quantities import Maximum
from sciflow.quantity import Quantity
from sciflow.registry import require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.calibrate import CALIBRATION
from sciflow.stages.design import DESIGN
from sciflow.stages.simulate import ENSEMBLE, points_of
from sciflow.stages.train import MODEL
from sciflow.step_controller import TakesSteps

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

LEAST = 5
"""Full solves drawn by lot, at least: fewer say nothing of how far the models are apart."""
_ANY = Field(("query",), "any", "float64")
PROPAGATION = Schema(
    "propagation",
    {
        "queries": Field(("query", "parameter"), "any", "float64"),
        "query_model": _ANY,
        "query_full": _ANY,
        "query_doubt": Field(("query",), "1", "float64"),
        "query_state": Field(("query",), "1", "uint8"),
        "query_reason": Field(("query",), "1", "uint8"),
    },
)


@dataclass(frozen=True)
class Propagate(Stage):
    """The distribution of a quantity of interest over the points of a design, with few full solves.

    A fitted model answers every point. Two estimates follow. ``replaced``: answers in doubt (`Model.doubt`
    above the tolerance, queries outside of the training or far from it) are solved in full; what the other
    answers are off by is bounded by their doubt, if that holds. ``corrected``: some queries, drawn by lot,
    are solved in full, and the mean difference corrects the mean of all answers; for a given number of solves
    it has no bias, whatever the model and its doubts are worth. Beside both stands what full solves alone
    would have given at the same cost. A killed run goes on after the last full solve.

    Attributes
    ----------
    quantity : Quantity
        Such as ``Mean("temperature")`` or ``Exceeds(Maximum("temperature"), 2.0)``.
    tolerance : float
        Doubt, a relative error of the field, above which an answer is solved in full.
    budget : int
        Full solves in all, at most.
    pilot : int
        Of those drawn by lot, so many are solved first; costs and correlation of both models then tell how
        many there shall be.
    share : float
        Part of the budget that doubtful queries may take.
    precision : float
        Half width of the interval of the mean over the standard deviation of the quantity, at which no more
        are drawn; 0 leaves it to the costs.
    coverage : float
        How often the intervals hold the truth.
    quantiles : tuple of float
        Which are estimated.
    far : float
        A query is in doubt where the next training member is so many times as far as any of these is from
        the next.
    cost : float
        Of a full solve over that of an answer; 0 measures it.
    batch : int
        Queries that the model answers at once.
    seed : int
        Decides the lot, and the seeds of the solves.
    attempts : int
        How often a full solve is tried; see `sciflow.stages.simulate.Simulate`.
    problem : Problem or None
        The full-order model; None takes that of the training.

    Notes
    -----
    See `sciflow.stages.multifidelity` and ``docs/methods/multifidelity.md``.

    References
    ----------
    B. Peherstorfer, K. Willcox and M. Gunzburger, "Optimal model management for multifidelity Monte Carlo
    estimation", SIAM J. Sci. Comput. 38 (2016) A3163-A3194.
    """

    name: ClassVar[str] = "propagate"
    inputs: ClassVar[Mapping[str, Schema]] = {
        "model": MODEL,
        "design": DESIGN,
        "ensemble": ENSEMBLE,
        "calibration": CALIBRATION,
    }
    optional: ClassVar[tuple[str, ...]] = ("ensemble", "calibration")
    output: ClassVar[Schema] = PROPAGATION
    orchestrates: ClassVar[bool] = True
    quantity: Quantity
    tolerance: float = 0.05
    budget: int = 100
    pilot: int = 20
    share: float = 0.5
    precision: float = 0.0
    coverage: float = 0.95
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    far: float = 2.0
    cost: float = 0.0
    batch: int = 256
    seed: int = 0
    attempts: int = 2
    problem: Problem | None = None

    def __post_init__(self) -> None:
        if self.pilot < LEAST:
            raise Invalid(f"at least {LEAST} solves are drawn by lot, got pilot={self.pilot}")
        if self.budget < self.pilot:
            raise Invalid(f"a budget of {self.budget} full solves is less than the pilot of {self.pilot}")
        if not 0 <= self.share < 1:
            raise Invalid(f"share is a part of the budget, at least 0 and below 1, got {self.share}")
        if not 0 < self.coverage < 1:
            raise Invalid(f"coverage is a probability below 1, got {self.coverage}")
        if any(not 0 < q < 1 for q in self.quantiles):
            raise Invalid(f"quantiles lie between 0 and 1, got {self.quantiles}")
        for name in ("tolerance", "precision", "cost"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise Invalid(f"{name} cannot be negative or infinite, got {getattr(self, name)}")
        if not self.far > 0 or min(self.batch, self.attempts) < 1 or self.seed < 0:
            raise Invalid(
                "far must be positive, batch and attempts at least 1 and the seed not negative, got "
                f"{self.far}, {self.batch}, {self.attempts} and {self.seed}"
            )

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(Maximum("u"))

    def identity(self) -> dict[str, object]:
        """How often a solver is tried does not change the result."""
        config = self.to_json()
        del config["attempts"]
        return config

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse models that answer other questions, and designs that are no sample."""
        from sciflow.samples import Signature
        from sciflow.stages import queries

        super().check(inputs)
        model, design = inputs["model"], inputs["design"]
        training = queries.training_of(model, inputs.get("ensemble"))
        problem = queries.problem_of(model, self.problem, training)
        require(problem)
        if isinstance(problem, TakesSteps):
            problem.check_stepping()
        signature = Signature.from_json(model.attributes["signature"])
        found = queries.output_of(model, signature, problem, self.quantity)
        queries.check_parameters(model, signature, problem)
        units, name = problem.axis_units(), self.quantity.source[0]
        for lines, one in ((problem.coordinates(), problem.fields[name]),
                           (signature.coordinates, signature.outputs[found.name])):  # fmt: skip
            self.quantity.check(queries.grid_of(one, lines, units, problem.periodic))
        points = points_of(design, problem)
        if design.attributes.get("method") == "grid":
            raise Invalid(f"{design.path} is a grid, no sample of a distribution; draw it by random or sobol")
        if len(points) < self.pilot:
            raise Invalid(f"{design.path} has {len(points)} points, fewer than the pilot of {self.pilot}")
        if "calibration" in inputs and inputs["calibration"].attributes["model"] != model.digest:
            raise Invalid(f"{inputs['calibration'].path} is not a calibration of {model.path}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Ask, solve what is in doubt and what the lot says, estimate."""
        from sciflow.stages.propagating import Propagation

        Propagation(self, inputs, out, ctx).run()
