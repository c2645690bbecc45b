"""Networks around networks beside the network inside: unseen parameters, and the cost of coarse grids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.figure import Figure, medians

if TYPE_CHECKING:
    import numpy as np

    from sciflow.samples import Samples
    from sciflow.surrogate import Model
    from sciflow_operators.training.trained import Trained

POINTS, SEEN, BETWEEN, PASSES = 64, 6, 5, 48
"""Grid points; values of the parameter that training sees, and values between them; passes."""


def memory(arrays: dict[str, np.ndarray], after: np.ndarray, parameter: str) -> Samples:
    """One field and one parameter to the field after a step, as samples."""
    import numpy as np

    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field

    class Memory(Samples):
        field = Field(("x",), "1")
        signature = Signature(
            {"u": field, parameter: Field((), "1")}, {"u": field}, {"x": np.arange(POINTS) / POINTS}, ("x",)
        )

        def __len__(self) -> int:
            return len(after)

        def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
            order = np.arange(len(after))
            if seed is not None:
                order = np.random.default_rng([seed, epoch]).permutation(len(after))
            for i in range(0, len(order), size):
                pick = order[i : i + size]
                yield Batch({k: v[pick] for k, v in arrays.items()}, {"u": after[pick]})

    return Memory()


def values(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Values that are seen, and those in the middle between them, on a logarithmic scale."""
    import numpy as np

    line = np.geomspace(low, high, SEEN + BETWEEN)
    return line[::2], line[1::2]


def burgers(viscosity: np.ndarray, each: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """20 steps of 0.05 of `each` members for every viscosity."""
    import numpy as np

    from sciflow.context import Context
    from sciflow_spectral.components import Burgers

    nu = np.repeat(viscosity, each)
    problem = Burgers(points=POINTS, solve_points=256, levels=21, end=1.0)
    states = list(problem.solve_batch({"viscosity": nu, "member": np.arange(len(nu))}, Context(seed=seed)))
    u = np.stack([s.fields["u"] for s in states], axis=1).astype(np.float32)
    first, last = u[:, :-1].reshape(-1, POINTS), u[:, 1:].reshape(-1, POINTS)
    return {"u": first, "nu": np.repeat(nu, 20).astype(np.float32)}, last


def advection(speed: np.ndarray, each: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random waves that travel for the time 1 at a speed which is the parameter; 20 `each` a speed."""
    import numpy as np

    rng = np.random.default_rng(seed)
    c = np.repeat(speed, 20 * each)
    k = np.arange(1, 9)
    z = (rng.standard_normal((len(c), 8)) + 1j * rng.standard_normal((len(c), 8))) / k
    x = np.arange(POINTS) / POINTS
    waves = np.exp(2j * np.pi * np.outer(k, x))
    first, last = (
        np.real(v @ waves).astype(np.float32) for v in (z, z * np.exp(-2j * np.pi * np.outer(c, k)))
    )
    return {"u": first, "c": c.astype(np.float32)}, last


def fitted(config: Trained, samples: Samples, seed: int) -> tuple[Model, float]:
    """A trained model and the processor time it took, s."""
    from sciflow.context import Context

    begin = time.process_time()
    fit = config.fit(samples, samples, Context(seed=seed))
    while True:
        try:
            next(fit)
        except StopIteration as end:
            return end.value, time.process_time() - begin


def bench_conditioned() -> Iterator[Figure]:
    """Parameters by attention beside parameters as constant fields: an FNO in equal time; two seeds each."""
    import numpy as np

    from sciflow_operators.components import FNO, Conditioned, Squared

    inner = FNO(width=20, modes=16, layers=3, coordinates=False)
    same = {
        "batch": 32, "learning_rate": 4e-3, "increments": True, "loss": Squared(), "threads": 1,
        "device": "cpu",
    }  # fmt: skip
    for name, make, ends in (("burgers", burgers, (0.003, 0.1)), ("advection", advection, (0.05, 0.5))):
        seen, unseen = values(*ends)
        key = "nu" if name == "burgers" else "c"
        train = memory(*make(seen, 12, 1), key)
        tests = {"unseen": make(unseen, 8, 2), "seen": make(seen, 8, 3)}
        rows: dict[str, list[list[float]]] = {"plain": [], "conditioned": []}
        epochs = {"conditioned": PASSES, "plain": PASSES}
        for seed in (0, 1):
            for kind in ("conditioned", "plain"):
                config = (
                    Conditioned(inner=inner, epochs=epochs[kind], **same)
                    if kind == "conditioned"
                    else (inner.replace(epochs=epochs[kind], **same))
                )
                if kind == "plain" and not rows["plain"]:
                    # As many passes as fit into the time that the other one took.
                    _, once = fitted(config.replace(epochs=1), train, seed)
                    epochs["plain"] = max(PASSES, round(rows["conditioned"][0][-1] / once))
                    config = config.replace(epochs=epochs["plain"])
                model, seconds = fitted(config, train, seed)
                errors = []
                for x, after in tests.values():
                    apart = np.linalg.norm(model.predict(x)["u"] - after, axis=1)
                    errors.append(100 * float(np.median(apart / np.linalg.norm(after, axis=1))))
                rows[kind].append([*errors, seconds])
        mean = {k: np.mean(v, axis=0) for k, v in rows.items()}
        notes = [
            f"{k}: {m[0]:.2f} % of unseen, {m[1]:.2f} % of seen parameters, {epochs[k]} passes, {m[2]:.0f} s"
            for k, m in mean.items()
        ]
        ratio = float(mean["conditioned"][0] / mean["plain"][0])
        yield Figure(f"conditioned_{name}_error", ratio, 1.0, "x", "<=", "; ".join(notes))


def bench_stagger() -> Iterator[Figure]:
    """An FNO on 128 x 128 points beside one of equal width on four coarse grids: step and prediction."""
    import torch

    from sciflow_operators.components import FNO, Stagger
    from sciflow_operators.fields.port import Port

    torch.set_num_threads(1)
    port = Port((0,), (), 1, (128, 128), (True, True), ("u",))
    inner = FNO(width=24, modes=16, layers=4)
    nets = {
        "fine": inner.module(port),
        "joint": Stagger(inner=inner).module(port),
        "separate": Stagger(inner=inner, joint=False).module(port),
    }
    x = torch.randn(2, 128, 128, 1)

    def step(name: str) -> None:
        nets[name](x).square().mean().backward()

    def forward(name: str) -> None:
        with torch.no_grad():
            nets[name](x)

    for what, call in (("step", step), ("forward", forward)):
        times = medians({n: (lambda n=n, call=call: call(n)) for n in nets}, repeats=10)
        note = ", ".join(f"{n} {1e3 * t:.0f} ms" for n, t in times.items())
        yield Figure(f"stagger_{what}", times["fine"] / times["joint"], 3.0, note=note)


def bench_stagger_accuracy() -> Iterator[Figure]:
    """Burgers' equation on 128 points: an FNO beside the same one on two and on four coarse grids."""
    import numpy as np

    from benchmarks.bench_uncertainty import burgers as members
    from sciflow_operators.components import FNO, Stagger

    samples, unseen = members()
    truth = unseen.y["v"]
    same = {"epochs": 40, "batch": 16, "learning_rate": 4e-3, "threads": 1, "device": "cpu"}
    inner = FNO(width=16, modes=16, layers=3)
    found = {}
    for name, config in {
        "fine": inner.replace(**same),
        "two": Stagger(inner=inner, **same),
        "two, separate": Stagger(inner=inner, joint=False, **same),
        "four": Stagger(inner=inner, factor=4, **same),
    }.items():
        model, seconds = fitted(config, samples, 0)
        apart = np.linalg.norm(model.predict(unseen.x)["v"] - truth, axis=1) / np.linalg.norm(truth, axis=1)
        found[name] = (100 * float(np.median(apart)), seconds)
    note = "; ".join(f"{k}: {e:.2f} %, {s:.1f} s" for k, (e, s) in found.items())
    yield Figure("stagger_error", found["two"][0] / found["fine"][0], 1.05, "x", "<=", note)
