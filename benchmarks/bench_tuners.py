"""Tuners on the experiments of "Learning to Relax": iterations beside the best omega of every system."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow_control.bandits.tuner import Tuner

COUNT, SEEDS = 5000, 3
HEAT = (25, 50)
"""Cells along a side; 100 takes six minutes on one core: `_heat(100)`."""
CHEBCB = {
    "wide": 66.8 / 56.3,
    "narrow": 48.9 / 41.7,
    25: 24725 / 24181,
    50: 36786 / 34693,
    100: 51598 / 49574,
}
"""What the paper's tuner came to, written down again in numpy: iterations over those of the best omegas."""


def bench_independent() -> Iterator[Figure]:
    """SOR, 5000 systems, shifts from two laws; the reference is Young's omega of each, off the grid."""
    _need()
    import numpy as np

    from sciflow_control.kernels.relaxation import sor
    from sciflow_control.systems.laplacian import ShiftedLaplacian

    for name, a, b in (("wide", 0.5, 1.5), ("narrow", 2.0, 6.0)):
        law = ShiftedLaplacian(a, b)
        best = 0.0
        for s in law.draw(COUNT, 0):
            m, omega, x = s.matrix, law.best_omega(s.features), np.zeros_like(s.rhs)
            best += sor(m.indptr, m.indices, m.data, s.rhs, x, omega).iterations / COUNT
        found = _trials(law, "sor", _tuners("c", -0.151, 0.451, "shift", "sor"), shuffle=True)
        others = _others(found)
        note = f"best omega {best:.1f}, best of the grid {others['oracle']:.1f}, best fixed "
        note += f"{others['best_fixed']:.1f}, omega 1 {others['default']:.1f}"
        mean = {tuner: figures["mean"] / best for tuner, figures in found.items()}
        contextual = min(("bayes_chebyshev", "relaxation_model"), key=lambda t: mean[t])
        yield Figure(f"{name}_best_contextual", mean[contextual], 1.10, "x", "<=", f"{contextual}; {note}")
        for tuner, figures in found.items():
            note = f"mean {figures['mean']:.1f}, last third {figures['last_third']:.1f}, {_spread(figures)}"
            target = 1.10 if tuner in ("bayes_chebyshev", "relaxation_model") else CHEBCB[name]
            yield Figure(f"{name}_{tuner}", mean[tuner], target, "x", "<=", note)
        first = found["relaxation_model"]
        note = f"{first['first_100']:.1f} iterations, ChebCB {found['chebcb']['first_100']:.1f}"
        yield Figure(f"{name}_first_100", first["first_100_to_oracle"], 1.25, "x", "<=", note)
        yield from _speeds(name, found)


def bench_heat() -> Iterator[Figure]:
    """CG with SSOR over 5000 steps of a heat equation, diffusion from 3e-4 to 10."""
    _need()
    for nx in HEAT:
        yield from _heat(nx)


def _heat(nx: int) -> Iterator[Figure]:
    from sciflow_control.systems.heat2d import HeatSequence

    found = _trials(HeatSequence(nx), "ssor_cg", _tuners("diffusion", 1e-4, 10.1, "scale", "ssor_cg"))
    others, total = _others(found), {t: COUNT * f["mean"] for t, f in found.items()}
    best = min(("bayes_chebyshev", "relaxation_model"), key=lambda t: total[t])
    shown = ", ".join(f"{name.replace('_', ' ')} {COUNT * value:.0f}" for name, value in others.items())
    note = f"{best}, {total[best]:.0f} iterations; {shown}"
    yield Figure(f"heat_{nx}_best_contextual", found[best]["to_oracle"], 1.03, "x", "<=", note)
    for tuner, figures in found.items():
        target = 1.03 if tuner in ("bayes_chebyshev", "relaxation_model") else CHEBCB[nx]
        note = f"{total[tuner]:.0f} iterations, {_spread(figures)}"
        yield Figure(f"heat_{nx}_{tuner}", figures["to_oracle"], target, "x", "<=", note)
    # The two gains grow with the grid; the targets are those at nx = 100.
    yield Figure(f"heat_{nx}_below_omega_1", COUNT * others["default"] / total[best], 2.2, note="at nx = 100")
    fixed = COUNT * others["best_fixed"] / total[best]
    yield Figure(f"heat_{nx}_below_best_fixed", fixed, 1.25, note="at nx = 100")
    yield from _speeds(f"heat_{nx}", found)


def _need() -> None:
    if find_spec("numba") is None:
        raise NotRun("numba is missing: pip install sciflow[control]")


def _tuners(feature: str, low: float, high: float, enters: Any, method: Any) -> dict[str, Tuner]:
    from sciflow_control.bandits.bayes_chebyshev import BayesChebyshev
    from sciflow_control.bandits.binned import Binned
    from sciflow_control.bandits.chebcb import ChebCB
    from sciflow_control.bandits.relaxation_model import RelaxationModel
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Relaxation

    space, log = Relaxation(), enters == "scale"
    return {
        "thompson": Thompson(space),
        "binned": Binned(Thompson(space), feature, low, high, log=log),
        "chebcb": ChebCB(space, feature, low, high),
        "bayes_chebyshev": BayesChebyshev(space, feature, low, high, log=log),
        "relaxation_model": RelaxationModel(
            space=space, feature=feature, low=low, high=high, enters=enters, method=method
        ),
    }


def _trials(
    systems: Any, method: Any, tuners: Mapping[str, Tuner], *, shuffle: bool = False
) -> dict[str, dict[str, float]]:
    """Figures of every tuner, of the default and of the others in the first one's row names."""
    from sciflow import run
    from sciflow.flow import Session, within
    from sciflow.store import Store
    from sciflow_control.harness.cost_table import CostTable
    from sciflow_control.harness.trial import Trial

    async def all_of_them() -> dict[str, dict[str, float]]:
        costs = await run(CostTable(systems, method=method, count=COUNT))
        found = {}
        for name, tuner in tuners.items():
            trial = await run(Trial(tuner, SEEDS, shuffle=shuffle), table=costs)
            about, rows = trial.attributes, trial.read("figures")
            found[name] = dict(zip(about["figures"], map(float, rows[0]), strict=True))
            mean = about["figures"].index("mean")
            for policy, row in zip(about["policies"][1:4], rows[1:4], strict=True):
                found[name][policy] = float(row[mean])
        return found

    with tempfile.TemporaryDirectory() as folder, within(Session(Store(Path(folder)))):
        return asyncio.run(all_of_them())


def _others(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means of the best arms, the best fixed one and omega = 1."""
    first = next(iter(found.values()))
    return {name: first[name] for name in ("oracle", "best_fixed", "default")}


def _spread(figures: Mapping[str, float]) -> str:
    return f"p50 {figures['p50']:.0f}, p90 {figures['p90']:.0f}, max {figures['max']:.0f}"


def _speeds(name: str, found: Mapping[str, Mapping[str, float]]) -> Iterator[Figure]:
    """Microseconds per decision with learning; the harness plays no faster."""
    slowest = max(("bayes_chebyshev", "relaxation_model"), key=lambda t: found[t]["microseconds"])
    note = ", ".join(f"{tuner} {figures['microseconds']:.0f}" for tuner, figures in found.items())
    yield Figure(f"{name}_decision", found[slowest]["microseconds"], 50, " µs", "<=", note)
    yield Figure(f"{name}_plain_decision", found["thompson"]["microseconds"], 10, " µs", "<=", "Thompson")
