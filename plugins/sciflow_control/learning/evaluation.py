"""A policy on episodes that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sciflow_control.learning.env import StepEnv
    from sciflow_control.learning.policy import Policy


@dataclass(frozen=True)
class Evaluation:
    """What came of some episodes.

    Attributes
    ----------
    value : float
        Mean sum of the rewards.
    error : float
        Nine of ten episodes end with a smaller drift; infinity where more than one of ten failed.
    cost : float
        Mean work, in the unit of the episodes.
    whole : float
        Share of the episodes that came to their end.
    """

    value: float
    error: float
    cost: float
    whole: float

    def better(self, other: Evaluation) -> bool:
        """Whether more episodes came to their end than in another, or as many with larger rewards."""
        return (self.whole, self.value) > (other.whole, other.value)


def evaluate(policy: Policy, env: StepEnv, seeds: Iterable[int]) -> Evaluation:
    """Run the episodes with these seeds; every step stands.

    Parameters
    ----------
    policy : Policy
        Asked before every step.
    env : StepEnv
        Any with the policy's features and actions; it is left at the end of an episode.
    seeds : iterable of int
        Of the episodes.
    """
    values, drifts, costs, whole = [], [], [], []
    for seed in seeds:
        seen, _ = env.reset(options={"episode": seed})
        over = False
        while not over:
            seen, _, terminated, truncated, info = env.step(policy.act(seen))
            over = terminated or truncated
        values.append(info["return"])
        costs.append(info["cost"])
        whole.append(info["whole"])
        # Where nothing is known to be constant, nothing is said about the error but failure.
        drifts.append(0.0 if math.isnan(info["drift"]) else info["drift"])
    error = float(np.quantile(drifts, 0.9, method="higher"))
    return Evaluation(float(np.mean(values)), error, float(np.mean(costs)), float(np.mean(whole)))
