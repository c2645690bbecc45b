"""How often bands around a network's predictions hold the truth; ensembles; conserved integrals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    from sciflow.samples import Batch, Samples
    from sciflow.surrogate import Model, Surrogate

TRAIN, UNSEEN, POINTS = 200, 1400, 128


def burgers() -> tuple[Samples, Batch]:
    """Burgers' equation, viscosity 0.01 to 0.1: training samples, and a batch of unseen members."""
    import numpy as np

    from sciflow.context import Context
    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field
    from sciflow_spectral.components import Burgers

    count = TRAIN + UNSEEN
    nu = np.exp(np.random.default_rng(0).uniform(np.log(0.01), np.log(0.1), count))
    # Solved on the grid that is stored: there the sum over the points is kept to round-off.
    problem = Burgers(points=POINTS, solve_points=POINTS)
    states = list(problem.solve_batch({"viscosity": nu, "member": np.arange(count)}, Context()))
    first, last = (np.asarray(states[i].fields["u"], dtype=np.float32) for i in (0, -1))
    arrays = {"u": first, "viscosity": nu.astype(np.float32)}

    class Memory(Samples):
        field = Field(("x",), "1")
        signature = Signature(
            {"u": field, "viscosity": Field((), "1")}, {"v": field}, {"x": np.arange(POINTS) / POINTS}, ("x",)
        )

        def __len__(self) -> int:
            return TRAIN

        def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
            order = np.arange(TRAIN)
            if seed is not None:
                order = np.random.default_rng([seed, epoch]).permutation(TRAIN)
            for i in range(0, TRAIN, size):
                pick = order[i : i + size]
                yield Batch({k: v[pick] for k, v in arrays.items()}, {"v": last[pick]})

    return Memory(), Batch({k: v[TRAIN:] for k, v in arrays.items()}, {"v": last[TRAIN:]})


def fitted(config: Surrogate, samples: Samples) -> Model:
    """The trained model."""
    from sciflow.context import Context

    fit = config.fit(samples, samples, Context())
    while True:
        try:
            next(fit)
        except StopIteration as end:
            model: Model = end.value
            return model


class Known:
    """What a model says of the unseen members, so that many splits of them cost no predictions.

    Parameters
    ----------
    model : Model
        Any.
    batch : Batch
        The unseen members; ``x["row"]`` of a batch says which of them it holds.
    """

    def __init__(self, model: Model, batch: Batch) -> None:
        self.signature = model.signature
        self.told, self.width = model.predict(batch.x), model.spread(batch.x)

    def predict(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predictions of some rows."""
        return {k: v[x["row"]] for k, v in self.told.items()}

    def spread(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """Spreads of some rows."""
        return None if self.width is None else {k: v[x["row"]] for k, v in self.width.items()}


def bench_coverage() -> Iterator[Figure]:
    """A small FNO and four of them on Burgers: 400 members calibrate, 1000 others measure; 20 splits."""
    import numpy as np

    from sciflow.samples import Batch
    from sciflow.stages.calibrate import Calibrate, Calibration, measure
    from sciflow_operators.components import FNO, DeepEnsemble
    from sciflow_operators.uncertainty.scores import crps

    samples, unseen = burgers()
    net = FNO(width=16, modes=16, layers=3, epochs=40, batch=16, threads=1, device="cpu")
    models = {"fno": fitted(net, samples), "ensemble": fitted(DeepEnsemble(inner=net, size=4), samples)}
    known = {name: Known(model, unseen) for name, model in models.items()}
    for name, model in known.items():
        for band in ("field", "point", "function"):
            stage = Calibrate(alpha=0.1, band=band)
            found, widths = [], []
            for split in range(20):
                order = np.random.default_rng(split).permutation(UNSEEN)
                parts = [Batch({"row": p}, {"v": unseen.y["v"][p]}) for p in (order[:400], order[400:])]
                factors, scaled = stage.widths(model, parts[0], parts[0].x["row"])
                calibration = Calibration(band, 0.1, 0.0, scaled, factors)
                row = measure(calibration, model, parts[1], parts[1].x["row"])
                found.append(100 * row["coverage"][0])
                widths.append(100 * row["relative_width"][0])
            note = (
                f"90 % promised; measured {found[0]:.1f} % in the first split, {min(found):.1f} to "
                f"{max(found):.1f} % in 20; half width {np.median(widths):.2f} % of the field's size"
            )
            yield Figure(f"{name}_{band}_off_nominal", abs(found[0] - 90), 3, " %", "<=", note)
    truth = unseen.y["v"]
    both = known["ensemble"]
    each = models["ensemble"].each(unseen.x)["v"]
    alone = np.sqrt(np.mean((each - truth) ** 2, axis=(1, 2)))
    ratio = float(np.sqrt(np.mean((both.told["v"] - truth) ** 2)) / alone.mean())
    yield Figure(
        "ensemble_error", ratio, 0.9, "x", "<=", "root mean square, the mean of four over one of them"
    )
    assert both.width is not None
    score = crps(both.told["v"], both.width["v"], truth).mean()
    sure = np.abs(both.told["v"] - truth).mean()
    yield Figure("ensemble_crps", float(score / sure), 1.0, "x", "<=", "over its mean absolute error")


def bench_conserved() -> Iterator[Figure]:
    """The mean velocity of Burgers' equation is kept: the same FNO without and with the correction."""
    import numpy as np

    from benchmarks.figure import medians
    from sciflow_operators.components import FNO, Conserved

    samples, unseen = burgers()
    net = FNO(width=16, modes=16, layers=3, epochs=40, batch=16, threads=1, device="cpu")
    raw = fitted(net, samples)
    kept = Conserved(inner=net, field="v", total="u").around(raw)
    truth, start = unseen.y["v"].astype(np.float64), unseen.x["u"].astype(np.float64)
    size = np.sqrt(np.mean(truth**2))
    rows = {}
    for name, model in (("raw", raw), ("kept", kept)):
        guess = model.predict(unseen.x)["v"].astype(np.float64)
        lost = np.abs(guess.mean(axis=1) - start.mean(axis=1)).mean() / size
        rows[name] = (lost, np.linalg.norm(guess - truth, axis=1))
    note = f"mean change of the integral over the field's size; {rows['raw'][0]:.1e} without"
    yield Figure("integral_changes", rows["kept"][0], 1e-7, "", "<=", note)
    worse = float((rows["kept"][1] / rows["raw"][1]).max())
    gain = float(np.median(rows["kept"][1] / rows["raw"][1]))
    yield Figure("largest_error_ratio", worse, 1.0001, "x", "<=", f"of 1400 members; median {gain:.3f}x")
    few = {k: v[:32] for k, v in unseen.x.items()}
    times = medians({"raw": lambda: raw.predict(few), "kept": lambda: kept.predict(few)}, repeats=20)
    yield Figure("cost", times["kept"] / times["raw"], 1.1, "x", "<=", "a prediction of 32 members")
