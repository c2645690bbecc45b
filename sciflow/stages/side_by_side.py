"""The ``side_by_side`` stage: several models of the same data, their errors beside what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.calibrate import CALIBRATION
from sciflow.stages.costs import paid, peak_bytes, queries_until, solver_seconds, solver_source
from sciflow.stages.evaluate import EVALUATION
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, load_model, samples_of

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow.surrogate import Size


def _number(unit: str, description: str) -> Field:
    return Field(("model",), unit, "float64", description)


SIDE_BY_SIDE = Schema(
    "side_by_side",
    {
        "error_mean": _number("1", "relative L2 error of unseen members"),
        "error_median": _number("1", "relative L2 error of unseen members"),
        "error_p95": _number("1", "relative L2 error of unseen members"),
        "conservation": _number("1", "error of the mean over the domain, over the rms of the truth; mean"),
        "coverage": _number("1", "part of the truth inside the band that was calibrated; NaN without one"),
        "promised": _number("1", "what that part was promised to be, at least"),
        "band_width": _number("1", "mean half width of the band over the rms of the truth"),
        "query_seconds": _number("s", "median time of one answer"),
        "offline_seconds": _number("s", "all stages between the ensemble and the model"),
        "ensemble_seconds": _number("s", "solving the members, where offline_seconds does not hold it"),
        "parameters": _number("1", "numbers that were learned"),
        "operations": _number("1", "floating-point operations of one answer; NaN where nobody counts"),
        "training_bytes": _number("B", "peak memory of the process that trained"),
        "break_even": _number("1", "queries after which simulating them would have taken longer"),
        "break_even_whole": _number("1", "the same, with the ensemble in what the model costs"),
    },
)
ENDINGS = ("_score", "_calibration")
"""What the names of a model's other inputs end in."""


@dataclass(frozen=True)
class SideBySide(Stage):
    """Puts models that were evaluated on the same ensemble into one table.

    For each name in `models` it reads the model under that name and its evaluation under ``NAME_score``;
    under ``NAME_calibration`` it may be given the model's bands. Answers are timed here, one at a time.

    Attributes
    ----------
    models : tuple of str
        What the models are called, letters, digits and ``_``.
    queries : int
        So many answers are timed for each model.

    Raises
    ------
    Invalid
        If a name stands twice or cannot be that of an input, or nothing is to be timed.
    """

    name: ClassVar[str] = "side_by_side"
    output: ClassVar[Schema] = SIDE_BY_SIDE
    models: tuple[str, ...]
    queries: int = 50

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise Invalid(f"models are different names, at least one, got {self.models}")
        for name in self.models:
            if not name.isidentifier() or name == "ensemble" or name.endswith(ENDINGS):
                raise Invalid(f"{name!r} cannot be the name of a model here")
        if self.queries < 1:
            raise Invalid(f"queries must be at least 1, got {self.queries}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("a", "b"))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The ensemble that the models were evaluated on, the models, their evaluations and bands."""
        kinds = {"": MODEL, **dict(zip(ENDINGS, (EVALUATION, CALIBRATION), strict=True))}
        named = {f"{name}{end}": schema for name in self.models for end, schema in kinds.items()}
        return {"ensemble": ENSEMBLE, **named}

    @property
    def optional(self) -> tuple[str, ...]:  # type: ignore[override]
        """The bands."""
        return tuple(f"{name}_calibration" for name in self.models)

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse evaluations of other models, on another ensemble, or of different outputs.

        Raises
        ------
        Invalid
            Naming both of what does not go together.
        """
        super().check(inputs)
        for name in self.models:
            score, bands = inputs[f"{name}_score"], inputs.get(f"{name}_calibration")
            if score.attributes["model"] != inputs[name].digest:
                raise Invalid(f"{score.path} is not an evaluation of {inputs[name].path}")
            if score.attributes["ensemble"] != inputs["ensemble"].digest:
                raise Invalid(f"{score.path} is not an evaluation on {inputs['ensemble'].path}")
            if bands is not None and bands.attributes["model"] != inputs[name].digest:
                raise Invalid(f"{bands.path} is not a calibration of {inputs[name].path}")
        first, *others = self.models
        tested = {name: inputs[f"{name}_score"].read("members").tolist() for name in self.models}
        outputs = {name: compared_of(inputs[f"{name}_score"]) for name in self.models}
        for name in others:
            if sorted(set(tested[name])) != sorted(set(tested[first])):
                raise Invalid(
                    f"{first} and {name} were tested on different members; give both stages the same "
                    "fractions and seed"
                )
            if outputs[name] != outputs[first]:
                raise Invalid(
                    f"{first} was scored on {', '.join(outputs[first])} and {name} on "
                    f"{', '.join(outputs[name])}: no table can compare these; score both on what both "
                    "predict, with Evaluate(outputs_of=...)"
                )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Time each model and write the table."""
        import numpy as np

        data = inputs["ensemble"]
        full = solver_seconds(data)
        rows: list[dict[str, float]] = []
        for done, name in enumerate(self.models):
            ctx.progress(done, len(self.models), "models")
            score, bands = inputs[f"{name}_score"], inputs.get(f"{name}_calibration")
            members = np.unique(score.read("members"))
            query, size = self._answer(inputs[name], data, members)
            costs = paid(inputs[name], data)
            rows.append(
                {
                    **errors_of(score),
                    **_bands(bands, score.attributes["outputs"]),
                    **costs,
                    "query_seconds": query,
                    "parameters": size.parameters,
                    "operations": size.operations,
                    "training_bytes": peak_bytes(inputs[name]),
                    "break_even": queries_until(costs["offline_seconds"], query, full),
                    "break_even_whole": queries_until(sum(costs.values()), query, full),
                }
            )
        ctx.progress(len(self.models), len(self.models), "models")
        for field in SIDE_BY_SIDE.fields:
            out.write(field, np.array([row[field] for row in rows], dtype=float), SIDE_BY_SIDE[field])
        outputs = {name: inputs[f"{name}_score"].attributes["outputs"] for name in self.models}
        out.describe(
            models=list(self.models), full_seconds=full, full_source=solver_source(data), outputs=outputs
        )

    def _answer(self, artifact: Artifact, ensemble: Artifact, members: np.ndarray) -> tuple[float, Size]:
        """Median time of one answer, s, without the first one, which may compile; and the model's size."""
        import statistics

        model = load_model(artifact)
        samples = samples_of(artifact, model.signature, ensemble, members)
        size = model.size(next(iter(samples.batches(1, seed=None))).x)
        times: list[float] = []
        while len(times) <= self.queries:
            for batch in samples.batches(1, seed=None):
                begin = time.perf_counter()
                model.predict(batch.x)
                times.append(time.perf_counter() - begin)
                if len(times) > self.queries:
                    break
        return statistics.median(times[1:]), size


def errors_of(score: Artifact) -> dict[str, float]:
    """What the table says of an evaluation, by the names of its columns."""
    import numpy as np

    errors = score.read("relative_l2")
    lost = score.read("conservation") if "conservation" in score.schema.fields else np.array([np.nan])
    lost = lost[np.isfinite(lost)]
    return {
        "error_mean": float(np.mean(errors)),
        "error_median": float(np.median(errors)),
        # A prediction that is not finite counts as an infinite error; between two of them no mean is.
        "error_p95": float(
            np.quantile(errors, 0.95, method="linear" if np.isfinite(errors).all() else "higher")
        ),
        "conservation": float(lost.mean()) if len(lost) else math.nan,
    }


def compared_of(score: Artifact) -> list[str]:
    """What an evaluation compared: the outputs with their axes, in words."""
    axes = {name: field["axes"] for name, field in score.attributes["signature"]["outputs"]}
    return sorted(f"{n} ({', '.join(axes[n])})" for n in score.attributes["outputs"])


def _bands(calibration: Artifact | None, outputs: list[str]) -> dict[str, float]:
    """What the table says of a model's bands: the mean of the outputs that are compared."""
    told = [] if calibration is None else calibration.attributes["outputs"]
    rows = [i for i, name in enumerate(told) if name in outputs]
    if calibration is None or not rows:
        return dict.fromkeys(("coverage", "promised", "band_width"), math.nan)
    return {
        "coverage": float(calibration.read("coverage")[rows].mean()),
        "promised": 1 - float(calibration.attributes["alpha"]),
        "band_width": float(calibration.read("relative_width")[rows].mean()),
    }
