"""BayesChebyshev: one model of the log cost over a feature and the settings, and draws from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from sciflow.controller import Features
from sciflow.errors import Invalid
from sciflow_control.bandits.contextual import check_range, due, logarithm, position
from sciflow_control.bandits.tuner import SCALE, Bandit, Decision, State, Sums, check_features
from sciflow_control.space import Relaxation


@dataclass(frozen=True)
class BayesChebyshev(Bandit):
    """A polynomial in a feature and the settings for the log cost; plays what is cheapest in a draw of it.

    Attributes
    ----------
    space : Space
        What it chooses from.
    feature : str
        What the costs depend on.
    low, high : float
        Range of the feature; values outside are refused.
    log : bool
        The logarithm of the feature is what matters.
    degree : int
        Of the polynomials in the feature.
    action_degree : int
        Of those in a setting.

    Raises
    ------
    Invalid
        If `degree` or `action_degree` has a value that it cannot have.

    Notes
    -----
    The arms of a family (`Space.families`) differ in one number; with v in [-1, 1] that number (omega as
    ``-log(2 - omega)``) and u in [-1, 1] the feature,

        log cost = sum_ij theta_ij T_i(u) T_j(v) + noise

    with a normal prior on theta whose standard deviation falls by 0.7 with every degree, and an inverse
    gamma prior of the variance of the noise. A family of one arm is a polynomial in u alone. What is
    learned of one omega counts for its neighbours and for near features. Each decision draws theta from the
    posterior (Thompson sampling) and takes the arm with the smallest cost.

    The sums of ``T_p(u) T_q(v)`` of twice the degrees hold the normal equations (``2 T_i T_j = T_{i+j} +
    T_|i-j|``): 11 x 15 numbers per family in place of 48 x 48, and they add. The posterior is worked out
    anew after every outcome up to 31, then ever more rarely, after every sixteenth in the end; decisions
    between take the last one. With K = 48 coefficients per family a decision costs O(families K^2), an
    outcome O(K), a posterior O(families K^3).

    A censored outcome counts as e times its cost, a failed one as e times the larger of its cost and one
    that is a standard deviation above the mean.
    """

    name: ClassVar[str] = "bayes_chebyshev"
    feature: str
    low: float
    high: float
    log: bool = False
    degree: int = 5
    action_degree: int = 7

    def __post_init__(self) -> None:
        check_range(self.name, self.feature, self.low, self.high, positive=self.log)
        if not (0 <= self.degree <= 12 and 0 <= self.action_degree <= 12):
            raise Invalid(
                f"{self.name}: degree={self.degree} and action_degree={self.action_degree} must be in 0 to 12"
            )

    @classmethod
    def example(cls) -> Self:
        """Four arms and a feature between 0 and 20."""
        return cls(Relaxation(count=4), "step", 0.0, 20.0, degree=2)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """See `Controller.ranges`."""
        return {self.feature: (self.low, self.high)}

    def empty(self) -> Sums:
        """Sums of products of polynomials, of these times the log cost, and of those of failures.

        ``moments``, shape (family, 2 m - 1, 2 k - 1), ``costs`` and ``failed``, shape (family, m, k);
        ``count``, ``total`` and ``squares`` of the log costs, ``lost`` and ``bounds`` of those that failed;
        and, as these are needed in every decision, ``mean`` and ``root`` of the posterior.
        """
        import numpy as np

        d, m = self._design, self.degree + 1
        families, k = len(d.precision), (d.action.shape[1] + 1) // 2
        return self._believed(
            {
                "moments": np.zeros((families, 2 * m - 1, 2 * k - 1), dtype=np.int64),
                "costs": np.zeros((families, m, k), dtype=np.int64),
                "failed": np.zeros((families, m, k), dtype=np.int64),
                **dict.fromkeys(("count", "total", "squares", "lost", "bounds"), 0),
            }
        )

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`."""
        return self._believed({k: first[k] + second[k] for k in first if k not in ("mean", "root")})

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        from sciflow_control.bandits.draws import normals

        mean, root = sums["mean"], sums["root"]
        drawn = normals(seed, index, mean.size).reshape(mean.shape)
        one = len(mean) == 1
        theta = mean[0] + root[0] @ drawn[0] if one else mean + (root @ drawn[..., None])[..., 0]
        return int(self._logs(theta, features).argmin()), 1.0

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        after = self.tally(sums, decision, cost, status)
        return self._believed(after) if due(after["count"] + after["lost"]) else after

    def tally(self, sums: Sums, decision: Decision, cost: float, status: str) -> dict[str, Any]:
        """See `Additive.tally`."""
        import numpy as np

        from sciflow_control.bandits.chebyshev import polynomials
        from sciflow_control.bandits.posterior import BEYOND

        check_features(self, decision.features)
        d, arm = self._design, decision.arm
        f, (m, k) = d.family[arm], sums["costs"].shape[1:]
        y = logarithm(cost) + (BEYOND if status == "censored" else 0.0)
        first = np.array(polynomials(self._position(decision.features), 2 * m - 1))
        products = np.rint(np.multiply.outer(first * SCALE, d.action[arm])).astype(np.int64)
        after = {**sums, "moments": sums["moments"].copy()}
        after["moments"][f] += products
        if status in ("ok", "censored"):
            after["costs"] = sums["costs"].copy()
            after["costs"][f] += np.rint(products[:m, :k] * y).astype(np.int64)
            after["count"] += 1
            after["total"] += round(y * SCALE)
            after["squares"] += round(y * y * SCALE)
        else:
            after["failed"] = sums["failed"].copy()
            after["failed"][f] += products[:m, :k]
            after["lost"] += 1
            after["bounds"] += round(y * SCALE)
        return after

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`; without any outcome the first arm."""
        check_features(self, features)
        mean = state["sums"]["mean"]
        return int(self._logs(mean[0] if len(mean) == 1 else mean, features).argmin())

    def _position(self, features: Features) -> float:
        value = features[self.feature]
        if self.log:
            return position(math.log(value), math.log(self.low), math.log(self.high))
        return position(value, self.low, self.high)

    def _logs(self, theta: Any, features: Features) -> Any:
        """Log costs of all arms, about their mean; theta of one family or of several; shape (arm,)."""
        from sciflow_control.bandits.chebyshev import polynomials

        d, first = self._design, polynomials(self._position(features), self.degree + 1)
        if theta.ndim == 1:
            return self._actions @ (first @ theta.reshape(len(first), -1))
        lines = first @ theta.reshape(len(theta), len(first), -1)
        return (self._actions * lines[d.family]).sum(axis=1)

    @cached_property
    def _design(self) -> Any:
        from sciflow_control.bandits.posterior import design

        return design(self.arms, self.space.families, self.degree, self.action_degree)

    @cached_property
    def _actions(self) -> Any:
        """The polynomials with coefficients; shape (arm, k)."""
        import numpy as np

        return np.ascontiguousarray(self._design.action[:, : (self._design.action.shape[1] + 1) // 2])

    def _believed(self, sums: dict[str, Any]) -> Sums:
        """The sums with the posterior made anew."""
        from sciflow_control.bandits.posterior import posterior

        found = posterior(sums, self._design)
        return {**sums, "mean": found.mean, "root": found.root}
