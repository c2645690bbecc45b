"""Tsallis-INF: decisions that are good for random costs and for costs that an adversary chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.controller import Features
from sciflow_control.bandits.tuner import Bandit, Decision, State, Sums
from sciflow_control.space import Relaxation, Space

if TYPE_CHECKING:
    import numpy as np

OK, CENSORED, FAILED, SHIFTED = 0, 2, 4, 6
"""Rows of the exact sums: cost over probability and one over probability of outcomes that were complete,
censored and failed; one over probability of outcomes of arms that had a baseline."""
WORD = 32
"""Arms whose baselines are noted in one number."""


@dataclass(frozen=True)
class Tsallis(Bandit):
    """Draws arms with probabilities that fall with the square of their estimated total cost.

    Attributes
    ----------
    space : Space
        What it chooses from.
    estimator : {"rv", "iw"}
        Importance weighting with (reduced variance) or without a baseline.
    log : bool
        Learn from logarithms of costs: where they have heavy tails or differ by orders of magnitude.

    Notes
    -----
    After n outcomes, with t = n + 1, p_i = 4 / (rate (L_i - x))^2, where x makes their sum one
    (`sciflow_control.bandits.simplex.probabilities`) and rate = 2/sqrt(t) (iw) or 4/sqrt(t) (rv).
    The loss of an outcome is (cost - m) / s, where m is the smallest cost so far and s the mean cost less m,
    both at the time of the decision: no scale is needed beforehand. Its estimate for every arm is

        iw: 1[i was played] loss / p_i
        rv: 1[i was played] (loss - B_i) / p_i + B_i,   B_i = 1[t >= 16 and p_i >= 16/t],

    both unbiased. Which arms had a baseline is noted in the decision as features ``shifted_0`` (arms 0 to
    31, one bit each), ``shifted_1`` and so on; in a log without them, nothing had.

    All sums are exact (`sciflow_control.bandits.exact`), so that late outcomes and merged states give the
    same bits. Outcomes that are lower bounds count as twice (with `log`: one more than) the larger of the
    mean bound and the arm's own mean cost (censored) or the mean cost of the worst arm (failed).

    Regret against the best fixed arm, for losses in [0, 1], T rounds and d arms: at most 4 sqrt(d T) + 1 (iw)
    with any costs, and of order log T with random ones.

    References
    ----------
    J. Zimmert, Y. Seldin, "Tsallis-INF: An optimal algorithm for stochastic and adversarial bandits", JMLR 22
    (2021), algorithm 1, theorem 1. M. Khodak, E. Chow, M.-F. Balcan, A. Talwalkar, "Learning to relax", ICLR
    2024 (for relaxation parameters).
    """

    name: ClassVar[str] = "tsallis"
    space: Space = Relaxation()
    estimator: Literal["rv", "iw"] = "rv"
    log: bool = False

    def __post_init__(self) -> None:
        check_choices(self)

    def empty(self) -> Sums:
        """Exact sums by arm and their values, the exact sum of complete costs, counts, the smallest cost."""
        import numpy as np

        from sciflow_control.bandits.exact import LIMBS

        arms = len(self.arms)
        return {
            "exact": np.zeros((7, arms, LIMBS), dtype=np.int64),
            "weighted": np.zeros((7, arms)),
            "total": np.zeros(LIMBS, dtype=np.int64),
            "outcomes": 0,
            "pulls": np.zeros((3, arms), dtype=np.int64),
            "shifted": np.zeros(arms, dtype=np.int64),
            "least": np.array([np.inf]),
        }

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`; the smaller one of the smallest costs."""
        import numpy as np

        from sciflow_control.bandits import exact

        found = {k: v + second[k] for k, v in first.items()}
        found["weighted"] = exact.values(found["exact"])
        found["least"] = np.minimum(first["least"], second["least"])
        return found

    def estimates(self, sums: Sums) -> np.ndarray:
        """Estimated total loss of every arm, shape (arm,), up to a common shift."""
        import numpy as np

        from sciflow_control.bandits import exact

        pulls, weighted = sums["pulls"], sums["weighted"]
        complete, *bounds = pulls.sum(axis=1).tolist()
        least = float(sums["least"][0]) if complete else 0.0
        loss = weighted[OK] - least * weighted[OK + 1]
        spent = exact.value(sums["total"]) - complete * least
        if any(bounds):
            cut, lost = self._bounds(weighted, least)
            loss = loss + weighted[CENSORED + 1] * cut + weighted[FAILED + 1] * lost
            spent += float((pulls[1] * cut + pulls[2] * lost).sum())
        scale = spent / max(sums["outcomes"], 1)
        if scale <= 1e-12 * (scale + least):
            return np.zeros(len(loss))
        found: np.ndarray = loss / scale + (sums["shifted"] - weighted[SHIFTED])
        return found

    def probabilities(self, sums: Sums) -> np.ndarray:
        """That every arm would be drawn with now, shape (arm,)."""
        from sciflow_control.bandits import simplex

        rate = (4 if self.estimator == "rv" else 2) / math.sqrt(sums["outcomes"] + 1)
        return simplex.probabilities(self.estimates(sums), rate)

    def decide(self, sums: Sums, features: Features, seed: int, index: int) -> Decision:
        """See `Additive.decide`."""
        from sciflow_control.bandits.draws import uniform

        p = self.probabilities(sums)
        below = p.cumsum()
        arm = int(below.searchsorted(uniform(seed, index) * below[-1], side="right"))
        arm = min(arm, len(p) - 1)
        known = dict(features)
        t = sums["outcomes"] + 1
        if self.estimator == "rv" and t >= 16:
            known |= _packed(p >= 16 / t)
        return Decision(arm, float(p[arm]), known)

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        made = self.decide(sums, features, seed, index)
        return made.arm, made.probability

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        import numpy as np

        from sciflow_control.bandits import exact

        arm = decision.arm
        loss = min(max(cost, exact.SMALLEST), exact.LARGEST)
        if self.log:
            loss = math.log(loss / exact.SMALLEST)
        weight = 1 / max(decision.probability, 2.0**-64)
        after = {**sums, "outcomes": sums["outcomes"] + 1}
        after |= {k: sums[k].copy() for k in ("exact", "weighted", "pulls")}
        row = {"ok": OK, "censored": CENSORED}.get(status, FAILED)
        pieces = [(row, loss * weight), (row + 1, weight)]
        after["pulls"][row // 2, arm] += 1
        if row == OK:
            after["total"] = sums["total"].copy()
            exact.add(after["total"], loss)
            if loss < sums["least"][0]:
                after["least"] = np.array([loss])
        shifted = _unpacked(decision.features, len(self.arms))
        if shifted is not None:
            after["shifted"] = sums["shifted"] + shifted
            if shifted[arm]:
                pieces.append((SHIFTED, weight))
        for at, piece in pieces:
            line = after["exact"][at, arm]
            exact.add(line, piece)
            after["weighted"][at, arm] = exact.value(line)
        return after

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`; the arm with the smallest estimate."""
        return int(self.estimates(state["sums"]).argmin())

    def _bounds(self, weighted: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Losses that a censored and a failed outcome of every arm count as, each of shape (arm,)."""
        import numpy as np

        # A weight is at least one, or there was no outcome.
        own, cut, lost = (weighted[r] / np.maximum(weighted[r + 1], 1) for r in (OK, CENSORED, FAILED))
        cut, lost = np.maximum(cut, own), np.maximum(lost, own.max())
        if self.log:
            return cut + 1 - least, lost + 1 - least
        return 2 * cut - least, 2 * lost - least


def _packed(mask: np.ndarray) -> dict[str, float]:
    """Bits as numbers of `WORD` bits each."""
    bits = mask.tolist()
    return {
        f"shifted_{k // WORD}": float(int("".join("01"[b] for b in reversed(bits[k : k + WORD])), 2))
        for k in range(0, len(bits), WORD)
    }


def _unpacked(features: Features, count: int) -> np.ndarray | None:
    """The bits that `_packed` noted, int64 of shape (count,); None if there are none."""
    import numpy as np

    if "shifted_0" not in features:
        return None
    words = [int(features.get(f"shifted_{k // WORD}", 0)) for k in range(0, count, WORD)]
    places = np.arange(WORD)
    bits: np.ndarray = (np.array(words)[:, None] >> places & 1).ravel()[:count]
    return bits
