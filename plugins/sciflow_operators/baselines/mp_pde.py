"""Configuration of the message-passing network; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow_operators.fields.port import Port
from sciflow_operators.training.losses import Loss, Squared
from sciflow_operators.training.trained import Gridded

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MPPDE(Gridded):
    """Message-passing neural PDE solver on regular grids in one or two dimensions.

    Attributes
    ----------
    width : int
        Channels of each grid point.
    layers : int
        Message-passing steps.
    radius : int
        Points within this distance, in grid points, are neighbours; 0 takes 2 on a line and 1 in a
        plane, four neighbours each.
    coordinates : bool
        Also give each point its coordinates. Without them, it commutes with every shift of a periodic
        domain.

    Notes
    -----
    How it is trained: see `Trained`.
    """

    name: ClassVar[str] = "mp_pde"
    width: int = 32
    layers: int = 4
    radius: int = 0
    coordinates: bool = True
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
        )
