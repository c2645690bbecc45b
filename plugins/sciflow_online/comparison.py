"""Offline and online training side by side: a table, and how many members fit into equal wall time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.evaluate import EVALUATION
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

WAYS = ("offline", "equal_runs", "equal_time")
"""From stored members; online with as many members; online in the same wall time."""
_AXES = ("surrogate", "way")
COMPARISON = Schema(
    "comparison",
    {
        "error": Field(_AXES, "1", "float64", "mean relative L2 error on unseen members"),
        "members": Field(_AXES, "1", "int64", "training members"),
        "seconds": Field(_AXES, "s", "float64", "wall time, solvers included"),
        "paper": Field(("surrogate",), "1", "float64", "published ratio of errors, online to offline"),
    },
)
TOLERANCE = 0.05
"""Wall time beyond that of the offline path that still counts as equal."""
CLOSER = 0.9
"""Share of the time that is planned with; rates are measured on a machine with other work."""


@dataclass(frozen=True)
class Compare(Stage):
    """Adds a surrogate to a table: trained on stored members, and while the solvers ran.

    Wall times are those of the artifacts: offline that of ensemble and training together, online that of the
    whole stage, with the start of its jobs.

    Attributes
    ----------
    surrogate : str
        What it is called in the table.
    paper : float
        A published ratio of errors to stand beside, online to offline; 0 for none.
    """

    name: ClassVar[str] = "compare"
    inputs: ClassVar[Mapping[str, Schema]] = {
        "before": COMPARISON,
        "ensemble": ENSEMBLE,
        **dict.fromkeys(WAYS, MODEL),
        **{f"{way}_score": EVALUATION for way in WAYS},
    }
    optional: ClassVar[tuple[str, ...]] = ("before",)
    output: ClassVar[Schema] = COMPARISON
    light: ClassVar[bool] = True
    surrogate: str
    paper: float = 0.0

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls("mlp")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse scores of other models, and models and scores that cannot be compared."""
        super().check(inputs)
        for way in WAYS:
            if inputs[f"{way}_score"].attributes["model"] != inputs[way].digest:
                raise Invalid(f"{inputs[f'{way}_score'].path} is not an evaluation of {inputs[way].path}")
        if len({inputs[f"{way}_score"].attributes["ensemble"] for way in WAYS}) > 1:
            raise Invalid("the models were not evaluated on the same ensemble")
        if inputs["offline"].attributes["ensemble"] != inputs["ensemble"].digest:
            raise Invalid(f"{inputs['offline'].path} was not trained on {inputs['ensemble'].path}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the table so far and its new row."""
        import numpy as np

        before = inputs.get("before")
        row = {
            "error": [float(np.mean(inputs[f"{way}_score"].read("relative_l2"))) for way in WAYS],
            "members": [len(inputs[way].read("train_members")) for way in WAYS],
            "seconds": [seconds(inputs[way]) for way in WAYS],
            "paper": self.paper or math.nan,
        }
        row["seconds"][0] += seconds(inputs["ensemble"])  # type: ignore[index]
        for name, field in COMPARISON.fields.items():
            values = np.array([row[name]], dtype=field.dtype)
            rows = values if before is None else np.concatenate([before.read(name), values])
            out.write(name, rows, field)
        names = before.attributes["surrogates"] if before is not None else []
        out.describe(surrogates=[*names, self.surrogate], ways=list(WAYS))


def seconds(artifact: Artifact) -> float:
    """Wall time in which an artifact was made, s."""
    return float(artifact.provenance["end"] - artifact.provenance["start"])


@dataclass(frozen=True)
class Plan:
    """An online training that should take a given wall time.

    Attributes
    ----------
    members : int
        Of the design, with those for validation and the one that a split leaves out.
    train, valid : float
        Fractions that leave as many validation members as the online training that was measured had.
    repeats : float
        How often each sample is drawn on average.
    """

    members: int
    train: float
    valid: float
    repeats: float


def equal_time(ensemble: Artifact, offline: Artifact, measured: Artifact) -> Plan:
    """How many members, and how many draws, an online training has time for.

    Parameters
    ----------
    ensemble, offline : Artifact
        Stored members and the model that was trained on them: their wall time is the budget.
    measured : Artifact
        A model of the same surrogate that was trained online, for the rates of solvers and trainer.

    Notes
    -----
    With the budget `T`, the time `t0` before the first report and after the last, `r` samples received and
    `d` samples drawn in a second while solvers ran, there is time for ``0.9 (T - t0) r`` samples and
    ``0.9 (T - t0) d`` draws.
    """
    rate, drawn, start = rates(measured)
    left = CLOSER * max(seconds(ensemble) + seconds(offline) - start, 0.0)
    trained, checked = (len(measured.read(f"{part}_members")) for part in ("train", "valid"))
    each = measured.attributes["online"]["samples"] / trained
    count = max(trained, int(left * rate / each))
    members = count + checked + 1
    repeats = max(1.0, left * drawn / (count * each))
    # A rounded share of a number of members must give that number again.
    return Plan(members, (count + 0.25) / members, checked / members, repeats)


def rates(model: Artifact) -> tuple[float, float, float]:
    """What an online training measured of itself, after its first report.

    Returns
    -------
    received, drawn : float
        Samples a second, while solvers ran as far as that was seen.
    start : float
        Seconds before the first report and after the last: jobs begin, the first step takes long.
    """
    import numpy as np

    received, drawn, speed = (
        model.read(f"history_{name}") for name in ("received", "drawn", "drawn_per_second")
    )
    # From zero on, where there is but one report.
    first = 0.0 if len(drawn) == 1 else 1.0
    time = drawn / speed
    running = np.flatnonzero(received < received[-1])
    last = running[-1] if len(running) and running[-1] > 0 else len(drawn) - 1
    passed = time[last] - first * time[0]
    # At least that many came in, whatever was seen.
    least = received[-1] / seconds(model)
    return (
        max(float((received[last] - first * received[0]) / passed), float(least)),
        float((drawn[last] - first * drawn[0]) / passed),
        float(seconds(model) - time[-1] + first * time[0]),
    )


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """The section of a report for a comparison; none for anything else."""
    if artifact.schema.kind != COMPARISON.kind:
        return []
    from sciflow.reporting import table

    head = [
        "surrogate", "offline error", "online error, equal runs", "ratio", "online error, equal wall time",
        "ratio", "training members", "wall seconds", "paper's ratio",
    ]  # fmt: skip
    text = (
        "<p>Mean relative L2 error on unseen members. Members and seconds: offline (solvers, store and "
        "training), online with equal runs, online with equal wall time.</p>"
    )
    return [("Offline and online training", table(head, cells(artifact)) + text)]


def cells(comparison: Artifact) -> list[list[str]]:
    """The rows of the table, as text."""
    from sciflow.reporting import percent

    columns = [comparison.read(name) for name in ("error", "members", "seconds", "paper")]
    rows = []
    for name, error, members, spent, paper in zip(comparison.attributes["surrogates"], *columns, strict=True):
        ratio = error / error[0]
        rows.append(
            [
                name, percent(error[0]), percent(error[1]), f"{ratio[1]:.2f}", percent(error[2]),
                f"{ratio[2]:.2f}", " / ".join(str(m) for m in members), _times(spent),
                f"{paper:.2f}" if math.isfinite(paper) else "–",
            ]
        )  # fmt: skip
    return rows


def _times(spent: np.ndarray) -> str:
    text = " / ".join(f"{s:.1f}" for s in spent)
    beyond = spent[2] / spent[0] - 1
    return f"{text} ({100 * beyond:.0f} % more than offline)" if beyond > TOLERANCE else text
