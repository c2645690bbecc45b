"""Entry point of the plugin: configurations only, torch is imported where they are used."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow.hooks import hookimpl
from sciflow.surrogate import Arrays, Model, Report, Surrogate

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Samples, Signature


@dataclass(frozen=True)
class FNO(Surrogate):
    """Fourier neural operator in one or two dimensions.

    Attributes
    ----------
    width : int
        Channels of the hidden layers.
    modes : int
        Fourier modes kept along each axis (both signs counted).
    layers : int
        Fourier layers.
    padding : float
        Fraction of the domain that is added along axes that are not periodic; a Fourier series is
        periodic, so without it the two ends of such an axis are neighbours.
    coordinates : bool
        Also give the network the grid coordinates. Without them, it commutes with every shift of a
        periodic domain.
    epochs : int
        Passes over the training members.
    batch : int
        Members per step.
    learning_rate : float
        Largest learning rate of the schedule.
    weight_decay : float
        Of AdamW, on weights only.
    schedule : {"onecycle", "cosine"}
        How the learning rate changes from step to step.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    threads : int
        Torch threads; 0 takes all cores this process may use.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU where there is one.
    """

    name: ClassVar[str] = "fno"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    width: int = 32
    modes: int = 16
    layers: int = 4
    padding: float = 0.125
    coordinates: bool = True
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    clip: float = 1.0
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("width", "modes", "layers", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width < 2:
            raise Invalid(f"width must be at least 2, got {self.width}")
        if self.learning_rate <= 0:
            raise Invalid(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("padding", "weight_decay", "clip", "threads"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, modes=4, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`."""
        from sciflow_operators.training import fit

        return fit(self, samples, valid, ctx, resume)

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        from sciflow_operators.model import load

        return load(self, state, signature)


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [FNO]
