"""Configuration of the U-Net; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.training.trained import Gridded

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class UNet(Gridded):
    """Convolutions on a grid and on coarser and coarser ones, and back, in one to three dimensions.

    Attributes
    ----------
    width : int
        Channels on the finest grid; each coarser one has twice as many.
    halvings : int
        Grids, each half as fine as the one before, below the finest.
    blocks : int
        Residual blocks on each grid, on the way down and again on the way up.
    edges : {"replicate", "zeros"}
        What is beyond the ends of axes that are not periodic.
    film : bool
        Scalar inputs shift and scale the channels of every block; otherwise they are constant fields.

    Notes
    -----
    How it is trained: see `Trained`.
    """

    name: ClassVar[str] = "unet"
    dimensions: ClassVar[tuple[int, ...]] = (1, 2, 3)
    width: int = 32
    halvings: int = 3
    blocks: int = 2
    edges: Literal["replicate", "zeros"] = "replicate"
    film: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1 or self.halvings < 0:
            raise Invalid(
                f"blocks must be at least 1 and halvings not negative, got {self.blocks} and {self.halvings}"
            )

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, halvings=2, blocks=1, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.baselines.unet_net import UNetNet

        return UNetNet(
            port, self.width, self.halvings, self.blocks, film=self.film, replicate=self.edges == "replicate"
        )
