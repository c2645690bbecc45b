"""A bandit that mostly takes what was cheapest so far, as a controller for sciflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow import Component, Controller, Invalid, NotFound, Proposal, hookimpl

if TYPE_CHECKING:
    import numpy as np

sciflow_api = "1.0"


@dataclass(frozen=True)
class TemplateName(Controller):
    """Each choice once, then mostly the one with the smallest mean cost (epsilon-greedy).

    Attributes
    ----------
    setting : str
        What is set, for example the relaxation weight of a solver.
    choices : tuple of float
        The values it may have, in the setting's unit.
    explore : float
        How often any of them is taken instead, from 0 to 1.
    penalty : float
        A failure counts as so many times its cost.

    Raises
    ------
    Invalid
        If there is nothing to choose from, or a number is out of its bounds.

    References
    ----------
    R. S. Sutton and A. G. Barto, "Reinforcement Learning", 2nd ed., 2018, section 2.4.
    """

    name: ClassVar[str] = "template_name"
    setting: str = "omega"
    choices: tuple[float, ...] = (1.0, 1.3, 1.6, 1.9)
    explore: float = 0.1
    penalty: float = 10.0

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise Invalid(f"at least two choices are needed, got {self.choices}")
        if not 0 <= self.explore <= 1 or self.penalty < 1:
            raise Invalid(
                f"explore is from 0 to 1 and penalty at least 1, got {self.explore} and {self.penalty}"
            )

    def init(self, rng: np.random.Generator) -> Any:
        """See `Controller.init`; plain JSON, with the seed of all that will be drawn."""
        none = [0.0] * len(self.choices)
        return {"seed": int(rng.integers(2**31)), "asked": 0, "open": {}, "count": none, "mean": none}

    def propose(self, state: Any, features: Mapping[str, float]) -> tuple[Proposal, Any]:
        """See `Controller.propose`; features are not looked at."""
        token = state["asked"]
        chosen = self._chosen(state, token)
        after = {**state, "asked": token + 1, "open": {**state["open"], str(token): chosen}}
        return Proposal({self.setting: self.choices[chosen]}, token), after

    def _chosen(self, state: Any, token: int) -> int:
        import numpy as np

        arms = range(len(self.choices))
        asked = set(state["open"].values())
        fresh = [arm for arm in arms if not state["count"][arm] and arm not in asked]
        if fresh:
            return fresh[0]
        rng = np.random.default_rng([state["seed"], token])
        known = [arm for arm in arms if state["count"][arm]]
        if not known or rng.random() < self.explore:
            return int(rng.integers(len(self.choices)))
        return min(known, key=lambda arm: state["mean"][arm])

    def observe(self, state: Any, token: int, cost: float, status: str) -> Any:
        """See `Controller.observe`."""
        if str(token) not in state["open"]:
            raise NotFound(f"{self.name} made no proposal {token} that waits for its outcome")
        arm = state["open"][str(token)]
        paid = cost if status == "ok" else cost * self.penalty
        count, mean = list(state["count"]), list(state["mean"])
        count[arm] += 1
        mean[arm] += (paid - mean[arm]) / count[arm]
        rest = {t: a for t, a in state["open"].items() if t != str(token)}
        return {**state, "open": rest, "count": count, "mean": mean}


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this package."""
    return [TemplateName]
