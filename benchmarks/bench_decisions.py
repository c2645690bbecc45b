"""What a decision of a plain bandit costs, and how soon bandits stop wasting solves on bad arms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.figure import Figure, medians

if TYPE_CHECKING:
    import numpy as np

    from sciflow_control.bandits.tuner import Additive
    from sciflow_control.space import Space

ARMS = (8, 20, 64)
DECISIONS = 400
"""In one measurement."""
SOLVES, SEEDS = 1000, 5


def bench_overhead() -> Iterator[Figure]:
    """Propose and observe, after 2000 outcomes of noisy costs with their minimum inside; one in 50 fails."""
    from sciflow_control.bandits.binned import Binned
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.bandits.tsallis import Tsallis
    from sciflow_control.space import Relaxation

    tuners: dict[str, tuple[Additive, float]] = {}
    for arms in ARMS:
        space = Relaxation(count=arms)
        tuners[f"thompson_{arms}"] = Thompson(space), 10
        tuners[f"tsallis_{arms}"] = Tsallis(space), 50
        tuners[f"tsallis_iw_{arms}"] = Tsallis(space, "iw"), 50
        tuners[f"binned_thompson_{arms}"] = Binned(Thompson(space), "c", 0, 1, 5), 50
    games = {name: _Game(tuner) for name, (tuner, _) in tuners.items()}
    seconds = medians({name: partial(game.play, DECISIONS) for name, game in games.items()}, repeats=15)
    for name, (_, target) in tuners.items():
        note = f"arms and outcomes in turn; {name.rpartition('_')[2]} arms"
        yield Figure(name, 1e6 * seconds[name] / DECISIONS, target, " us", "<=", note)


class _Game:
    """A tuner that goes on playing."""

    def __init__(self, tuner: Additive) -> None:
        import numpy as np

        self.tuner, self.random = tuner, np.random.default_rng(0)
        self.state = tuner.init(self.random)
        count = len(tuner.arms)
        self.cost = [1 + 4 * (i / count - 0.7) ** 2 for i in range(count)]
        self.noise = np.exp(0.3 * self.random.standard_normal(DECISIONS)).tolist()
        for _ in range(2000 // DECISIONS):
            self.play(DECISIONS)

    def play(self, count: int) -> None:
        tuner, state = self.tuner, self.state
        for i in range(count):
            proposal, state = tuner.propose(state, {"c": (0.37 * i) % 1})
            arm = state["open"][str(proposal.token)]["arm"]
            status = "failed" if i % 50 == 49 else "ok"
            state = tuner.observe(state, proposal.token, self.cost[arm] * self.noise[i], status)
        self.state = state


def bench_learning() -> Iterator[Figure]:
    """23 arms whose median costs differ eightfold, with log-normal noise and outliers; made up."""
    import numpy as np

    from sciflow_control.bandits.fixed import Random
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.bandits.tsallis import Tsallis

    space, medians_ = _arms()
    policies = {
        "thompson": Thompson(space),
        "tsallis": Tsallis(space),
        "tsallis_log": Tsallis(space, log=True),
    }
    for tail, index in (("", 1.5), ("_no_mean", 0.8)):
        cost = _costs(medians_, index)
        chosen = {k: _chosen(t, cost, medians_) for k, t in {**policies, "random": Random(space)}.items()}
        best = min(medians_)
        for name in policies:
            late, early = (float(np.mean(chosen[name][:, s])) / best for s in (slice(200, None), slice(100)))
            drawn = float(np.mean(chosen["random"])) / best
            note = f"first 100 {early:.2f}x, random {drawn:.2f}x; Pareto outliers of index {index:g}"
            yield Figure(f"{name}{tail}_to_best_fixed_after_200", late, 1.15, "x", "<=", note)


def _arms() -> tuple[Space, list[float]]:
    """Five solvers without a parameter and two with nine values of one, and their median costs."""
    from sciflow_control.space import Solvers

    omegas = tuple(1 + 0.11 * i for i in range(9))
    alone = ("gmres+ilu", "cg+icc", "cg+hypre", "cg+gamg", "cholesky")
    valleys = [[least * math.exp(2.2 * (w - 1.75) ** 2) for w in omegas] for least in (0.9, 0.73)]
    space = Solvers((*alone, "cg+ssor", "cg+eisenstat"), omegas)
    return space, [5.8, 3.8, 2.4, 4.5, 1.6, *valleys[0], *valleys[1]]


def _costs(medians_: list[float], index: float) -> np.ndarray:
    import numpy as np

    random = np.random.default_rng(5)
    cost = np.array(medians_) * np.exp(0.15 * random.standard_normal((SOLVES, len(medians_))))
    outlier = random.random(cost.shape) < 0.05
    found: np.ndarray = cost * np.where(outlier, 1 + random.pareto(index, cost.shape), 1)
    return found


def _chosen(tuner: Any, cost: np.ndarray, medians_: list[float]) -> np.ndarray:
    """Median costs of the arms that were chosen, shape (seed, solve)."""
    import numpy as np

    found = np.empty((SEEDS, len(cost)))
    for seed in range(SEEDS):
        state = tuner.init(np.random.default_rng(seed))
        for i, row in enumerate(cost.tolist()):
            proposal, state = tuner.propose(state, {})
            arm = tuner.decision(state, proposal.token).arm
            found[seed, i] = medians_[arm]
            state = tuner.observe(state, proposal.token, row[arm], "ok")
    return found
