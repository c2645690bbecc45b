"""What networks around a network share; torch is imported where it is used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sciflow.errors import Invalid
from sciflow_operators.training.trained import Gridded, Trained, on_a_grid

ELSEWHERE = {"resolutions", "embedding_factor", "norm_factor"}
"""Settings of single networks that only change how these are trained."""


@dataclass(frozen=True, kw_only=True)
class Wrapped(Gridded):
    """A network around another one on the same grid; a subclass says how.

    Attributes
    ----------
    inner : Gridded
        The network inside. Only what it looks like is taken from it: how both are trained together is
        told by this configuration.

    Raises
    ------
    Invalid
        If `inner` has a value that it cannot have.
    """

    inner: Gridded

    def __post_init__(self) -> None:
        super().__post_init__()
        on_a_grid(self.name, self.inner)
        kind = type(self.inner)
        if isinstance(self.inner, Wrapped) and kind.fitted is not Trained.fitted:
            raise Invalid(
                f"{kind.name} is trained in a way of its own and cannot be inside {self.name}; "
                f"put {self.name} inside it"
            )
        defaults = {f.name: f.default for f in dataclasses.fields(kind)}
        of_training = {f.name for f in dataclasses.fields(Gridded)} | ELSEWHERE
        told = [n for n, d in defaults.items() if n in of_training and getattr(self.inner, n) != d]
        if told:
            raise Invalid(
                f"{self.name}.inner has settings of training ({', '.join(told)}), which would not be read; "
                f"give them to {self.name} itself"
            )

    @property
    def dimensions(self) -> tuple[int, ...]:  # type: ignore[override]
        """Numbers of spatial axes: those of the inner network."""
        return self.inner.dimensions
