"""Configuration of conserved totals: a correction behind any surrogate."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.surrogate import Arrays, Model, Report, Surrogate

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Samples, Signature

MESHED = frozenset({"dof", "node", "cell", "face", "edge", "point", "component", "step"})
"""Axes that count values of a mesh or steps of a load, and are no axes of space."""


@dataclass(frozen=True, kw_only=True)
class Conserved(Surrogate):
    """Any surrogate, its predictions corrected so that the integral of a field is what it must be.

    Attributes
    ----------
    inner : Surrogate
        What predicts; it is trained as if it stood alone.
    field : str
        The output whose integral over the grid is known.
    total : str
        The input that tells it: a field (its integral; of several time levels that of the last) or a
        number for each sample. Empty takes the input named as `field`.
    value : float or None
        The integral itself, in the unit of the field times that of its axes; in place of `total`.
    noise : float
        Standard deviation of the integral, in its unit; 0 makes it exact.
    smoothing : float
        Strength of a penalty on second differences of neighbouring values; 0 is none.

    Notes
    -----
    See `sciflow_operators.uncertainty.conserve`. Each time level of an output is corrected by itself.
    Without a spread of the model all points count alike (as 1 in the field's unit, beside `noise`); with
    one (`Model.spread`), those that it is sure of move less.
    """

    name: ClassVar[str] = "conserved"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    inner: Surrogate
    field: str
    total: str = ""
    value: float | None = None
    noise: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.value is not None and self.total:
            raise Invalid("give the integral as total (an input) or as value (a number), not both")
        if self.value is not None and not math.isfinite(self.value):
            raise Invalid(f"value is the integral of the field, a finite number; got {self.value}")
        for name in ("noise", "smoothing"):
            if not getattr(self, name) >= 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        from sciflow_operators.baselines.mlp import MLP

        return cls(inner=MLP.example(), field="v", total="u")

    @property
    def epochs(self) -> int:  # type: ignore[override]
        """Those of the inner model."""
        return self.inner.epochs

    @property
    def horizon(self) -> int:
        """See `Surrogate.horizon`; that of the inner model."""
        return self.inner.horizon

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`.

        Raises
        ------
        Invalid, NotFound
            Also if the field or the input with its integral is not there, or is not on a grid.
        """
        self.check(valid.signature)
        model = yield from self.inner.fit(samples, valid, ctx, resume)
        return self.around(model)

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        return self.around(self.inner.load(state, signature))

    def open(self, artifact: Artifact) -> Model:
        """See `Surrogate.open`."""
        return self.around(self.inner.open(artifact))

    def around(self, model: Model) -> Model:
        """A fitted model, whatever it is, with this correction behind it."""
        from sciflow_operators.uncertainty.conserve import ConservedModel

        self.check(model.signature)
        return ConservedModel(self, model)

    def check(self, signature: Signature) -> None:
        """Refuse fields that are not there or have no grid.

        Raises
        ------
        NotFound
            If the field, or the input with its integral, is not there.
        Invalid
            If it has no regular grid, or the two have different ones.
        """
        output = signature.outputs.get(self.field)
        if output is None:
            raise NotFound(f"no output {self.field!r}. {nearest(self.field, signature.outputs)}")
        space = grid(output.axes)
        if not space:
            raise Invalid(
                f"the output {self.field!r} has the axes {output.axes}: there is nothing to integrate"
            )
        meshed = [axis for axis in space if axis in MESHED]
        if meshed:
            raise Invalid(
                f"the output {self.field!r} has the axis {meshed[0]!r}, whose values are numbered and not "
                "evenly spaced in space: there are no quadrature weights; sample the field on a regular grid"
            )
        if self.value is not None:
            return
        name = self.total or self.field
        source = signature.inputs.get(name)
        if source is None:
            raise NotFound(
                f"the integral of {self.field!r} should come from the input {name!r}, which is not there; "
                f"give total or value. {nearest(name, signature.inputs)}"
            )
        if source.axes and grid(source.axes) != space:
            raise Invalid(
                f"{name!r} has the axes {source.axes}, {self.field!r} has {output.axes}: their integrals are "
                "over different grids"
            )


def grid(axes: tuple[str, ...]) -> tuple[str, ...]:
    """The axes that are integrated over."""
    return tuple(a for a in axes if a not in ("time", "lead"))
