"""The ``comparison_table`` stage: models of several tasks in one table, beside what others published."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.convergence import CONVERGENCE
from sciflow.stages.rollout import ROLLOUT
from sciflow.stages.side_by_side import SIDE_BY_SIDE

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer


def _number(unit: str, description: str) -> Field:
    return Field(("row",), unit, "float64", description)


COMPARISON_TABLE = Schema(
    "comparison_table",
    {
        "seeds": _number("1", "trainings that differ in their seed"),
        "error_mean": _number("1", "relative L2 error of unseen members, mean over the seeds"),
        "error_mean_std": _number("1", "standard deviation over the seeds; NaN for one"),
        "error_median": _number("1", "median over the members, mean over the seeds"),
        "rollout_error": _number("1", "relative L2 error over all levels of a roll-out, mean over members"),
        "floor": _number("1", "error of the solver itself; NaN where it was not measured"),
        "parameters": _number("1", "numbers that were learned"),
        "operations": _number("1", "floating-point operations of one answer"),
        "query_seconds": _number("s", "time of one answer"),
        "offline_seconds": _number("s", "time of training, mean over the seeds"),
        "training_bytes": _number("B", "peak memory of the process that trained, largest of the seeds"),
        "published": _number("1", "relative L2 error of the cited source; NaN where none is cited"),
    },
)

_SEED = re.compile(r"(?P<model>\w+?)_seed(?P<seed>\d+)\Z")


@dataclass(frozen=True)
class Published:
    """An error that others report.

    Attributes
    ----------
    task, model : str
        The row it stands in; a row of its own where the model was not trained here.
    error : float
        Mean relative L2 error.
    source : str
        Who reports it, and for which setting where that differs.
    """

    task: str
    model: str
    error: float
    source: str


@dataclass(frozen=True)
class ComparisonTable(Stage):
    """Puts `SideBySide` comparisons of several tasks into one table.

    For each name in `tasks` it reads the comparison under that name and, where there is one, the
    convergence study of the solver under ``TASK_floor``. Models whose names differ only in the ending
    ``_seedN`` are one model, trained several times.

    Attributes
    ----------
    tasks : tuple of str
        What the tasks are called, letters, digits and ``_``.
    published : tuple of Published
        Numbers of others.
    rollouts : tuple of (str, str)
        Task and model of roll-outs, each read under ``TASK_MODEL_rollout``.

    Raises
    ------
    Invalid
        If `tasks`, `published` or `rollouts` has a value that it cannot have.
    """

    name: ClassVar[str] = "comparison_table"
    output: ClassVar[Schema] = COMPARISON_TABLE
    tasks: tuple[str, ...]
    published: tuple[Published, ...] = ()
    rollouts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise Invalid(f"tasks are different names, at least one, got {self.tasks}")
        for name in self.tasks:
            if not name.isidentifier() or name.endswith("_floor"):
                raise Invalid(f"{name!r} cannot be the name of a task here")
        for cited in self.published:
            if cited.task not in self.tasks:
                raise Invalid(f"a number is cited for {cited.task!r}; the tasks are {', '.join(self.tasks)}")
            if not cited.error > 0:
                raise Invalid(f"the cited error of {cited.model} on {cited.task} is {cited.error}")
        for task, model in self.rollouts:
            if task not in self.tasks:
                raise Invalid(f"a roll-out of {model} on {task!r}; the tasks are {', '.join(self.tasks)}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("a", "b"))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The comparisons, the convergence studies and the roll-outs."""
        pairs = {n: s for t in self.tasks for n, s in ((t, SIDE_BY_SIDE), (f"{t}_floor", CONVERGENCE))}
        return pairs | {f"{task}_{model}_rollout": ROLLOUT for task, model in self.rollouts}

    @property
    def optional(self) -> tuple[str, ...]:  # type: ignore[override]
        """A task may do without a convergence study."""
        return tuple(f"{task}_floor" for task in self.tasks)

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse roll-outs of models that have no row."""
        super().check(inputs)
        for task, model in self.rollouts:
            known = [name for name, _ in _models(inputs[task])]
            if model not in known:
                raise Invalid(f"a roll-out of {model!r} on {task}; its models are {', '.join(known)}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the rows, and the same as ``files/table.md``."""
        import numpy as np

        labels: list[dict[str, str]] = []
        rows: list[dict[str, float]] = []
        for task in self.tasks:
            for model, row, source in self._rows(task, inputs):
                labels.append({"task": task, "model": model, "source": source})
                rows.append(row)
        for name, field in COMPARISON_TABLE.fields.items():
            out.write(name, np.array([row.get(name, math.nan) for row in rows]), field)
        out.describe(rows=labels)
        out.write_file("table.md", markdown(labels, rows).encode())

    def _rows(self, task: str, inputs: Mapping[str, Artifact]) -> Iterator[tuple[str, dict[str, float], str]]:
        """Name, numbers and source of every row of a task; the models of others last."""
        import numpy as np

        rolled = {model: inputs[f"{t}_{model}_rollout"] for t, model in self.rollouts if t == task}
        cited = {p.model: p for p in self.published if p.task == task}
        floor = inputs.get(f"{task}_floor")
        shared = {} if floor is None else {"floor": float(np.mean(floor.read("relative_l2")))}
        for model, numbers in _models(inputs[task]):
            known = cited.pop(model, None)
            more = {} if known is None else {"published": known.error}
            if model in rolled:
                more["rollout_error"] = float(np.mean(rolled[model].read("relative_l2")))
            yield model, {**numbers, **shared, **more}, "" if known is None else known.source
        for model, known in cited.items():
            yield model, {**shared, "published": known.error}, known.source


def _models(comparison: Artifact) -> Iterator[tuple[str, dict[str, float]]]:
    """Each model of a comparison with its numbers over all its seeds."""
    import numpy as np

    columns = {name: comparison.read(name) for name in SIDE_BY_SIDE.fields}
    places: dict[str, list[int]] = {}
    for place, name in enumerate(comparison.attributes["models"]):
        match = _SEED.match(name)
        places.setdefault(match["model"] if match else name, []).append(place)
    for model, at in places.items():
        errors = columns["error_mean"][at]
        # Infinite errors, of predictions that are not finite, have no spread.
        many = len(at) > 1 and bool(np.isfinite(errors).all())
        yield (
            model,
            {
                "seeds": len(at),
                "error_mean": float(errors.mean()),
                "error_mean_std": float(errors.std(ddof=1)) if many else math.nan,
                "error_median": float(columns["error_median"][at].mean()),
                "parameters": float(columns["parameters"][at].max()),
                "operations": float(columns["operations"][at].max()),
                "query_seconds": float(np.median(columns["query_seconds"][at])),
                "offline_seconds": float(columns["offline_seconds"][at].mean()),
                "training_bytes": float(columns["training_bytes"][at].max()),
            },
        )


HEAD = (
    "task", "model", "mean error, %", "median, %", "roll-out, %", "solver's own, %", "published, %",
    "parameters", "MFLOP per answer", "ms per answer", "training, s", "memory, GB",
)  # fmt: skip


def sources(labels: Sequence[Mapping[str, str]]) -> list[str]:
    """Whose numbers stand in the table, in the order of their notes."""
    return list(dict.fromkeys(label["source"] for label in labels if label["source"]))


def cells(label: Mapping[str, str], row: Mapping[str, float], notes: Sequence[str]) -> list[str]:
    """One row of the table as text, in the order of `HEAD`.

    Parameters
    ----------
    label : mapping
        Task, model and source.
    row : mapping
        Numbers.
    notes : sequence of str
        See `sources`; a published number carries the number of its note.
    """

    def show(name: str, factor: float = 1.0, form: str = ".3g") -> str:
        value = row.get(name, math.nan)
        return f"{factor * value:{form}}" if math.isfinite(value) else "–"

    spread = row.get("error_mean_std", math.nan)
    mean = show("error_mean", 100) + (f" ± {100 * spread:.1g}" if math.isfinite(spread) else "")
    note = f" [{notes.index(label['source']) + 1}]" if label["source"] else ""
    return [
        label["task"],
        label["model"],
        mean,
        show("error_median", 100),
        show("rollout_error", 100),
        show("floor", 100, ".1g"),
        show("published", 100) + note,
        show("parameters", 1, ",.0f"),
        show("operations", 1e-6),
        show("query_seconds", 1e3),
        show("offline_seconds"),
        show("training_bytes", 1e-9),
    ]


def markdown(labels: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, float]]) -> str:
    """The table in Markdown, with its notes."""
    notes = sources(labels)
    body = [cells(a, b, notes) for a, b in zip(labels, rows, strict=True)]
    safe = ([cell.replace("|", "/") for cell in line] for line in [HEAD, ["---"] * len(HEAD), *body])
    table = "".join(f"| {' | '.join(line)} |\n" for line in safe)
    return table + "".join(f"\n[{number}] {note}\n" for number, note in enumerate(notes, 1))
