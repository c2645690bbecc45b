"""RelaxationModel: what theory says of the iterations, with a Jacobi radius that is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.controller import Features
from sciflow.errors import Invalid
from sciflow_control.bandits.contextual import check_range, due, logarithm, position
from sciflow_control.bandits.tuner import Bandit, Decision, State, Sums, check_features
from sciflow_control.space import Relaxation, Space

UNIT = 2**12
"""One over the unit of log costs; of their squares it is UNIT^2."""
DRAWN = 4
"""Every so many decisions one hypothesis is drawn."""


@dataclass(frozen=True)
class RelaxationModel(Bandit):
    """The relaxation parameter with the smallest expected cost, from theory and what the solves took.

    Attributes
    ----------
    space : Space
        Arms with an ``omega`` each, and fine: the theory fills the gaps between what was tried.
    feature : str or None
        What the operator depends on; None: it is always about the same.
    low, high : float
        Range of the feature; values outside are refused.
    enters : {"shift", "scale"}
        How the feature x changes the operator: ``K + x I`` or ``I + x K`` (with x > 0), up to constants
        that need not be known. The solves are hard at the lower end of a shift and at the upper end of a
        scale.
    method : {"sor", "ssor_cg"}
        What the omega goes into.
    tolerance : float
        Of the solves.
    spread : float
        Standard deviation of the logarithm of cost over predicted iterations. 0.3 suits costs in
        iterations; with 10 any unit will do, at the price of a few solves.

    Raises
    ------
    Invalid
        If `tolerance` or `spread` has a value that it cannot have.

    Notes
    -----
    Theory gives the iterations k(omega, beta) for the spectral radius beta of ``I - D^-1 A``, `surrogate`.
    For ``K + x I`` and a constant diagonal of K, 1/beta is linear in x, and for ``I + x K`` in 1/x: with z
    from 0 at the hard end to 1,

        1/beta(z) = 1 + h + r z,      log cost = log k(omega, beta(z)) + a + b u + noise,

    with a and b for what theory leaves out (the unit, the right-hand side, how good the first guess is); u
    is in [-1, 1], log x for a scale. Of h and r there are ``80 x 56`` hypotheses on a logarithmic grid.
    Each keeps the sums of its residuals, of their squares and of their products with u; a, b (normal
    priors) and the variance of the noise (inverse gamma) are integrated out in closed form, which gives the
    posterior. Three decisions of four take the arm with the smallest cost in the mean over the 64 likeliest
    hypotheses (one solve with any omega tells of all others), the fourth that of one hypothesis drawn from
    them. The posterior is worked out anew after every outcome up to 31, then ever more rarely, after every
    sixteenth in the end.

    An outcome that was censored or failed only counts against hypotheses that predict less than its cost.
    Arms near ones that failed count as more expensive by up to a factor of 10.

    A decision costs O(64 arms), an outcome O(80 x 56); a state holds 108 kB.

    References
    ----------
    D. M. Young, Iterative Solution of Large Linear Systems, Academic Press 1971. O. Axelsson, Iterative
    Solution Methods, Cambridge University Press 1994.
    """

    name: ClassVar[str] = "relaxation_model"
    space: Space = Relaxation(count=96)
    feature: str | None = None
    low: float = 0.0
    high: float = 1.0
    enters: Literal["shift", "scale"] = "shift"
    method: Literal["sor", "ssor_cg"] = "sor"
    tolerance: float = 1e-8
    spread: float = 0.3

    def __post_init__(self) -> None:
        check_choices(self)
        if self.feature is not None:
            check_range(self.name, self.feature, self.low, self.high, positive=self.enters == "scale")
        if not 0 < self.tolerance < 1 or not 0 < self.spread < math.inf:
            raise Invalid(
                f"{self.name}: tolerance={self.tolerance} must be in (0, 1) and spread={self.spread} positive"
            )
        for arm in self.arms:
            if not isinstance(arm.get("omega"), float | int):
                raise Invalid(f"{self.name}: it chooses an omega, which the arm {dict(arm)} does not have")

    @classmethod
    def example(cls) -> Self:
        """Four arms and a feature between 0 and 20."""
        return cls(Relaxation(count=4), "step", 0.0, 20.0)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """See `Controller.ranges`."""
        return {} if self.feature is None else {self.feature: (self.low, self.high)}

    def empty(self) -> Sums:
        """Sums over outcomes for every hypothesis, and what the next decisions need of the likeliest.

        ``residuals``, ``slopes`` (residuals times u) and ``squares``, shape (hypothesis,); ``count`` and
        the sums ``u`` and ``uu``; ``pulls``, shape (2, arm), outcomes of every arm and how many of them
        failed. From these: ``hard``, ``rise`` and ``weights``, shape (kept,), and ``factors``, shape
        (arm,).
        """
        import numpy as np

        size = self._theory.hard.size
        return self._believed(
            {
                **{k: np.zeros(size, dtype=np.int64) for k in ("residuals", "slopes", "squares")},
                **dict.fromkeys(("count", "u", "uu"), 0),
                "pulls": np.zeros((2, len(self.arms)), dtype=np.int64),
            }
        )

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`."""
        derived = ("hard", "rise", "weights", "factors")
        return self._believed({k: first[k] + second[k] for k in first if k not in derived})

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        from sciflow_control.bandits.draws import uniform

        if index % DRAWN != DRAWN - 1:
            return int(self._expected(sums, features).argmin()), 1.0
        weights = sums["weights"].cumsum()
        place = min(int(weights.searchsorted(uniform(seed, index))), weights.size - 1)
        h = sums["hard"][place] + self._place(features)[0] * sums["rise"][place]
        return int((self._theory.iterations(h) * sums["factors"]).argmin()), 1.0

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        after = self.tally(sums, decision, cost, status)
        return self._believed(after) if due(after["count"]) else after

    def tally(self, sums: Sums, decision: Decision, cost: float, status: str) -> dict[str, Any]:
        """See `Additive.tally`."""
        import numpy as np

        check_features(self, decision.features)
        z, u = self._place(decision.features)
        log = round(logarithm(cost) * UNIT)
        e = self._theory.residuals(decision.arm, log, z)
        if status != "ok":
            e = np.maximum(e, 0)
        s = round(u * UNIT)
        pulls = sums["pulls"].copy()
        pulls[:, decision.arm] += (1, status not in ("ok", "censored"))
        return {
            **sums,
            "residuals": sums["residuals"] + e,
            "slopes": sums["slopes"] + s * e,
            "squares": sums["squares"] + e * e,
            "count": sums["count"] + 1,
            "u": sums["u"] + s,
            "uu": sums["uu"] + s * s,
            "pulls": pulls,
        }

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`."""
        check_features(self, features)
        return int(self._expected(state["sums"], features).argmin())

    def posterior(self, state: State) -> Any:
        """Probability of every hypothesis, in the order of `radii`; shape (hypothesis,)."""
        from sciflow_control.bandits.surrogate import probabilities

        return probabilities(state["sums"], self.spread)

    def radii(self, features: Features) -> Any:
        """The Jacobi radius under every hypothesis for these features; shape (hypothesis,)."""
        check_features(self, features)
        t = self._theory
        return 1 / (1 + t.hard + self._place(features)[0] * t.rise)

    def _expected(self, sums: Sums, features: Features) -> Any:
        """Mean of the predicted iterations over the hypotheses that are kept; shape (arm,)."""
        h = sums["hard"] + self._place(features)[0] * sums["rise"]
        return sums["weights"] @ self._theory.iterations(h) * sums["factors"]

    def _place(self, features: Features) -> tuple[float, float]:
        """Where the radius is between its two ends, and u."""
        if self.feature is None:
            return 0.0, 0.0
        x = features[self.feature]
        if self.enters == "shift":
            return (x - self.low) / (self.high - self.low), position(x, self.low, self.high)
        z = (1 / x - 1 / self.high) / (1 / self.low - 1 / self.high)
        return z, position(math.log(x), math.log(self.low), math.log(self.high))

    @cached_property
    def _theory(self) -> Any:
        from sciflow_control.bandits.surrogate import Theory

        omegas = [float(arm["omega"]) for arm in self.arms]
        if self.feature is None:
            return Theory.of(self.method, omegas, self.tolerance, (0.0, 0.0))
        if self.enters == "shift":
            return Theory.of(self.method, omegas, self.tolerance, (1e-3, 3.0))
        middle = math.sqrt(self.low * self.high)
        return Theory.of(
            self.method, omegas, self.tolerance, (1e-3 * self.high / middle, 30 * self.high / middle)
        )

    def _believed(self, sums: dict[str, Any]) -> Sums:
        """The sums with the likeliest hypotheses picked anew."""
        from sciflow_control.bandits.surrogate import factors, likeliest

        picked, weights = likeliest(sums, self.spread)
        t = self._theory
        return {
            **sums,
            "hard": t.hard[picked],
            "rise": t.rise[picked],
            "weights": weights,
            "factors": factors(sums["pulls"]),
        }
