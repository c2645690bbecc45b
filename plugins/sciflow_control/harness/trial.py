"""The ``tuner_trial`` stage: a tuner played over a table of costs, beside what else one could have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sciflow.errors import Invalid, nearest
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tuner import Tuner
from sciflow_control.harness.cost_table import COST_TABLE, label
from sciflow_control.space import Space, Values

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_control.harness.play import Prices
    from sciflow_control.harness.table import Table

TUNER_TRIAL = Schema(
    "tuner_trial",
    {
        "order": Field(("seed", "play"), "1", "int32", "systems in the order of play"),
        "choice": Field(("seed", "play"), "1", "int32", "arms of the tuner that it chose"),
        "paid": Field(("seed", "play"), "any", "float64", "what that cost, failures included"),
        "oracle": Field(("system",), "1", "int32", "best arm of the tuner on every system"),
        "features": Field(("system", "feature"), "any", "float64", "what is known before a solve"),
        "figures": Field(("policy", "figure"), "any", "float64", "see the attributes for the names"),
        "pulls": Field(("point",), "1", "int32", "numbers of systems at which the curves are kept"),
        "running_mean": Field(("policy", "point"), "any", "float64", "mean cost so far, mean over the seeds"),
        "regret": Field(("policy", "point"), "any", "float64", "cost so far beyond that of the best arms"),
    },
)


@dataclass(frozen=True)
class Trial(Stage):
    """Plays a tuner over a table of costs several times, each time from nothing.

    It reads a ``table`` that `CostTable` made or, in its place, an ``ensemble`` whose systems were all
    solved with every arm. Beside the tuner stand the oracle (the best arm of every system), the best single
    arm, the default and random choices. A failed solve also pays for the default, which has to solve the
    system then. Takes seconds; a killed trial is repeated.

    Attributes
    ----------
    tuner : Tuner
        All its arms are in the table.
    seeds : int
        How often it plays.
    seed : int
        Of the draws.
    cost : str
        ``cost`` or ``seconds`` of a table; any column of the log of an ensemble.
    default : int
        The arm that is used where nobody chooses; an ensemble that knows the problem's own solver takes
        that.
    shuffle : bool
        Another order of the systems in every play; for systems that do not depend on each other.

    Raises
    ------
    Invalid
        If `seeds`, `default` or `tuner` has a value that it cannot have.
    """

    name: ClassVar[str] = "tuner_trial"
    inputs: ClassVar[Mapping[str, Schema]] = {"table": COST_TABLE, "ensemble": Schema("ensemble")}
    optional: ClassVar[tuple[str, ...]] = ("table", "ensemble")
    output: ClassVar[Schema] = TUNER_TRIAL
    tuner: Tuner = Thompson()
    seeds: int = 3
    seed: int = 0
    cost: Literal["cost", "seconds", "iterations"] = "cost"
    default: int = 0
    shuffle: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise Invalid(f"a trial needs at least one play, got seeds={self.seeds}")
        if not 0 <= self.default < len(self.tuner.arms):
            raise Invalid(f"default={self.default} is none of the {len(self.tuner.arms)} arms of the tuner")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(Thompson())

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse to go without a table, or with two, and a table without a feature that is needed."""
        super().check(inputs)
        if len(inputs) != 1:
            raise Invalid(
                f"{self.name} needs one input: table or ensemble, got {', '.join(inputs) or 'none'}"
            )
        for name, data in inputs.items():
            if name == "table":
                known = list(data.attributes["features"])
            else:
                begin = "decision_feature_"
                known = [f.removeprefix(begin) for f in data.schema.fields if f.startswith(begin)]
            for feature in self.tuner.ranges:
                if feature not in known:
                    raise Invalid(
                        f"{self.tuner.name} needs the feature {feature!r}, which {data.path} does not have. "
                        f"{nearest(feature, known)}"
                    )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Play, and write choices, costs, figures and curves."""
        import numpy as np

        from sciflow_control.harness.play import Prices, curves, play, policies, pulls

        table, sequence = self._table(inputs)
        prices, count = Prices.of(table, self.tuner, self.default), len(table.cost)
        order, choice = np.empty((2, self.seeds, count), dtype=np.int32)
        seconds = 0.0
        for play_ in range(self.seeds):
            rng = np.random.default_rng([self.seed, play_])
            order[play_] = rng.permutation(count) if self.shuffle else np.arange(count)

            def told(done: int, before: int = play_ * count) -> None:
                ctx.progress(before + done, self.seeds * count, "decisions")

            played = play(self.tuner, table, order[play_], rng, told)
            choice[play_] = played.choice
            seconds += played.seconds
        paid = policies(prices, order, choice, np.random.default_rng([self.seed, self.seeds]))
        at = pulls(count)
        mean, regret = curves(paid, at)
        values = {
            "order": order,
            "choice": choice,
            "paid": paid["tuner"],
            "oracle": prices.oracle.astype(np.int32),
            "features": np.array([*table.features.values()]).reshape(-1, count).T,
            "figures": self._figures(paid, prices, order, choice, seconds),
            "pulls": at,
            "running_mean": mean,
            "regret": regret,
        }
        for name, field in TUNER_TRIAL.fields.items():
            out.write(name, values[name], field)
        out.describe(**self._about(list(table.features), prices, sequence, list(paid)))

    def _table(self, inputs: Mapping[str, Artifact]) -> tuple[Table, str]:
        from sciflow_control.harness.table import of_cost_table, of_ensemble

        if "ensemble" in inputs:
            data = inputs["ensemble"]
            problem = data.attributes["problem"]
            sequence = f"an ensemble of {problem['component']}"
            return of_ensemble(data, self.cost, _solved_with(problem) or self.tuner.arms), sequence
        if self.cost == "iterations":
            raise Invalid("a cost table calls its iterations 'cost'")
        return of_cost_table(inputs["table"], self.cost), inputs["table"].attributes["sequence"]

    def _figures(
        self,
        paid: Mapping[str, np.ndarray],
        prices: Prices,
        order: np.ndarray,
        choice: np.ndarray,
        spent: float,
    ) -> np.ndarray:
        """All figures of all policies, shape (policy, figure)."""
        import numpy as np

        from sciflow_control.harness.play import FIGURES, figures

        rows = {name: figures(values, paid["oracle"], paid["best_fixed"]) for name, values in paid.items()}
        rows["tuner"]["microseconds"] = 1e6 * spent / order.size
        failed = prices.failed
        rows["tuner"]["failures"] = float(failed[order, choice].mean())
        rows["oracle"]["failures"] = float(failed[np.arange(len(failed)), prices.oracle].mean())
        rows["best_fixed"]["failures"] = float(failed[:, prices.best_fixed].mean())
        if prices.own:
            rows["default"]["failures"] = float(failed[:, self.default].mean())
        rows["random"]["failures"] = float(failed.mean())
        return np.array([[row[name] for name in FIGURES] for row in rows.values()])

    def _about(
        self, features: list[str], prices: Prices, sequence: str, names: list[str]
    ) -> dict[str, object]:
        from sciflow_control.harness.play import FIGURES

        return {
            "tuner": label(self.tuner),
            "arms": [dict(arm) for arm in self.tuner.arms],
            "features": features,
            "looks_at": list(self.tuner.ranges),
            "policies": names,
            "figures": list(FIGURES),
            "best_fixed": prices.best_fixed,
            "default": dict(self.tuner.arms[self.default]) if prices.own else "the problem's own solver",
            "cost": self.cost,
            "sequence": sequence,
        }


def _solved_with(problem: Mapping[str, Any]) -> tuple[Values, ...]:
    """The arms that the systems of an ensemble were solved with; none where the problem does not say."""
    from sciflow.registry import registry

    solver = problem.get("solver")
    if not isinstance(solver, Mapping):
        return ()
    space = getattr(registry().build(solver, kind="linear_solver"), "space", None)
    return space.arms if isinstance(space, Space) else ()
