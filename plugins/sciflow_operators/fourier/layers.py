"""Fourier neural operator, real-valued and channels last: transforms are matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the name torch uses itself
from torch import Tensor, nn

from sciflow_operators.fields.grid import mesh
from sciflow_operators.fourier.continuation import extend, extra_points
from sciflow_operators.fourier.factors import spectral


class Perceptron(nn.Module):
    """Two linear layers with GELU between, applied at every point.

    Parameters
    ----------
    channels_in, hidden, channels_out : int
        Channels.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels_in, hidden)
        self.second = nn.Linear(hidden, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map channels, shape (..., channel)."""
        result: Tensor = self.second(F.gelu(self.first(x)))
        return result


class Block(nn.Module):
    """One Fourier layer: ``z = P(y) + g x`` with ``y = gelu(K x + W x + b)``.

    Parameters
    ----------
    width : int
        Channels.
    modes : sequence of int
        See `SpectralConv`.
    last : bool
        The last layer has no activation.
    factorisation, rank
        See `sciflow_operators.fourier.factors.spectral`.
    """

    def __init__(
        self,
        width: int,
        modes: Sequence[int],
        last: bool,
        factorisation: str = "dense",
        rank: float | Sequence[int] = 1.0,
    ) -> None:
        super().__init__()
        self.conv = spectral(width, width, modes, factorisation, rank)
        self.skip = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.ones(width))
        self.mlp = Perceptron(width, max(1, width // 2), width)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *points, channel) to the same shape."""
        y = self.conv(x, self.skip(x))
        if not self.last:
            y = F.gelu(y)
        z = torch.addcmul(self.mlp(y), x, self.gate)
        return z if self.last else F.gelu(z)


class FNONet(nn.Module):
    """The network: lift, Fourier layers, project; grid coordinates are added to the input.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels without the coordinates.
    width, layers : int
        See `FNO`.
    modes : sequence of int
        One number for each axis.
    periodic : sequence of bool
        Whether the domain is periodic along each axis.
    padding : float
        Fraction of the domain added at the end of each axis that is not periodic.
    coordinates : bool
        Append the grid coordinates to the input channels.
    continuation : int
        Points at both ends of such an axis that a polynomial through the added part takes; 0 adds zeros.
    factorisation, rank
        See `sciflow_operators.fourier.factors.spectral`.

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR
    2021. The layer is the one of neuraloperator 2.0, so that weights can be exchanged.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        width: int,
        modes: Sequence[int],
        layers: int,
        periodic: Sequence[bool],
        padding: float = 0.0,
        coordinates: bool = True,
        continuation: int = 0,
        factorisation: str = "dense",
        rank: float | Sequence[int] = 1.0,
    ) -> None:
        super().__init__()
        self.periodic, self.padding, self.coordinates = tuple(periodic), padding, coordinates
        self.continuation = continuation
        extra = len(modes) if coordinates else 0
        self.lift = Perceptron(channels_in + extra, 2 * width, width)
        self.blocks = nn.ModuleList(
            Block(width, modes, i == layers - 1, factorisation, rank) for i in range(layers)
        )
        self.project = Perceptron(width, 2 * width, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
            On a regular grid of any size.

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        points = x.shape[1:-1]
        if self.coordinates:
            grid = mesh(points, self.periodic, x)
            x = torch.cat([x, grid.expand(x.shape[0], *grid.shape)], dim=-1)
        x = self.lift(x)
        for axis, (n, closed) in enumerate(zip(points, self.periodic, strict=True)):
            extra = 0 if closed else extra_points(n, self.padding)
            if extra:
                x = extend(x, 1 + axis, extra, self.continuation)
        for block in self.blocks:
            x = block(x)
        for axis, n in enumerate(points):
            x = x.narrow(1 + axis, 0, n)
        result: Tensor = self.project(x)
        return result
