"""How long a refined prediction of chaos stays right, beside the plain network at equal training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    from sciflow.samples import Samples
    from sciflow.surrogate import Model
    from sciflow_operators.training.trained import Trained

STEP, LEVELS = 0.8, 81
"""Time between two levels, and levels of a trajectory after the chaos has set in."""
POINTS = 64


def trajectories(count: int, seed: int) -> np.ndarray:
    """Kuramoto-Sivashinsky, 64 long: shape (count, LEVELS, POINTS)."""
    import numpy as np

    from sciflow.context import Context
    from sciflow_spectral.components import KuramotoSivashinsky

    steps = (LEVELS - 1) * 16
    problem = KuramotoSivashinsky(
        points=POINTS, solve_points=128, levels=LEVELS, end=STEP * (LEVELS - 1), steps=steps, spin_up=1000
    )
    mu = {"amplitude": np.full(count, 0.3), "member": np.arange(count)}
    states = list(problem.solve_batch(mu, Context(seed=seed)))
    return np.stack([s.fields["u"] for s in states], axis=1).astype(np.float32)


def steps_of(u: np.ndarray) -> Samples:
    """Every level and the one that follows, as samples."""
    import numpy as np

    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field

    first, last = u[:, :-1].reshape(-1, POINTS), u[:, 1:].reshape(-1, POINTS)

    class Memory(Samples):
        field = Field(("x",), "1")
        signature = Signature({"u": field}, {"u": field}, {"x": 64 * np.arange(POINTS) / POINTS}, ("x",))

        def __len__(self) -> int:
            return len(first)

        def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
            order = np.arange(len(first))
            if seed is not None:
                order = np.random.default_rng([seed, epoch]).permutation(len(first))
            for i in range(0, len(order), size):
                pick = order[i : i + size]
                yield Batch({"u": first[pick]}, {"u": last[pick]})

    return Memory()


def fitted(config: Trained, train: Samples, valid: Samples) -> tuple[Model, float]:
    """A trained model and the seconds it took."""
    from sciflow.context import Context

    begin = time.perf_counter()
    fit = config.fit(train, valid, Context())
    while True:
        try:
            next(fit)
        except StopIteration as end:
            return end.value, time.perf_counter() - begin


def correlated(model: Model, u: np.ndarray, least: float) -> tuple[float, float]:
    """Mean time until a roll-out's correlation with the truth falls below `least`; error of one step, %."""
    import numpy as np

    state, alive = u[:, 0], np.ones(len(u), dtype=bool)
    total, single = np.zeros(len(u)), 0.0
    for level in range(1, u.shape[1]):
        state = model.predict({"u": state})["u"]
        truth = u[:, level]
        if level == 1:
            apart = np.linalg.norm(state - truth, axis=1) / np.linalg.norm(truth, axis=1)
            single = 100 * float(np.median(apart))
        a, b = (v - v.mean(axis=1, keepdims=True) for v in (state, truth))
        both = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
        alive &= both >= least
        total += STEP * alive
    return float(total.mean()), single


def bench_kuramoto_sivashinsky() -> Iterator[Figure]:
    """Plain and refined with one inner network, equal samples and updates; 64 unseen trajectories."""
    from sciflow_operators.components import FNO, Refiner, Squared, UNet

    train, valid, test = steps_of(trajectories(128, 1)), steps_of(trajectories(2, 2)), trajectories(64, 3)
    nets = {
        "fno": (FNO(width=32, modes=64, layers=4, coordinates=False), 10, 4e-3, 1e-4),
        "unet": (UNet(width=16, halvings=2, blocks=1, film=True), 14, 2e-3, 1e-3),
    }
    for name, (inner, epochs, rate, variance) in nets.items():
        same = {
            "epochs": epochs, "batch": 64, "learning_rate": rate, "ema": 0.995, "threads": 1,
            "increments": True, "loss": Squared(), "device": "cpu",
        }  # fmt: skip
        configs = {
            "plain": inner.replace(**same),
            "once": Refiner(inner=inner, steps=1, variance=variance, **same),
            "three times": Refiner(inner=inner, steps=3, variance=1e-6, **same),
        }
        found = {}
        for kind, config in configs.items():
            model, seconds = fitted(config, train, valid)
            found[kind] = (*correlated(model, test, 0.8), seconds)
        for kind in ("once", "three times"):
            notes = [
                f"{k}: {found[k][0]:.1f}, one step {found[k][1]:.2f} %, trained in {found[k][2]:.0f} s"
                for k in ("plain", kind)
            ]
            ratio = found[kind][0] / found["plain"][0]
            yield Figure(f"{name}_{kind.replace(' ', '_')}", ratio, 1.1, "x", ">=", "; ".join(notes))
