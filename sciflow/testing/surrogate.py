"""What a surrogate must do: count its epochs, resume and reload to the bit, keep samples apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sciflow.context import Context
from sciflow.surrogate import Model, Report, Surrogate

if TYPE_CHECKING:
    import numpy as np

    from sciflow.samples import Batch, Samples


class _Small:
    """A few smooth samples on periodic axes: random waves, and the same a quarter period further."""

    def __init__(self, count: int, seed: int, axes: tuple[str, ...]) -> None:
        import numpy as np

        from sciflow.samples import Signature
        from sciflow.schema import Field

        x = np.arange(16) / 16
        waves = np.random.default_rng(seed).standard_normal((len(axes), count, 2, 1))
        u = np.zeros((count, *(16,) * len(axes)))
        for i, wave in enumerate(waves):
            line = wave[:, 0] * np.sin(2 * np.pi * x) + wave[:, 1] * np.cos(2 * np.pi * x)
            u += line.reshape(count, *(16 if i == j else 1 for j in range(len(axes))))
        self.u = u.astype("float32")
        self.v = np.roll(self.u, 4, axis=-1)
        field = Field(axes, "m")
        self.signature = Signature({"u": field}, {"v": field}, dict.fromkeys(axes, x), axes)

    def samples(self) -> Samples:
        """As `Samples`."""
        from sciflow.samples import Batch, Samples

        small = self

        class Memory(Samples):
            signature = small.signature
            resumable = True
            given = 0

            def __len__(self) -> int:
                return len(small.u)

            def batches(
                self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0
            ) -> Iterator[Batch]:
                import numpy as np

                order = np.arange(len(self))
                if seed is not None:
                    order = np.random.default_rng([seed, epoch]).permutation(len(self))
                for i in range(start * size, len(self), size):
                    pick = order[i : i + size]
                    self.given = len(pick)
                    yield Batch({"u": small.u[pick]}, {"v": small.v[pick]})

            def feedback(self, losses: np.ndarray) -> None:
                import numpy as np

                shape = np.shape(losses)
                assert shape == (self.given,), (
                    f"feedback has the shape {shape} after a batch of {self.given} samples; it takes the "
                    "loss of each, in the order of the batch"
                )

        return Memory()


def _fit(
    surrogate: Surrogate, samples: Samples, resume: Any = None, stop: int = 0
) -> tuple[Model, list[Report], Any]:
    import numpy as np

    name = surrogate.name
    reports: list[Report] = []
    kept = None
    run: Any = surrogate.fit(samples, samples, Context(seed=1), resume)
    assert isinstance(run, Generator), (
        f"{name}: fit gives {run!r}; it is a generator that yields a Report after each epoch and returns the "
        "model"
    )
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            assert isinstance(end.value, Model), (
                f"{name}: fit returns {end.value!r}, not a Model; end it with `return` and the fitted model"
            )
            return end.value, reports, kept
        assert isinstance(report, Report), (
            f"{name}: fit yields a {type(report).__name__}, not a Report(epoch, epochs, metrics, checkpoint)"
        )
        if report.batches:
            continue
        reports.append(report)
        if report.epoch == stop:
            kept = {k: np.array(v) for k, v in report.checkpoint().items()}


def _has_epochs(surrogate: Surrogate) -> bool:
    """Whether the number of epochs is a setting; else it is fitted in one go, and resumed when it is done."""
    return any(f.name == "epochs" for f in dataclasses.fields(surrogate))  # type: ignore[arg-type]


def check_surrogate(surrogate: Surrogate, *, axes: tuple[str, ...] = ("x",)) -> None:
    """Check a surrogate by fitting a quarter-period shift of random waves, twice.

    Parameters
    ----------
    surrogate : Surrogate
        A small configuration, with at least two epochs where their number is a setting.
    axes : tuple of str
        Of the fields, 16 points each; for one that takes a certain number of them only.

    Raises
    ------
    AssertionError
        If `fit` is no generator of reports that ends with a model, epochs are not counted one by one or are
        not `Surrogate.epochs`, a resumed training or a reloaded model differs by a bit, a state or checkpoint
        holds anything but numbers, the losses told to `Samples.feedback` are not one for each sample, the
        samples of a batch influence each other, or what `Model.doubt` says is no bound of each one's error.
    Invalid
        If it does not take such fields.
    """
    import numpy as np

    name = surrogate.name
    small = _Small(12, 0, axes)
    samples = small.samples()
    model, reports, kept = _fit(surrogate, samples, stop=1)
    epochs = _check_reports(surrogate, reports)
    stored = {k: np.array(v) for k, v in model.state().items()}
    for key, values in [*kept.items(), *stored.items()]:
        assert values.dtype.kind in "fiub", (
            f"{name}: {key!r} is not an array of numbers but of {values.dtype}; states and checkpoints hold "
            "numbers alone"
        )
    resumed, later, _ = _fit(surrogate, samples, resume=kept)
    assert [r.epoch for r in later] == epochs[1:], (
        f"{name}: resuming after epoch 1 gives {[r.epoch for r in later]}, not {epochs[1:]}; go on after the "
        "epoch that the checkpoint names"
    )
    assert model.signature.to_json() == small.signature.to_json(), (
        f"{name}: the model has another signature; it is that of the samples"
    )
    truth = _check_predictions(name, model, small)
    _check_twins(surrogate, small, truth, resumed, stored)
    order = np.random.default_rng(2).permutation(12)
    moved = model.predict({"u": small.u[order]})["v"]
    assert np.allclose(moved, truth[order], rtol=1e-4, atol=1e-5), (
        f"{name}: the order of a batch matters: its samples are predicted each for itself, without anything "
        "taken over the batch"
    )
    _check_doubt(name, model, small, order)


def _check_doubt(name: str, model: Model, small: _Small, order: np.ndarray) -> None:
    """What a model says of its own errors is one number for each sample, and no NaN."""
    import numpy as np

    told = model.doubt({"u": small.u})
    if told is None:
        return
    doubt = np.asarray(told)
    assert doubt.shape == (len(small.u),) and doubt.dtype.kind == "f", (
        f"{name}: doubt gives {doubt.dtype} of the shape {doubt.shape}; it is a relative error for each "
        "sample of the batch, or None where the model cannot say"
    )
    assert (doubt >= 0).all(), (
        f"{name}: a doubt is {doubt[~(doubt >= 0)][0]}; it bounds a relative error, and is infinite where "
        "nothing is known"
    )
    again = np.asarray(model.doubt({"u": small.u[order]}))
    assert np.allclose(again, doubt[order], rtol=1e-3, atol=1e-6), (
        f"{name}: the order of a batch matters to doubt; each sample is judged for itself"
    )


def _check_reports(surrogate: Surrogate, reports: list[Report]) -> list[int]:
    import numpy as np

    name, epochs = surrogate.name, [r.epoch for r in reports]
    assert epochs == list(range(1, len(epochs) + 1)) and epochs, (
        f"{name}: reports count the epochs {epochs}; yield one Report after each, counted from 1"
    )
    assert all(np.isfinite(list(r.metrics.values())).all() for r in reports), (
        f"{name}: metrics are not finite: {next(r.metrics for r in reports)}; raise Diverged where a loss is "
        "not, and leave out what is not known"
    )
    assert len(epochs) > 1 or not _has_epochs(surrogate), (
        f"{name}: check it with at least two epochs, so that there is something to resume"
    )
    assert {r.epochs for r in reports} == {len(epochs)}, (
        f"{name}: {len(epochs)} epochs, announced as {sorted({r.epochs for r in reports})}; Report.epochs is "
        "how many there are in all"
    )
    assert surrogate.epochs == len(epochs), (
        f"{name}: reports {len(epochs)} times, its epochs are {surrogate.epochs}; report once for each"
    )
    return epochs


def _check_predictions(name: str, model: Model, small: _Small) -> np.ndarray:
    import numpy as np

    made: Any = model.predict({"u": small.u})
    assert isinstance(made, Mapping) and "v" in made, (
        f"{name}: predict gives {sorted(made) if isinstance(made, Mapping) else made!r}, asked for an "
        "array by the name of each output, 'v'"
    )
    truth = np.asarray(made["v"])
    assert truth.shape == small.v.shape, (
        f"{name}: predicts the shape {truth.shape}, not {small.v.shape}; the batch is the first axis, "
        "and the rest is signature.shape(name)"
    )
    assert np.isfinite(truth).all(), (
        f"{name}: predictions are not finite on the samples that it was fitted to"
    )
    return truth


def _check_twins(
    surrogate: Surrogate, small: _Small, truth: np.ndarray, resumed: Model, stored: dict[str, np.ndarray]
) -> None:
    """A model that was resumed or read back predicts the same bits."""
    from sciflow.samples import Signature

    loaded = surrogate.load(stored, Signature.from_json(small.signature.to_json()))
    for word, other, what in (
        ("a resumed training", resumed, "a checkpoint holds all that the next epoch reads, seeds too"),
        ("a reloaded model", loaded, "state() gives all that predict reads, in full precision"),
    ):
        assert other.predict({"u": small.u})["v"].tobytes() == truth.tobytes(), (
            f"{surrogate.name}: {word} predicts other bits; {what}"
        )
