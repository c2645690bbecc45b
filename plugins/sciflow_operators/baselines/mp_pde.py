"""Configuration of the message-passing network; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow_operators.fields.port import Port
from sciflow_operators.training.losses import Loss, Squared
from sciflow_operators.training.trained import Gridded

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MPPDE(Gridded):
    """Message-passing neural PDE solver on regular grids in one, two or three dimensions.

    Attributes
    ----------
    width : int
        Channels of each grid point.
    layers : int
        Message-passing steps.
    radius : int
        Points within this distance, in grid points, are neighbours; 0 takes 2 on a line and 1 in a
        plane, four neighbours each, and 1 in space, six neighbours.
    coordinates : bool
        Also give each point its coordinates. Without them, it commutes with every shift of a periodic
        domain.
    norm : bool
        Shift and scale each channel to mean 0 and spread 1 over the points after every step. What a
        point gets then depends on all points, however far.
    decoder : {"perceptron", "convolution"}
        How a point's channels become its outputs: a perceptron, or two convolutions along the channels,
        in which outputs that follow each other (the levels of a bundle) share their weights.

    Notes
    -----
    How it is trained: see `Trained`; the paper's pushforward is ``unroll=Pushforward(...)``, its bundle
    of levels the window ``(k, l)`` of the samples.
    """

    name: ClassVar[str] = "mp_pde"
    dimensions: ClassVar[tuple[int, ...]] = (1, 2, 3)
    width: int = 32
    layers: int = 4
    radius: int = 0
    coordinates: bool = True
    norm: bool = False
    decoder: Literal["perceptron", "convolution"] = "perceptron"
    learning_rate: float = 4e-3
    loss: Loss = Squared()
    increments: bool = True

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.baselines.mp_pde_net import MPPDENet

        return MPPDENet(
            list(port.fields),
            list(port.scalars),
            port.channels_out,
            self.width,
            self.layers,
            self.radius or (2 if len(port.points) == 1 else 1),
            list(port.periodic),
            self.coordinates,
            self.norm,
            self.decoder == "convolution",
        )
