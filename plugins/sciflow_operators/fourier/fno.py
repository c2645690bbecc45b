"""Configuration of the Fourier neural operator; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.training.trained import Gridded

if TYPE_CHECKING:
    from torch import nn

    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.training.fitted import Fitted

ENDS = 4
"""Largest `FNO.continuation`: a polynomial through more neighbours of a gap swings."""


@dataclass(frozen=True, kw_only=True)
class FNO(Gridded):
    """Fourier neural operator in one, two or three dimensions.

    Attributes
    ----------
    width : int
        Channels of the hidden layers.
    modes : int or tuple of int
        Fourier modes kept along each axis (both signs counted), one number for all axes or one for each;
        no more than the training grid carries.
    layers : int
        Fourier layers.
    factorisation : {"dense", "tucker", "cp", "tt"}
        How the matrices of the modes of a layer are kept: one for each mode, or together as a Tucker
        decomposition, a sum of products (CP) or a tensor train.
    rank : float or tuple of int
        Of the factorisation: largest fraction of the dense parameters, or the ranks themselves, of
        (channel in, channel out, *modes) for Tucker, one number for CP, those between neighbours for the
        train. Not used by ``dense``.
    padding : float
        Fraction of the domain that is added along axes that are not periodic; a Fourier series is
        periodic, so without it the two ends of such an axis are neighbours.
    continuation : int
        Points at both ends of such an axis that a polynomial through the added part takes, so that the
        hidden fields stay smooth where the domain closes; 0 adds zeros.
    coordinates : bool
        Also give the network the grid coordinates. Without them, it commutes with every shift of a
        periodic domain.
    resolutions : tuple of int
        Each update trains on every k-th point of the training grid, ``k`` drawn from these with equal
        chances; a number may stand there several times. Other grids than the training grid are then
        predicted better.

    Notes
    -----
    How it is trained: see `Trained`.
    """

    name: ClassVar[str] = "fno"
    dimensions: ClassVar[tuple[int, ...]] = (1, 2, 3)
    width: int = 32
    modes: int | tuple[int, ...] = 16
    layers: int = 4
    factorisation: Literal["dense", "tucker", "cp", "tt"] = "dense"
    rank: float | tuple[int, ...] = 0.1
    padding: float = 0.125
    continuation: int = 2
    coordinates: bool = True
    resolutions: tuple[int, ...] = (1,)
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2:
            raise Invalid(f"width must be at least 2, got {self.width}")
        if isinstance(self.modes, tuple) and len(self.modes) not in self.dimensions:
            raise Invalid(f"modes must be one number, or one for each of 1 to 3 axes, got {self.modes}")
        if isinstance(self.rank, tuple):
            if not self.rank or min(self.rank) < 1:
                raise Invalid(f"ranks must be at least 1, got {self.rank}")
        elif not 0 < self.rank <= 1:
            raise Invalid(f"rank must be a fraction of the dense parameters in (0, 1], got {self.rank}")
        if not 0 <= self.continuation <= ENDS:
            raise Invalid(f"continuation must be 0 to {ENDS} points, got {self.continuation}")
        if not self.resolutions or min(self.resolutions) < 1:
            raise Invalid(f"resolutions must be strides of at least 1, got {self.resolutions}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, modes=4, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.fourier.layers import FNONet

        count = len(port.points)
        modes = self.modes if isinstance(self.modes, tuple) else (self.modes,) * count
        if len(modes) != count:
            raise Invalid(f"modes is {self.modes}, for {len(modes)} axes; these fields have {count}")
        for axis, (points, closed) in enumerate(zip(port.points, port.periodic, strict=True)):
            if not closed and self.padding and points < self.continuation:
                raise Invalid(
                    f"continuation takes {self.continuation} points of each end; axis {axis} has {points}"
                )
        return FNONet(
            port.channels_in,
            port.channels_out,
            self.width,
            [min(m, n) for m, n in zip(modes, port.points, strict=True)],
            self.layers,
            port.periodic,
            self.padding,
            self.coordinates,
            self.continuation,
            self.factorisation,
            self.rank,
        )

    def fitted(
        self, signature: Signature, layout: Channels, net: nn.Module, scales: tuple[Scale, Scale]
    ) -> Fitted:
        """See `Trained.fitted`.

        Raises
        ------
        Invalid
            If the training grid has no such part as `resolutions` asks for.
        """
        if self.resolutions == (1,):
            return super().fitted(signature, layout, net, scales)
        from sciflow_operators.fourier.mixed import Mixed

        return Mixed(self, signature, layout, net, scales)
