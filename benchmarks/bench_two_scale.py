"""Cook's membrane with EquiNO in place of the cell: its curve and its time beside the full computation."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

PAPER = 8000.0
"""Times faster than FE2, the claim in the abstract of the EquiNO paper."""


def bench_membrane() -> Iterator[Figure]:
    """48 x 48 cells, one fibre of 28 %; 96 points, 3 load steps; 100 members, 48 epochs; one thread."""
    for module in ("dolfinx", "torch"):
        if find_spec(module) is None:
            raise NotRun(f"{module} is missing")
    with tempfile.TemporaryDirectory() as folder:
        for corrector, both in asyncio.run(compared(Path(folder))).items():
            about = both.attributes
            took = about["seconds"]
            whole = {who: took[f"{who}_micro"] + took[f"{who}_macro"] for who in ("reference", "other")}
            each = {who: took[f"{who}_micro"] / about["calls"][who] for who in ("reference", "other")}
            note = f"{whole['reference']:.3g} s with the cell, {whole['other']:.3g} s with EquiNO"
            error = 100 * float(both.read("curve_error").max())
            law = f"{1e3 * each['reference']:.3g} ms and {1e6 * each['other']:.3g} us for each point"
            stress = 100 * float(both.read("stress_error")[-1])
            yield Figure(f"curve_{corrector}", error, 0.5, " %", "<=", f"stresses {stress:.2g} %")
            yield Figure(f"law_{corrector}", each["reference"] / each["other"], PAPER, note=law)
            yield Figure(f"whole_{corrector}", whole["reference"] / whole["other"], PAPER, note=note)


async def compared(folder: Path) -> dict[str, Artifact]:
    """Comparisons with the full computation, by EquiNO's corrector."""
    from sciflow import run
    from sciflow.flow import Session, within
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow.stages.train import Train
    from sciflow.store import Store
    from sciflow_fenics.components import RVE, CookMembrane, TwoScale, TwoScaleComparison
    from sciflow_operators.components import EquiNO

    cell, found = RVE(), {}
    outputs = ("fluctuation", "stress", "homogenised")
    computation = TwoScale(CookMembrane(4), cell, steps=3)
    with within(Session(Store(folder), "two_scale")):
        design = await run(Design(problem=cell, count=100))
        data = await run(Simulate(cell), design=design)
        full = await run(computation)
        for corrector in ("none", "magic", "newton"):
            net = EquiNO(problem=cell, epochs=48, polish=8, corrector=corrector, threads=1)
            model = await run(Train(net, cell.components, outputs), ensemble=data)
            fast = await run(computation, model=model)
            found[corrector] = await run(TwoScaleComparison(), reference=full, other=fast)
    return found
