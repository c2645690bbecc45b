"""Decisions of the members of an ensemble, as it stores them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import SciflowError

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

FEWEST = 10
"""Decisions for an arm, that its mean counts when the best one is looked for."""
OWN = "the problem's own solver"


@dataclass(frozen=True)
class Decisions:
    """What the members of an ensemble noted of their decisions, in the order of the members.

    Attributes
    ----------
    arm, status : ndarray of int, shape (decision,)
        -1 is the problem's own solver where nobody had chosen; index into the statuses, 0 is ok.
    cost : ndarray, shape (decision,)
        In the unit of the tuner.
    fell : ndarray of bool, shape (decision,)
        Whether the problem's own solver had to finish it.
    features : mapping of str to ndarray, shape (decision,)
        What was known.
    arms : tuple of mapping
        Their settings; empty where they are not known.
    member, solve : ndarray of int, shape (decision,)
        The system, where every arm solved it; `solve` is empty elsewhere.
    """

    arm: np.ndarray
    status: np.ndarray
    cost: np.ndarray
    fell: np.ndarray
    features: Mapping[str, np.ndarray]
    arms: tuple[Mapping[str, Any], ...]
    member: np.ndarray
    solve: np.ndarray

    @classmethod
    def of(cls, artifact: Artifact) -> Decisions | None:
        """Those of an ensemble; None where it has none, or where they are not those of a field ``solver``."""
        there = artifact.schema.fields
        solver = artifact.attributes.get("problem", {}).get("solver")
        if not {"decision_arm", "decision_cost"} <= there.keys() or not solver:
            return None

        def read(name: str, kind: type) -> np.ndarray:
            found = f"decision_{name}"
            return artifact.read(found).astype(kind) if found in there else np.zeros(count, kind)

        count = len(artifact.read("decision_arm"))
        features = {
            n.removeprefix("decision_feature_"): artifact.read(n)
            for n in there
            if n.startswith("decision_feature_")
        }
        solve = read("solve", int) if "decision_solve" in there else np.zeros(0, int)
        arms = arms_of(solver)
        return cls(
            read("arm", int), read("status", int), read("cost", float), read("fell_back", bool), features,
            arms, read("member", int), solve,
        )  # fmt: skip

    @cached_property
    def chosen(self) -> np.ndarray:
        """Places of the decisions that a tuner made, shape (n,)."""
        return np.flatnonzero(self.arm >= 0)

    def named(self, arm: int) -> str:
        """An arm in words."""
        if arm < 0 or (arm < len(self.arms) and self.arms[arm].get("method") == "given"):
            return OWN
        if arm >= len(self.arms):
            return f"arm {arm}"
        settings = dict(self.arms[arm])
        method = str(settings.pop("method", ""))
        return " ".join(
            [method, *(f"{k} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in settings.items())]
        ).strip()

    def means(self) -> dict[int, tuple[int, float]]:
        """How often each arm was taken, and what it cost on average."""
        return {
            int(a): (int((self.arm == a).sum()), float(self.cost[self.arm == a].mean()))
            for a in np.unique(self.arm)
        }

    def best_fixed(self) -> int | None:
        """The arm with the smallest mean among those that were taken often enough."""
        often = {a: m for a, (n, m) in self.means().items() if n >= FEWEST and a >= 0}
        return min(often, key=lambda a: often[a]) if often else None

    def oracle(self) -> tuple[float, np.ndarray] | None:
        """Mean cost of the best arm of every system, and how often each was it; where every arm was tried."""
        if not len(self.solve):
            return None
        _, system = np.unique(np.stack([self.member, self.solve]), axis=1, return_inverse=True)
        order = np.lexsort((self.cost, self.status > 0, system.reshape(-1)))
        first = order[np.unique(system.reshape(-1)[order], return_index=True)[1]]
        return float(self.cost[first].mean()), self.arm[first]

    def top(self, count: int) -> Sequence[int]:
        """The arms that were taken most, the most frequent first."""
        arms, counts = np.unique(self.arm[self.chosen], return_counts=True)
        return [int(a) for a in arms[np.argsort(-counts, kind="stable")][:count]]


def arms_of(solver: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The arms of a solver as JSON; none where it is of a package that is not here, or has no space."""
    from sciflow.registry import registry

    for name, kind in (("controller", "controller"), ("space", "space")):
        if isinstance(solver.get(name), Mapping):
            with contextlib.suppress(SciflowError):
                return tuple(getattr(registry().build(solver[name], kind=kind), "arms", ()))
    return ()
