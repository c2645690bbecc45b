"""Errors of Fourier operators on the flow through two phases: dense on a finer grid, and factorised."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.figure import Figure
from sciflow.samples import Batch, Samples, Signature
from sciflow.schema import Field

if TYPE_CHECKING:
    from sciflow.surrogate import Model
    from sciflow_operators.components import FNO

KNOWN, UNKNOWN = "permeability", "pressure"
TRAINED, FEWER = 1000, 500
"""Members that are trained on; 200 others are predicted."""


@dataclass(frozen=True)
class Held(Samples):
    """Samples that lie in memory.

    Attributes
    ----------
    arrays : mapping of str to ndarray, shape (member, y, x)
        Permeability and pressure.
    """

    arrays: Mapping[str, np.ndarray]

    @property
    def signature(self) -> Signature:  # type: ignore[override]
        """Both fields on the unit square, which is not periodic."""
        field = Field(("y", "x"), "1")
        line = np.linspace(0, 1, self.arrays[KNOWN].shape[-1])
        return Signature({KNOWN: field}, {UNKNOWN: field}, {"y": line, "x": line})

    def __len__(self) -> int:
        return len(self.arrays[KNOWN])

    def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`."""
        order = np.arange(len(self))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for i in range(0, len(self), size):
            pick = order[i : i + size]
            yield Batch(*({name: self.arrays[name][pick]} for name in (KNOWN, UNKNOWN)))

    def part(self, members: slice, every: int) -> Held:
        """Some members, on a part of the grid."""
        return Held({k: np.ascontiguousarray(v[members, ::every, ::every]) for k, v in self.arrays.items()})


def media(count: int, points: int) -> Held:
    """Solutions on 169 x 169 points, of which some are kept."""
    from sciflow.context import Context
    from sciflow_spectral.components import TwoPhaseDarcy

    problem = TwoPhaseDarcy(points=points, solve_points=169, faces="arithmetic")
    found: dict[str, list[np.ndarray]] = {KNOWN: [], UNKNOWN: []}
    for member in range(count):
        (state,) = problem.solve({"source": 1.0}, Context(seed=member))
        for name, values in found.items():
            values.append(np.asarray(state.fields[name], dtype=np.float32))
    return Held({name: np.stack(values) for name, values in found.items()})


def trained(config: FNO, samples: Held) -> tuple[Model, float]:
    """A model and the seconds that its training took."""
    from sciflow.context import Context

    begin = time.perf_counter()
    fit = config.fit(samples, samples.part(slice(8), 1), Context())
    while True:
        try:
            next(fit)
        except StopIteration as end:
            return end.value, time.perf_counter() - begin


def error(model: Model, test: Held) -> float:
    """Mean relative L2 error of the members, in percent."""
    truth = test.arrays[UNKNOWN]
    apart = model.predict({KNOWN: test.arrays[KNOWN]})[UNKNOWN] - truth
    sizes = [np.linalg.norm(a.reshape(len(a), -1), axis=1) for a in (apart, truth)]
    return float(100 * np.mean(sizes[0] / sizes[1]))


def bench_darcy() -> Iterator[Figure]:
    """Two-phase Darcy flow, 1000 members at 43 x 43 points, 40 epochs; then 85 x 85 points."""
    from sciflow_operators.components import FNO

    held = media(TRAINED + 200, 85)
    config = FNO(epochs=40, threads=1, device="cpu")
    model, seconds = trained(config, held.part(slice(TRAINED), 2))
    unseen = slice(TRAINED, None)
    coarse, fine = (error(model, held.part(unseen, every)) for every in (2, 1))
    note = f"200 unseen members, trained in {seconds:.0f} s on one thread"
    yield Figure("darcy_mean_error", coarse, 1.6, " %", "<=", note)
    yield Figure("darcy_finer_grid", fine / coarse, 1.5, "x", "<=", f"85 x 85 points: {fine:.2f} %")


def bench_factorised() -> Iterator[Figure]:
    """Tensor trains beside dense weights, trained alike on 500 members at 43 x 43 points."""
    from sciflow_operators.components import FNO

    held = media(FEWER + 200, 43)
    dense = FNO(epochs=15, learning_rate=8e-3, threads=1, device="cpu")
    errors, sizes, times = [], [], []
    for config in (dense, dense.replace(factorisation="tt", rank=0.1)):
        model, seconds = trained(config, held.part(slice(FEWER), 1))
        errors.append(error(model, held.part(slice(FEWER, None), 1)))
        sizes.append(sum(v.size for k, v in model.state().items() if k.startswith("net.")))
        times.append(seconds)
    note = f"{sizes[0]} and {sizes[1]} numbers"
    yield Figure("factorised_parameters", sizes[0] / sizes[1], 8.0, "x", ">=", note)
    note = f"dense {errors[0]:.2f} %, train {errors[1]:.2f} %, trained in {times[0]:.0f} and {times[1]:.0f} s"
    yield Figure("factorised_error", errors[1] / errors[0], 1.05, "x", "<=", note)
