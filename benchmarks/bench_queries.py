"""Many queries of reduced models, corrected by few full solves, beside the solver alone at equal cost.

Steady heat conduction under a source whose place and strength are uncertain. The truth of all queries is
solved for once, so that the variance of each estimate is measured over many lots, not taken from a formula.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.quantity import Quantity
    from sciflow.stages.answers import Answers

CELLS, MEMBERS, FEW, QUERIES, LOTS, SOLVES = 32, 120, 12, 4000, 600, 30
TOLERANCE = 0.05


@dataclass(frozen=True)
class Asked:
    """What a model said to all queries, and what they are.

    Attributes
    ----------
    answers : Answers
        With reasons to doubt.
    truth : ndarray, shape (query,)
        The quantity by the solver.
    full, training : float
        Seconds of a full solve, and of the training with the members that it took.
    """

    answers: Answers
    truth: np.ndarray
    full: float
    training: float


@cache
def solved() -> tuple[np.ndarray, np.ndarray, float]:
    """Queries, their temperatures by the solver, and the median time of one, s."""
    if find_spec("dolfinx") is None:
        raise NotRun("dolfinx is missing: install it from your distribution or conda-forge")
    from sciflow.context import Context
    from sciflow.stages.design import scale, unit_points
    from sciflow.states import Collector
    from sciflow_fenics.components import SteadyHeat

    plate = SteadyHeat(CELLS)
    law = {"x": (0.5, 0.1), "y": (0.5, 0.1), "amplitude": (100.0, 0.5)}
    points = scale(unit_points("random", 3, QUERIES, (), 1), plate.parameters, law)
    fields, times = [], []
    for row in points:
        begin, ctx = time.perf_counter(), Context()
        collector = Collector(plate, ctx.comm)
        for state in plate.solve(dict(zip(plate.parameters, row.tolist(), strict=True)), ctx):
            collector.add(state)
        collector.finish()
        fields.append(collector.arrays["temperature"])
        times.append(time.perf_counter() - begin)
    return points, np.stack(fields), float(np.median(times))


async def built(members: int, *, local: bool) -> tuple[Artifact, Artifact]:
    """The training ensemble, and a ROM-net or a regression of it."""
    from sciflow import run
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow.stages.train import Train
    from sciflow_fenics.components import SteadyHeat
    from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, PODRegression, RomNet

    plate = SteadyHeat(CELLS)
    data = await run(Simulate(plate), design=await run(Design(problem=plate, count=members)))
    if not local:
        stage = Train(PODRegression(logarithmic=("amplitude",)), tuple(plate.parameters), (plate.unknown,))
        return data, await run(stage, ensemble=data)
    small = await run(Compress(plate.unknown), ensemble=data)
    groups = await run(Cluster(clusterer=KMedoids(4)), compression=small)
    net = BuildRom(RomNet(plate, modes=20, indicator_modes=40))
    return data, await run(net, ensemble=data, compression=small, clustering=groups)


_KNOWN: dict[tuple[str, int, str], Asked] = {}


def asked(kind: str, members: int, quantity: Quantity) -> Asked:
    """A model of some members that was asked all queries; once."""
    key = kind, members, quantity.digest()
    if key not in _KNOWN:
        _KNOWN[key] = _ask(kind, members, quantity)
    return _KNOWN[key]


def _ask(kind: str, members: int, quantity: Quantity) -> Asked:
    from sciflow.context import Context
    from sciflow.flow import Session, within
    from sciflow.stages import queries
    from sciflow.stages.answers import Asked as Model
    from sciflow.stages.answers import domain_of
    from sciflow.stages.estimates import training_seconds
    from sciflow.stages.train import load_model
    from sciflow.store import Store

    points, fields, full = solved()
    with tempfile.TemporaryDirectory() as folder, within(Session(Store(Path(folder)))):
        data, artifact = asyncio.run(built(members, local=kind == "rom"))
        model, plate = load_model(artifact), queries.problem_of(artifact, None, data)
        output = queries.output_of(artifact, model.signature, plate, quantity)
        answers = Model(model, plate, quantity, output).answers(points, 256, Context())
        answers.judge(points, TOLERANCE, 2.0, domain_of(artifact, plate, data))
        training = training_seconds(artifact, data) or np.nan
    grid = queries.grid_of(plate.fields["temperature"], plate.coordinates(), plate.axis_units(), ())
    return Asked(answers, quantity.of(fields, grid), full, training)


def lots(one: Asked, cheap: np.ndarray, *, share: bool = False) -> tuple[np.ndarray, float]:
    """Corrected means of many lots, each of half of the queries, and how often their intervals held, %."""
    from sciflow.stages.multifidelity import Correction

    rng, found, held = np.random.default_rng(0), [], []
    for _ in range(LOTS):
        some = rng.permutation(QUERIES)[: QUERIES // 2]
        mean = Correction(cheap[some], np.arange(SOLVES), one.truth[some[:SOLVES]]).mean(share=share)
        found.append(mean.value)
        held.append(mean.low <= one.truth.mean() <= mean.high)
    return np.array(found), 100 * float(np.mean(held))


def gain(
    one: Asked, cheap: np.ndarray, extra: float = 0.0, *, share: bool = False
) -> tuple[float, float, float, str]:
    """Variance of the solver alone at equal cost over that of the corrected mean, measured.

    Also with the training counted in, the share of intervals that held, and the conditions.
    """
    values, held = lots(one, cheap, share=share)
    # Half of the queries are asked; lots of one set share queries, which hides a part of their error.
    spread = one.truth.var()
    measured = values.var() + spread / QUERIES
    cost = (SOLVES + extra) * one.full + QUERIES / 2 * one.answers.seconds
    ratios = [spread / (seconds / one.full) / measured for seconds in (cost, cost + one.training)]
    note = (
        f"{SOLVES} solves and {QUERIES // 2} answers, a solve {1e3 * one.full:.1f} ms, an answer "
        f"{1e6 * one.answers.seconds:.0f} us, correlation {np.corrcoef(cheap, one.truth)[0, 1]:.5f}, "
        f"training with its members {one.training:.1f} s: with that {ratios[1]:.2g}x"
    )
    return ratios[0], ratios[1], held, note


def bench_mean() -> Iterator[Figure]:
    """The mean temperature: variance at equal cost, coverage, and what is in doubt."""
    from sciflow.quantities import Mean

    quantity = Mean("temperature")
    for kind, target in (("regression", 20.0), ("rom", 5.0)):
        one = asked(kind, MEMBERS, quantity)
        ratio, _, held, note = gain(one, one.answers.filled)
        yield Figure(f"{kind}_variance", ratio, target, "x", ">=", note)
        yield Figure(f"{kind}_coverage", held, 93, " %", ">=", "intervals of 95 %, 600 lots")
    doubtful = one.answers.doubtful
    wrong = np.abs(one.answers.filled - one.truth)
    believed = np.setdiff1d(np.arange(QUERIES), doubtful)
    yield Figure(
        "rom_doubtful",
        100 * len(doubtful) / QUERIES,
        20,
        " %",
        "<=",
        f"bound above {TOLERANCE:g} of the field",
    )
    note = f"of the answers in doubt over that of the others; {len(doubtful)} of {QUERIES} are"
    yield Figure(
        "rom_doubtful_error", float(wrong[doubtful].mean() / wrong[believed].mean()), 2, "x", ">=", note
    )
    spread = one.truth.std()
    worth = one.answers.filled.copy()
    worth[doubtful[:SOLVES]] = one.truth[doubtful[:SOLVES]]
    before, after = (100 * abs(v.mean() - one.truth.mean()) / spread for v in (one.answers.filled, worth))
    note = f"of the mean of all answers, over the deviation; {before:.3g} % before {SOLVES} were replaced"
    yield Figure("rom_replace_bias", after, 1.0, " %", "<=", note)
    hold = 100 * float(np.mean(wrong <= one.answers.change))
    yield Figure(
        "rom_bounds_hold", hold, 90, " %", ">=", "errors of the mean below what the doubt allows for it"
    )


def bench_bad_model() -> Iterator[Figure]:
    """A regression of twelve members: biased alone, not biased when it is corrected."""
    from sciflow.quantities import Mean

    one = asked("regression", FEW, Mean("temperature"))
    values, held = lots(one, one.answers.filled)
    truth, error = one.truth.mean(), values.std()
    alone = abs(one.answers.filled.mean() - truth)
    note = f"of the answers alone, in standard errors of one corrected mean; {LOTS} lots"
    yield Figure("bad_bias_alone", float(alone / error), 1.0, "", ">=", note)
    note = f"of the corrected mean, in standard errors of the mean of {LOTS} lots"
    yield Figure(
        "bad_bias_corrected", float(abs(values.mean() - truth) / error * np.sqrt(LOTS)), 3.0, "", "<=", note
    )
    yield Figure("bad_coverage", held, 93, " %", ">=", "intervals of 95 %")
    ratio, _, _, note = gain(one, one.answers.filled)
    yield Figure("bad_variance", ratio, 1.0, "x", ">=", note)


def bench_probability() -> Iterator[Figure]:
    """The probability of a hot spot."""
    from sciflow.quantities import Exceeds, Maximum

    one = asked("regression", MEMBERS, Exceeds(Maximum("temperature"), 1.5))
    ratio, _, held, note = gain(one, one.answers.filled, share=True)
    yield Figure("probability_variance", ratio, 2.0, "x", ">=", f"probability {one.truth.mean():.3f}; {note}")
    yield Figure("probability_coverage", held, 93, " %", ">=", "intervals of 95 %, careful ones")
