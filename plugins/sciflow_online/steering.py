"""Which point of the parameter space the next ensemble member computes, decided while training runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.controller import Controller, Features, Proposal
from sciflow.errors import Invalid, NotFound

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 64


@dataclass(frozen=True)
class SobolSteering(Controller):
    """Points of one scrambled Sobol sequence, whatever the losses: the baseline.

    The points proposed do not depend on how many there will be. Their number is kept in the state.

    Attributes
    ----------
    skip : int
        Points of the sequence to leave out at the start.

    Raises
    ------
    Invalid
        If `skip` has a value that it cannot have.

    References
    ----------
    A. B. Owen, "Scrambling Sobol' and Niederreiter-Xing points", J. Complexity 14 (1998).
    """

    name: ClassVar[str] = "sobol_steering"
    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    skip: int = 0

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise Invalid(f"skip cannot be negative, got {self.skip}")

    def init(self, rng: np.random.Generator) -> dict[str, Any]:
        """See `Controller.init`."""
        return {"seed": int(rng.integers(2**63)), "count": 0, "open": []}

    def propose(self, state: dict[str, Any], features: Features) -> tuple[Proposal, dict[str, Any]]:
        """The next point of the sequence.

        Parameters
        ----------
        state : dict
            From `init`, `propose` or `observe`.
        features : mapping of str to float
            ``dimension``: number of parameters, 1 if left out.

        Returns
        -------
        Proposal
            ``u0``, ``u1``, ... in [0, 1].
        dict
            The new state.

        Raises
        ------
        Invalid
            If the dimension is no positive whole number.
        """
        token = state["count"]
        point = sobol_point(state["seed"], _dimension(features), self.skip + token)
        return _proposal(point, token), {**state, "count": token + 1, "open": [*state["open"], token]}

    def observe(self, state: dict[str, Any], token: int, cost: float, status: str) -> dict[str, Any]:
        """See `Controller.observe`; the outcome changes nothing."""
        if token not in state["open"]:
            raise _unknown(token)
        return {**state, "open": [t for t in state["open"] if t != token]}


@dataclass(frozen=True)
class Breed(Controller):
    r"""New points near members with a high loss, and a share of even ones (Breed).

    Attributes
    ----------
    initial : int
        Points of a scrambled Sobol sequence before anything is weighted; also the members that
        must have an outcome before the first round.
    period : int
        Outcomes between two rounds of weighting.
    window : int
        The last members with an outcome, around which points are drawn.
    sigma : float
        Standard deviation of the step from a member, as a fraction of each parameter's range, at
        most 0.5.
    start, end : float
        Share of even points (the continued Sobol sequence) in the first and the last round.
    rounds : int
        Rounds over which the share falls.
    corrected : bool
        Divide each loss by the density that its point was drawn with. Points then follow the loss;
        otherwise also the points so far, and a region that once had a high loss draws ever more of
        them.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    With the losses :math:`c_k` of the last `window` members :math:`x_k`, share :math:`s` and
    reflected Gaussian :math:`K`, a round draws from

    .. math::
        q(x) = s + (1 - s) \sum_k w_k K_\sigma(x \mid x_k), \quad
        w_k \propto c_k \text{ or, corrected, } c_k / q_k(x_k),

    where :math:`q_k` is the density in force when :math:`x_k` was drawn. A proposal takes a time of
    order window times dimension, a state has that many numbers.

    References
    ----------
    S. Dymchenko and B. Raffin, "Loss-driven sampling within hard-to-learn areas for simulation-based
    neural network training", Machine Learning and the Physical Sciences, NeurIPS 2023 workshop.
    O. Cappe, A. Guillin, J.-M. Marin and C. P. Robert, "Population Monte Carlo", J. Comput. Graph.
    Stat. 13 (2004): weights divided by the density of each draw.
    """

    name: ClassVar[str] = "breed"
    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    initial: int = 32
    period: int = 16
    window: int = 200
    sigma: float = 0.1
    start: float = 0.7
    end: float = 0.3
    rounds: int = 10
    corrected: bool = True

    def __post_init__(self) -> None:
        for name in ("initial", "period", "window", "rounds"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.sigma <= 0.5:
            raise Invalid(f"sigma must be above 0 and at most 0.5, got {self.sigma}")
        if not 0 <= self.end <= self.start <= 1:
            raise Invalid(f"shares must fall within [0, 1], got start {self.start} and end {self.end}")

    @classmethod
    def example(cls) -> Breed:
        """One that leaves the first points soon, for conformance checks."""
        return cls(initial=4, period=2, window=6)

    def init(self, rng: np.random.Generator) -> dict[str, Any]:
        """See `Controller.init`."""
        import numpy as np

        nothing = np.zeros(0)
        return {
            "seed": int(rng.integers(2**63)),
            "count": 0,
            "even": 0,
            "outcomes": 0,
            "round": 0,
            "open": {},
            # Of the last members: point, loss and logarithm of the density it was drawn with.
            "points": np.zeros((0, 0)),
            "costs": nothing,
            "densities": nothing,
            # Of the round in force.
            "centres": np.zeros((0, 0)),
            "weights": nothing,
        }

    def share(self, number: int) -> float:
        """Share of even points in a round; all of them before the first one, which is number 1."""
        if number < 1:
            return 1.0
        part = min(1.0, (number - 1) / max(1, self.rounds - 1))
        return self.start + part * (self.end - self.start)

    def propose(self, state: dict[str, Any], features: Features) -> tuple[Proposal, dict[str, Any]]:
        """A point near a member with a high loss, or an even one.

        Parameters
        ----------
        state : dict
            From `init`, `propose` or `observe`.
        features : mapping of str to float
            ``dimension``: number of parameters, 1 if left out.

        Returns
        -------
        Proposal
            ``u0``, ``u1``, ... in [0, 1].
        dict
            The new state.

        Raises
        ------
        Invalid
            If the dimension is no positive whole number, or not that of earlier proposals.
        """
        import numpy as np

        token, dimension = state["count"], _dimension(features)
        if len(state["points"]) and state["points"].shape[1] != dimension:
            raise Invalid(f"earlier points had {state['points'].shape[1]} parameters, now {dimension}")
        share = 1.0 if token < self.initial else self.share(state["round"])
        rng = np.random.default_rng([state["seed"], token])
        even = state["even"]
        if rng.random() < share:
            point = sobol_point(state["seed"], dimension, even)
            even += 1
        else:
            point = step(state["centres"], state["weights"], self.sigma, rng)
        density = self._log_density(point, share, state)
        waiting = {**state["open"], str(token): [*point.tolist(), density]}
        return _proposal(point, token), {**state, "count": token + 1, "even": even, "open": waiting}

    def _log_density(self, point: np.ndarray, share: float, state: dict[str, Any]) -> float:
        import numpy as np

        if share == 1:
            return 0.0
        near = log_mixture(point[None], state["centres"], state["weights"], self.sigma)[0]
        with np.errstate(divide="ignore"):
            return float(np.logaddexp(np.log(share), math.log1p(-share) + near))

    def observe(self, state: dict[str, Any], token: int, cost: float, status: str) -> dict[str, Any]:
        """Remember the loss of a member; every `period` outcomes begin a round.

        Parameters
        ----------
        state : dict
            From `init`, `propose` or `observe`.
        token : int
            Of the proposal.
        cost : float
            Loss of the member, not negative; any unit. Best is a loss relative to that of the batches
            it was in, because losses fall while training goes on.
        status : str
            ``"ok"``, or why the member failed; no point is drawn around a failed one.

        Returns
        -------
        dict
            The new state.

        Raises
        ------
        NotFound
            If the token was never proposed or already observed.
        Invalid
            If the cost of a good member is negative or not finite.
        """
        import numpy as np

        if str(token) not in state["open"]:
            raise _unknown(token)
        after = {**state, "open": {k: v for k, v in state["open"].items() if k != str(token)}}
        if status != "ok":
            return after
        if not (math.isfinite(cost) and cost >= 0):
            raise Invalid(f"the loss of a member must be finite and not negative, got {cost}")
        *point, density = state["open"][str(token)]
        last = slice(-self.window, None)
        points = np.array([*state["points"].tolist(), point])
        after["points"] = points[last]
        after["costs"] = np.append(state["costs"], cost)[last]
        after["densities"] = np.append(state["densities"], density)[last]
        after["outcomes"] = state["outcomes"] + 1
        beyond = after["outcomes"] - self.initial
        if beyond < 0 or beyond % self.period:
            return after
        weights = importance(after["costs"], after["densities"] if self.corrected else None)
        return {**after, "round": state["round"] + 1, "centres": after["points"], "weights": weights}


def sobol_point(seed: int, dimension: int, index: int) -> np.ndarray:
    """One point of the scrambled Sobol sequence of a seed, shape (dimension,), in [0, 1)."""
    import numpy as np

    return np.array(_sobol_block(seed, dimension, index // _BLOCK)[index % _BLOCK])


@lru_cache(maxsize=8)
def _sobol_block(seed: int, dimension: int, block: int) -> np.ndarray:
    import numpy as np
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimension, scramble=True, seed=np.random.default_rng(seed))
    if block:
        sequence.fast_forward(block * _BLOCK)
    return np.asarray(sequence.random(_BLOCK))


def importance(costs: np.ndarray, log_densities: np.ndarray | None = None) -> np.ndarray:
    """Weights of members from their losses.

    Parameters
    ----------
    costs : ndarray, shape (member,)
        Not negative, any unit.
    log_densities : ndarray, shape (member,), optional
        Logarithm of the density each was drawn with, which the losses are divided by.

    Returns
    -------
    ndarray, shape (member,)
        Positive or zero, with sum 1. Equal if no member has a loss.
    """
    import numpy as np

    with np.errstate(divide="ignore"):
        logs = np.log(costs)
    if log_densities is not None:
        logs = logs - log_densities
    if np.isneginf(logs).all():
        return np.full(len(costs), 1 / len(costs))
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def step(centres: np.ndarray, weights: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """A point near one of the centres, reflected into the unit cube.

    Parameters
    ----------
    centres : ndarray, shape (member, parameter)
        In [0, 1].
    weights : ndarray, shape (member,)
        How likely each is, with sum 1.
    sigma : float
        Standard deviation of the step.
    rng : Generator
        For the choice and the step.

    Returns
    -------
    ndarray, shape (parameter,)
        In [0, 1].
    """
    import numpy as np

    limits = np.cumsum(weights)
    chosen = np.searchsorted(limits, rng.random() * limits[-1], side="right")
    away = centres[chosen] + sigma * rng.standard_normal(centres.shape[1])
    folded = np.mod(away, 2)
    return np.asarray(np.where(folded > 1, 2 - folded, folded))


def log_mixture(x: np.ndarray, centres: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
    r"""Logarithm of the density that `step` draws from.

    Parameters
    ----------
    x : ndarray, shape (point, parameter)
        In [0, 1].
    centres, weights, sigma
        See `step`; sigma at most 0.5.

    Returns
    -------
    ndarray, shape (point,)
        Per unit of volume of the cube.

    Notes
    -----
    The reflected Gaussian is the sum over the images :math:`2 m \pm x_k` of a centre. Those with
    `|m| > 2` are at least 6 sigma away and are left out.
    """
    import numpy as np
    from scipy.special import logsumexp

    shifts = 2.0 * np.arange(-2, 3)
    total = np.zeros((len(x), len(centres)))
    for a, b in zip(x.T, centres.T, strict=True):
        images = np.concatenate([shifts + b[:, None], shifts - b[:, None]], axis=1)
        total += logsumexp(-0.5 * ((a[:, None, None] - images) / sigma) ** 2, axis=2)
    total -= x.shape[1] * math.log(sigma * math.sqrt(2 * math.pi))
    return np.asarray(logsumexp(total, axis=1, b=weights))


def _dimension(features: Features) -> int:
    value = features.get("dimension", 1)
    if value < 1 or value != int(value):
        raise Invalid(f"dimension must be a positive whole number, got {value}")
    return int(value)


def _proposal(point: np.ndarray, token: int) -> Proposal:
    return Proposal({f"u{i}": u for i, u in enumerate(point.tolist())}, token)


def _unknown(token: int) -> NotFound:
    return NotFound(f"proposal {token} was never made, or its outcome was already reported")
