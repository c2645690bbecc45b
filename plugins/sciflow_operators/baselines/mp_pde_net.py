"""Message passing on a regular grid: neighbours are slices of a padded array, channels are last."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the name torch uses itself
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow_operators.fields.grid import mesh

NARROW = 1e-5
"""Added to the variance of a channel."""


def stencil(dimensions: int, radius: int) -> list[tuple[int, ...]]:
    """Offsets, in grid points, of all neighbours within a distance; without the point itself."""
    box = itertools.product(range(-radius, radius + 1), repeat=dimensions)
    return [o for o in box if 0 < sum(i * i for i in o) <= radius * radius]


class Neighbours:
    """The grid as a graph.

    Parameters
    ----------
    points : sequence of int
        Size of the grid.
    periodic : sequence of bool
        Whether the last point of an axis is a neighbour of the first.
    offsets : sequence of tuple of int
        Of the neighbours; see `stencil`.
    like : Tensor
        Gives dtype and device.

    Attributes
    ----------
    share : Tensor, shape (*points, 1), or None
        One over the number of neighbours of each point; None where all have all.
    """

    def __init__(
        self,
        points: Sequence[int],
        periodic: Sequence[bool],
        offsets: Sequence[tuple[int, ...]],
        like: Tensor,
    ) -> None:
        self.points, self.offsets = tuple(points), offsets
        self.reach = max(max(map(abs, o)) for o in offsets)
        self._rows = [torch.arange(-self.reach, n + self.reach, device=like.device) % n for n in points]
        self.masks: list[Tensor] | None = None
        self.share: Tensor | None = None
        if not all(periodic):
            self.masks = [self._mask(o, periodic, like) for o in offsets]
            self.share = 1 / torch.stack(self.masks).sum(dim=0).clamp_min(1)

    def _mask(self, offset: tuple[int, ...], periodic: Sequence[bool], like: Tensor) -> Tensor:
        """Where there is a neighbour at an offset: 1, else 0; shape (*points, 1)."""
        mask = torch.ones((), dtype=like.dtype, device=like.device)
        for axis, (n, step, around) in enumerate(zip(self.points, offset, periodic, strict=True)):
            place = torch.arange(n, device=like.device) + step
            inside = torch.ones_like(place) if around else (place >= 0) & (place < n)
            shape = [1] * (len(self.points) + 1)
            shape[axis] = n
            mask = mask * inside.to(like.dtype).view(shape)
        return mask.expand(*self.points, 1)

    def pad(self, values: Tensor) -> Tensor:
        """Values (batch, *points, ...) with `reach` more points at both ends of each axis, periodic."""
        for axis, rows in enumerate(self._rows):
            values = values.index_select(1 + axis, rows)
        return values

    def shifted(self, padded: Tensor, offset: tuple[int, ...]) -> Tensor:
        """Values of every point's neighbour, from what `pad` gave (batch, *points, ...); a view."""
        for axis, (n, step) in enumerate(zip(self.points, offset, strict=True)):
            padded = padded.narrow(1 + axis, self.reach + step, n)
        return padded


class MessageStep(nn.Module):
    """One step of message passing with a residual update.

    Parameters
    ----------
    width : int
        Channels of a node.
    fields, scalars : int
        Input channels that are fields and scalar parameters.
    offsets : sequence of tuple of int
        Of the neighbours.

    Notes
    -----
    With ``sigma`` the SiLU, ``u`` the input levels and ``theta`` the scalars, ::

        m_i  = mean_j sigma(A h_i + B h_j + C (u_i - u_j) + D (x_i - x_j) + E theta + b)
        h_i' = h_i + G sigma(P h_i + Q m_i + R theta + c) + g

    ``A h_i + C u_i`` and ``B h_j - C u_j`` are computed once for each node, not for each edge: an edge
    costs two additions and one SiLU for each channel. A linear layer on each message would commute with
    the mean and is part of ``Q``.
    """

    apart: Tensor

    def __init__(self, width: int, fields: int, scalars: int, offsets: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.receiver = nn.Linear(width, width)
        self.sender = nn.Linear(width, width, bias=False)
        self.difference = nn.Linear(fields, width, bias=False) if fields else None
        self.place = nn.Linear(len(offsets[0]), width, bias=False)
        # Kept on the device: a tensor that a step makes on the host has to wait for the GPU.
        self.register_buffer("apart", torch.tensor(offsets).to(torch.get_default_dtype()), persistent=False)
        self.known = nn.Linear(scalars, 2 * width, bias=False) if scalars else None
        self.own = nn.Linear(width, width)
        self.heard = nn.Linear(width, width, bias=False)
        self.update = nn.Linear(width, width)

    def forward(self, h: Tensor, u: Tensor, theta: Tensor, graph: Neighbours) -> Tensor:
        """Map node states.

        Parameters
        ----------
        h : Tensor, shape (batch, *points, width)
        u : Tensor, shape (batch, *points, fields)
        theta : Tensor, shape (batch, 1 for each axis, scalars)
        graph : Neighbours

        Returns
        -------
        Tensor, shape (batch, *points, width)
        """
        mine, theirs, own = self.receiver(h), self.sender(h), self.own(h)
        if self.difference is not None:
            level = self.difference(u)
            mine, theirs = mine + level, theirs - level
        if self.known is not None:
            to_message, to_update = self.known(theta).chunk(2, dim=-1)
            mine, own = mine + to_message, own + to_update
        heard = self._messages(mine, graph.pad(theirs), graph)
        return torch.add(h, self.update(F.silu(own + self.heard(heard))))

    def _messages(self, mine: Tensor, theirs: Tensor, graph: Neighbours) -> Tensor:
        """Mean over the neighbours."""
        total: Tensor | None = None
        places = self.place(self.apart / graph.reach)
        for i, (offset, place) in enumerate(zip(graph.offsets, places, strict=True)):
            message = F.silu(mine + graph.shifted(theirs, offset) + place)
            if graph.masks is not None:
                message = message * graph.masks[i]
            total = message if total is None else total + message
        assert total is not None
        return total / len(graph.offsets) if graph.share is None else total * graph.share


class Bundle(nn.Module):
    """Two convolutions along a point's channels, from `width` numbers to one for each output.

    Parameters
    ----------
    width, channels_out : int
        Numbers in and out.

    Raises
    ------
    Invalid
        If `width` is too small for so many outputs.

    Notes
    -----
    With 8 channels between. The kernels follow from the sizes: for 128 numbers and 25 outputs they are
    16 with a stride of 3 and 14, as in the paper.

    References
    ----------
    J. Brandstetter, D. E. Worrall and M. Welling, "Message passing neural PDE solvers", ICLR 2022,
    section 3.2.
    """

    def __init__(self, width: int, channels_out: int) -> None:
        super().__init__()
        stride, kernel = max(1, round(width / (1.7 * channels_out))), max(1, width // 8)
        between = (width - kernel) // stride + 1
        if between < channels_out:
            raise Invalid(
                f"decoder='convolution' makes at most {width - kernel + 1} outputs of width {width}, "
                f"{channels_out} are needed; take a larger width or decoder='perceptron'"
            )
        self.first = nn.Conv1d(1, 8, kernel, stride)
        self.second = nn.Conv1d(8, 1, between - channels_out + 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map (batch, *points, width) to (batch, *points, channel out)."""
        rows = h.reshape(-1, 1, h.shape[-1])
        found: Tensor = self.second(F.silu(self.first(rows)))
        return found.reshape(*h.shape[:-1], -1)


def normed(h: Tensor) -> Tensor:
    """Each channel of each sample with mean 0 and spread 1 over the points; (batch, *points, width)."""
    over = tuple(range(1, h.ndim - 1))
    variance, mean = torch.var_mean(h, dim=over, correction=0, keepdim=True)
    return (h - mean) * torch.rsqrt(variance + NARROW)


class MPPDENet(nn.Module):
    """Encoder, message passing, decoder.

    Parameters
    ----------
    fields, scalars : sequence of int
        Input channels that are fields and scalar parameters.
    channels_out : int
        Output channels.
    width, layers, radius : int
        See `MPPDE`.
    periodic : sequence of bool
        One for each spatial axis.
    coordinates : bool
        Give the encoder the grid coordinates.
    norm, convolution : bool
        See `MPPDE`.

    References
    ----------
    J. Brandstetter, D. E. Worrall and M. Welling, "Message passing neural PDE solvers", ICLR 2022,
    equations 8 and 9.
    """

    def __init__(
        self,
        fields: Sequence[int],
        scalars: Sequence[int],
        channels_out: int,
        width: int,
        layers: int,
        radius: int,
        periodic: Sequence[bool],
        coordinates: bool,
        norm: bool = False,
        convolution: bool = False,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.fields, self.scalars = list(fields), list(scalars)
        self.periodic, self.coordinates = tuple(periodic), coordinates
        self.offsets = stencil(len(periodic), radius)
        count = len(fields) + len(scalars) + (len(periodic) if coordinates else 0)
        self.encoder = nn.Sequential(nn.Linear(count, width), nn.SiLU(), nn.Linear(width, width))
        self.steps = nn.ModuleList(
            MessageStep(width, len(fields), len(scalars), self.offsets) for _ in range(layers)
        )
        self.decoder: nn.Module = (
            Bundle(width, channels_out)
            if convolution
            else nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, channels_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the solver.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        points = x.shape[1:-1]
        graph = Neighbours(points, self.periodic, self.offsets, x)
        u, theta = x[..., self.fields], x[..., self.scalars]
        for axis in range(len(points)):
            theta = theta.narrow(1 + axis, 0, 1)
        if self.coordinates:
            grid = mesh(points, self.periodic, x)
            x = torch.cat([x, grid.expand(x.shape[0], *grid.shape)], dim=-1)
        h = self.encoder(x)
        for step in self.steps:
            h = step(h, u, theta, graph)
            if self.norm:
                h = normed(h)
        result: Tensor = self.decoder(h)
        return result
