"""The ``sample_efficiency`` stage: errors against the size of the training set, and what a model saves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.evaluate import EVALUATION
from sciflow.stages.train import MODEL

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

_CURVE = ("model", "size")
SAMPLE_EFFICIENCY = Schema(
    "sample_efficiency",
    {
        "members": Field(_CURVE, "1", "int64", "members in training; 0 where nothing was trained"),
        "error": Field(_CURVE, "1", "float64", "NaN where nothing was trained"),
        "rate": Field(
            ("model",), "1", "float64", "the error falls as the members to the power of minus this"
        ),
        "efficiency_gain": Field(("model",), "1", "float64", "members of the baseline over the model's"),
        "accuracy_gain": Field(("model",), "1", "float64", "error of the baseline over the model's"),
    },
)


@dataclass(frozen=True)
class SampleEfficiency(Stage):
    """Compares models by how many members they need.

    For each name in `models` and each of `sizes` it reads the model under ``NAME_SIZE`` and its evaluation
    under ``NAME_SIZE_score``; a model may be left out at some sizes. All are evaluated on the same members of
    one ensemble. `Train` with ``members=SIZE`` gives them.

    Attributes
    ----------
    models : tuple of str
        What the models are called; the first is the baseline.
    sizes : tuple of int
        Members in training, increasing.
    reference : int or None
        The error to be reached is that of the baseline with so many members; ``None`` takes the most.
    accuracy_at : int or None
        Members for the accuracy gain; ``None`` takes an eighth of the reference, as in the source (128 of
        1024).
    measure : {"relative_l1", "relative_l2", "vrmse"}
        Of the evaluations.
    statistic : {"median", "mean"}
        Over the samples.

    Raises
    ------
    Invalid
        If `models`, `sizes`, `reference` or `accuracy_at` has a value that it cannot have.

    Notes
    -----
    With N(e) the members a model needs for the error e and E(N) its error with N members, both linear in
    the logarithms between the sizes: efficiency gain ``EG = N_baseline(e) / N(e)`` for the baseline's
    error e at `reference`, accuracy gain ``AG = E_baseline(n) / E(n)`` at ``n = accuracy_at``. Nothing is
    extrapolated: outside of the sizes they are NaN, and the reason is noted.

    References
    ----------
    M. Herde et al., "Poseidon: Efficient foundation models for PDEs", NeurIPS 2024, section 3.
    """

    name: ClassVar[str] = "sample_efficiency"
    output: ClassVar[Schema] = SAMPLE_EFFICIENCY
    models: tuple[str, ...]
    sizes: tuple[int, ...]
    reference: int | None = None
    accuracy_at: int | None = None
    measure: Literal["relative_l1", "relative_l2", "vrmse"] = "relative_l1"
    statistic: Literal["median", "mean"] = "median"

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise Invalid(f"models are different names, at least one, got {self.models}")
        for name in self.models:
            if not name.isidentifier() or name.endswith("_score"):
                raise Invalid(f"{name!r} cannot be the name of a model here")
        if len(self.sizes) < 2 or min(self.sizes) < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise Invalid(f"sizes are at least two increasing numbers of members, got {self.sizes}")
        check_choices(self)
        for number in (self.reference, self.accuracy_at):
            if number is not None and number < 1:
                raise Invalid(f"reference and accuracy_at are numbers of members, got {number}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("fno", "other"), (8, 16))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """Models and evaluations."""
        runs = [f"{name}_{size}" for name in self.models for size in self.sizes]
        return {key: schema for run in runs for key, schema in ((run, MODEL), (f"{run}_score", EVALUATION))}

    @property
    def optional(self) -> tuple[str, ...]:  # type: ignore[override]
        """A model may be left out at some sizes."""
        return tuple(self.inputs)

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse evaluations of other models or other members, and models of another size."""
        super().check(inputs)
        runs = self._runs(inputs)
        for name in self.models:
            if not any(run == name for run, _ in runs):
                raise Invalid(f"stage {self.name!r} has no model {name!r} of any size")
        tested = None
        for name, size in runs:
            model, score = inputs[f"{name}_{size}"], inputs.get(f"{name}_{size}_score")
            if score is None:
                raise Invalid(f"stage {self.name!r} needs the input '{name}_{size}_score'")
            if score.attributes["model"] != model.digest:
                raise Invalid(f"{score.path} is not an evaluation of {model.path}")
            if len(model.read("train_members")) != size:
                raise Invalid(
                    f"'{name}_{size}' was trained on {len(model.read('train_members'))} members; give Train "
                    f"members={size}"
                )
            mine = score.attributes["ensemble"], sorted(set(score.read("members").tolist()))
            if tested is not None and mine != tested:
                raise Invalid(
                    f"'{name}_{size}' was tested on other members; give all the same fractions and seed"
                )
            tested = mine

    def _runs(self, inputs: Mapping[str, Artifact]) -> list[tuple[str, int]]:
        return [(name, size) for name in self.models for size in self.sizes if f"{name}_{size}" in inputs]

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Collect the curves and interpolate."""
        import numpy as np

        shape = len(self.models), len(self.sizes)
        error, members = np.full(shape, math.nan), np.zeros(shape, dtype=np.int64)
        reduce = np.median if self.statistic == "median" else np.mean
        for name, size in self._runs(inputs):
            place = self.models.index(name), self.sizes.index(size)
            members[place] = size
            values = inputs[f"{name}_{size}_score"].read(self.measure)
            # One prediction that is not finite has no error; none of a training set that leads to it.
            error[place] = float(reduce(np.where(np.isnan(values), np.inf, values)))
        reference = self.reference or max(self.sizes)
        at = self.accuracy_at or max(1, reference // 8)
        reasons, gains = self._gains(error, reference, at)
        rates = [rate(self.sizes, row) for row in error]
        out.write("members", members, SAMPLE_EFFICIENCY["members"])
        out.write("error", error, SAMPLE_EFFICIENCY["error"])
        out.write("rate", np.array(rates), SAMPLE_EFFICIENCY["rate"])
        for column, name in enumerate(("efficiency_gain", "accuracy_gain")):
            out.write(name, np.array([row[column] for row in gains]), SAMPLE_EFFICIENCY[name])
        out.describe(
            models=list(self.models),
            sizes=list(self.sizes),
            reference=reference,
            accuracy_at=at,
            measure=self.measure,
            statistic=self.statistic,
            reasons=reasons,
        )

    def _gains(
        self, error: np.ndarray, reference: int, at: int
    ) -> tuple[dict[str, list[str]], list[tuple[float, float]]]:
        """Both gains of every model, and why some have none."""
        reasons: dict[str, list[str]] = {}
        gains = []
        base = error[0]
        target, why_target = error_with(self.sizes, base, reference)
        accuracy, why_accuracy = error_with(self.sizes, base, at)
        for name, row in zip(self.models, error, strict=True):
            need, why_need = members_for(self.sizes, row, target)
            with_as_many, why_error = error_with(self.sizes, row, at)
            gains.append((reference / need, accuracy / with_as_many if with_as_many else math.nan))
            why = [f"the baseline: {text}" for text in (why_target, why_accuracy) if text]
            why += [text for text in (why_need if not why_target else "", why_error) if text]
            if why:
                reasons[name] = why
        return reasons, gains


def _curve(sizes: Sequence[int], errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the sizes and errors that there are."""
    import numpy as np

    there = np.isfinite(errors) & (errors > 0)
    return np.log(np.asarray(sizes, dtype=float)[there]), np.log(errors[there])


def error_with(sizes: Sequence[int], errors: np.ndarray, members: int) -> tuple[float, str]:
    """Error with so many members, linear in the logarithms.

    Parameters
    ----------
    sizes : sequence of int
        Increasing.
    errors : ndarray, shape (size,)
        Those that are NaN, infinite or zero are left out.
    members : int

    Returns
    -------
    float
        NaN outside of the sizes.
    str
        Why it is NaN.
    """
    import numpy as np

    x, y = _curve(sizes, errors)
    if not len(x) or not x[0] - 1e-9 <= math.log(members) <= x[-1] + 1e-9:
        known = "nothing" if not len(x) else f"{round(math.exp(x[0]))} to {round(math.exp(x[-1]))} members"
        return math.nan, f"{members} members lie outside of what was trained ({known})"
    return float(np.exp(np.interp(math.log(members), x, y))), ""


def members_for(sizes: Sequence[int], errors: np.ndarray, error: float) -> tuple[float, str]:
    """Fewest members with which the error is reached, linear in the logarithms.

    Parameters
    ----------
    sizes : sequence of int
        Increasing.
    errors : ndarray, shape (size,)
        Those that are NaN, infinite or zero are left out.
    error : float
        To be reached.

    Returns
    -------
    float
        NaN where it is never reached, or already with the fewest members so that nobody knows how many
        fewer would do.
    str
        Why it is NaN.
    """
    x, y = _curve(sizes, errors)
    if not len(x) or not error > 0:
        return math.nan, "there is no error to compare"
    wanted = math.log(error)
    if y[0] < wanted - 1e-12:
        return math.nan, f"the error is below that already with the fewest members ({round(math.exp(x[0]))})"
    for i, (n, e) in enumerate(zip(x, y, strict=True)):
        if e <= wanted + 1e-12:
            if i == 0:
                return math.exp(n), ""
            share = (y[i - 1] - wanted) / (y[i - 1] - e)
            return math.exp(x[i - 1] + share * (n - x[i - 1])), ""
    return math.nan, f"the error is not reached with the most members ({round(math.exp(x[-1]))})"


def rate(sizes: Sequence[int], errors: np.ndarray) -> float:
    """Slope of errors, shape (size,), against members, by least squares of logarithms; NaN for one size."""
    import numpy as np

    x, y = _curve(sizes, errors)
    return -float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else math.nan
