"""Mean and spread over the members of an ensemble, as a stage for sciflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sciflow import Artifact, Component, Context, Field, Invalid, NotFound, Schema, Stage, Writer, hookimpl
from sciflow.stages.simulate import ENSEMBLE

sciflow_api = "1.0"


@dataclass(frozen=True)
class TemplateName(Stage):
    """Mean and standard deviation of a field over the members that ended well, point by point.

    Attributes
    ----------
    field : str
        Of the ensemble.
    batch : int
        Members that are held in memory at once.

    Raises
    ------
    Invalid
        If `batch` is below 1.

    Notes
    -----
    One pass over the members; means and sums of squares of batches are merged, which loses no digits
    where the spread is small beside the mean.

    References
    ----------
    T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 37 (1983), equation 2.1.
    """

    name: ClassVar[str] = "template_name"
    inputs: ClassVar[Mapping[str, Schema]] = {"ensemble": ENSEMBLE}
    output: ClassVar[Schema] = Schema("template_name")
    field: str = "u"
    batch: int = 32

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise Invalid(f"at least one member is held at once, got batch={self.batch}")

    def identity(self) -> dict[str, object]:
        """See `Stage.identity`: how many are held at once does not change the result."""
        return {k: v for k, v in self.to_json().items() if k != "batch"}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """See `Stage.check`; also refuses a field that the ensemble does not have for every member."""
        super().check(inputs)
        found = inputs["ensemble"].schema.fields.get(self.field)
        if found is None or found.axes[:1] != ("member",):
            raise NotFound(f"{inputs['ensemble'].path} has no field {self.field!r} of its members")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """See `Stage.run`."""
        import numpy as np

        ensemble = inputs["ensemble"]
        reader, members = ensemble.gather(self.field), ensemble.members()
        count, mean, squares = 0, np.zeros(()), np.zeros(())
        for begin in range(0, len(members), self.batch):
            ctx.progress(begin, len(members), "members")
            values = reader.whole(members[begin : begin + self.batch]).astype(float)
            more, middle = len(values), values.mean(axis=0)
            apart = middle - mean
            squares = (
                squares + ((values - middle) ** 2).sum(axis=0) + apart**2 * (count * more / (count + more))
            )
            mean = mean + apart * (more / (count + more))
            count += more
        field = ensemble.schema[self.field]
        for axis in field.axes[1:]:
            if axis in ensemble.schema.fields:
                out.write(axis, ensemble.read(axis), ensemble.schema[axis])
        kept = Field(field.axes[1:], field.unit, "float64")
        out.write("mean", mean, kept)
        out.write("deviation", np.sqrt(squares / max(count - 1, 1)), kept)
        out.describe(field=self.field, members=count)


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this package."""
    return [TemplateName]
