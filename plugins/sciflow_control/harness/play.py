"""A tuner over a table of costs, and how it did beside those who know more or learn nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.bandits.tuner import STATUSES
from sciflow_control.harness.table import OK, Table

if TYPE_CHECKING:
    from sciflow_control.bandits.tuner import Tuner

FIRST = 100
"""Systems at the start that have a figure of their own."""
FIGURES = (
    "mean", "first_100", "last_third", "p50", "p90", "max", "to_oracle", "first_100_to_oracle",
    "last_third_to_oracle", "to_best_fixed", "microseconds", "failures",
)  # fmt: skip
"""What is said of a policy; the ratios are those of the means."""
POINTS = 200
"""Of a curve."""


@dataclass(frozen=True)
class Played:
    """One pass of a tuner over a table.

    Attributes
    ----------
    choice : ndarray of int, shape (system,)
        Arms of the tuner, in the order of play.
    seconds : float
        Spent in decisions and in learning from their outcomes, in all.
    """

    choice: np.ndarray
    seconds: float


def play(
    tuner: Tuner,
    table: Table,
    order: np.ndarray,
    rng: np.random.Generator,
    told: Callable[[int], None] = lambda _: None,
) -> Played:
    """Let a tuner choose for one system after the other, and learn what its choice cost.

    Parameters
    ----------
    tuner : Tuner
        Starts with nothing.
    table : Table
        With all arms of the tuner.
    order : ndarray of int, shape (play,)
        Systems in the order of play.
    rng : Generator
        For the start of the tuner.
    told : callable
        Called with the number of decisions made, about twice a second.

    Raises
    ------
    Invalid
        If the table lacks an arm, or a system has features that the tuner refuses.
    """
    places, state = table.places(tuner.arms), tuner.init(rng)
    names, values = list(table.features), np.array([*table.features.values()]).T.tolist()
    cost, status = table.cost[:, places].tolist(), table.status[:, places].tolist()
    choice, spent, noted = np.empty(len(order), dtype=np.int32), 0.0, time.perf_counter()
    for turn, system in enumerate(order.tolist()):
        features = dict(zip(names, values[system], strict=True)) if names else {}
        begin = time.perf_counter()
        try:
            proposal, state = tuner.propose(state, features)
        except Invalid as error:
            raise Invalid(f"system {system}: {error}") from None
        decided = time.perf_counter()
        arm = tuner.decision(state, proposal.token).arm
        choice[turn] = arm
        again = time.perf_counter()
        state = tuner.observe(state, proposal.token, cost[system][arm], STATUSES[status[system][arm]])
        now = time.perf_counter()
        spent += now - again + decided - begin
        if now - noted > 0.5:
            noted = now
            told(turn + 1)
    return Played(choice, spent)


@dataclass(frozen=True)
class Prices:
    """What the arms of a tuner come to, failures and all.

    Attributes
    ----------
    paid : ndarray, shape (system, arm)
        The cost; a failed solve also pays for the default solver, which then has to do it. Where the default
        solver itself fails there is no other.
    failed : ndarray of bool, shape (system, arm)
        Which they are.
    default : ndarray, shape (system,)
        The cost of the default solver.
    own : bool
        Whether that is an arm of the tuner.
    """

    paid: np.ndarray
    failed: np.ndarray
    default: np.ndarray
    own: bool

    @classmethod
    def of(cls, table: Table, tuner: Tuner, default: int) -> Prices:
        """Those of a table; the default solver is the table's, or else this arm of the tuner.

        Raises
        ------
        Invalid
            If there is no such arm.
        """
        places = table.places(tuner.arms)
        if not 0 <= default < len(places):
            raise Invalid(f"default={default} is none of the {len(places)} arms of {tuner.name}")
        cost, failed = table.cost[:, places], table.status[:, places] != OK
        other = table.default
        safe = cost[:, default] if other is None else other
        paid = cost + failed * safe[:, None]
        if other is None:
            paid[:, default] = safe
        return cls(paid, failed, safe, other is None)

    @property
    def oracle(self) -> np.ndarray:
        """The best arm of every system, the one in the middle of equals; shape (system,)."""
        best = self.paid == self.paid.min(axis=1, keepdims=True)
        middle = (best.sum(axis=1, keepdims=True) + 1) // 2
        found: np.ndarray = (best & (best.cumsum(axis=1) == middle)).argmax(axis=1)
        return found

    @property
    def best_fixed(self) -> int:
        """The arm with the smallest mean over all systems."""
        return int(self.paid.mean(axis=0).argmin())

    def of_choices(self, order: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """What choices came to, in the order of play; any shape, the same for both and the result."""
        found: np.ndarray = self.paid[order, choice]
        return found


def policies(
    prices: Prices, order: np.ndarray, choice: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What the tuner paid, and what others would have, each in the order of play.

    Parameters
    ----------
    prices : Prices
        Of the arms of the tuner.
    order, choice : ndarray of int, shape (seed, play)
        Systems and arms.
    rng : Generator
        For the random choices.

    Returns
    -------
    dict of str to ndarray, shape (seed, play)
        ``tuner``, ``oracle``, ``best_fixed``, ``default`` and ``random``.
    """
    anything = rng.integers(prices.paid.shape[1], size=order.shape)
    return {
        "tuner": prices.of_choices(order, choice),
        "oracle": prices.paid.min(axis=1)[order],
        "best_fixed": prices.paid[:, prices.best_fixed][order],
        "default": prices.default[order],
        "random": prices.of_choices(order, anything),
    }


def figures(paid: np.ndarray, oracle: np.ndarray, fixed: np.ndarray) -> dict[str, float]:
    """The `FIGURES` that follow from what was paid.

    Parameters
    ----------
    paid, oracle, fixed : ndarray, shape (seed, play)
        By the policy, with the best arm of every system, with the best single arm.
    """
    last = paid.shape[1] - max(paid.shape[1] // 3, 1)
    middle, most = np.quantile(paid, [0.5, 0.9])
    return {
        "mean": float(paid.mean()),
        "first_100": float(paid[:, :FIRST].mean()),
        "last_third": float(paid[:, last:].mean()),
        "p50": float(middle),
        "p90": float(most),
        "max": float(paid.max()),
        "to_oracle": _ratio(paid, oracle),
        "first_100_to_oracle": _ratio(paid[:, :FIRST], oracle[:, :FIRST]),
        "last_third_to_oracle": _ratio(paid[:, last:], oracle[:, last:]),
        "to_best_fixed": _ratio(paid, fixed),
        "microseconds": float("nan"),
        "failures": 0.0,
    }


def _ratio(paid: np.ndarray, reference: np.ndarray) -> float:
    below = float(reference.mean())
    return float(paid.mean()) / below if below else float("nan")


def pulls(count: int) -> np.ndarray:
    """Where a curve over so many systems is kept: at most `POINTS` numbers of systems, with the last."""
    found: np.ndarray = np.unique(np.geomspace(1, count, POINTS).round().astype(np.int32))
    return found


def curves(paid: Mapping[str, np.ndarray], at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running mean and cumulated regret of every policy, means over the seeds.

    Parameters
    ----------
    paid : mapping of str to ndarray, shape (seed, play)
        With ``oracle`` among them.
    at : ndarray of int, shape (point,)
        Numbers of systems, see `pulls`.

    Returns
    -------
    ndarray, ndarray, shape (policy, point)
        In the order of `paid`.
    """
    sums = np.array([np.cumsum(values.mean(axis=0)) for values in paid.values()])
    sums = sums[:, at - 1]
    return sums / at, sums - sums[list(paid).index("oracle")]
