"""The ``solver_comparison`` stage: one design solved in two ways, what it cost and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.costs import (
    answer_seconds,
    first_ones,
    member_seconds,
    offline_seconds,
    training_data_seconds,
)
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

SIDES = ("baseline", "candidate")
_SECONDS = Field(("sample",), "s", "float64", "wall time of a member, all that it did included")
_ERROR = Field(("sample",), "1", "float64", "relative L2 distance from the reference")
_SETTLED = Field(("sample",), "1", "uint8", "1 where the member was in neither the first of its process")
_COUNT = Field(("sample",), "1", "float64", "summed over time")

SOLVER_COMPARISON = Schema(
    "solver_comparison",
    {
        "members": Field(("sample",), "1", "int64"),
        "difference": Field(("sample",), "1", "float64", "relative L2 distance of the two solutions"),
        "baseline_seconds": _SECONDS,
        "candidate_seconds": _SECONDS,
        "settled": _SETTLED,
    },
)


@dataclass(frozen=True)
class SolverComparison(Stage):
    """Puts two ensembles of one design side by side: the same members, solved in two ways.

    For example with PETSc's defaults and with a tuned solver, or from the problem's own start and from a
    `Guess`. With the ensemble `reference`, of the same design solved much more finely, both have errors;
    with `model`, the artifact that the candidate's guess is made from, there is a break-even.

    Attributes
    ----------
    outputs_of : tuple of str
        Fields that are compared; ``"u[-1]"`` selects a time level.
    labels : tuple of str
        What baseline and candidate are called in the report.
    batch : int
        Members that are held in memory at once.

    Raises
    ------
    Invalid
        If `outputs_of`, `labels` or `batch` has a value that it cannot have.

    Notes
    -----
    Times are those that the members were measured with when their ensembles were made: for a fair ratio both
    with the same resources, on a machine that does nothing else. ``speed_up`` is the ratio of the sums over
    the members that were in neither ensemble the first one of their process, which sets up meshes, compiles
    forms and reads models; ``speed_up_all`` that of the sums over all members; ``speed_up_median`` that of
    the medians. ``speed_up_cpu`` is `speed_up` in processor time of the members' first ranks, which other
    programs on the machine disturb least.
    """

    name: ClassVar[str] = "solver_comparison"
    inputs: ClassVar[Mapping[str, Schema]] = {
        "baseline": ENSEMBLE,
        "candidate": ENSEMBLE,
        "reference": ENSEMBLE,
        "model": MODEL,
    }
    optional: ClassVar[tuple[str, ...]] = ("reference", "model")
    output: ClassVar[Schema] = SOLVER_COMPARISON
    outputs_of: tuple[str, ...]
    labels: tuple[str, str] = SIDES
    batch: int = 32

    def __post_init__(self) -> None:
        given: object = self.outputs_of
        if isinstance(given, str):
            raise Invalid(f"outputs_of is a tuple of names: write ({given!r},)")
        if not self.outputs_of:
            raise Invalid("name at least one field to compare")
        if len(self.labels) != 2 or not all(self.labels) or self.labels[0] == self.labels[1]:
            raise Invalid(f"labels are two different names, got {self.labels}")
        if self.batch < 1:
            raise Invalid(f"at least one member is compared at once, got batch={self.batch}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("u",))

    def identity(self) -> dict[str, object]:
        """How many members are held at once does not change the result."""
        return {k: v for k, v in self.to_json().items() if k != "batch"}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse ensembles of different members, grids without a common point, and another model."""
        super().check(inputs)
        from sciflow.stages.convergence import paired

        members = self._members(inputs)
        for one, other in self._pairs(inputs):
            paired(inputs[one], inputs[other], self.outputs_of, members)
        guess = inputs["candidate"].attributes["problem"].get("guess") or {}
        if "model" in inputs and guess.get("model_digest") != inputs["model"].digest:
            said = (
                f"from a model of the digest {guess['model_digest']}"
                if "model_digest" in guess
                else "without a model"
            )
            raise Invalid(
                f"{inputs['candidate'].path} was solved {said}, and {inputs['model'].path} is another one"
            )

    def _pairs(self, inputs: Mapping[str, Artifact]) -> list[tuple[str, str]]:
        """Who is compared with whom; the second one counts as right."""
        exact = [(side, "reference") for side in SIDES if "reference" in inputs]
        return [("candidate", "baseline"), *exact]

    def _members(self, inputs: Mapping[str, Artifact]) -> np.ndarray:
        """Members that ended well in all ensembles.

        Raises
        ------
        Invalid
            If they are of different designs, or there is none.
        """
        import numpy as np

        from sciflow.stages.convergence import same_members

        ensembles = [inputs[name] for name in (*SIDES, "reference") if name in inputs]
        same_members(ensembles)
        members = ensembles[0].members()
        for other in ensembles[1:]:
            members = np.intersect1d(members, other.members())
        if not len(members):
            raise Invalid("no member ended well in " + ", ".join(str(e.path) for e in ensembles))
        return members

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Compare member by member and write the figures."""
        from sciflow.stages.convergence import paired

        members = self._members(inputs)
        out.write("members", members, SOLVER_COMPARISON["members"])
        for one, other in self._pairs(inputs):
            pair = paired(inputs[one], inputs[other], self.outputs_of, members)
            found = pair.differences(ctx, self.batch)
            if other == "baseline":
                out.write("difference", found, SOLVER_COMPARISON["difference"])
            else:
                out.write(f"{one}_error", found, _ERROR)
        seconds = {side: member_seconds(inputs[side], members) for side in SIDES}
        settled = ~(first_ones(inputs["baseline"], members) | first_ones(inputs["candidate"], members))
        out.write("settled", settled.astype("uint8"), _SETTLED)
        for side, values in seconds.items():
            out.write(f"{side}_seconds", values, SOLVER_COMPARISON[f"{side}_seconds"])
            for figure in _figures(inputs[side]):
                counts = inputs[side].read(f"solver_{figure}")[members]
                out.write(f"{side}_{figure}", counts, _COUNT)
        out.describe(
            labels=list(self.labels),
            outputs=list(self.outputs_of),
            figures=[f for f in _figures(inputs["candidate"]) if f in _figures(inputs["baseline"])],
            failed={side: int((inputs[side].read("status") != 1).sum()) for side in SIDES},
            **{name: artifact.digest for name, artifact in inputs.items()},
            **_ratios(seconds, settled),
            **self._processor(inputs, members, settled),
            **self._costs(inputs, _of(seconds, settled), members),
        )

    def _processor(
        self, inputs: Mapping[str, Artifact], members: np.ndarray, settled: np.ndarray
    ) -> dict[str, Any]:
        """Processor time of the settled members in both ways, s, and its ratio; None where not noted."""
        spent = {side: member_seconds(inputs[side], members, "cpu_seconds") for side in SIDES}
        return {
            "cpu_seconds": {side: _finite(v.sum()) for side, v in _of(spent, settled).items()},
            "speed_up_cpu": _ratios(spent, settled)["speed_up"],
        }

    def _costs(
        self, inputs: Mapping[str, Artifact], seconds: Mapping[str, np.ndarray], members: np.ndarray
    ) -> dict[str, Any]:
        """What the model of a guess cost, and after how many members it has paid; empty without one.

        Times are in s, None where they are not known.
        """
        if "model" not in inputs:
            return {}
        import numpy as np

        saved = float(np.mean(seconds["baseline"]) - np.mean(seconds["candidate"]))
        offline = offline_seconds(inputs["model"])
        data = training_data_seconds(inputs["model"])
        answer = answer_seconds(inputs["model"], inputs["candidate"], members)
        return {
            "offline_seconds": offline,
            "training_data_seconds": _finite(data),
            "guess_seconds": _finite(answer),
            "break_even": _members_until(offline, saved),
            "break_even_with_data": _members_until(offline + data, saved),
        }


def _figures(ensemble: Artifact) -> list[str]:
    """Names of the solver's figures that an ensemble has for each member."""
    return [n.removeprefix("solver_") for n in ensemble.schema.fields if n.startswith("solver_")]


def _of(seconds: Mapping[str, np.ndarray], settled: np.ndarray) -> dict[str, np.ndarray]:
    """Times of the members that are settled; of all where none is."""
    return {side: values[settled] if settled.any() else values for side, values in seconds.items()}


def _ratios(seconds: Mapping[str, np.ndarray], settled: np.ndarray) -> dict[str, float | None]:
    """How many times longer the baseline took; None where times are not known."""
    import numpy as np

    some = _of(seconds, settled)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "speed_up": _finite(some["baseline"].sum() / some["candidate"].sum()),
            "speed_up_all": _finite(seconds["baseline"].sum() / seconds["candidate"].sum()),
            "speed_up_median": _finite(np.median(some["baseline"]) / np.median(some["candidate"])),
        }


def _members_until(cost: float, saved: float) -> int | None:
    """After how many members a cost has paid; None for never, and where a time is not known."""
    return math.ceil(cost / saved) if saved > 0 and math.isfinite(cost / saved) else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
