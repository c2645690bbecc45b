"""What building and asking reduced models costs: given, recorded, or measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sciflow_rom.assess.criterion import Costs


@dataclass(frozen=True)
class Rates:
    """Costs with every number known, s; where each comes from is in `sources`.

    Attributes
    ----------
    full : float
        One solution of the full model; NaN if nobody knows.
    online : tuple of float
        ``a0, a1, a2`` of a query of a reduced model with n modes and q points: a0 + a1 q n + a2 n^3.
    selector : float
        Choosing a cluster.
    offline : float
        Building a reduced model, per snapshot and squared number of modes.
    training : float
        Training a selector, where there are several clusters.
    snapshots : int
        That reduced models are made of.
    points_per_mode : float
        q / n.
    sources : dict of str to str
        By field.
    """

    full: float
    online: tuple[float, float, float]
    selector: float
    offline: float
    training: float
    snapshots: int
    points_per_mode: float
    sources: dict[str, str]

    def query(self, clusters: int, modes: float) -> float:
        """Seconds of one query."""
        a0, a1, a2 = self.online
        reduced = a0 + a1 * self.points_per_mode * modes**2 + a2 * modes**3
        return reduced + (self.selector if clusters > 1 else 0.0)

    def build(self, clusters: int, modes: float) -> float:
        """Seconds of building; each snapshot takes part in one cluster, whatever their number is."""
        return self.offline * self.snapshots * modes**2 + (self.training if clusters > 1 else 0.0)

    def total(self, clusters: int, modes: float, queries: float) -> float:
        """Seconds of building and of all queries."""
        return self.build(clusters, modes) + queries * self.query(clusters, modes)


def resolve(costs: Costs, snapshots: int, rows: int, recorded: float | None) -> Rates:
    """Costs with what was not given taken from the ensemble or measured on this machine.

    Parameters
    ----------
    costs : Costs
        What was given.
    snapshots, rows : int
        Training snapshots, and values in each.
    recorded : float or None
        Wall time of the ensemble per member, s.
    """
    given = "given"
    sources = {"training": "assumed" if costs.training == type(costs)().training else given}
    full = costs.full
    sources["full"] = given
    if full is None:
        full, sources["full"] = float("nan"), "not known"
        if recorded is not None:
            full, sources["full"] = recorded, "wall time of the ensemble, per member"
    online, measured = costs.online, "measured on this machine"
    sources["online"] = given
    if online is None:
        step, sources["online"] = measure_online(costs.points_per_mode), measured
        online = (step[0] * costs.solves, step[1] * costs.solves, step[2] * costs.solves)
    selector = costs.selector
    sources["selector"] = given if selector is not None else measured
    if selector is None:
        selector = measure_selector()
    offline, points = costs.offline, costs.points or rows
    sources["offline"] = given
    if offline is None:
        # One pass over (snapshots of the cluster x modes, points) for each of the q points that is chosen.
        offline = costs.points_per_mode * points * measure_pass()
        sources["offline"] = f"{measured}, {points} integration points"
    return Rates(full, online, selector, offline, costs.training, snapshots, costs.points_per_mode, sources)


def measure_online(points_per_mode: float, components: int = 3) -> tuple[float, float, float]:
    """``a0, a1, a2`` of one Newton step of a hyper-reduced model, fitted to times on this machine, s.

    Notes
    -----
    A step makes strains at q points from n coefficients, evaluates a simple law there, sums residual
    (``q n``) and tangent (``q n^2``) and solves n equations (``n^3``); with q in proportion to n the last
    two have one coefficient.
    """
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    modes = np.array([2, 5, 10, 20, 40, 80])
    seconds = []
    for n in modes.tolist():
        q = max(1, round(points_per_mode * n))
        table = rng.standard_normal((q, components, n)) / np.sqrt(q)
        seconds.append(_best(partial(_newton, table, table.reshape(-1, n), np.ones(n) / n), 12))
    terms = np.stack([np.ones(len(modes)), points_per_mode * modes**2.0, modes**3.0], axis=1)
    times = np.array(seconds)
    found = nnls(terms / times[:, None], np.ones(len(times)))[0]
    return float(found[0]), float(found[1]), float(found[2])


def _newton(table: np.ndarray, flat: np.ndarray, start: np.ndarray) -> np.ndarray:
    strain = (flat @ start).reshape(table.shape[:2])
    factor = 1.0 + strain[:, :1] ** 2
    residual = flat.T @ (factor * strain).ravel()
    tangent = flat.T @ (factor[:, :, None] * table).reshape(flat.shape) + np.eye(len(start))
    return np.asarray(start - np.linalg.solve(tangent, residual))


def measure_selector(features: int = 4, width: int = 64, clusters: int = 20) -> float:
    """Seconds in which a network of two hidden layers ranks clusters, on this machine."""
    rng = np.random.default_rng(0)
    shapes = ((features, width), (width, width), (width, clusters))
    layers = [(rng.standard_normal(s), np.zeros(s[1])) for s in shapes]

    def rank() -> np.ndarray:
        x = np.ones(features)
        for weights, shift in layers:
            x = np.tanh(x @ weights + shift)
        return np.argsort(x)

    return _best(rank, 50)


def measure_pass(values: int = 1 << 23) -> float:
    """Seconds per value of a product of a matrix that is not in the caches with a vector."""
    matrix, vector = np.ones((64, values // 64)), np.ones(values // 64)
    return _best(lambda: matrix @ vector, 5) / values


def _best(call: Callable[[], object], repeats: int) -> float:
    call()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
