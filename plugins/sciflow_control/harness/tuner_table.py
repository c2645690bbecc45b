"""The ``tuner_table`` stage: trials of several tuners, on one or several sequences, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.harness.trial import TUNER_TRIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

TUNER_TABLE = Schema(
    "tuner_table",
    {
        "figures": Field(("row", "figure"), "any", "float64", "see the attributes for the names"),
        "pulls": Field(("row", "point"), "1", "int32", "numbers of systems; 0 behind the end of a curve"),
        "running_mean": Field(("row", "point"), "any", "float64", "mean cost so far; NaN behind the end"),
    },
)
OTHERS = ("oracle", "best_fixed", "default", "random")


@dataclass(frozen=True)
class TunerTable(Stage):
    """Puts `Trial`s side by side, those of one sequence together, with what else one could have done.

    Attributes
    ----------
    trials : tuple of str
        Names under which the trials are passed in; they label the rows, without what the names on one
        sequence begin with in common (``heat_thompson``, ``heat_tsallis``). ``omega_1_8`` is shown as
        omega 1.8.

    Raises
    ------
    Invalid
        If `trials` has a value that it cannot have.
    """

    name: ClassVar[str] = "tuner_table"
    output: ClassVar[Schema] = TUNER_TABLE
    light: ClassVar[bool] = True
    trials: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.trials or len(set(self.trials)) != len(self.trials):
            raise Invalid(f"trials are different names, at least one, got {self.trials}")
        for name in self.trials:
            if not name.isidentifier():
                raise Invalid(f"{name!r} cannot be the name of an input")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("a", "b"))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The trials."""
        return dict.fromkeys(self.trials, TUNER_TRIAL)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the rows, and the same as ``files/table.md``."""
        import numpy as np

        rows: list[dict[str, str]] = []
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        names: list[str] = inputs[self.trials[0]].attributes["figures"]
        titles = self._titles({label: inputs[label].attributes["sequence"] for label in self.trials})
        plays = {label: inputs[label].array("choice").shape[0] for label in self.trials}
        fullest: dict[str, str] = {}  # of each sequence the trial that says most of what nobody had to learn
        for label in sorted(self.trials, key=lambda t: -plays[t]):
            fullest.setdefault(inputs[label].attributes["sequence"], label)
        for label in self.trials:
            about = inputs[label].attributes
            figures, pulls, mean = (inputs[label].read(n) for n in ("figures", "pulls", "running_mean"))
            for place, policy in enumerate(about["policies"]):
                if policy == "tuner" or fullest[about["sequence"]] == label:
                    title = titles[label] if policy == "tuner" else policy
                    rows.append({"sequence": about["sequence"], "policy": title, "tuner": about["tuner"]})
                    found.append((figures[place], pulls, mean[place]))
        order = sorted(range(len(rows)), key=lambda i: (self._first(rows, i), rows[i]["policy"] in OTHERS, i))
        rows, found = [rows[i] for i in order], [found[i] for i in order]
        longest = max(len(pulls) for _, pulls, _ in found)
        table = np.array([figures for figures, _, _ in found])
        out.write("figures", table, TUNER_TABLE["figures"])
        out.write("pulls", np.stack([_padded(p, longest, 0) for _, p, _ in found]), TUNER_TABLE["pulls"])
        curves = np.stack([_padded(m, longest, np.nan) for _, _, m in found])
        out.write("running_mean", curves, TUNER_TABLE["running_mean"])
        out.describe(rows=rows, figures=names)
        out.write_file("table.md", markdown(rows, names, table).encode())

    @staticmethod
    def _titles(sequences: Mapping[str, str]) -> dict[str, str]:
        """What the trials are called within their sequences."""
        found = {}
        for label, sequence in sequences.items():
            alike = [other.split("_") for other in sequences if sequences[other] == sequence]
            first, shared = label.split("_"), 0
            while len(alike) > 1 and all(w[: shared + 1] == first[: shared + 1] != w for w in alike):
                shared += 1
            title = "_".join(first[shared:])
            found[label] = f"{title} (a tuner)" if title in OTHERS else title
        return found

    @staticmethod
    def _first(rows: list[dict[str, str]], place: int) -> int:
        """Where the sequence of a row came first."""
        return [r["sequence"] for r in rows].index(rows[place]["sequence"])


def _padded(values: np.ndarray, length: int, fill: float) -> np.ndarray:
    import numpy as np

    return np.concatenate([values, np.full(length - len(values), fill, dtype=values.dtype)])


HEAD = {
    "mean": "mean", "first_100": "first 100", "last_third": "last third", "p50": "p50", "p90": "p90",
    "max": "max", "to_oracle": "mean / oracle", "first_100_to_oracle": "first 100 / oracle",
    "last_third_to_oracle": "last third / oracle", "to_best_fixed": "mean / best fixed",
    "microseconds": "µs per decision", "failures": "failed, %",
}  # fmt: skip
"""What the figures are called in a table."""


def called(policy: str) -> str:
    """The name of a policy in words; an underscore between digits is a decimal point."""
    import re

    return re.sub(r"(?<=\d)_(?=\d)", ".", policy).replace("_", " ")


def cells(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """Figures as text, in their order."""
    import math

    found = []
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            found.append("–")
        elif name == "failures":
            found.append(f"{100 * value:.3g}")
        else:
            found.append(f"{value:.3f}" if "_to_" in name or name.startswith("to_") else f"{value:.4g}")
    return found


def markdown(rows: Sequence[Mapping[str, str]], names: Sequence[str], figures: np.ndarray) -> str:
    """The table in Markdown, of figures of shape (row, name)."""
    head = ["sequence", "policy", *(HEAD.get(n, n) for n in names)]
    lines = [head, ["---"] * len(head)]
    for row, values in zip(rows, figures, strict=True):
        lines.append([row["sequence"], called(row["policy"]), *cells(names, list(values))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
