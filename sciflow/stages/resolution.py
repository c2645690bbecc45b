"""The ``resolution`` stage: a model on grids that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.convergence import same_members
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, load_model, samples_of

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow.stored import Stored
    from sciflow.surrogate import Model


def _of_grid(description: str, dtype: str = "float64") -> Field:
    return Field(("grid",), "1", dtype, description)


RESOLUTION = Schema(
    "resolution",
    {
        "points": _of_grid("points along the longest spatial axis", "int64"),
        "error_mean": _of_grid("relative L2 error of unseen members; NaN where the model cannot be asked"),
        "error_median": _of_grid("relative L2 error of unseen members"),
        "ratio": _of_grid("mean error over that on the grid of the training"),
        "relative_l2": Field(("grid", "sample"), "1", "float64"),
        "members": Field(("sample",), "1", "int64"),
    },
)


@dataclass(frozen=True)
class Resolution(Stage):
    """Asks a model for unseen members on other grids, without training it there.

    The ensembles hold the same members (one design, one seed) of one problem on different grids.

    Attributes
    ----------
    grids : tuple of str
        Names of the inputs with the other grids.
    batch : int
        Samples that are predicted at once.

    Raises
    ------
    Invalid
        If `grids` or `batch` has a value that it cannot have.
    """

    name: ClassVar[str] = "resolution"
    output: ClassVar[Schema] = RESOLUTION
    grids: tuple[str, ...]
    batch: int = 8

    def __post_init__(self) -> None:
        if not self.grids or len(set(self.grids)) != len(self.grids):
            raise Invalid(f"grids are different names, at least one, got {self.grids}")
        for name in self.grids:
            if not name.isidentifier() or name in ("model", "ensemble"):
                raise Invalid(f"{name!r} cannot be the name of a grid here")
        if self.batch < 1:
            raise Invalid(f"at least one sample is predicted at once, got batch={self.batch}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("fine", "finest"))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The model, the ensemble it was trained on, the same members on other grids."""
        return {"model": MODEL, "ensemble": ENSEMBLE, **dict.fromkeys(self.grids, ENSEMBLE)}

    def identity(self) -> dict[str, object]:
        """How many samples are predicted at once does not change the result."""
        return {k: v for k, v in self.to_json().items() if k != "batch"}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse other members, and a model that was not trained on the ensemble."""
        super().check(inputs)
        model, ensemble = inputs["model"], inputs["ensemble"]
        if model.attributes.get("ensemble") != ensemble.digest:
            raise Invalid(f"{model.path} was not trained on {ensemble.path}")
        same_members([ensemble, *(inputs[name] for name in self.grids)])

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Predict the test members on every grid.

        Raises
        ------
        Invalid
            If no member ended well on all grids, or they have different numbers of time levels.
        """
        import numpy as np

        model = load_model(inputs["model"])
        names = ("ensemble", *self.grids)
        members = inputs["model"].read("test_members")
        for name in self.grids:
            members = np.intersect1d(members, inputs[name].members())
        if not len(members):
            raise Invalid(
                "no member that training left out ended well on all grids; give ensembles that have one"
            )
        grids = {n: samples_of(inputs["model"], model.signature, inputs[n], members) for n in names}
        reasons: dict[str, str] = {}
        rows = []
        for done, (name, samples) in enumerate(grids.items()):
            ctx.progress(done, len(names), "grids")
            try:
                rows.append(errors(model, samples, self.batch))
            except Invalid as reason:
                reasons[name] = str(reason)
                rows.append(np.full(len(samples), np.nan))
            if lost := int(np.isinf(rows[-1]).sum()):
                reasons[name] = f"{lost} of {len(samples)} errors are not finite"
        ctx.progress(len(names), len(names), "grids")
        if len({len(row) for row in rows}) > 1:
            raise Invalid("the grids have different numbers of time levels; give them the same ones")
        self._write(np.stack(rows), list(grids.values()), out)
        out.describe(
            grids=list(names),
            shapes=[_shape(samples) for samples in grids.values()],
            reasons=reasons,
            outputs=list(model.signature.outputs),
            model=inputs["model"].digest,
        )

    def _write(self, table: np.ndarray, grids: list[Stored], out: Writer) -> None:
        import numpy as np

        mean = table.mean(axis=1)
        columns = {
            "points": np.array([max(_shape(samples), default=1) for samples in grids], dtype=np.int64),
            "error_mean": mean,
            "error_median": np.median(table, axis=1),
            "ratio": mean / mean[0] if 0 < mean[0] < math.inf else np.full(len(mean), math.nan),
            "relative_l2": table,
            "members": grids[0].sample_members,
        }
        for name, values in columns.items():
            out.write(name, values, RESOLUTION[name])


def _shape(samples: Stored) -> list[int]:
    """Points along the spatial axes of the first output."""
    field = next(iter(samples.signature.outputs.values()))
    return [len(samples.signature.coordinates[a]) for a in field.axes if a not in ("time", "lead")]


def errors(model: Model, samples: Stored, batch: int) -> np.ndarray:
    """Relative L2 error of every sample, the root mean square over the outputs, shape (sample,).

    That of a prediction that is not finite is inf.

    Raises
    ------
    Invalid
        If the model takes no such grid.
    """
    import numpy as np

    from sciflow.stages import metrics
    from sciflow.stages.evaluate import finite

    found = []
    for one in samples.batches(batch, seed=None):
        predicted = model.predict(one.x)
        for name, truth in one.y.items():
            if predicted[name].shape != truth.shape:
                raise Invalid(
                    f"{name!r} is predicted with the shape {predicted[name].shape[1:]}, not {truth.shape[1:]}"
                )
        rows = [metrics.relative_l2(predicted[name], truth) for name, truth in one.y.items()]
        whole = np.sqrt(np.mean(np.square(rows), axis=0))
        found.append(np.where(finite(predicted, len(one)), whole, np.inf))
    return np.concatenate(found)
