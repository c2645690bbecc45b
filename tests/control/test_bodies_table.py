"""Errors against work of three stars over 30 years, each integrator with one value of its knob."""

import math

import numpy as np
import pytest

from sciflow.registry import missing

pytest.importorskip("numba")
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.leapfrog import Leapfrog
from sciflow_control.bodies.rebound_integrators import BulirschStoer, Ias15, WHFast
from sciflow_control.bodies.three_body import ThreeBody

YEARS, SEEDS = 30.0, 100
# The integrator, the value, the interval, and the 90 % quantile of log10 |dE/E| that was found.
ROWS = [
    *((Hermite(), v, 0.1) for v in (0.1, 0.046, 0.022, 0.01, 0.0046, 0.0022)),
    *((Hermite(corrections=2), v, 0.1) for v in (0.1, 0.046, 0.022, 0.01, 0.0046)),
    *((Hermite(symmetric=False), v, 0.1) for v in (0.1, 0.022, 0.01, 0.0022)),
    *((Leapfrog(), v, 0.1) for v in (0.1, 0.03, 0.01, 0.003)),
    *((Leapfrog(symmetric=False), v, 0.1) for v in (0.03, 0.01, 0.003)),
    *((Leapfrog("fixed"), v, 0.1) for v in (1e-3, 1e-4)),
    *((Ias15(), v, 0.1) for v in (1e-6, 1e-9)),
    *((Ias15(most=10**8), v, YEARS) for v in (1e-6, 1e-9)),
    *((BulirschStoer(), v, 0.1) for v in (1e-5, 1e-9)),
    *((BulirschStoer(most=10**8), v, YEARS) for v in (1e-5, 1e-9)),
    (WHFast(), 1e-3, 0.1),
]


def played(integrator, value, interval):
    """Decimal logarithms of the drift at the end, infinite after a failure, and evaluations, of all seeds."""
    errors, work = [], []
    for seed in range(SEEDS):
        stepper, cost = ThreeBody(integrator, years=YEARS, interval=interval).begin(seed), 0.0
        while stepper.time < YEARS:
            result = stepper.attempt(value, YEARS)
            cost += result.cost
            if not result.converged:
                break
            stepper.accept()
        # A run that failed is not as good as it was before.
        ended = stepper.time == YEARS
        errors.append(math.log10(max(stepper.drift(), 1e-17)) if ended else math.inf)
        work.append(cost)
    return np.array(errors), np.array(work)


@pytest.mark.torture
def test_errors_against_work(capsys):
    found = {}
    for integrator, value, interval in ROWS:
        if missing(type(integrator)):
            continue
        errors, work = played(integrator, value, interval)
        settings = {
            k: v for k, v in integrator.to_json().items() if k in ("step", "symmetric", "corrections")
        }
        found[integrator, value] = errors, work
        with capsys.disabled():
            half, most, worst = *np.quantile(errors, [0.5, 0.9]), errors.max()
            print(
                f"{integrator.name:15}{value:8.2g}{interval:6g}{half:8.2f}{most:7.2f}{worst:7.2f}"
                f"{work.mean():10.0f}{np.median(work):9.0f}  {settings}"
            )
    fixed, much = found[Leapfrog("fixed"), 1e-3]
    adaptive, less = found[Leapfrog(), 0.03]
    assert np.quantile(fixed, 0.9) > 0
    assert np.quantile(adaptive, 0.9) < -2.5
    assert less.mean() < much.mean() / 3
    for integrator in (Hermite(), Leapfrog()):
        symmetric, at_start = found[integrator, 0.01], found[integrator.replace(symmetric=False), 0.01]
        assert np.quantile(symmetric[0], 0.9) < np.quantile(at_start[0], 0.9) - 0.5
        assert abs(math.log10(symmetric[1].mean() / at_start[1].mean())) < 0.05
