"""The ``side_by_side`` stage: several models of the same data, their errors beside what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
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
        "query_seconds": _number("s", "median time of one answer"),
        "offline_seconds": _number("s", "all stages between the ensemble and the model"),
        "parameters": _number("1", "numbers that were learned"),
        "operations": _number("1", "floating-point operations of one answer; NaN where nobody counts"),
        "training_bytes": _number("B", "peak memory of the process that trained"),
        "break_even": _number("1", "queries after which simulating them would have taken longer"),
    },
)


@dataclass(frozen=True)
class SideBySide(Stage):
    """Puts models that were evaluated on the same ensemble into one table.

    For each name in `models` it reads the model under that name and its evaluation under
    ``NAME_score``. Answers are timed here, one at a time.

    Attributes
    ----------
    models : tuple of str
        What the models are called, letters, digits and ``_``.
    queries : int
        So many answers are timed for each model.
    """

    name: ClassVar[str] = "side_by_side"
    output: ClassVar[Schema] = SIDE_BY_SIDE
    models: tuple[str, ...]
    queries: int = 50

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise Invalid(f"models are different names, at least one, got {self.models}")
        for name in self.models:
            if not name.isidentifier() or name == "ensemble" or name.endswith("_score"):
                raise Invalid(f"{name!r} cannot be the name of a model here")
        if self.queries < 1:
            raise Invalid(f"queries must be at least 1, got {self.queries}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("a", "b"))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The ensemble that the models were evaluated on, the models, their evaluations."""
        pairs = [{name: MODEL, f"{name}_score": EVALUATION} for name in self.models]
        return {"ensemble": ENSEMBLE, **{name: schema for pair in pairs for name, schema in pair.items()}}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse evaluations of other models, or on another ensemble."""
        super().check(inputs)
        for name in self.models:
            score = inputs[f"{name}_score"]
            if score.attributes["model"] != inputs[name].digest:
                raise Invalid(f"{score.path} is not an evaluation of {inputs[name].path}")
            if score.attributes["ensemble"] != inputs["ensemble"].digest:
                raise Invalid(f"{score.path} is not an evaluation on {inputs['ensemble'].path}")
        tested = {name: inputs[f"{name}_score"].read("members").tolist() for name in self.models}
        first = self.models[0]
        for name in self.models[1:]:
            if sorted(set(tested[name])) != sorted(set(tested[first])):
                raise Invalid(
                    f"{first} and {name} were tested on different members; give both stages the same "
                    "fractions and seed"
                )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Time each model and write the table."""
        import numpy as np

        full = solver_seconds(inputs["ensemble"])
        rows: dict[str, list[float]] = {name: [] for name in SIDE_BY_SIDE.fields}
        for done, name in enumerate(self.models):
            ctx.progress(done, len(self.models), "models")
            errors = inputs[f"{name}_score"].read("relative_l2")
            members = np.unique(inputs[f"{name}_score"].read("members"))
            query, size = self._answer(inputs[name], inputs["ensemble"], members)
            offline = offline_seconds(inputs[name])
            rows["error_mean"].append(float(np.mean(errors)))
            rows["error_median"].append(float(np.median(errors)))
            # A prediction that is not finite counts as an infinite error; between two of them no mean is.
            rows["error_p95"].append(
                float(np.quantile(errors, 0.95, method="linear" if np.isfinite(errors).all() else "higher"))
            )
            rows["query_seconds"].append(query)
            rows["offline_seconds"].append(offline)
            rows["parameters"].append(size.parameters)
            rows["operations"].append(size.operations)
            rows["training_bytes"].append(peak_bytes(inputs[name]))
            rows["break_even"].append(math.ceil(offline / (full - query)) if query < full else math.inf)
        ctx.progress(len(self.models), len(self.models), "models")
        for field, values in rows.items():
            out.write(field, np.array(values), SIDE_BY_SIDE[field])
        outputs = {name: inputs[f"{name}_score"].attributes["outputs"] for name in self.models}
        out.describe(models=list(self.models), full_seconds=full, outputs=outputs)

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


def solver_seconds(ensemble: Artifact) -> float:
    """Median wall time of one member of an ensemble, s; NaN where none was recorded.

    Parameters
    ----------
    ensemble : Artifact
        Members that were computed, not imported.
    """
    import statistics

    from sciflow.artifact.writer import committed

    found = [r["seconds"] for r in committed(ensemble.path).values() if r.get("status") == 1]
    return float(statistics.median(found)) if found else math.nan


def peak_bytes(model: Artifact) -> float:
    """Peak memory of the process that made a model, bytes; NaN where none was recorded.

    Parameters
    ----------
    model : Artifact
        Its provenance holds the figure.
    """
    usage = model.provenance.get("environment", {}).get("usage", {})
    return float(usage.get("process", {}).get("peak_rss_bytes", math.nan))


def offline_seconds(model: Artifact) -> float:
    """Wall time of all the stages that led from an ensemble to a model, without the ensemble's own, s.

    Parameters
    ----------
    model : Artifact
        Its inputs, their inputs and so on are looked up where its provenance says; one that is no
        longer there is left out.
    """
    from sciflow.artifact import Artifact

    seen: set[str] = set()

    def visit(one: Artifact) -> float:
        if one.digest in seen or one.schema.kind in ("ensemble", "design"):
            return 0.0
        seen.add(one.digest)
        total = float(one.provenance["end"] - one.provenance["start"])
        for entry in one.provenance.get("inputs", {}).values():
            path = Path(entry["path"])
            if path.is_dir():
                total += visit(Artifact.open(path, verify=False))
        return total

    return visit(model)
