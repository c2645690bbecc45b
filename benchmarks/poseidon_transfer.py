"""Equations on the unit torus, and what a transformer that learned the first one knows of the others.

``python -m benchmarks.poseidon_transfer`` trains and prints a table (ten minutes on one core).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from sciflow.context import Context
from sciflow.samples import Batch, Samples, Signature
from sciflow.schema import Field
from sciflow.surrogate import Model

POINTS, LEVELS, STEPS = 32, 6, 200
SIZES = {"points": 32, "patch": 2, "width": 16, "depths": (2, 2, 2), "heads": (2, 4, 8), "skips": (1, 1, 0)}
WINDOW = 8
NOTHING = {"learning_rate": 2e-3}
"""Settings for random weights."""
FINE = {"learning_rate": 1e-3, "embedding_factor": 1.0, "norm_factor": 1.0, "licence": "own"}
"""Settings for weights that know another equation; a small rate for most of them learned less here."""


def waves() -> tuple[np.ndarray, np.ndarray]:
    """Angular wave numbers along both axes."""
    k = 2 * np.pi * np.fft.fftfreq(POINTS, 1 / POINTS)
    return k[:, None], k[None, :]


def smooth(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random periodic fields of unit spread, shape (count, y, x)."""
    ky, kx = waves()
    fall = (49 + ky**2 + kx**2) ** -1.5
    fields = np.fft.ifft2(np.fft.fft2(rng.standard_normal((count, POINTS, POINTS))) * fall).real
    return np.asarray(fields / fields.std(axis=(1, 2), keepdims=True))


def march(
    first: np.ndarray, linear: np.ndarray, rest: Callable[[np.ndarray], np.ndarray], end: float
) -> np.ndarray:
    """Trajectories of ``u_t = L u + N(u)`` at equally many levels up to `end`, shape (count, level, y, x).

    The linear part exactly, the rest by Heun's method (integrating factor), in Fourier space.
    """
    dt = end / STEPS
    factor = np.exp(dt * linear)
    z, kept = np.fft.fft2(first), [first]
    for step in range(STEPS):
        slope = rest(z)
        guess = factor * (z + dt * slope)
        z = factor * (z + dt / 2 * slope) + dt / 2 * rest(guess)
        if (step + 1) % (STEPS // (LEVELS - 1)) == 0:
            kept.append(np.fft.ifft2(z).real)
    return np.stack(kept, axis=1).astype("float32")


def flow(count: int, rng: np.random.Generator, size: float, viscosity: float, force: float) -> np.ndarray:
    """Vorticity of a fluid, ``w_t + v . grad w = nu lap w + f cos(2 pi (x + y))``, until t = 2."""
    ky, kx = waves()
    square = ky**2 + kx**2
    keep = np.maximum(np.abs(ky), np.abs(kx)) < 2 * np.pi * POINTS / 3
    inverse = np.where(square > 0, 1 / np.where(square > 0, square, 1), 0)
    line = np.arange(POINTS) / POINTS
    drive = np.fft.fft2(force * np.cos(2 * np.pi * (line[:, None] + line)))

    def rest(z: np.ndarray) -> np.ndarray:
        psi = z * inverse
        v, u = np.fft.ifft2(-1j * kx * psi).real, np.fft.ifft2(1j * ky * psi).real
        along = u * np.fft.ifft2(1j * kx * z).real + v * np.fft.ifft2(1j * ky * z).real
        return np.asarray(drive - np.fft.fft2(along) * keep)

    return march(size * smooth(count, rng), -viscosity * square, rest, 2.0)


def vorticity(count: int, rng: np.random.Generator) -> np.ndarray:
    """Flows that decay."""
    return flow(count, rng, 3.0, 1e-3, 0.0)


def forced(count: int, rng: np.random.Generator) -> np.ndarray:
    """More viscous flows that a steady force drives."""
    return flow(count, rng, 2.0, 3e-3, 4.0)


def phases(count: int, rng: np.random.Generator) -> np.ndarray:
    """Two phases that part: ``u_t = eps**2 lap u + 5 (u - u**3)`` (Allen-Cahn), until t = 0.6."""
    ky, kx = waves()

    def rest(z: np.ndarray) -> np.ndarray:
        u = np.fft.ifft2(z).real
        return np.asarray(np.fft.fft2(-5 * u**3))

    return march(0.4 * smooth(count, rng), 5 - 4e-3 * (ky**2 + kx**2), rest, 0.6)


class Pairs(Samples):
    """Every pair of levels of some trajectories."""

    def __init__(self, trajectories: np.ndarray) -> None:
        field = Field(("y", "x"), "1")
        line = np.arange(POINTS) / POINTS
        self.signature = Signature(
            {"u": field, "lead_time": Field((), "s")}, {"u": field}, {"y": line, "x": line}, ("y", "x")
        )
        self.trajectories = trajectories
        pairs = [(i, j) for i in range(LEVELS) for j in range(i, LEVELS)]
        self.pick = np.array([(m, i, j) for m in range(len(trajectories)) for i, j in pairs])

    def __len__(self) -> int:
        return len(self.pick)

    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`."""
        order = np.arange(len(self))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for n in range(start * size, len(self), size):
            m, i, j = self.pick[order[n : n + size]].T
            lead = ((j - i) / (LEVELS - 1)).astype("float32")
            yield Batch({"u": self.trajectories[m, i], "lead_time": lead}, {"u": self.trajectories[m, j]})


def train(trajectories: np.ndarray, seed: int, **settings: object) -> Model:
    """A small scOT fitted to all pairs."""
    from sciflow_operators.components import Poseidon
    from sciflow_operators.poseidon.architecture import Architecture

    size = Architecture(window=WINDOW, **SIZES)  # type: ignore[arg-type]
    config = Poseidon(architecture=size, threads=1, device="cpu", **settings)  # type: ignore[arg-type]
    samples = Pairs(trajectories)
    fit = config.fit(samples, Pairs(trajectories[:1]), Context(seed=seed))
    while True:
        try:
            next(fit)
        except StopIteration as end:
            model: Model = end.value
            return model


def error(model: Model, trajectories: np.ndarray) -> float:
    """Median relative L1 error of all pairs of different levels, in %."""
    found = []
    for batch in Pairs(trajectories).batches(63, seed=None):
        apart = np.abs(model.predict(batch.x)["u"] - batch.y["u"]).mean(axis=(1, 2))
        found.append((apart / np.abs(batch.y["u"]).mean(axis=(1, 2)))[batch.x["lead_time"] > 0])
    return 100 * float(np.median(np.concatenate(found)))


def main(few: tuple[int, ...] = (4, 16), seeds: tuple[int, ...] = (0,)) -> None:
    """Train on many flows of the first equation; then few of two others, from there and from nothing."""
    from sciflow_operators.poseidon.published import write

    rng = np.random.default_rng(0)
    first = vorticity(136, rng)
    begin = time.perf_counter()
    model = train(first[8:], 0, epochs=12, batch=32, learning_rate=2e-3)
    seconds = time.perf_counter() - begin
    print(f"pre-trained on 128 flows in {seconds:.0f} s: error {error(model, first[:8]):.2f} %", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        net = model.net.net  # type: ignore[attr-defined]
        write(net, model.config.sizes, directory)  # type: ignore[attr-defined]
        ways = {"from nothing": NOTHING, "pre-trained": {**FINE, "weights": directory}}
        for count in few:
            for name, made in (("driven flow", forced(64, rng)), ("phases", phases(64, rng))):
                for way, settings in ways.items():
                    begin = time.perf_counter()
                    fixed = {"epochs": 320 // count, "batch": 16}
                    errors = [error(train(made[:count], s, **fixed, **settings), made[32:]) for s in seeds]
                    seconds = (time.perf_counter() - begin) / len(seeds)
                    line = ", ".join(f"{e:.2f}" for e in errors)
                    print(f"{count} trajectories of {name}, {way}: {line} % in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
