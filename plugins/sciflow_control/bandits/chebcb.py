"""ChebCB: polynomials of a feature for every arm, and inverse-gap weighting between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from sciflow.controller import Features
from sciflow.errors import Invalid
from sciflow_control.bandits.contextual import check_range, position
from sciflow_control.bandits.tuner import SCALE, Bandit, Decision, State, Sums, check_features
from sciflow_control.space import Relaxation

SQUARE = 2**10
"""One over the unit of sums of squares of costs."""
RIDGE = 0.03
"""Times j^2, added to the diagonal of the normal equations: in outcomes."""
TINY = 1e-30
"""Keeps a quotient finite."""
MOST_PREDICTED = 1e9
"""Predictions, in units, that can be: no fit leaves its bounds."""
LARGEST = 1e5
"""Costs beyond, in units of `ChebCB.unit`, count as this."""
WORD = 32
"""Bits of a sum that are kept by themselves: an int64 alone would be full after some 10^5 of the largest
squares, in two parts it takes 2^31 outcomes."""
_LOW = 2**WORD - 1


@dataclass(frozen=True)
class ChebCB(Bandit):
    """Least squares on Chebyshev polynomials of one feature for every arm; draws near-best arms more often.

    Attributes
    ----------
    space : Space
        What it chooses from.
    feature : str
        What the costs depend on.
    low, high : float
        Range of the feature; values outside are refused.
    degree : int
        Of the polynomials.
    unit : float
        A typical cost is 1 to 1000 of these, as costs are kept in fixed point: 1 for iterations, 0.001 for
        solves of some milliseconds in seconds.

    Raises
    ------
    Invalid
        If `degree` or `unit` has a value that it cannot have.

    Notes
    -----
    With u in [-1, 1] the scaled feature, arm i is predicted to cost ``y_i(u) = sum_j theta_ij T_j(u)``,
    j < m = degree + 1, with theta_i from least squares over the outcomes of that arm under the bounds
    ``|theta_i0| <= K`` and ``|theta_ij| <= 2 S / j``; K is the largest cost seen, S the largest minus the
    smallest (the cost is taken to be Lipschitz with S over the range). With d arms and t outcomes, arm i is
    drawn with

        p_i = 1 / (d + eta (y_i - y_*) / (K N)),    the rest of the probability going to the cheapest, *,

    where ``N = 2 + 4 (S/K) (1 + ln m)``, ``eta = 2 t sqrt(d t / (R / (K N)^2 + 2 a^2 t))``, ``a = (pi +
    (2/pi) ln(2 m + 1)) S / (2 K N (m + 1))`` and R is the sum of squares of the errors of the predictions
    made minus that of the fits.

    Where it differs from the paper's program: the sums of the normal equations are kept and not the
    outcomes, so that a decision costs the same at all times (O(d m) and one solve of m equations, O(m^3),
    per outcome); a ridge of 0.03 j^2 outcomes on theta_ij chooses among the fits of few outcomes and bounds
    are kept by fixing those unknowns that leave them, which need not give the minimiser
    (`chebyshev.boxed`); costs are not diminished by 1, as their unit need not be iterations. An outcome
    that was censored counts twice its cost, one that failed as much as the largest cost.

    References
    ----------
    M. Khodak et al., Learning to Relax, ICLR 2024, arXiv:2310.02246, Algorithm 2. D. Foster, A. Rakhlin,
    Beyond UCB, ICML 2020 (SquareCB).
    """

    name: ClassVar[str] = "chebcb"
    feature: str
    low: float
    high: float
    degree: int = 5
    unit: float = 1.0

    def __post_init__(self) -> None:
        check_range(self.name, self.feature, self.low, self.high)
        if not 0 <= self.degree <= 20 or not 0 < self.unit < math.inf:
            raise Invalid(
                f"{self.name}: degree={self.degree} must be in 0 to 20 and unit={self.unit} positive"
            )

    @classmethod
    def example(cls) -> Self:
        """Four arms and a feature between 0 and 1."""
        return cls(Relaxation(count=4), "step", 0.0, 20.0)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """See `Controller.ranges`."""
        return {self.feature: (self.low, self.high)}

    def empty(self) -> Sums:
        """Sums of every arm, of all of them, and what follows from them.

        ``table``, shape (arm, 2, 4 m): sums of the polynomials T_0 to T_{2m-2}, of costs times the first m,
        of those of the first m where a solve failed, and of squares of costs, each as the sum of the lowest
        `WORD` bits of what was added and that of the bits above. ``missed`` is the sum of squared
        errors of predictions, ``most`` and ``least`` are the extreme costs. ``fits``, shape (arm, m + 1),
        the coefficients and the squares that they leave, follow from these; they are kept because every
        decision needs them.
        """
        import numpy as np

        d, m = len(self.arms), self.degree + 1
        table, fits = np.zeros((d, 2, 4 * m), dtype=np.int64), np.zeros((d, m + 1))
        return {"table": table, "missed": 0, "most": 0.0, "least": 2 * LARGEST, "fits": fits}

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`."""
        return self._fitted(
            first["table"] + second["table"],
            first["missed"] + second["missed"],
            max(first["most"], second["most"]),
            min(first["least"], second["least"]),
        )

    def probabilities(self, sums: Sums, features: Features) -> Any:
        """Of every arm; shape (arm,)."""
        return self._weights(sums, self._predicted(sums, features))

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        made = self.decide(sums, features, seed, index)
        return made.arm, made.probability

    def decide(self, sums: Sums, features: Features, seed: int, index: int) -> Decision:
        """See `Additive.decide`; the prediction is noted."""
        from sciflow_control.bandits.draws import uniform

        expected = self._predicted(sums, features)
        p = self._weights(sums, expected)
        arm = min(int(p.cumsum().searchsorted(uniform(seed, index), side="right")), p.size - 1)
        return Decision(arm, float(p[arm]), {**features, "predicted": float(expected[arm])})

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        from sciflow_control.bandits.chebyshev import polynomials

        check_features(self, decision.features)
        arm, m = decision.arm, self.degree + 1
        t = polynomials(position(decision.features[self.feature], self.low, self.high), 2 * m - 1)
        y = min(cost / self.unit, LARGEST) * (2 if status == "censored" else 1)
        missed, first, none = sums["missed"], t[:m], [0] * m
        if status in ("ok", "censored"):
            seen = [*t, *(y * v for v in first), *none]
            squares = y * y
            # Where a table of several logs has no value there is NaN.
            expected = decision.features.get("predicted", math.nan)
            if not abs(expected) < MOST_PREDICTED:
                expected = float(sums["fits"][arm, :m] @ first)
            missed += round((expected - y) ** 2 * SQUARE)
        else:
            seen, squares = [*t, *none, *first], 0.0
        table = sums["table"].copy()
        whole = [*(round(v * SCALE) for v in seen), round(squares * SQUARE)]
        table[arm] += [[v & _LOW for v in whole], [v >> WORD for v in whole]]
        most, least = max(sums["most"], y), min(sums["least"], y)
        if most != sums["most"] or least != sums["least"]:
            return self._fitted(table, missed, most, least)
        fits = sums["fits"].copy()
        fits[arm] = self._fit(table[arm], most, least)
        return {"table": table, "missed": missed, "most": most, "least": least, "fits": fits}

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`."""
        check_features(self, features)
        return int(self._predicted(state["sums"], features).argmin())

    def _predicted(self, sums: Sums, features: Features) -> Any:
        """Costs of all arms, in units; shape (arm,)."""
        from sciflow_control.bandits.chebyshev import polynomials

        u = position(features[self.feature], self.low, self.high)
        return sums["fits"][:, :-1] @ polynomials(u, self.degree + 1)

    def _weights(self, sums: Sums, expected: Any) -> Any:
        """Probabilities from predictions, shape (arm,)."""
        import numpy as np

        d, m = expected.size, self.degree + 1
        low, high = sums["table"][:, :, 0].sum(axis=0).tolist()
        t = (low + (high << WORD)) / SCALE
        most, span = sums["most"], sums["most"] - sums["least"]
        scale = 2 * most + 4 * span * (1 + math.log(m))
        if t < 0.5 or scale < 1 / SCALE:
            return np.full(d, 1 / d)
        a = (math.pi + 2 / math.pi * math.log(2 * m + 1)) * span / (2 * scale * (m + 1))
        regret = max(sums["missed"] / SQUARE - float(sums["fits"][:, m].sum()), 0.0) / scale**2
        eta = 2 * t * math.sqrt(d * t / max(regret + 2 * a * a * t, TINY))
        best = expected.argmin()
        p = 1 / (d + (eta / scale) * (expected - expected[best]))
        p[best] = 0.0
        p[best] = 1 - p.sum()
        return p

    def _fit(self, parts: Any, most: float, least: float) -> Any:
        """Coefficients of an arm, and the squares that they leave, from its part of the table."""
        import numpy as np

        from sciflow_control.bandits.chebyshev import boxed, gram

        m, row = self.degree + 1, parts[0] + parts[1] * 2.0**WORD
        if not row[0]:
            return np.zeros(m + 1)
        sums = row / SCALE
        matrix, failed = gram(sums[: 2 * m - 1], m), sums[3 * m - 1 : -1]
        vector = sums[2 * m - 1 : 3 * m - 1] + most * failed
        bounds, ridge = self._shape
        theta = boxed(matrix + ridge, vector, bounds * (2 * (most - least)) + [most, *[0.0] * (m - 1)])
        squares = row[-1] / SQUARE + most * most * failed[0]
        return np.append(theta, max(squares + theta @ (matrix @ theta - 2 * vector), 0.0))

    @cached_property
    def _shape(self) -> tuple[Any, Any]:
        """1/j for the bounds, 0 first; and the ridge, shape (m, m)."""
        import numpy as np

        j = np.arange(self.degree + 1)
        return np.where(j, 1 / np.maximum(j, 1), 0.0), np.diag(RIDGE * np.maximum(j, 1) ** 2)

    def _fitted(self, table: Any, missed: int, most: float, least: float) -> Sums:
        """Sums with all fits made anew."""
        import numpy as np

        fits = np.array([self._fit(parts, most, least) for parts in table])
        return {"table": table, "missed": missed, "most": most, "least": least, "fits": fits}
