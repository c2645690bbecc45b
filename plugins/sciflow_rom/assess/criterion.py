"""The ``assess`` stage: whether reduced models are worth building, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow_rom.clusters.clusterers import Dissimilarity, Sine
from sciflow_rom.compress.compression import COMPRESSION

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_rom.assess.efficiency import Errors
    from sciflow_rom.assess.rates import Rates

_GRID, _CURVE, _EACH = ("candidate", "mode"), ("global_mode",), ("candidate",)
_ROWS = ("candidate", "choice")
CRITERION = Schema(
    "criterion",
    {
        "clusters": Field(_EACH, "1", "int64", "numbers of clusters; the first is one"),
        "error": Field(_GRID, "1", "float64", "predicted mean relative error for 0, 1, .. modes"),
        "worst": Field(_GRID, "1", "float64", "largest error of a member that was held out"),
        "width": Field(_GRID, "1", "float64", "largest error of a member that took part"),
        "global_error": Field(_CURVE, "1", "float64", "error of one basis for 0, 1, .. modes"),
        "loss": Field(_EACH, "any", "float64", "mean dissimilarity to the nearest medoid"),
        "silhouette": Field(_EACH, "1", "float64"),
        "sizes": Field(("candidate", "cluster"), "1", "int64", "members, largest first; 0 beyond the last"),
        "modes": Field(("choice",), "1", "int64", "numbers of modes of the table"),
        "gain": Field(_ROWS, "1", "float64", "cost of a global basis of equal error over that of these"),
        "equal_modes": Field(_ROWS, "1", "int64", "modes of that global basis; -1: more than there are"),
        "break_even": Field(_ROWS, "1", "float64", "queries from which on these cost less; NaN never"),
        "break_even_full": Field(_ROWS, "1", "float64", "the same against the full model"),
        "query_seconds": Field(_ROWS, "s", "float64", "time of a query"),
    },
)


@dataclass(frozen=True)
class Costs:
    """Costs of models, s; what is None is recorded, measured on this machine or not known.

    Attributes
    ----------
    full : float or None
        One solution of the full model, s. None: the wall time of the ensemble per member, if the ensemble is
        an input.
    online : tuple of float or None
        ``a0, a1, a2`` of a query of a reduced model with n modes and q points: a0 + a1 q n + a2 n^3.
        None: measured for one Newton step, times `solves`.
    selector : float or None
        Choosing a cluster, s. None: measured with a small network.
    offline : float or None
        Building a reduced model, per training snapshot and squared number of modes. None: measured as
        `points_per_mode` passes for each mode over its integrands.
    training : float
        Training a selector, s; one second is what 300 members and 20 clusters took.
    points : int
        Integration points of the full model; 0 takes the values in a snapshot.
    points_per_mode : float
        Points of a reduced model (q) for each of its modes.
    solves : int
        Systems that are solved in a query: time steps times Newton steps.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.
    """

    full: float | None = None
    online: tuple[float, float, float] | None = None
    selector: float | None = None
    offline: float | None = None
    training: float = 1.0
    points: int = 0
    points_per_mode: float = 10.0
    solves: int = 5

    def __post_init__(self) -> None:
        for name in ("full", "selector", "offline"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise Invalid(f"the cost {name} cannot be negative, got {value}")
        if self.online is not None and min(self.online) < 0:
            raise Invalid(f"the costs online cannot be negative, got {self.online}")
        if self.training < 0:
            raise Invalid(f"the cost training cannot be negative, got {self.training}")
        if self.points < 0 or self.points_per_mode <= 0 or self.solves < 1:
            raise Invalid("points, points_per_mode and solves must be positive (points: 0 for unknown)")


_COSTS, _SINE = Costs(), Sine()


@dataclass(frozen=True)
class Assess(Stage):
    """Predicts errors and costs of dictionaries of local bases and says what to build.

    Reads the compression alone (and of the ensemble, where it is given, how long it took): no snapshot, no
    selector, no further simulation.

    Attributes
    ----------
    tolerance : float
        Mean relative error that is wanted.
    queries : float
        How often the model will be asked.
    clusters : tuple of int
        Numbers of clusters to look at, beside one; empty for some that suit the number of members.
    modes : tuple of int
        Numbers of modes of the table; the verdict looks at all up to the largest.
    dissimilarity : Dissimilarity
        What members are grouped by.
    costs : Costs
        What is known of costs.
    folds : int
        Of the cross-validation.
    seed : int
        Decides folds and clusterings.

    Raises
    ------
    Invalid
        If `tolerance`, `queries`, `modes`, `clusters` or `folds` has a value that it cannot have.
    """

    name: ClassVar[str] = "assess"
    inputs: ClassVar[Mapping[str, Schema]] = {"compression": COMPRESSION, "ensemble": ENSEMBLE}
    optional: ClassVar[tuple[str, ...]] = ("ensemble",)
    output: ClassVar[Schema] = CRITERION
    tolerance: float = 0.05
    queries: float = 10_000.0
    clusters: tuple[int, ...] = ()
    modes: tuple[int, ...] = (2, 3, 5, 8, 12, 20)
    dissimilarity: Dissimilarity = _SINE
    costs: Costs = _COSTS
    folds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise Invalid(f"the tolerance is relative and lies between 0 and 1, got {self.tolerance}")
        if self.queries < 0:
            raise Invalid(f"queries cannot be negative, got {self.queries}")
        if not self.modes or min(self.modes) < 1 or min(self.clusters, default=1) < 1:
            raise Invalid("clusters and modes are numbers from 1 on, with at least one number of modes")
        if self.folds < 2:
            raise Invalid(f"folds must be at least 2, got {self.folds}")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse an ensemble other than the one that was compressed, and too many clusters."""
        super().check(inputs)
        compression, ensemble = inputs["compression"], inputs.get("ensemble")
        if ensemble is not None and compression.attributes["ensemble"] != ensemble.digest:
            raise Invalid(f"{compression.path} was not made of {ensemble.path}")
        n = len(compression.read("train_members"))
        left = n - -(-n // self.folds)
        if max(self.clusters, default=1) > left or n < self.folds:
            raise Invalid(
                f"clusters={self.clusters}, but {max(left, 0)} of {n} training members are left when one of "
                f"{self.folds} folds is held out; ask for fewer clusters, or compute more members"
            )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Cross-validate, measure what is not known, decide; rank 0 measures and writes."""
        from sciflow_rom.assess.efficiency import predict_errors
        from sciflow_rom.assess.rates import resolve
        from sciflow_rom.assess.verdict import decide
        from sciflow_rom.compress.compression import load_coordinates

        if ctx.comm.rank:
            return
        compression, ensemble = inputs["compression"], inputs.get("ensemble")
        known = load_coordinates(compression).of(compression.read("train_members"))
        errors = predict_errors(
            known,
            self.dissimilarity,
            self.clusters or suitable(len(known.groups)),
            max(self.modes),
            folds=self.folds,
            seed=self.seed,
            progress=lambda done, total: ctx.progress(done, total, "clusterings"),
        )
        recorded = None if ensemble is None else seconds_of_member(ensemble)
        rows = int(compression.attributes["rows"])
        rates = resolve(self.costs, known.triangle.shape[1], rows, recorded)
        verdict = decide(errors, rates, self.tolerance, self.queries)
        write_errors(errors, out)
        write_table(errors, rates, self.modes, self.queries, out)
        ctx.log.info("%s", verdict.words)
        out.describe(
            compression=compression.digest,
            dissimilarity=self.dissimilarity.to_json(),
            tolerance=self.tolerance,
            queries=self.queries,
            rates={
                "full": rates.full if rates.full == rates.full else None,
                "online": list(rates.online),
                "selector": rates.selector,
                "offline": rates.offline,
                "training": rates.training,
                "points_per_mode": rates.points_per_mode,
                "snapshots": rates.snapshots,
            },
            sources=rates.sources,
            verdict=verdict.words,
            choice=verdict.choice,
            chosen_clusters=verdict.clusters,
            chosen_modes=verdict.modes,
            chosen_gain=verdict.gain if verdict.gain == verdict.gain else None,
        )


def suitable(members: int) -> tuple[int, ...]:
    """Numbers of clusters that leave at least six members for each, of five folds without one."""
    return tuple(k for k in (2, 3, 5, 8, 12, 20, 30, 50) if 6 * k <= 0.8 * members) or (
        (2,) if members >= 3 else ()
    )


def seconds_of_member(ensemble: Artifact) -> float | None:
    """Wall time of an ensemble's stage by its members, with as many at once as there were, s.

    None for an ensemble that was not simulated here, such as imported files.
    """
    made = ensemble.provenance
    if made.get("stage", {}).get("component") != "simulate":
        return None
    return float(made["end"] - made["start"]) / max(1, len(ensemble.members()))


def write_errors(errors: Errors, out: Writer) -> None:
    """Write what was predicted."""
    import numpy as np

    sizes = np.zeros((len(errors.clusters), int(errors.clusters.max())), dtype=np.int64)
    for row, found in zip(sizes, errors.sizes, strict=True):
        row[: len(found)] = found
    values: dict[str, np.ndarray] = {
        "clusters": errors.clusters,
        "error": errors.error,
        "worst": errors.worst,
        "width": errors.width,
        "global_error": errors.beyond,
        "loss": errors.loss,
        "silhouette": errors.silhouette,
        "sizes": sizes,
    }
    for name, array in values.items():
        out.write(name, array, CRITERION[name])


def write_table(errors: Errors, rates: Rates, modes: tuple[int, ...], queries: float, out: Writer) -> None:
    """Write gain and break-even of every dictionary of the table."""
    import numpy as np

    from sciflow_rom.assess.verdict import assess

    chosen = np.array(sorted(set(modes)), dtype=np.int64)
    table = [
        [assess(errors, rates, k, n, queries) for n in chosen.tolist()] for k in errors.clusters.tolist()
    ]
    columns = {
        "gain": [[r.gain for r in line] for line in table],
        "equal_modes": [[r.equal for r in line] for line in table],
        "break_even": [[r.break_even for r in line] for line in table],
        "break_even_full": [[r.against_full for r in line] for line in table],
        "query_seconds": [[rates.query(r.clusters, r.modes) for r in line] for line in table],
    }
    out.write("modes", chosen, CRITERION["modes"])
    for name, rows in columns.items():
        out.write(name, np.array(rows), CRITERION[name])
