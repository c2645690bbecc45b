"""Regressions of reduced coefficients beside pyMOR's greedy kernel regression."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.figure import Figure, NotRun

TEST, COEFFICIENTS = 200, 20


def bumps(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Position, width and height in [-1, 1], and Gaussians on a line of 512 points."""
    mu = rng.uniform(-1.0, 1.0, (count, 3))
    x = np.linspace(0.0, 1.0, 512)
    centre, width, height = 0.5 + 0.2 * mu[:, :1], 0.15 + 0.05 * mu[:, 1:2], 1.0 + 0.5 * mu[:, 2:]
    return mu, height * np.exp(-((x - centre) ** 2) / (2 * width**2))


def bench_regressors() -> Iterator[Figure]:
    """Error of `PymorVKOGA` over that of a Gaussian process, 100 and 400 training members, one thread."""
    try:
        import pymor  # noqa: F401
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise NotRun(f"{error.name} is missing: pip install pymor threadpoolctl") from None
    from sciflow_rom.regress.regressors import GaussianProcess, RadialBasis
    from sciflow_rom.regress.vkoga import PymorVKOGA

    regressors = {
        "gaussian_process": GaussianProcess(shared=True),
        "vkoga": PymorVKOGA(),
        "vkoga of 400 centers": PymorVKOGA(centers=400),
        "radial_basis": RadialBasis(),
    }
    for count in (100, 400):
        rng = np.random.default_rng(0)
        mu, fields = bumps(count + TEST, rng)
        modes = np.linalg.svd(fields[:count], full_matrices=False)[2][:COEFFICIENTS]
        told: dict[str, tuple[float, float, float]] = {}
        with threadpool_limits(1):
            for name, regressor in regressors.items():
                begin = time.perf_counter()
                fitted = regressor.train(mu[:count], fields[:count] @ modes.T, np.random.default_rng(0))
                trained = time.perf_counter() - begin
                gap = fitted.predict(mu[count:]) @ modes - fields[count:]
                error = float(np.mean(np.linalg.norm(gap, axis=1) / np.linalg.norm(fields[count:], axis=1)))
                begin = time.perf_counter()
                for row in mu[count:, None]:
                    fitted.predict(row)
                told[name] = error, trained, (time.perf_counter() - begin) / TEST
        note = "; ".join(f"{n} {e:.1e}, {t:.2g} s, {1e6 * q:.0f} us" for n, (e, t, q) in told.items())
        ratio = told["vkoga"][0] / told["gaussian_process"][0]
        yield Figure(f"vkoga_over_gaussian_process_{count}", ratio, 1, "x", ">=", note)
