"""The ``step_table`` stage: trials of step controllers side by side, error against work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.trials.step_trial import STEP_TRIAL

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

FIGURES = (
    "p50", "p90", "max", "work_mean", "work_p50", "work_p90", "steps", "rejected", "failed",
)  # fmt: skip
"""What is said of a trial: log10 errors, work, mean of the steps, and shares."""
COMPARED = ("dex_p50", "dex_p90", "dex_max", "work_ratio_p50", "work_ratio_p90", "work_ratio_max")
"""What is said of a trial beside a frontier: error at equal work, work at equal error."""
STEP_TABLE = Schema(
    "step_table",
    {
        "figures": Field(("row", "figure"), "any", "float64", "see the attributes for the names"),
        "compared": Field(
            ("row", "frontier", "ratio"),
            "1",
            "float64",
            "log10 error beyond that of a frontier at equal work; work over that of it at equal error",
        ),
    },
)


@dataclass(frozen=True)
class Curve:
    """Trials that belong together: one controller with several settings, or alone.

    Attributes
    ----------
    name : str
        What it is called, ``fixed step``.
    trials : tuple of str
        Names under which the trials are passed in.
    group : str
        What runs they are on; only curves of one group are compared.
    frontier : bool
        Whether the others are compared with what these reach.
    """

    name: str
    trials: tuple[str, ...]
    group: str = ""
    frontier: bool = False


@dataclass(frozen=True)
class StepTable(Stage):
    """Puts `StepTrial`s side by side: quantiles of the error against work, and ratios to frontiers.

    Attributes
    ----------
    curves : tuple of Curve
        Which trials there are; every name of a trial occurs once, and so does every curve in its group.
    title : str
        Of the section of a report; it changes no number.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.
    """

    name: ClassVar[str] = "step_table"
    output: ClassVar[Schema] = STEP_TABLE
    light: ClassVar[bool] = True
    curves: tuple[Curve, ...]
    title: str = "Step controllers side by side"

    def __post_init__(self) -> None:
        names = [name for curve in self.curves for name in curve.trials]
        if not names or len(set(names)) != len(names):
            raise Invalid(f"trials are different names, at least one, got {', '.join(names) or 'none'}")
        for name in names:
            if not name.isidentifier():
                raise Invalid(f"{name!r} cannot be the name of an input")
        known = [(curve.group, curve.name) for curve in self.curves]
        twice = sorted({key for key in known if known.count(key) > 1})
        if twice:
            raise Invalid(f"two curves are called {twice[0][1]!r} in the group {twice[0][0]!r}")
        empty = [curve.name for curve in self.curves if not curve.trials]
        if empty:
            raise Invalid(f"the curve {empty[0]!r} has no trials")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls((Curve("fixed", ("a", "b"), frontier=True), Curve("pi", ("c",))))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The trials."""
        return {name: STEP_TRIAL for curve in self.curves for name in curve.trials}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a group of trials that are not on the same runs, or do not count the same work."""
        super().check(inputs)
        for group in {curve.group for curve in self.curves}:
            names = [t for c in self.curves if c.group == group for t in c.trials]
            for what in ("until", "cost_unit", "error"):
                found = {name: inputs[name].attributes[what] for name in names}
                other = next((n for n in names if found[n] != found[names[0]]), None)
                if other is not None:
                    raise Invalid(
                        f"{names[0]} and {other} cannot be compared: their {what} is {found[names[0]]} and "
                        f"{found[other]}; put them in different groups"
                    )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the rows, and the same as ``files/table.md``."""
        import numpy as np

        groups = list(dict.fromkeys(curve.group for curve in self.curves))
        curves = sorted(self.curves, key=lambda curve: groups.index(curve.group))
        rows = [self._row(curve, name, inputs[name]) for curve in curves for name in curve.trials]
        figures = np.array([_figures(inputs[row["trial"]]) for row in rows])
        frontiers = list(dict.fromkeys(c.name for c in self.curves if c.frontier))
        compared = self._compared(rows, figures, frontiers)
        out.write("figures", figures, STEP_TABLE["figures"])
        out.write("compared", compared, STEP_TABLE["compared"])
        out.describe(
            title=self.title, rows=rows, figures=list(FIGURES), compared=list(COMPARED), frontiers=frontiers
        )
        out.write_file("table.md", markdown(rows, figures, frontiers, compared).encode())

    @staticmethod
    def _row(curve: Curve, name: str, trial: Artifact) -> dict[str, Any]:
        about = trial.attributes
        counts = trial.read("counts").sum(axis=0).tolist()
        return {
            "group": curve.group,
            "curve": curve.name,
            "trial": name,
            "frontier": curve.frontier,
            "runs": len(trial.read("seed")),
            "counts": dict(zip(about["counters"], map(int, counts), strict=True)),
            **{n: about[n] for n in ("episodes", "controller", "until", "time_unit", "cost_unit", "error")},
        }

    def _compared(
        self, rows: Sequence[Mapping[str, Any]], figures: np.ndarray, frontiers: Sequence[str]
    ) -> np.ndarray:
        """Shape (row, frontier, len(COMPARED)); NaN where there is nothing to compare with."""
        import numpy as np

        from sciflow_control.trials.frontier import Frontier

        found = np.full((len(rows), len(frontiers), len(COMPARED)), np.nan)
        work = figures[:, FIGURES.index("work_mean")]
        for i, row in enumerate(rows):
            for k, name in enumerate(frontiers):
                of = [j for j, r in enumerate(rows) if (r["group"], r["curve"]) == (row["group"], name)]
                for q in range(3):
                    one = Frontier.of(work[of], figures[of, q])
                    found[i, k, q] = figures[i, q] - one.error_at(work[i])
                    found[i, k, 3 + q] = work[i] / one.work_at(figures[i, q])
        return found


def summary(trial: Artifact) -> list[str]:
    """The figures of one trial as text, in the order of `FIGURES`."""
    return cells(_figures(trial))


def _figures(trial: Artifact) -> list[float]:
    """All of one trial, in the order of `FIGURES`."""
    import numpy as np

    from sciflow_control.trials.frontier import quantiles

    cost, steps, rejected = (trial.read(n) for n in ("cost", "steps", "rejected"))
    attempts = max(int(steps.sum() + rejected.sum()), 1)
    work = [float(cost.mean()), *np.quantile(cost, [0.5, 0.9], method="higher").tolist()]
    shares = [float(rejected.sum() / attempts), float(trial.read("failed").mean())]
    return [*quantiles(trial.read("error")).tolist(), *work, float(steps.mean()), *shares]


HEAD = {
    "p50": "log10 error p50", "p90": "p90", "max": "max", "work_mean": "work, mean", "work_p50": "work p50",
    "work_p90": "work p90", "steps": "steps", "rejected": "taken back, %", "failed": "failed, %",
}  # fmt: skip
"""What the figures are called in a table."""


def cells(values: Sequence[float]) -> list[str]:
    """The figures of a row as text, in the order of `FIGURES`."""
    found = []
    for name, value in zip(FIGURES, values, strict=True):
        if math.isnan(value):
            found.append("–")
        elif math.isinf(value):
            found.append("failed")
        elif name in ("rejected", "failed"):
            found.append(f"{100 * value:.3g}")
        else:
            found.append(f"{value:.2f}" if name in ("p50", "p90", "max") else thousands(value))
    return found


def thousands(value: float) -> str:
    """A number with three significant digits, and narrow spaces between thousands that no line breaks."""
    digits = 0 if value < 1 else 2 - math.floor(math.log10(value))
    rounded = round(value, digits) if value >= 1 else float(f"{value:.3g}")
    return f"{rounded:,.0f}".replace(",", "\u202f") if value >= 100 else f"{rounded:g}"


def ratios(values: Sequence[float]) -> list[str]:
    """What `COMPARED` names, as text: three differences in powers of ten, three ratios."""
    found = []
    for place, value in enumerate(values):
        if math.isnan(value):
            found.append("–")
        elif math.isinf(value):
            found.append("failed" if value > 0 else "–")
        else:
            found.append(f"{value:+.2f}" if place < 3 else f"{value:.2f}")
    return found


def shortened(text: str) -> str:
    """The name and settings of a controller, with artifacts by the beginning of their names."""
    import re

    text = re.sub(r", \w+_digest=[0-9a-f]*", "", text)
    return re.sub(r"[^=(,]*/(\w+-[0-9a-f]{6})[0-9a-f]*", r"\1", text)


def markdown(
    rows: Sequence[Mapping[str, Any]], figures: np.ndarray, frontiers: Sequence[str], compared: np.ndarray
) -> str:
    """The table in Markdown: figures (row, figure), and ratios to the frontiers (row, frontier, ratio)."""
    head = ["runs of", "controller", *(HEAD[n] for n in FIGURES)]
    for name in frontiers:
        head += [f"{word} {q} / {name}" for word in ("dex", "work") for q in ("p50", "p90", "max")]
    lines = [head, ["---"] * len(head)]
    for row, values, beside in zip(rows, figures, compared, strict=True):
        line = [
            row["group"] or row["episodes"],
            f"{row['curve']}: {shortened(row['controller'])}",
            *cells(list(values)),
        ]
        for one in beside:
            line += ratios(list(one))
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
