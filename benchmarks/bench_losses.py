"""What losses cost beside a training step, and what they change: slopes and short waves of the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.figure import Figure, medians

if TYPE_CHECKING:
    import numpy as np

    from sciflow.surrogate import Model
    from sciflow_operators.components import FNO


def bench_cost() -> Iterator[Figure]:
    """FNO, 64 x 64 points, width 32, 16 modes, 4 layers, batch 8, one thread: forward and backward."""
    import numpy as np
    import torch

    from sciflow.samples import Signature
    from sciflow.schema import Field
    from sciflow_operators.components import FNO, RelativeL2, Sobolev, Spectral
    from sciflow_operators.fields.channels import Scale

    torch.set_num_threads(1)
    field, line = Field(("y", "x"), "1"), np.arange(64) / 64
    signature = Signature({"u": field}, {"u": field}, {"y": line, "x": line}, ("y", "x"))
    one = Scale(*(np.full(1, v, np.float32) for v in (0.0, 1.0, 1.0)))
    losses = {"relative_l2": RelativeL2(), "sobolev": Sobolev(), "spectral": Spectral()}
    x, y = torch.randn(2, 8, 64, 64, 1)
    config = FNO(device="cpu", threads=1)
    layout, net = config.network(signature)
    models = {
        n: config.replace(loss=loss).fitted(signature, layout, net, (one, one)) for n, loss in losses.items()
    }

    def step(name: str) -> None:
        net.zero_grad()
        models[name].objective(x, y, torch.Generator(), 0.0).mean().backward()

    seconds = medians({n: (lambda n=n: step(n)) for n in losses}, repeats=15)
    for name in ("sobolev", "spectral"):
        note = (
            f"{1e3 * seconds[name]:.1f} ms, with the relative L2 error {1e3 * seconds['relative_l2']:.1f} ms"
        )
        yield Figure(f"{name}_step", seconds[name] / seconds["relative_l2"], 1.1, "x", "<=", note)


def trained(config: FNO, first: np.ndarray, last: np.ndarray, *, same: bool = False) -> Model:
    """A model of the map between states on a periodic line, of one name or of two."""
    import numpy as np

    from sciflow.context import Context
    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field

    name = "u" if same else "v"

    class Memory(Samples):
        def __init__(self) -> None:
            u, n = Field(("x",), "1"), first.shape[1]
            self.signature = Signature({"u": u}, {name: u}, {"x": np.arange(n) / n}, ("x",))

        def __len__(self) -> int:
            return len(first)

        def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
            order = np.arange(len(self))
            if seed is not None:
                order = np.random.default_rng([seed, epoch]).permutation(len(self))
            for i in range(0, len(self), size):
                pick = order[i : i + size]
                yield Batch({"u": first[pick]}, {name: last[pick]})

    fit = config.fit(Memory(), Memory(), Context())
    while True:
        try:
            next(fit)
        except StopIteration as end:
            model: Model = end.value
            return model


def bench_burgers() -> Iterator[Figure]:
    """Burgers' equation, viscosity 0.01, 300 members at 128 points, 40 epochs with each loss."""
    import numpy as np
    import torch

    from sciflow.context import Context
    from sciflow_operators.components import FNO, RelativeL2, Sobolev, Spectral, Weighted
    from sciflow_spectral.components import Burgers

    torch.set_num_threads(1)
    mu = {"viscosity": np.full(400, 0.01), "member": np.arange(400)}
    states = list(Burgers(points=128, solve_points=512).solve_batch(mu, Context()))
    first, last = (np.asarray(states[i].fields["u"], dtype=np.float32) for i in (0, -1))
    losses = {
        "l2": RelativeL2(),
        "h1": Sobolev(),
        "l2_and_bands": Weighted(((RelativeL2(), 1.0), (Spectral(), 0.1))),
    }
    rows = {}
    for name, loss in losses.items():
        config = FNO(width=24, modes=32, epochs=40, threads=1, device="cpu", loss=loss)
        model = trained(config, first[:300], last[:300])
        guess, truth = model.predict({"u": first[300:]})["v"], last[300:]
        k = np.arange(65)
        both = [np.abs(np.fft.rfft(v, axis=1)) ** 2 for v in (guess - truth, truth)]
        rows[name] = [
            100 * np.sqrt(np.median((w * both[0]).sum(1) / (w * both[1]).sum(1))) for w in (k**0, k**2)
        ]
    for name in ("h1", "l2_and_bands"):
        for what, ours, theirs in zip(("error", "slopes"), rows[name], rows["l2"], strict=True):
            note = f"{ours:.2f} %, trained with the relative L2 error {theirs:.2f} %"
            yield Figure(f"{name}_{what}", float(ours / theirs), 1.0, "x", "<=", note)


def bench_physics() -> Iterator[Figure]:
    """One step of Burgers' equation from 3 trajectories of 16 steps, viscosity 0.02, 64 points, 60 epochs."""
    import numpy as np
    import torch

    from sciflow.context import Context
    from sciflow_operators.components import FNO, BurgersStep, Physics, RelativeL2, Weighted
    from sciflow_spectral.components import Burgers

    torch.set_num_threads(1)
    mu = {"viscosity": np.full(23, 0.02), "member": np.arange(23)}
    problem = Burgers(points=64, solve_points=512, levels=21, end=0.5, steps=400)
    states = [state.fields["u"] for state in problem.solve_batch(mu, Context())]
    levels = np.stack(states[4:], axis=1).astype(np.float32)
    physics = Physics(BurgersStep("u", 0.02, 0.5 / 20))
    losses = {
        "fields": RelativeL2(),
        "both": Weighted(((RelativeL2(), 1.0), (physics, 1.0))),
        "equation_alone": physics,
    }
    errors = {}
    for name, loss in losses.items():
        config = FNO(
            width=16, modes=24, layers=3, epochs=60, threads=1, device="cpu", coordinates=False, loss=loss
        )
        pairs = [levels[:3, part].reshape(-1, 64) for part in (slice(None, -1), slice(1, None))]
        model = trained(config.replace(increments=True), *pairs, same=True)
        guess, truth = (v.reshape(-1, 64) for v in (model.predict({"u": levels[3:, 0]})["u"], levels[3:, 1]))
        apart = np.linalg.norm(guess - truth, axis=1) / np.linalg.norm(truth, axis=1)
        errors[name] = 100 * float(np.median(apart))
    for name in ("both", "equation_alone"):
        note = f"{errors[name]:.2f} %, trained with the relative L2 error {errors['fields']:.2f} %"
        yield Figure(f"physics_{name}", errors[name] / errors["fields"], 1.0, "x", "<=", note)
