"""The ``side_by_side`` stage: several models of the same data, their errors beside what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.calibrate import CALIBRATION
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
    if calibration is None:
        return dict.fromkeys(("coverage", "promised", "band_width"), math.nan)
    rows = [i for i, name in enumerate(calibration.attributes["outputs"]) if name in outputs]
    return {
        "coverage": float(calibration.read("coverage")[rows].mean()),
        "promised": 1 - float(calibration.attributes["alpha"]),
        "band_width": float(calibration.read("relative_width")[rows].mean()),
    }


def paid(model: Artifact, data: Artifact) -> dict[str, float]:
    """What a model took before its first answer, s: its own stages, and the solving of the ensemble.

    Parameters
    ----------
    model : Artifact
        Other ensembles that it learned from, such as coarse ones, are among its own stages. One that was
        trained while its solvers ran took them and the training together.
    data : Artifact
        The ensemble.

    Returns
    -------
    dict of str to float
        ``offline_seconds`` and ``ensemble_seconds``; NaN where nobody knows.
    """
    others = sum(_worked(one) for one in ancestors(model) if _solved(one) and one.digest != data.digest)
    own = offline_seconds(model) + others
    together = "online" in model.attributes
    return {"offline_seconds": own, "ensemble_seconds": 0.0 if together else member_seconds(data)}


def queries_until(paid: float, query: float, full: float) -> float:
    """Queries that a model must answer before it has saved what it took.

    Parameters
    ----------
    paid : float
        What it took before its first answer, s.
    query, full : float
        Time of one answer, and of one simulation, s.

    Returns
    -------
    float
        A whole number; inf where an answer is not faster than a simulation.
    """
    return math.ceil(paid / (full - query)) if query < full and math.isfinite(paid) else math.inf


def solver_seconds(ensemble: Artifact) -> float:
    """Median wall time of one member of an ensemble, s; NaN where none was recorded.

    Parameters
    ----------
    ensemble : Artifact
        Members that were computed, not imported.
    """
    import statistics

    found = [r["seconds"] for r in _records(ensemble)]
    return float(statistics.median(found)) if found else math.nan


def member_seconds(ensemble: Artifact) -> float:
    """Wall time of all members of an ensemble, as if they had been solved one after the other, s."""
    found = [r["seconds"] for r in _records(ensemble)]
    return float(sum(found)) if found else math.nan


def solver_source(ensemble: Artifact) -> str:
    """Where `solver_seconds` comes from, in words."""
    found = _records(ensemble)
    if not found:
        return "no times were recorded"
    problem = ensemble.attributes.get("problem", {})
    ranks = sorted({int(r.get("ranks", 1)) for r in found})
    parts = [
        f"{what} {component['component']}"
        for what in ("solver", "stepping")
        if (component := problem.get(what))
    ]
    how = f" with {' and '.join(parts)}" if parts else ""
    many = f"{'–'.join(map(str, sorted({ranks[0], ranks[-1]})))} rank{'s' if ranks[-1] > 1 else ''}"
    return (
        f"median of {len(found)} members of {problem.get('component', 'the ensemble')}{how} on {many}, timed "
        f"while the ensemble was made ({ensemble.path.name})"
    )


def _records(ensemble: Artifact) -> list[Mapping[str, Any]]:
    from sciflow.artifact.writer import committed

    return [r for r in committed(ensemble.path).values() if r.get("status") == 1]


def peak_bytes(model: Artifact) -> float:
    """Peak memory of the process that made a model, bytes; NaN where none was recorded.

    Parameters
    ----------
    model : Artifact
        Its provenance holds the figure: that of the job, where there was one.
    """
    usage = model.provenance.get("job", {}).get("usage")
    usage = usage or model.provenance.get("environment", {}).get("usage", {})
    return float(usage.get("process", {}).get("peak_rss_bytes", math.nan))


def ancestors(artifact: Artifact) -> Iterator[Artifact]:
    """An artifact, its inputs, theirs and so on, each once; those of ensembles and designs are left out.

    Parameters
    ----------
    artifact : Artifact
        Inputs are looked up where its provenance says; one that is no longer there is left out.
    """
    from sciflow.artifact import Artifact

    seen, left = set(), [artifact]
    while left:
        one = left.pop()
        if one.digest in seen:
            continue
        seen.add(one.digest)
        yield one
        if not _solved(one):
            paths = [Path(entry["path"]) for entry in one.provenance.get("inputs", {}).values()]
            left += [Artifact.open(path, verify=False) for path in paths if path.is_dir()]


def _solved(one: Artifact) -> bool:
    return one.schema.kind in ("ensemble", "design")


def _worked(one: Artifact) -> float:
    """Wall time of a stage, s: of its job where there was one, without the wait for it."""
    p = one.provenance
    return float(p.get("job", {}).get("seconds", p["end"] - p["start"]))


def offline_seconds(model: Artifact) -> float:
    """Wall time of all the stages that led from an ensemble to a model, without the ensemble's own, s.

    Parameters
    ----------
    model : Artifact
        See `ancestors`.
    """
    return sum(_worked(one) for one in ancestors(model) if not _solved(one))
