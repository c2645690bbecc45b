"""Multiplication of the lowest Fourier modes, real-valued and channels last, on any number of axes.

Only a few modes of each transform are kept, so multiplying with a thin matrix costs less than a
fast transform of everything followed by a cut, and no complex number is ever stored.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sciflow_operators.fourier.dft import carried, tables

MANY = 16
"""Modes over the logarithm of the points from which fast transforms are faster, on one axis."""


def combine(product: Tensor, channels: int) -> Tensor:
    """Complex products from real ones.

    Parameters
    ----------
    product : Tensor, shape (..., 2 * batch, 2 * channels)
        Real parts above imaginary parts, times real parts beside imaginary parts.
    channels : int
        Channels of the result.

    Returns
    -------
    Tensor, shape (..., 2 * batch, channels)
        Real parts above imaginary parts.
    """
    batch = product.shape[-2] // 2
    above, below = product[..., :batch, :], product[..., batch:, :]
    re = above[..., :channels] - below[..., channels:]
    im = above[..., channels:] + below[..., :channels]
    return torch.cat([re, im], dim=-2)


class Spectral(nn.Module):
    """Multiplies each of the lowest Fourier modes with a matrix; a subclass holds the matrices.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels.
    modes : sequence of int
        Kept modes of each axis, both signs counted; the last axis keeps ``m // 2 + 1`` of them.

    Attributes
    ----------
    kept : tuple of int
        Modes of each axis that have a matrix.

    Notes
    -----
    ``y = s + F^-1(R_k (F x)_k)`` for the kept ``k``, where ``s`` is what the result is added to.
    Axes are transformed from the first, which is real, to the last, which keeps half of its modes; modes
    that a coarser grid does not carry are left out.

    A transform costs ``O(points * modes)`` per axis instead of ``O(points * log points)``, less for the few
    modes that are kept. Forward and backward on one core, time of `torch.fft` over that of the matrices: with
    128 modes of 1024 points 1.1, 256 modes 0.44, 1024 modes of 4096 points 0.14; 32 x 32 modes of 64 x 64
    points 1.2, 64 x 64 modes of 256 x 256 points 1.6, 16 modes per axis of 32 x 32 x 32 points 1.6. So fast
    transforms are taken on one axis with more than ``16 log2 points`` modes, except where a graph is traced:
    complex numbers neither compile nor go to ONNX.
    """

    def __init__(self, channels_in: int, channels_out: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(modes)
        self.kept = (*self.modes[:-1], self.modes[-1] // 2 + 1)
        self.channels_in, self.channels_out = channels_in, channels_out

    @abstractmethod
    def mix(self, z: Tensor, kept: tuple[int, ...]) -> Tensor:
        """Multiply each mode.

        Parameters
        ----------
        z : Tensor, shape (mode, 2 * batch, channel in)
            Real parts above imaginary parts.
        kept : tuple of int
            Modes of each axis that the grid carries.

        Returns
        -------
        Tensor, shape (mode, 2 * batch, channel out)
        """

    def span(self, axis: int, kept: tuple[int, ...]) -> tuple[int, int]:
        """First and number of the modes of an axis that a coarser grid carries."""
        have, want = self.kept[axis], kept[axis]
        return 0 if axis == len(kept) - 1 else have // 2 - want // 2, want

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Convolve and add.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
        skip : Tensor, shape (batch, *points, channel out)
            Added to the result in the last matrix product.

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        if self._many(x):
            return self._fast(x, skip)
        batch, n, points = x.shape[0], self.channels_out, x.shape[1:-1]
        pairs, last = tables(points, self.modes, x), len(points) - 1
        kept = tuple(
            carried(size, m, i == last) for i, (size, m) in enumerate(zip(points, self.modes, strict=True))
        )
        a, rows, parts = x, batch, 1
        for (there, _), size, k in zip(pairs, points, kept, strict=True):
            a = torch.bmm(there.expand(rows, -1, -1), a.reshape(rows, parts * size, -1))
            rows, parts = rows * k, 2
        count = math.prod(kept)
        z = a.reshape(batch, count, 2, self.channels_in).permute(1, 2, 0, 3)
        z = self.mix(z.reshape(count, 2 * batch, self.channels_in), kept)
        b = z.view(count, 2, batch, n).permute(2, 0, 1, 3).reshape(batch, 2 * count, n)
        for (_, back), k in zip(reversed(pairs[1:]), reversed(kept[1:]), strict=True):
            rows = rows // k
            b = torch.bmm(back.expand(rows, -1, -1), b.reshape(rows, 2 * k, -1))
        base, back = skip.reshape(batch, points[0], -1), pairs[0][1].expand(batch, -1, -1)
        return torch.baddbmm(base, back, b.reshape(batch, 2 * kept[0], -1)).view(skip.shape)

    def _many(self, x: Tensor) -> bool:
        """Whether fast transforms are faster: one axis with so many modes, and no graph to be traced."""
        if x.ndim != 3 or x.dtype not in (torch.float32, torch.float64):
            return False
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return False
        return min(self.modes[0], x.shape[1]) > MANY * math.log2(x.shape[1])

    def _fast(self, x: Tensor, skip: Tensor) -> Tensor:
        """The same by fast transforms."""
        batch, points, _ = x.shape
        k = min(self.kept[0], points // 2 + 1)
        z = torch.view_as_real(torch.fft.rfft(x, dim=1, norm="forward").narrow(1, 0, k))
        z = self.mix(z.permute(1, 3, 0, 2).reshape(k, 2 * batch, self.channels_in), (k,))
        z = z.view(k, 2, batch, self.channels_out).permute(2, 0, 3, 1).contiguous()
        result: Tensor = skip + torch.fft.irfft(torch.view_as_complex(z), n=points, dim=1, norm="forward")
        return result


class SpectralConv(Spectral):
    """A full matrix for each mode.

    Parameters
    ----------
    channels_in, channels_out, modes
        See `Spectral`.

    Notes
    -----
    The weight is real, shape (mode, channel in, 2 * channel out): real parts left, imaginary parts
    right.
    """

    def __init__(self, channels_in: int, channels_out: int, modes: Sequence[int]) -> None:
        super().__init__(channels_in, channels_out, modes)
        scale = math.sqrt(2 / (channels_in + channels_out)) / math.sqrt(2)
        self.weight = nn.Parameter(scale * torch.randn(math.prod(self.kept), channels_in, 2 * channels_out))

    def mix(self, z: Tensor, kept: tuple[int, ...]) -> Tensor:
        """See `Spectral.mix`."""
        weight = self.weight if kept == self.kept else self._cut(kept)
        return combine(torch.bmm(z, weight), self.channels_out)

    def _cut(self, kept: tuple[int, ...]) -> Tensor:
        """Weights of the modes that a coarser grid can carry."""
        weight = self.weight.view(*self.kept, *self.weight.shape[1:])
        for axis in range(len(kept)):
            weight = weight.narrow(axis, *self.span(axis, kept))
        return weight.reshape(-1, *self.weight.shape[1:])
