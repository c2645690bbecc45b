"""The ``evaluate`` stage: a fitted surrogate on members it has never seen, beside baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, load_model, samples_of

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Batch, Signature
    from sciflow.store import Writer
    from sciflow.stored import Stored
    from sciflow.surrogate import Model

    Columns = dict[str, tuple[Field, np.ndarray]]

BYTES = 2**28
"""Of test samples, in double precision, that are in memory at once, about."""
_FIRST = "first_output_error"
_NUMBER = Field(("sample",), "1", "float64")
EVALUATION = Schema(
    "evaluation",
    {
        "members": Field(("sample",), "1", "int64"),
        "relative_l2": _NUMBER,
        "vrmse": _NUMBER,
        "baseline_mean": _NUMBER,
        "baseline_nearest": _NUMBER,
        "band_errors": Field(("sample", "band"), "1", "float64"),
    },
)


@dataclass(frozen=True)
class Evaluate(Stage):
    """Predicts unseen members and compares with the truth and with two baselines.

    The baselines are the mean of the training outputs and the output of the training sample whose
    inputs are nearest. A model that was trained with a window or pairs of levels is evaluated on the same
    ones: a sample is then a window or a pair, and ``members`` names the member of each. A model that was
    trained while its solvers ran has no training ensemble and no baselines (NaN).

    Attributes
    ----------
    members : {"test", "all"}
        ``test``: the members that training left out. ``all``: every member, for an ensemble
        that training has not seen; refused for the one it has and for members with the same
        parameters and seed, and the only choice for a model that
        was trained while its solvers ran.
    outputs_of : tuple of str
        Outputs that are compared; empty for all that the model predicts.
    """

    name: ClassVar[str] = "evaluate"
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL, "ensemble": ENSEMBLE, "training": ENSEMBLE}
    optional: ClassVar[tuple[str, ...]] = ("training",)
    output: ClassVar[Schema] = EVALUATION
    members: Literal["test", "all"] = "test"
    outputs_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a model that was not trained on ``training``, and ``all`` on seen members.

        Raises
        ------
        Invalid
            Where model, ensembles and members do not go together.
        NotFound
            If the model does not predict what is to be compared.
        """
        super().check(inputs)
        model, training = inputs["model"], inputs.get("training")
        seen = model.attributes.get("ensemble")
        if training is not None and seen != training.digest:
            raise Invalid(f"{model.path} was not trained on {training.path}")
        if seen is not None and training is None:
            raise Invalid(
                f"{model.path} was trained on a stored ensemble; give it as the input 'training', for the "
                "baselines"
            )
        if seen is None and self.members != "all":
            raise Invalid(
                f"{model.path} was trained while its solvers ran and no stored member was left out for a "
                "test; evaluate it on another ensemble with members='all'"
            )
        if self.members == "all" and inputs["ensemble"].digest == seen:
            raise Invalid(
                "the model was trained on members of this ensemble; evaluate it with members='test'"
            )
        if self.members == "all" and training is not None:
            refuse_seen(model, training, inputs["ensemble"])
        known = [name for name, _ in model.attributes.get("signature", {}).get("outputs", ())]
        for name in self.outputs_of:
            if name not in known:
                raise NotFound(f"{model.path} predicts no {name!r}. {nearest(name, known)}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Predict and score."""
        import numpy as np

        from sciflow.stages.baselines import baselines, sample_bytes

        model = load_model(inputs["model"])
        chosen = inputs["model"].read("test_members") if self.members == "test" else None
        test = samples_of(inputs["model"], model.signature, inputs["ensemble"], chosen)
        compared = self.outputs_of or tuple(model.signature.outputs)
        seen = None
        if "training" in inputs:
            members = inputs["model"].read("train_members")
            seen = samples_of(inputs["model"], model.signature, inputs["training"], members)
        columns: list[Columns] = []
        size = max(1, BYTES // sample_bytes(test))
        for first in range(0, len(test), size):
            ctx.progress(first, len(test), "test members")
            predicted, batch = _predicted(model, test, range(first, min(first + size, len(test))), compared)
            found = scores(predicted, batch, test.signature)
            none = np.full(len(batch), np.nan)
            rivals = (none, none) if seen is None else baselines(seen, batch, ctx)
            found |= {f"baseline_{n}": (_NUMBER, v) for n, v in zip(("mean", "nearest"), rivals, strict=True)}
            columns.append(found)
        ctx.progress(len(test), len(test), "test members")
        whole = {name: np.concatenate([part[name][1] for part in columns]) for name in columns[0]}
        out.write("members", test.sample_members, EVALUATION["members"])
        for name, values in whole.items():
            out.write(name, values, columns[0][name][0])
        lost = test.sample_members[whole["finite"] == 0]
        if len(lost):
            named = ", ".join(map(str, np.unique(lost)[:10]))
            ctx.log.warning("%d of %d predictions are not finite, of members %s", len(lost), len(test), named)
        examples(model, test, compared, whole[_FIRST], out)
        out.describe(
            model=inputs["model"].digest,
            ensemble=inputs["ensemble"].digest,
            outputs=list(compared),
            signature=test.signature.to_json(),
            not_finite=np.unique(lost).tolist(),
        )


def _predicted(
    model: Model, test: Stored, rows: range | np.ndarray, names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], Batch]:
    """Predictions of some test samples, and these samples, with the outputs that are compared."""
    from sciflow.samples import Batch

    batch = test.take(rows)
    predicted = model.predict(batch.x)
    return {n: predicted[n] for n in names}, Batch(batch.x, {n: batch.y[n] for n in names})


def refuse_seen(model: Artifact, training: Artifact, ensemble: Artifact) -> None:
    """Refuse an ensemble with members that training has seen, such as the same ones on another grid.

    Parameters
    ----------
    model : Artifact
        Fitted to `training`.
    training, ensemble : Artifact
        A member is the same where its parameters and its seed are.

    Raises
    ------
    Invalid
        Naming some of them.
    """
    import numpy as np

    def rows(of: Artifact, members: np.ndarray) -> list[tuple[float, ...]]:
        table = np.column_stack([of.read("parameters")[members], of.read("seed")[members]])
        return [tuple(row) for row in table.tolist()]

    names = ("parameters", "seed")
    if any(name not in one.schema.fields for one in (training, ensemble) for name in names):
        return
    if training.attributes.get("parameters") != ensemble.attributes.get("parameters"):
        return
    learned = np.concatenate([model.read("train_members"), model.read("valid_members")])
    known, members = set(rows(training, learned)), ensemble.members()
    again = [int(m) for m, row in zip(members, rows(ensemble, members), strict=True) if row in known]
    if again:
        named = ", ".join(map(str, again[:10]))
        raise Invalid(
            f"{len(again)} members of {ensemble.path} have the parameters and the seed of members that "
            f"{model.path} was trained on ({named}): take members='test', or members of another seed"
        )


def finite(predicted: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Which of `count` samples have predictions without NaN and infinities, bool, shape (sample,)."""
    import numpy as np

    good = np.ones(count, dtype=bool)
    for values in predicted.values():
        good &= np.isfinite(values.reshape(count, -1)).all(axis=1)
    return good


def scores(predicted: Mapping[str, np.ndarray], batch: Batch, signature: Signature) -> Columns:
    """The error measures of some samples, each with its field.

    Those without a unit are the root mean square over the outputs where there are several (`pearson`: the
    mean); those in the unit of an output stand for each alone. What The Well and PDEBench define is
    taken at each time level and averaged over them. A prediction that is not finite has the relative
    error inf and no other measures (NaN); `finite` says which ones are.

    Parameters
    ----------
    predicted : mapping of str to ndarray, shape (sample, ...)
        In the units of the outputs.
    batch : Batch
        The samples.
    signature : Signature
        Of the samples.

    Returns
    -------
    dict of str to (Field, ndarray), the latter of shape (sample,) or (sample, band)
    """
    import numpy as np

    from sciflow.given import plain_name

    good = finite(predicted, len(batch))
    whole = Field(("sample",), "1", "uint8", "1 where the prediction is")
    found: dict[str, tuple[Field, np.ndarray]] = {"finite": (whole, good.astype(np.uint8))}
    kept = {name: values[good] for name, values in predicted.items()}
    joint: dict[str, list[np.ndarray]] = {}
    for name, truth in batch.y.items():
        for measure, values in _without_unit(kept[name], truth[good], signature, name).items():
            joint.setdefault(measure, []).append(values)
        unit = signature.outputs[name].unit
        for measure, values in _with_unit(kept[name], truth[good], signature, name).items():
            field = Field(("sample", "band")[: values.ndim], unit, "float64")
            found[f"{measure}_{plain_name(name)}"] = field, _spread(values, good)
    for measure, rows in joint.items():
        joined = np.mean(rows, axis=0) if measure == "pearson" else np.sqrt(np.mean(np.square(rows), axis=0))
        lost = np.inf if measure == "relative_l2" else np.nan
        found[measure] = EVALUATION.fields.get(measure, _NUMBER), _spread(joined, good, lost)
    first = _spread(joint["relative_l2"][0], good, np.inf)
    found[_FIRST] = Field(("sample",), "1", "float64", "relative L2 error of the first output"), first
    return found


def _without_unit(
    guess: np.ndarray, truth: np.ndarray, signature: Signature, name: str
) -> dict[str, np.ndarray]:
    """Measures of one output that have no unit, shape (sample,) or (sample, band)."""
    from sciflow.stages import metrics

    axes = signature.outputs[name].axes
    space = [1 + i for i, axis in enumerate(axes) if axis not in ("time", "lead")]
    periodic = [i for i in space if axes[i - 1] in signature.periodic]
    time = _time_axis(axes)
    levels = {
        "vrmse": metrics.vrmse,
        "nrmse": metrics.relative_l2,
        "nmae": metrics.relative_l1,
        "pearson": metrics.pearson,
    }
    # The mean of a vector of components, or over the nodes of any mesh, is no amount of anything.
    if {"x", "y", "z"} & set(axes):
        levels["conservation"] = metrics.conservation
    return {
        "relative_l2": metrics.relative_l2(guess, truth),
        "relative_l1": metrics.relative_l1(guess, truth),
        "band_errors": metrics.band_errors(guess, truth, space, periodic),
        **{k: metrics.by_level(f, guess, truth, time).mean(axis=1) for k, f in levels.items()},
    }


def _with_unit(
    guess: np.ndarray, truth: np.ndarray, signature: Signature, name: str
) -> dict[str, np.ndarray]:
    """Measures of one output in its unit, shape (sample,) or (sample, band)."""
    from sciflow.stages import metrics

    axes = signature.outputs[name].axes
    grid = [1 + i for i, axis in enumerate(axes) if axis in ("x", "y", "z")]
    time = _time_axis(axes)
    found = {
        "maximum_error": metrics.maximum_error(guess, truth),
        "rmse": metrics.by_level(metrics.rmse, guess, truth, time).mean(axis=1),
        "conserved_error": metrics.by_level(metrics.conserved_error, guess, truth, time).mean(axis=1),
    }
    if grid:
        for measure in (metrics.boundary_rmse, metrics.fourier_rmse):
            found[measure.__name__] = metrics.by_level(measure, guess, truth, time, grid).mean(axis=1)
    return found


def _time_axis(axes: tuple[str, ...]) -> int | None:
    """Position of the time levels in a batch with these axes."""
    return next((1 + i for i, axis in enumerate(axes) if axis in ("time", "lead")), None)


def _spread(values: np.ndarray, good: np.ndarray, lost: float = math.nan) -> np.ndarray:
    """Values of the good samples among all of them."""
    import numpy as np

    whole = np.full((len(good), *values.shape[1:]), lost)
    whole[good] = values
    return whole


def examples(model: Model, test: Stored, compared: tuple[str, ...], errors: np.ndarray, out: Writer) -> None:
    """Keep truth and prediction of the best, median and worst sample of the first output.

    Parameters
    ----------
    model : Model
        Asked again for these samples.
    test : Stored
        The samples.
    compared : tuple of str
        Outputs.
    errors : ndarray, shape (sample,)
        Of the first output.
    out : Writer
        Of the evaluation.
    """
    import numpy as np

    name = compared[0]
    order = np.argsort(errors, kind="stable")
    finite = max(1, int(np.isfinite(errors).sum()))
    pick = order[[0, finite // 2, finite - 1]]
    predicted, batch = _predicted(model, test, pick, compared[:1])
    field = test.signature.outputs[name]
    kept = Field(("example", *field.axes), field.unit, field.dtype)
    for axis in field.axes:
        size = batch.y[name].shape[1 + field.axes.index(axis)]
        unit = {"time": "s", "lead": "1"}.get(axis, "m")
        coordinates = np.asarray(test.signature.coordinates[axis], dtype=np.float64)
        out.write(axis, coordinates[:size], Field((axis,), unit, "float64"))
    out.write("example_truth", batch.y[name], kept)
    out.write("example_prediction", predicted[name], kept)
    out.write("example_sample", pick, Field(("example",), "1", "int64", "position in members"))
    out.describe(example_of=name)
