"""Configuration of the Fourier neural operator; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.training.trained import Gridded

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class FNO(Gridded):
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

    Notes
    -----
    How it is trained: see `Trained`.
    """

    name: ClassVar[str] = "fno"
    width: int = 32
    modes: int = 16
    layers: int = 4
    padding: float = 0.125
    coordinates: bool = True
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2:
            raise Invalid(f"width must be at least 2, got {self.width}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, modes=4, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.fourier.layers import FNONet

        return FNONet(
            port.channels_in,
            port.channels_out,
            self.width,
            [self.modes] * len(port.points),
            self.layers,
            port.periodic,
            self.padding,
            self.coordinates,
        )
