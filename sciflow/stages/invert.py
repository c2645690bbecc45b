"""The ``invert`` stage: parameters behind observed quantities, found by a model, verified by the solver."""

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
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL
from sciflow.step_controller import TakesSteps

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

_STEP = Field(("step",), "1", "float64")
INVERSION = Schema(
    "inversion",
    {
        "observed": Field(("observation",), "any", "float64"),
        "found": Field(("parameter",), "any", "float64"),
        "found_error": Field(("parameter",), "any", "float64"),
        "step_points": Field(("step", "parameter"), "any", "float64"),
        "step_misfit": _STEP,
        "step_model_misfit": _STEP,
    },
)


@dataclass(frozen=True)
class Invert(Stage):
    """Finds the parameters for which a problem gives what was observed.

    The fit is made with a model, from several starts where the training members lie, and costs no solve. The
    solver then tells how far the model is off there; that difference is added to the model, which is fitted
    again, and so on, until the parameters stay. What comes out fits the observations by the solver's own
    numbers, not by the model's.

    Attributes
    ----------
    quantities : tuple of Quantity
        What was observed, such as ``At("temperature", position={"x": 0.2, "y": 0.5})``.
    values : tuple of float
        The observed values, in the units of the quantities; empty takes those of a member of the input
        ``observation``.
    member : int
        Of the observation.
    noise : tuple of float
        Standard deviation of each observation; empty takes a hundredth of the largest value for all.
    starts : int
        Points from which the model is fitted.
    budget : int
        Full solves, at most.
    tolerance : float
        Step of the parameters, over the width of their ranges, at which the search ends.
    alone : int
        Full solves, at most, of a second fit that asks the solver alone, for comparison; 0 leaves it out.
    seed : int
        Of the starts.
    attempts : int
        How often a full solve is tried.
    problem : Problem or None
        The full-order model; None takes that of the training.

    Notes
    -----
    See `sciflow.stages.inverting`.
    """

    name: ClassVar[str] = "invert"
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL, "observation": ENSEMBLE, "ensemble": ENSEMBLE}
    optional: ClassVar[tuple[str, ...]] = ("observation", "ensemble")
    output: ClassVar[Schema] = INVERSION
    orchestrates: ClassVar[bool] = True
    quantities: tuple[Quantity, ...]
    values: tuple[float, ...] = ()
    member: int = 0
    noise: tuple[float, ...] = ()
    starts: int = 8
    budget: int = 10
    tolerance: float = 1e-3
    alone: int = 0
    seed: int = 0
    attempts: int = 2
    problem: Problem | None = None

    def __post_init__(self) -> None:
        if not self.quantities or any(q.probability for q in self.quantities):
            raise Invalid("name at least one observed quantity, none of which is 0 or 1 alone")
        for name in ("values", "noise"):
            if (given := getattr(self, name)) and len(given) != len(self.quantities):
                raise Invalid(f"{name} has {len(given)} numbers for {len(self.quantities)} quantities")
        if any(not 0 < n < float("inf") for n in self.noise):
            raise Invalid(f"noise is a standard deviation, positive and finite, got {self.noise}")
        if any(not abs(v) < float("inf") for v in self.values):
            raise Invalid(f"observed values must be finite, got {self.values}")
        if min(self.starts, self.budget, self.attempts) < 1 or min(self.alone, self.member, self.seed) < 0:
            raise Invalid(
                "starts, budget and attempts must be at least 1, alone, member and seed not negative"
            )
        if not 0 < self.tolerance < 1:
            raise Invalid(f"the tolerance is a part of the ranges, between 0 and 1, got {self.tolerance}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls((Maximum("u"),), (1.0,))

    def identity(self) -> dict[str, object]:
        """How often a solver is tried does not change the result."""
        config = self.to_json()
        del config["attempts"]
        return config

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse models that do not predict what was observed, and observations that are not there."""
        from sciflow.samples import Signature
        from sciflow.stages import queries

        super().check(inputs)
        model = inputs["model"]
        problem = queries.problem_of(model, self.problem, queries.training_of(model, inputs.get("ensemble")))
        require(problem)
        if isinstance(problem, TakesSteps):
            problem.check_stepping()
        signature = Signature.from_json(model.attributes["signature"])
        queries.check_parameters(model, signature, problem)
        for quantity in self.quantities:
            output = queries.output_of(model, signature, problem, quantity)
            for lines, one in ((problem.coordinates(), problem.fields[quantity.source[0]]),
                               (signature.coordinates, signature.outputs[output.name])):  # fmt: skip
                quantity.check(queries.grid_of(one, lines, problem.axis_units(), problem.periodic))
        self._check_observation(inputs.get("observation"), problem)

    def _check_observation(self, observation: Artifact | None, problem: Problem) -> None:
        if (observation is None) == (not self.values):
            raise Invalid(
                "give the observed values, or the input 'observation' with a member, one of the two"
            )
        if observation is None:
            return
        if self.member not in observation.members():
            raise Invalid(f"{observation.path} has no result of member {self.member}")
        for quantity in self.quantities:
            name = quantity.source[0]
            found = observation.schema.fields.get(name)
            if found is None or found.axes[1:] != problem.fields[name].axes:
                raise Invalid(f"{observation.path} has no field {name!r} like that of {problem.name}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Fit, verify, correct."""
        from sciflow.stages.inverting import Inversion

        Inversion(self, inputs, out, ctx).run()
