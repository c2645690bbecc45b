"""Hyper-reduction, selectors and POD with regression: points, times and errors beside the obvious ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import numpy as np

from benchmarks.figure import Figure, NotRun
from benchmarks.rom_problems import PROBLEMS, Family, mesh

T = TypeVar("T")
CORNERS = np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4], [10, 1, 1], [1, 10, 1], [1, 1, 10]]) / np.array(
    [[6], [6], [6], [12], [12], [12]]
)
"""Barycentric coordinates of six points in each triangle: as many as an elasto-plastic element may have."""


@cache
def integrands(modes: int, states: int) -> tuple[np.ndarray, np.ndarray]:
    """``grad psi_i . (1 + u_p^2) grad u_p`` of nonlinear heat at 19200 points, and the weights."""
    family = PROBLEMS["heat"]()
    u = family.snapshots / np.linalg.norm(family.snapshots, axis=0)
    near = np.argsort(-np.abs(u.T @ u[:, 0]))[: max(states, 2 * modes)]
    basis = np.linalg.svd(u[:, near], full_matrices=False)[0][:, :modes]
    some = family.snapshots[:, near[:states]]
    m = mesh()
    n = int(np.sqrt(len(m.nodes)))
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.vstack(
        [
            np.stack([corner, corner + 1, corner + n + 1], axis=1),
            np.stack([corner, corner + n + 1, corner + n], axis=1),
        ]
    )
    edges = m.nodes[np.roll(triangles, -2, axis=1)] - m.nodes[np.roll(triangles, -1, axis=1)]
    slopes = np.stack([-edges[..., 1], edges[..., 0]], axis=2) * (n - 1) ** 2
    ours = np.einsum("tkd,tkm->tdm", slopes, basis[triangles])
    theirs = np.einsum("tkd,tks->tds", slopes, some[triangles])
    products = np.einsum("tdm,tds->tms", ours, theirs)
    values = np.einsum("qk,tks->tqs", CORNERS, some[triangles])
    out = products[:, None] * (1 + values**2)[:, :, None]
    return out.reshape(-1, modes * states), np.full(6 * len(triangles), 1 / (6 * len(triangles)))


def plain(functions: np.ndarray, weights: np.ndarray, tolerance: float) -> tuple[int, float]:
    """Points and seconds of the method as it is usually written.

    All products in every step, each least squares problem afresh, early stop.
    """
    begin = time.perf_counter()
    rows = functions / np.sqrt(weights.sum() * (weights @ functions**2))
    rows = np.hstack([rows, np.full((len(rows), 1), 1 / weights.sum())])
    target = weights @ rows
    chosen: list[int] = []
    values = np.zeros(0)
    residual = target
    while np.linalg.norm(residual) > tolerance * np.linalg.norm(target):
        gains = rows @ residual
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
        values = np.append(values, 0.0)
        while True:
            goal = np.linalg.lstsq(rows[chosen].T, target, rcond=None)[0]
            if goal.min() > 0:
                break
            down = goal <= 0
            step = np.min(values[down] / (values[down] - goal[down]))
            values = values + step * (goal - values)
            keep = values > 1e-15
            chosen = [c for c, k in zip(chosen, keep, strict=True) if k]
            values = values[keep]
        values = goal
        residual = target - values @ rows[chosen]
    return len(chosen), time.perf_counter() - begin


def bench_cubature() -> Iterator[Figure]:
    """Points and time beside the usual method and scipy's full solution."""
    from scipy.optimize import nnls

    from sciflow_rom.points.cubature import empirical_cubature

    functions, weights = integrands(12, 12)
    for tolerance, most in ((1e-3, 32), (1e-4, 42), (1e-6, 66)):
        found, seconds = timed(lambda t=tolerance: empirical_cubature(functions, weights, t))
        count, usual = plain(functions, weights, tolerance)
        note = f"144 functions; {1e3 * seconds:.0f} ms; the usual way {count} in {1e3 * usual:.0f} ms"
        yield Figure(f"points_{tolerance:.0e}", len(found.points), max(most, 1.05 * count), "", "<=", note)
        yield Figure(f"error_{tolerance:.0e}", found.error / tolerance, 1, "x", "<=", "of the tolerance")
        constant = abs(found.weights.sum() / weights.sum() - 1)
        yield Figure(f"volume_{tolerance:.0e}", constant, 1e-12, "", "<=", "relative error of the volume")
    rows = functions / np.sqrt(weights.sum() * (weights @ functions**2))
    rows = np.hstack([rows, np.full((len(rows), 1), 1 / weights.sum())])
    (full, _), seconds = timed(lambda: nnls(rows.T, weights @ rows))
    found, ours = timed(lambda: empirical_cubature(functions, weights, 1e-3))
    points = np.count_nonzero(full)
    note = f"{points} points in {seconds:.2f} s; {len(found.points)} in {ours:.3f} s, tolerance 1e-3"
    yield Figure("time_of_scipy", seconds / ours, 5, "x", ">=", note)


def bench_cubature_large() -> Iterator[Figure]:
    """As many functions as a basis for all parameters needs, and going on from an earlier cubature."""
    from sciflow_rom.points.cubature import empirical_cubature

    functions, weights = integrands(20, 30)
    found, seconds = timed(lambda: empirical_cubature(functions, weights, 1e-3))
    count, usual = plain(functions, weights, 1e-3)
    note = f"600 functions: {len(found.points)} in {seconds:.2f} s, the usual way {count} in {usual:.2f} s"
    yield Figure("time_600", usual / seconds, 3, "x", ">=", note)
    yield Figure("points_600", len(found.points) / count, 1.05, "x", "<=", note)
    few = empirical_cubature(functions[:, :570], weights, 1e-3)
    (more, warm) = timed(lambda: empirical_cubature(functions, weights, 1e-3, few))
    kept = np.isin(few.points, more.points).mean()
    note = f"{len(few.points)} points, then {len(more.points)}; {warm:.2f} s, afresh {seconds:.2f} s"
    yield Figure("kept_when_5_percent_are_added", 100 * float(kept), 90, " %", ">=", note)
    yield Figure("time_when_5_percent_are_added", seconds / warm, 2, "x", ">=", note)


def bench_selectors() -> Iterator[Figure]:
    """Mean error with the model that is chosen over that with the best: K = 20, five modes each."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise NotRun(f"{error}: pip install scikit-learn") from None
    from sciflow_rom.regress.regressors import GaussianProcess
    from sciflow_rom.regress.selectors import ErrorRegression, Logistic, Neighbours

    selectors = {
        "default": ErrorRegression(),
        "gaussian": ErrorRegression(GaussianProcess(shared=True)),
        "logistic": Logistic(),
        "neighbours": Neighbours(),
    }
    for problem, make in PROBLEMS.items():
        x, errors, queries, unseen = local_errors(make())
        rows = np.arange(len(queries))
        best = unseen.min(axis=1).mean()
        told = []
        for name, selector in selectors.items():
            ranker = selector.train(x, errors, np.random.default_rng(0))
            order = np.argsort([ranker.rank(q) for q in queries], axis=1)
            first = unseen[rows, order[:, 0]]
            second = np.minimum(first, unseen[rows, order[:, 1]])
            told.append((name, first.mean() / best, second.mean() / best))
        note = "; ".join(f"{n} {a:.3f}, better of two {b:.3f}" for n, a, b in told)
        yield Figure(f"regret_{problem}", float(told[0][1]), 1.2, "x", "<=", note)
    for name, selector in selectors.items():
        ranker = selector.train(x, errors, np.random.default_rng(0))
        spent = [timed(lambda q=q, r=ranker: r.rank(q))[1] for q in np.repeat(queries, 20, axis=0)]
        note = f"{x.shape[1]} parameters, {len(x)} members, 20 clusters"
        yield Figure(f"time_{name}", 1e6 * float(np.median(spent)), 50, " us", "<=", note)


def local_errors(family: Family) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Parameters and errors of 20 local bases: of three quarters of the members, then of the others."""
    from sciflow_rom.bases import local_bases, projection_errors
    from sciflow_rom.clusters.clusterers import KMedoids, Sine

    count = len(family.points)
    order = np.random.default_rng(5).permutation(count)
    train, test = np.sort(order[: 3 * count // 4]), np.sort(order[3 * count // 4 :])
    whole = family.coordinates()
    known = whole.of(train)
    found = KMedoids(20).fit(known, Sine(), np.random.default_rng(0))
    bases = local_bases(known, [found.members(k) for k in range(20)], modes=5)
    scaled = scaled_points(family)
    errors, unseen = (
        np.stack([projection_errors(part, b) for b in bases], axis=1) for part in (known, whole.of(test))
    )
    return scaled[train], errors, scaled[test], unseen


def scaled_points(family: Family) -> np.ndarray:
    """Parameters, logarithms where they are spread in them."""
    logarithmic = np.array(family.logarithmic)
    return np.where(logarithmic, np.log(np.where(logarithmic, family.points, 1.0)), family.points)


def bench_pod_regression() -> Iterator[Figure]:
    """Mean error of POD and regression over 100 unseen members, beside baselines that learn nothing."""
    from sciflow_rom.regress.affine import affine, better_normalised
    from sciflow_rom.regress.regressors import GaussianProcess, Perceptrons, Polynomial, RadialBasis

    analytic = GaussianProcess("squared_exponential")
    regressors = (GaussianProcess(), analytic, RadialBasis(), Polynomial(3), Perceptrons())
    for problem in ("heat", "advdiff", "burgers"):
        family = PROBLEMS[problem]()
        x, fields = scaled_points(family), family.snapshots.T
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        train, test = np.arange(300), np.arange(300, len(x))
        truth = fields[test]
        near = np.argmin(np.linalg.norm(x[test, None] - x[train], axis=2), axis=1)
        normalised = better_normalised(fields[train], x[train], 30, 1e-3)
        basis, bare = (affine(fields[train], 30, 1e-3, n) for n in (normalised, False))
        told = {}
        for regressor in regressors:
            fitted = regressor.train(x[train], basis.project(fields[train]), np.random.default_rng(0))
            name = f"{regressor.name} {getattr(regressor, 'kernel', '')}".strip()
            told[name] = mean_error(basis.lift(fitted.predict(x[test])), truth)
        fitted = regressors[0].train(x[train], bare.project(fields[train]), np.random.default_rng(0))
        told["the first without norms"] = mean_error(bare.lift(fitted.predict(x[test])), truth)
        told["mean of all"] = mean_error(fields[train].mean(axis=0), truth)
        told["nearest member"] = mean_error(fields[near], truth)
        told["projection"] = mean_error(basis.lift(basis.project(truth)), truth)
        note = ", ".join(f"{n} {e:.4f}" for n, e in told.items())
        best = told["gaussian_process matern"]
        yield Figure(f"regression_{problem}", told["nearest member"] / best, 3, "x", ">=", note)


def mean_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean relative error over the members."""
    return float(np.mean(np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)))


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Result and seconds."""
    begin = time.perf_counter()
    return call(), time.perf_counter() - begin
