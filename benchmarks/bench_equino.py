"""EquiNO beside the cell problem that it replaces: error of the homogenised stress, and speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figure import Figure, NotRun, medians

if TYPE_CHECKING:
    from sciflow_operators.equino.equino import EquiNO
    from sciflow_operators.equino.model import EquinoModel

TRAINING, TEST, SOLVES, BATCH = 100, 60, 9, 1000
"""Solved cells, cells whose solution is timed, and strains that are answered at once."""


def bench_cell() -> Iterator[Figure]:
    """A cell of 48 x 48 squares with a round fibre, 16 modes; in a process of its own with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.bench_equino"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given")
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield Figure(**json.loads(line))


class Cells:
    """Solved cells for training and test."""

    def __init__(self) -> None:
        from sciflow.context import Context
        from sciflow.stages.design import scale, unit_points
        from sciflow_fenics.rve import RVE

        self.problem = RVE()
        unit = unit_points("sobol", 3, TRAINING + TEST, (), 0)
        self.strains = scale(unit, self.problem.parameters)
        states = [self.solved(strain, Context()) for strain in self.strains]
        self.fields = {n: np.stack([np.asarray(s[n]) for s in states]) for n in self.problem.fields}
        self.truth = self.fields["homogenised"][TRAINING:]

    def solved(self, strain: np.ndarray, ctx: Any) -> Any:
        """Fields for one macroscopic strain."""
        mu = dict(zip(self.problem.components, strain.tolist(), strict=True))
        return next(iter(self.problem.solve(mu, ctx))).fields

    def samples(self, first: int, last: int) -> Any:
        """Some of them as samples."""
        from sciflow.samples import Batch, Samples, Signature
        from sciflow.schema import Field

        problem, strains = self.problem, self.strains[first:last]
        fluctuation = self.fields["fluctuation"][first:last]
        names = {n: Field((), "1") for n in problem.components}
        axes = {"dof": problem.coordinates()["dof"]}

        class Memory(Samples):
            signature = Signature(names, {"fluctuation": problem.fields["fluctuation"]}, axes)

            def __len__(self) -> int:
                return len(strains)

            def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
                columns = {n: strains[:, i] for i, n in enumerate(problem.components)}
                yield Batch(columns, {"fluctuation": fluctuation})

        return Memory()

    def fit(self, config: EquiNO) -> tuple[EquinoModel, float]:
        """A fitted model, and the seconds it took."""
        from sciflow.context import Context

        begin = time.perf_counter()
        run = config.fit(self.samples(0, TRAINING), self.samples(TRAINING, TRAINING + 1), Context())
        while True:
            try:
                next(run)
            except StopIteration as end:
                return end.value, time.perf_counter() - begin

    def error(self, model: EquinoModel) -> float:
        """Of the homogenised stress of the test cells, all together, %."""
        found = model.respond(self.strains[TRAINING:])[0]
        return 100 * float(np.linalg.norm(found - self.truth) / np.linalg.norm(self.truth))


def figures() -> Iterator[Figure]:
    """Everything, in one process."""
    from sciflow_operators.equino.equino import EquiNO

    cells = Cells()
    config = EquiNO(problem=cells.problem, threads=1)
    model, seconds = cells.fit(config)
    plain, _ = cells.fit(config.replace(network=False, epochs=1))
    note = f"{TEST} unseen strains; the polynomial of degree 3 alone {cells.error(plain):.2f} %"
    yield Figure("network_error", cells.error(model), 1.5, " %", "<=", note)
    yield Figure(
        "training", seconds, 60, " s", "<=", f"modes of {TRAINING} solutions and {config.epochs} rounds"
    )
    yield Figure("newton_error", cells.error(model.corrected("newton")), 0.01, " %", "<=", "one step")
    magic = plain.corrected("magic")
    note = f"{config.magic_points} points, one step from the polynomial, no network"
    yield Figure("magic_error", cells.error(magic), 0.15, " %", "<=", note)
    alone = without_noise(magic)
    note = f"times less error than points by QR alone, {cells.error(alone):.3g} %"
    yield Figure("magic_points", cells.error(alone) / cells.error(magic), 3, note=note)
    yield from speed(cells, model, magic)
    yield from ablation(cells, config)


def without_noise(magic: EquinoModel) -> EquinoModel:
    """The same with points that are chosen and weighted as if the modes were equally good everywhere."""
    from sciflow_operators.equino.magic import choose
    from sciflow_operators.equino.model import EquinoModel

    modes = magic.modes
    sites = choose(modes, np.ones(len(modes.points)), magic.config.magic_points)
    return EquinoModel(magic.config, magic.signature, modes, magic.box, magic.coefficients, sites, magic.mesh)


def speed(cells: Cells, model: EquinoModel, magic: EquinoModel) -> Iterator[Figure]:
    """Stress and tangent of many strains at once, for each, over one solution of the cell."""
    from sciflow.context import Context

    rng = np.random.default_rng(0)
    low, high = model.bounds().T
    many = rng.uniform(low, high, (BATCH, 3))
    newton = model.corrected("newton")
    turns = iter(np.resize(many, (1000, 3)))
    times = medians(
        {
            "solve": lambda: cells.solved(next(turns), Context()),
            "network": lambda: model.respond(many),
            "magic": lambda: magic.respond(many),
            "single": lambda: magic.respond(many[:1]),
            "newton": lambda: newton.respond(many[:1]),
        },
        repeats=SOLVES,
    )
    solve = times["solve"]
    for name, count, target in (("magic", BATCH, 1500), ("network", BATCH, 2e4)):
        each = times[name] / count
        note = f"a solution without tangent {1e3 * solve:.0f} ms, here {1e6 * each:.1f} us of {count} at once"
        yield Figure(f"{name}_speed", solve / each, target, note=note)
    for name, target in (("single", 100), ("newton", 10)):
        note = f"one strain alone, {1e6 * times[name]:.0f} us"
        word = "magic_single_speed" if name == "single" else "newton_speed"
        yield Figure(word, solve / times[name], target, note=note)


def ablation(cells: Cells, config: EquiNO) -> Iterator[Figure]:
    """Error of the networks alone after equally many rounds, without what the paper does not have."""
    paper = config.replace(degree=0, scaling="global", norm="stress")
    names = {
        "global": paper,
        "per mode": paper.replace(scaling="mode"),
        "energy": paper.replace(scaling="mode", norm="energy"),
        "polynomial": config,
    }
    errors = {name: cells.error(cells.fit(one)[0]) for name, one in names.items()}
    told = ", ".join(f"{name} {error:.3g} %" for name, error in errors.items())
    yield Figure(
        "scaling_per_mode", errors["global"] / errors["per mode"], 1, note=f"times less error; {told}"
    )
    yield Figure("all_together", errors["global"] / errors["polynomial"], 10, note="times less error")


if __name__ == "__main__":
    for figure in figures():
        print(json.dumps(asdict(figure)), flush=True)
