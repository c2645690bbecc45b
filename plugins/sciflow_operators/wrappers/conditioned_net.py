"""Channel attention by scalar parameters in front of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sciflow_operators.fields.channels import before
from sciflow_operators.fields.port import Port
from sciflow_operators.fourier.spectral import SpectralConv
from sciflow_operators.training.fitted import Fitted

if TYPE_CHECKING:
    from sciflow_operators.wrappers.conditioned import Conditioned

CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class DepthWise(nn.Module):
    """A convolution of each channel by itself to several channels.

    Parameters
    ----------
    channels, features : int
        Channels in, and channels out for each of them.
    kernel : int
        Points along each axis, odd.
    periodic : tuple of bool
        Other axes are continued by their last values.
    """

    def __init__(self, channels: int, features: int, kernel: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.reach, self.periodic = kernel // 2, periodic
        kind = CONVOLUTIONS[len(periodic) - 1]
        self.convolution = kind(channels, channels * features, kernel, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *points, channel) to (batch, *points, channels * features)."""
        for axis, around in enumerate(self.periodic):
            n = x.shape[1 + axis]
            place = torch.arange(-self.reach, n + self.reach, device=x.device)
            x = x.index_select(1 + axis, place % n if around else place.clamp(0, n - 1))
        result: Tensor = self.convolution(x.movedim(-1, 1)).movedim(1, -1)
        return result


class ConditionedNet(nn.Module):
    """The rough prediction and the network behind it.

    Parameters
    ----------
    config : Conditioned
        Its configuration.
    port : Port
        What goes in and comes out.

    Notes
    -----
    From fields ``u`` and scalar parameters ``theta``::

        m_1, m_2, m_3 = sigmoid(P(theta))                  masks in (0, 1), one number a channel
        z = m_1 W u + m_2 (k * u) + m_3 F^-1(R F u)        1x1, depth-wise, spectral convolution
        v = Q(z),   result = N(u, theta, v)

    with perceptrons P and Q (one hidden layer) and the inner network N. ``v`` is the rough prediction, and
    training pulls it to the truth as well. It costs ``O(n f (k^d + f))`` for n points, f features in all
    and a kernel of k, beside the spectral convolution. Without scalar parameters the masks are learned
    constants.
    """

    def __init__(self, config: Conditioned, port: Port) -> None:
        super().__init__()
        self.fields, self.scalars = list(port.fields), list(port.scalars)
        count = len(self.fields)
        width = count * config.features
        self.masks = (
            nn.Sequential(
                nn.Linear(len(self.scalars), config.hidden), nn.GELU(), nn.Linear(config.hidden, 3 * width)
            )
            if self.scalars
            else None
        )
        self.constant = None if self.scalars else nn.Parameter(torch.zeros(3 * width))
        self.point = nn.Linear(count, width)
        self.local = DepthWise(count, config.features, config.kernel, port.periodic)
        # Modes that the training grid does not carry would stay random until a finer grid met them.
        self.spectral = SpectralConv(count, width, [min(config.modes, n) for n in port.points])
        self.rough = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, port.channels_out))
        first = port.channels_in
        self.inner = config.inner.module(
            Port(
                (*port.fields, *range(first, first + port.channels_out)),
                port.scalars,
                port.channels_out,
                port.points,
                port.periodic,
                (*port.names, *["rough"] * port.channels_out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Prediction and, behind it, rough prediction.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)

        Returns
        -------
        Tensor, shape (batch, *points, 2 * channel out)
        """
        u, theta = x[..., self.fields], x[..., self.scalars]
        for axis in range(x.ndim - 2):
            theta = theta.narrow(1 + axis, 0, 1)
        raw = self.masks(theta) if self.masks is not None else self.constant
        assert raw is not None
        first, second, third = torch.sigmoid(raw).chunk(3, dim=-1)
        point = self.point(u)
        z = first * point + second * self.local(u)
        z = z + third * self.spectral(u, torch.zeros_like(point))
        rough = self.rough(z)
        return torch.cat([self.inner(torch.cat([x, rough], dim=-1)), rough], dim=-1)


class Pulled(Fitted):
    """A trained `Conditioned`: its rough prediction is pulled to the truth as well; see `Fitted`."""

    config: Conditioned

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and rough prediction for x (batch, *points, channel), each as `apply` gives it."""
        mean_in, spread_in, mean, spread = self._scaling
        base = before(self.layout, x)
        found = self.call((x - mean_in) / spread_in).chunk(2, dim=-1)
        predicted, rough = (torch.add(torch.addcmul(mean, v, spread), base) for v in found)
        return predicted, rough

    def apply(self, x: Tensor) -> Tensor:
        """See `Fitted.apply`."""
        return self.both(x)[0]

    def step(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """See `Fitted.step`."""
        predicted, rough = self.both(x)
        loss, target = self.config.loss, self.target
        return loss(predicted, y, x, target) + self.config.pull * loss(rough, y, x, target), predicted

    def objective(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> Tensor:
        """See `Fitted.objective`: the loss of the prediction and `pull` times that of the rough one."""
        return self.step(x, y, draw, progress)[0]
