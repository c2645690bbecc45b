"""Neural ODEs with regularised steps beside plain ones, looser tolerances and equal steps."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    from sciflow.samples import Samples
    from sciflow.surrogate import Model
    from sciflow_operators.ode.model import Integrated
    from sciflow_operators.ode.neural_ode import NeuralODE
    from sciflow_operators.training.trained import Trained

SEEDS = (0, 1, 2)
TRAIN, TEST = 512, 256
TOLERANCE = 1e-5
"""In training and prediction, of all that are compared."""
Settings = dict[str, dict[str, Any]]
WAYS: Settings = {
    "plain": {},
    "error_global": {"regularise": "error", "where": "global", "error_weight": 0.3},
    "error_local": {"regularise": "error", "where": "local", "error_weight": 0.3},
    "stiffness_global": {"regularise": "stiffness", "where": "global", "stiffness_weight": 0.03},
    "stiffness_local": {"regularise": "stiffness", "where": "local", "stiffness_weight": 0.03},
}
PLAIN = "plain"
FADING: Settings = {
    "plain": {},
    "error_global": {"regularise": "error", "where": "global", "error_weight": 0.3, "fade": 0.3},
    "error_local": {"regularise": "error", "where": "local", "error_weight": 0.3, "fade": 0.3},
}


@dataclass(frozen=True)
class Asked:
    """What a model's predictions of the test samples cost and how wrong they are.

    Attributes
    ----------
    evaluations : float
        Of the network for a sample.
    error : float
        Root of the mean square over the spread of the truth.
    """

    evaluations: float
    error: float


def samples(
    x: dict[str, np.ndarray], y: dict[str, np.ndarray], axes: tuple[str, ...], periodic: bool
) -> Samples:
    """Fields on a grid as samples."""
    import numpy as np

    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field

    count, *points = next(iter(y.values())).shape
    field = Field(axes, "1")
    lines = {axis: np.arange(n) / n for axis, n in zip(axes, points, strict=True)}
    described = Signature(dict.fromkeys(x, field), dict.fromkeys(y, field), lines, axes if periodic else ())

    class Memory(Samples):
        signature = described

        def __len__(self) -> int:
            return count

        def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
            order = np.arange(count)
            if seed is not None:
                order = np.random.default_rng([seed, epoch]).permutation(count)
            for i in range(start * size, count, size):
                pick = order[i : i + size]
                yield Batch({k: v[pick] for k, v in x.items()}, {k: v[pick] for k, v in y.items()})

    return Memory()


def darcy(count: int, seed: int) -> Samples:
    """Permeability of two phases to pressure, 15 x 15 points."""
    import numpy as np

    from sciflow.context import Context
    from sciflow_spectral.components import TwoPhaseDarcy

    problem = TwoPhaseDarcy(points=15, solve_points=43, modes=32)
    states = [list(problem.solve({"source": 1.0}, Context(seed=seed + i)))[-1].fields for i in range(count)]
    a, p = (np.stack([s[n] for s in states]).astype(np.float32) for n in ("permeability", "pressure"))
    return samples({"permeability": a}, {"pressure": p}, ("y", "x"), periodic=False)


def burgers(count: int, seed: int) -> Samples:
    """A velocity to that a time of 0.3 later, 32 points, viscosity 0.02."""
    import numpy as np

    from sciflow.context import Context
    from sciflow_spectral.components import Burgers

    problem = Burgers(points=32, solve_points=128, levels=2, end=0.3, steps=100)
    point = {"viscosity": np.full(count, 0.02), "member": np.arange(count)}
    first, last = (s.fields["u"].astype(np.float32) for s in problem.solve_batch(point, Context(seed=seed)))
    return samples({"u": first}, {"u": last}, ("x",), periodic=True)


def learned(config: Trained, train: Samples, seed: int) -> tuple[Any, float]:
    """A fitted model, and the evaluations of the last epoch's training for a sample."""
    import torch

    from sciflow.context import Context

    torch.set_num_threads(1)
    fit = config.fit(train, train, Context(seed=seed))
    last = 0.0
    while True:
        try:
            last = next(fit).metrics.get("train_nfe", 1.0)
        except StopIteration as end:
            return end.value, last


def wrong(model: Model, test: Samples) -> float:
    """Root of the mean square of the error, over the spread of the truth."""
    import numpy as np

    batch = next(iter(test.batches(len(test), seed=None)))
    ((name, truth),) = batch.y.items()
    return float(np.sqrt(np.mean((model.predict(batch.x)[name] - truth) ** 2)) / truth.std())


def asked(model: Integrated, test: Samples, **changes: Any) -> Asked:
    """Predict the test samples, perhaps with another integrator."""
    config = model.config.replace(regularise="none", **changes)
    other: Any = config.load(model.state(), model.signature)
    error = wrong(other, test)
    return Asked(float(other.evaluations.mean()), error)


def ratio(found: Sequence[Asked], plain: Sequence[Asked], what: str) -> float:
    """Mean over the seeds of one, over that of the other."""
    return statistics.mean(getattr(a, what) for a in found) / statistics.mean(getattr(a, what) for a in plain)


def compared(
    name: str, config: NeuralODE, single: Trained, train: Samples, test: Samples, settings: Settings
) -> Iterator[Figure]:
    """Every way of regularising beside the plain model, a network of one pass, and other integrators."""
    ways = list(settings)
    models = {way: [learned(config.replace(**settings[way]), train, s) for s in SEEDS] for way in ways}
    found = {way: [asked(m, test) for m, _ in some] for way, some in models.items()}
    plain = found[PLAIN]
    work = {way: statistics.mean(n for _, n in some) for way, some in models.items()}
    for way in ways[1:]:
        each = ", ".join(
            f"{a.evaluations:.0f}/{b.evaluations:.0f}" for a, b in zip(found[way], plain, strict=True)
        )
        note = f"{each} in prediction; training {work[way] / work[PLAIN]:.2f}x"
        yield Figure(
            f"{name}_{way}_evaluations", ratio(found[way], plain, "evaluations"), 0.7, "x", "<=", note
        )
        each = ", ".join(f"{a.error:.3g}/{b.error:.3g}" for a, b in zip(found[way], plain, strict=True))
        yield Figure(f"{name}_{way}_error", ratio(found[way], plain, "error"), 1.1, "x", "<=", each)
    alone = statistics.mean(wrong(learned(single, train, s)[0], test) for s in SEEDS)
    mine = statistics.mean(a.error for a in plain)
    note = (
        f"plain {mine:.3g}, {single.name} alone {alone:.3g} with {single.epochs} epochs for {config.epochs}"
    )
    yield Figure(f"{name}_error_over_one_pass", mine / alone, 1.0, "x", "<=", note)
    for label, changes in (
        ("tolerance_1e-2", {"tolerance": 1e-2}),
        ("two_equal_steps", {"fixed_steps": 2}),
    ):
        loose = {way: [asked(m, test, **changes) for m, _ in some] for way, some in models.items()}
        note = f"the plain model, asked with it; error {ratio(loose[PLAIN], plain, 'error'):.4f}x"
        yield Figure(f"{name}_{label}", ratio(loose[PLAIN], plain, "evaluations"), 0.7, "x", "<=", note)
        best = min(ways[1:], key=lambda way: ratio(loose[way], loose[PLAIN], "evaluations"))
        note = f"{best} over plain, both with it; error {ratio(loose[best], loose[PLAIN], 'error'):.3f}x"
        yield Figure(
            f"{name}_{label}_regularised",
            ratio(loose[best], loose[PLAIN], "evaluations"),
            0.7,
            "x",
            "<=",
            note,
        )


def bench_map() -> Iterator[Figure]:
    """A field to another one: no path between them is given, the straightest is the cheapest."""
    from sciflow_operators.components import MLP, NeuralODE, Squared

    shared: dict[str, Any] = {
        "width": 128,
        "layers": 2,
        "batch": 32,
        "learning_rate": 5e-3,
        "threads": 1,
        "device": "cpu",
    }
    config = NeuralODE(epochs=20, tolerance=TOLERANCE, **shared)
    single = MLP(epochs=100, loss=Squared(), **shared)
    yield from compared("map", config, single, darcy(TRAIN, 10**6), darcy(TEST, 2 * 10**6), WAYS)


def bench_flow() -> Iterator[Figure]:
    """A state to a later one: paths of neighbours must not cross, and the straightest are not the truest."""
    from sciflow_operators.components import FNO, NeuralODE, Squared

    inner = FNO(width=12, modes=8, layers=2)
    shared: dict[str, Any] = {"batch": 32, "learning_rate": 1e-2, "threads": 1, "device": "cpu"}
    config = NeuralODE(inner=inner, epochs=10, tolerance=TOLERANCE, **shared)
    single = inner.replace(increments=True, epochs=60, loss=Squared(), **shared)
    yield from compared("flow", config, single, burgers(TRAIN // 2, 1), burgers(TEST, 2), FADING)
