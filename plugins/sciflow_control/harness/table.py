"""What every arm costs on every system of a sequence, as tuners are tried on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.bandits.tuner import STATUSES
from sciflow_control.space import Values

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

LOG = "decision_"
"""How an ensemble calls the columns of the logs of its members."""


@dataclass(frozen=True)
class Table:
    """Costs of all arms on all systems.

    Attributes
    ----------
    cost : ndarray, shape (system, arm)
        Finite and not negative, of any one unit; for a failed solve what was spent on it.
    status : ndarray of int, shape (system, arm)
        Index into `sciflow_control.bandits.tuner.STATUSES`.
    features : mapping of str to ndarray, shape (system,)
        What is known of a system before it is solved.
    arms : tuple of mapping, or None
        The settings; None where the source does not tell them.
    default : ndarray, shape (system,), or None
        What the solver costs that is used where nobody chooses; None: that is one of the arms.

    Raises
    ------
    Invalid
        If a cost is NaN, infinite or negative, naming the first; or if there are no systems.
    """

    cost: np.ndarray
    status: np.ndarray
    features: Mapping[str, np.ndarray]
    arms: tuple[Values, ...] | None = None
    default: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.cost.ndim != 2 or not self.cost.size or self.cost.shape != self.status.shape:
            raise Invalid(f"costs of shape {self.cost.shape} are no table of systems and arms")
        wrong = np.argwhere(~(np.isfinite(self.cost) & (self.cost >= 0)))
        if len(wrong):
            system, arm = map(int, wrong[0])
            found = self.cost[system, arm]
            raise Invalid(f"system {system}, arm {arm}: a cost must be finite and not negative, got {found}")
        if self.default is not None and not (np.isfinite(self.default) & (self.default >= 0)).all():
            raise Invalid("the costs of the default solver must be finite and not negative")

    def places(self, arms: Sequence[Values]) -> np.ndarray:
        """The column of each of some arms.

        Raises
        ------
        Invalid
            If one is not in the table.
        """
        if self.arms is None:
            if len(arms) != self.cost.shape[1]:
                raise Invalid(f"a tuner of {len(arms)} arms on a table of {self.cost.shape[1]}")
            return np.arange(len(arms))
        known = {_key(arm): place for place, arm in enumerate(self.arms)}
        missing = [dict(arm) for arm in arms if _key(arm) not in known]
        if missing:
            shown = [dict(arm) for arm in (self.arms[0], self.arms[-1])]
            raise Invalid(
                f"the table has no arm {missing[0]} ({len(missing)} of {len(arms)} are missing); "
                f"its {len(self.arms)} arms go from {shown[0]} to {shown[1]}"
            )
        return np.array([known[_key(arm)] for arm in arms])


def _key(arm: Values) -> tuple[tuple[str, Any], ...]:
    """An arm without the rounding of its numbers."""
    return tuple(sorted((k, v if isinstance(v, str) else round(float(v), 9)) for k, v in arm.items()))


def of_cost_table(artifact: Artifact, cost: str) -> Table:
    """The table that a `CostTable` made, with its field `cost` or ``seconds``."""
    names = artifact.attributes["features"]
    values = artifact.read("features")
    features = {name: values[:, i] for i, name in enumerate(names)}
    arms = tuple(artifact.attributes["arms"])
    return Table(artifact.read(cost), artifact.read("status").astype(int), features, arms)


def of_ensemble(artifact: Artifact, cost: str) -> Table:
    """The table of an ensemble whose systems were all solved with every arm.

    Parameters
    ----------
    artifact : Artifact
        With the fields ``decision_member``, ``decision_solve``, ``decision_arm`` (-1: the problem's own
        solver), ``decision_status``, ``decision_<cost>`` and ``decision_feature_<name>``.
    cost : str
        The column that is the cost.

    Raises
    ------
    Invalid
        If a field is missing, or a system was not solved with every arm.
    """
    needed = [LOG + n for n in ("member", "solve", "arm", "status", cost)]
    lacking = [n for n in needed if n not in artifact.schema.fields]
    if lacking:
        raise Invalid(
            f"{artifact.path} has no fields {', '.join(lacking)}; an ensemble of a problem with "
            "solver=EveryArm(...) has them"
        )
    member, solve, arm, status, costs = (artifact.read(n) for n in needed)
    arm = arm.astype(int)
    _, system = np.unique(np.stack([member, solve]), axis=1, return_inverse=True)
    system = system.reshape(-1)
    shape = (int(system.max()) + 1 if len(system) else 0, int(arm.max()) + 1 if len(arm) else 0)
    table, ends = np.full(shape, np.nan), np.zeros(shape, dtype=int)
    own, chosen = arm < 0, arm >= 0
    table[system[chosen], arm[chosen]] = costs[chosen]
    ends[system[chosen], arm[chosen]] = status[chosen]
    if len(arm) and np.isnan(table).any():
        where, which = map(int, np.argwhere(np.isnan(table))[0])
        raise Invalid(f"{artifact.path}: system {where} has no cost, or NaN, for arm {which}")
    default = None
    if own.any():
        default = np.full(shape[0], np.nan)
        default[system[own]] = costs[own]
    features = {}
    for name in artifact.schema.fields:
        if name.startswith(LOG + "feature_"):
            values = np.full(shape[0], np.nan)
            values[system] = artifact.read(name)
            features[name.removeprefix(LOG + "feature_")] = values
    return Table(table, ends, features, None, default)


OK = STATUSES.index("ok")
