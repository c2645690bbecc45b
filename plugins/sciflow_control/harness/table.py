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
    arms : tuple of mapping
        The settings.
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
    arms: tuple[Values, ...]
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


def of_ensemble(artifact: Artifact, cost: str, arms: Sequence[Values]) -> Table:
    """The table of an ensemble whose systems were all solved with every arm.

    Parameters
    ----------
    artifact : Artifact
        With the fields ``decision_member``, ``decision_solve``, ``decision_arm`` (-1: the problem's own
        solver), ``decision_status``, ``decision_<cost>`` and ``decision_feature_<name>``.
    cost : str
        The column that is the cost.
    arms : sequence of mapping
        What the arms are; one of the method ``given`` is the problem's own solver.

    Raises
    ------
    Invalid
        If a field is missing, there are other arms, or a system was not solved with every arm.
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
    if arm.size and arm.max() >= len(arms):
        raise Invalid(f"{artifact.path} was solved with {arm.max() + 1} arms, the tuner has {len(arms)}")
    _, system = np.unique(np.stack([member, solve]), axis=1, return_inverse=True)
    system = system.reshape(-1)
    count = int(system.max()) + 1 if system.size else 0
    values, ends = np.full((count, len(arms)), np.nan), np.zeros((count, len(arms)), dtype=int)
    own, chosen = arm < 0, arm >= 0
    values[system[chosen], arm[chosen]] = costs[chosen]
    ends[system[chosen], arm[chosen]] = status[chosen]
    default = np.full(count, np.nan)
    default[system[own]] = costs[own]
    for place, settings in enumerate(arms):
        if settings.get("method") == "given":
            values[:, place] = default
    missing = np.argwhere(np.isnan(values))
    if len(missing):
        where, which = map(int, missing[0])
        raise Invalid(f"{artifact.path}: system {where} has no cost, or NaN, for arm {which}")
    features = {}
    for name in artifact.schema.fields:
        if name.startswith(LOG + "feature_"):
            known = np.full(count, np.nan)
            known[system] = artifact.read(name)
            features[name.removeprefix(LOG + "feature_")] = known
    return Table(values, ends, features, tuple(arms), default if own.any() else None)


OK = STATUSES.index("ok")
