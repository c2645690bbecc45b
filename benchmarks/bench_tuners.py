"""Tuners on the experiments of "Learning to Relax": iterations beside the best omega of every system."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow_control.bandits.tuner import Tuner
    from sciflow_control.harness.cost_table import CostTable
    from sciflow_control.space import Space

COUNT, SEEDS = 5000, 3
STEPS = {25: 5000, 50: 5000, 100: 2000}
"""Of the heat equation, by cells along a side; all 5000 at 100 take five minutes to solve with every arm."""
CONTEXTUAL = ("chebcb", "bayes_chebyshev", "relaxation_model")
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

    from sciflow_control.harness.cost_table import CostTable
    from sciflow_control.kernels.relaxation import sor
    from sciflow_control.space import Relaxation
    from sciflow_control.systems.laplacian import ShiftedLaplacian

    # Twenty parameters as in the paper, and those between them for the one that knows the theory.
    fine = Relaxation(count=39)
    for name, a, b in (("wide", 0.5, 1.5), ("narrow", 2.0, 6.0)):
        law = ShiftedLaplacian(a, b)
        best = 0.0
        for s in law.draw(COUNT, 0):
            m, omega, x = s.matrix, law.best_omega(s.features), np.zeros_like(s.rhs)
            best += sor(m.indptr, m.indices, m.data, s.rhs, x, omega).iterations / COUNT
        found = _trials(CostTable(law, fine, count=COUNT), _independent_tuners(fine), shuffle=True)
        others = _others(found)
        note = f"best omega {best:.1f}, best of the grid {others['oracle']:.1f}, best fixed "
        note += f"{others['best_fixed']:.1f}, omega 1 {others['default']:.1f}"
        mean = {tuner: figures["mean"] / best for tuner, figures in found.items()}
        contextual = min(CONTEXTUAL, key=lambda t: mean[t])
        note = f"{contextual}; {note}, {_plain(found)}"
        yield Figure(f"{name}_best_contextual", mean[contextual], 1.10, "x", "<=", note)
        for tuner in CONTEXTUAL:
            figures = found[tuner]
            note = f"mean {figures['mean']:.1f}, last third {figures['last_third']:.1f}, {_spread(figures)}"
            target = CHEBCB[name] if tuner == "chebcb" else 1.10
            yield Figure(f"{name}_{tuner}", mean[tuner], target, "x", "<=", note)
        first = found["relaxation_model"]
        note = f"{first['first_100']:.1f} iterations, ChebCB {found['chebcb']['first_100']:.1f}"
        yield Figure(f"{name}_first_100", first["first_100_to_oracle"], 1.25, "x", "<=", note)
        yield from _speeds(name, found)


def bench_heat() -> Iterator[Figure]:
    """CG with SSOR over the steps of a heat equation, diffusion from 3e-4 to 10; all arms from one guess."""
    _need()
    from sciflow_control.harness.cost_table import CostTable
    from sciflow_control.systems.heat2d import HeatSequence

    for nx, steps in STEPS.items():
        found = _trials(CostTable(HeatSequence(nx), method="ssor_cg", count=steps), _heat_tuners())
        others, total = _others(found), {t: steps * f["mean"] for t, f in found.items()}
        best = min(CONTEXTUAL, key=lambda t: total[t])
        shown = ", ".join(f"{name.replace('_', ' ')} {steps * value:.0f}" for name, value in others.items())
        note = f"{best}, {total[best]:.0f} iterations in {steps} steps; {shown}, {_plain(found)}"
        yield Figure(f"heat_{nx}_best_contextual", found[best]["to_oracle"], 1.03, "x", "<=", note)
        for tuner in CONTEXTUAL:
            note = f"{total[tuner]:.0f} iterations, {_spread(found[tuner])}"
            target = CHEBCB[nx] if tuner == "chebcb" else 1.03
            yield Figure(f"heat_{nx}_{tuner}", found[tuner]["to_oracle"], target, "x", "<=", note)
        yield from _speeds(f"heat_{nx}", found)
        # Both gains grow with the grid.
        if nx == max(STEPS):
            yield Figure(f"heat_{nx}_below_omega_1", steps * others["default"] / total[best], 2.2)
            yield Figure(f"heat_{nx}_below_best_fixed", steps * others["best_fixed"] / total[best], 1.25)


def _need() -> None:
    if find_spec("numba") is None:
        raise NotRun("numba is missing: pip install sciflow[control]")


def _independent_tuners(fine: Space) -> dict[str, Tuner]:
    from sciflow_control.bandits.relaxation_model import RelaxationModel

    known = ("c", -0.15, 0.45)
    return {**_tuners(*known), "relaxation_model": RelaxationModel(fine, *known)}


def _heat_tuners() -> dict[str, Tuner]:
    from sciflow_control.bandits.relaxation_model import RelaxationModel
    from sciflow_control.space import Relaxation

    model = RelaxationModel(Relaxation(), "diffusion", 3e-4, 10.0, enters="scale", method="ssor_cg")
    return {**_tuners("log_diffusion", -3.52, 1.0), "relaxation_model": model}


def _tuners(feature: str, low: float, high: float) -> dict[str, Tuner]:
    from sciflow_control.bandits.bayes_chebyshev import BayesChebyshev
    from sciflow_control.bandits.binned import Binned
    from sciflow_control.bandits.chebcb import ChebCB
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.bandits.tsallis import Tsallis
    from sciflow_control.space import Relaxation

    space = Relaxation()
    return {
        "thompson": Thompson(space),
        "tsallis": Tsallis(space),
        "binned": Binned(Thompson(space), feature, low, high),
        "chebcb": ChebCB(space, feature, low, high),
        "bayes_chebyshev": BayesChebyshev(space, feature, low, high),
    }


def _trials(
    table: CostTable, tuners: Mapping[str, Tuner], *, shuffle: bool = False
) -> dict[str, dict[str, float]]:
    """Figures of every tuner, and the means of the best arms, the best fixed one and the default."""
    from sciflow import run
    from sciflow.flow import Session, within
    from sciflow.store import Store
    from sciflow_control.harness.trial import Trial

    async def all_of_them() -> dict[str, dict[str, float]]:
        costs = await run(table)
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


def _plain(found: Mapping[str, Mapping[str, float]]) -> str:
    """Means of the tuners that are not judged here."""
    names = [name for name in found if name not in CONTEXTUAL]
    return ", ".join(f"{name} {found[name]['mean']:.4g} a system" for name in names)


def _spread(figures: Mapping[str, float]) -> str:
    return f"p50 {figures['p50']:.0f}, p90 {figures['p90']:.0f}, max {figures['max']:.0f}"


def _speeds(name: str, found: Mapping[str, Mapping[str, float]]) -> Iterator[Figure]:
    """Microseconds per decision with learning; the harness plays no faster."""
    slowest = max(CONTEXTUAL, key=lambda t: found[t]["microseconds"])
    note = ", ".join(f"{tuner} {figures['microseconds']:.0f}" for tuner, figures in found.items())
    yield Figure(f"{name}_decision", found[slowest]["microseconds"], 50, " µs", "<=", note)
    yield Figure(f"{name}_plain_decision", found["thompson"]["microseconds"], 10, " µs", "<=", "Thompson")
