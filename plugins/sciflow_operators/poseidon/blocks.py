"""Blocks of the scalable operator transformer: windows of cosine attention, norms that know the time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  the name torch uses itself
from torch import Tensor, nn

HIDDEN = 512
"""Hidden width of the perceptron behind the position bias."""
SHARPEST = 100.0
"""Largest factor of the cosine between a query and a key."""
SPREAD = 0.02
"""Standard deviation of random weights."""


class TimeNorm(nn.Module):
    """Layer norm whose gain and offset are affine functions of the lead time.

    Parameters
    ----------
    width : int
        Channels.

    Notes
    -----
    ``y = (s0 + s1 t) (x - mean) / sqrt(var + 1e-5) + (b0 + b1 t)`` over the channels of each token. It
    starts as a plain layer norm: ``s0 = 1``, ``s1``, ``b1`` small, ``b0 = 0``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.stack([torch.ones(width), torch.zeros(width)]))
        self.slope = nn.Parameter(SPREAD * torch.randn(2, width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Normalise (batch, y, x, channel) at the times (batch,), shape kept."""
        gain, offset = (self.constant + time.view(-1, 1, 1, 1, 1) * self.slope).unbind(-2)
        return torch.addcmul(offset, F.layer_norm(x, x.shape[-1:]), gain)


def coordinates(window: int) -> Tensor:
    """Offsets between the tokens of a window on a logarithmic scale, shape ((2 window - 1)**2, 2)."""
    line = torch.arange(-(window - 1), window, dtype=torch.float32) * 8 / max(1, window - 1)
    line = line.sign() * torch.log2(line.abs() + 1) / 3
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).view(-1, 2)


def offsets(window: int) -> Tensor:
    """For each pair of tokens of a window the row of `coordinates` between them, shape (window**4,)."""
    line = torch.arange(window)
    apart = line[:, None] - line + window - 1  # (to, from)
    both = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return both.reshape(-1)


def walls(tokens: int, window: int, shift: int) -> Tensor:
    """Minus infinity between tokens that a cyclic shift made neighbours, else 0.

    Returns
    -------
    Tensor, shape (windows, 1, window**2, window**2)
    """
    # After the shift, tokens from `shift` places before the end on are those of the other side.
    side = (torch.arange(tokens) >= tokens - shift).long()
    label = side[:, None] * 2 + side
    n = tokens // window
    label = label.view(n, window, n, window).transpose(1, 2).reshape(n * n, 1, window**2)
    same = label[..., :, None] == label[..., None, :]
    return torch.zeros(same.shape).masked_fill(~same, -math.inf)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """``softmax(q k^T + bias) v``.

    Parameters
    ----------
    q, k, v : Tensor, shape (batch, head, token, channel)
    bias : Tensor, shape (1, head, token, token)

    Notes
    -----
    On a CPU, torch's fused attention has no gradient of the bias: it then takes steps that look for rows
    without any neighbour, which these windows do not have, and is slower than plain products.
    """
    if q.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    return torch.softmax(q @ k.transpose(-2, -1) + bias, dim=-1) @ v


class Attention(nn.Module):
    """Attention among the tokens of each window, by the cosine of query and key.

    Parameters
    ----------
    width, heads : int
        Channels and heads.
    tokens : int
        Tokens along each axis of the whole grid.
    window : int
        Tokens along each axis of a window; divides `tokens`.
    shift : int
        By how many tokens the windows are moved against the grid.

    Notes
    -----
    ``softmax(s cos(q_i, k_j) + B(i - j)) v_j`` with a learned ``s <= 100`` for each head and
    ``B = 16 sigmoid(perceptron(log offset))``, a function of the offset that no window size is
    built into. The bias is evaluated once for each offset, not for each pair of tokens. Cost for n
    tokens: ``O(n width**2 + n window**2 width)``.

    References
    ----------
    Z. Liu et al., "Swin Transformer V2", CVPR 2022, arXiv:2111.09883.
    """

    rows: Tensor
    offsets: Tensor
    walls: Tensor

    def __init__(self, width: int, heads: int, tokens: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.tokens, self.window, self.shift = heads, tokens, window, shift
        self.sharpness = nn.Parameter(torch.full((heads,), math.log(10.0)))
        self.position = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, heads, bias=False))
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.bias = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, width)
        self.register_buffer("rows", coordinates(window), persistent=False)
        self.register_buffer("offsets", offsets(window), persistent=False)
        if shift:
            self.register_buffer("walls", walls(tokens, window, shift), persistent=False)
        nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; (batch, y, x, channel) to the same shape."""
        batch, n, _, width = x.shape
        w, heads, size = self.window, self.heads, width // self.heads
        windows = (n // w) ** 2
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = x.reshape(batch, n // w, w, n // w, w, width).transpose(2, 3).reshape(-1, w * w, width)
        bias = torch.cat([self.bias[:1], torch.zeros_like(self.bias[:1]), self.bias[1:]]).view(-1)
        mixed = F.linear(x, self.weight, bias).view(-1, w * w, 3, heads, size).permute(2, 0, 3, 1, 4)
        long = mixed[:2].norm(dim=-1, keepdim=True).clamp_min(1e-12)
        q, k = (mixed[:2] / long).unbind(0)
        q = q * self.sharpness.clamp(max=math.log(SHARPEST)).exp().view(-1, 1, 1)
        bias = self._bias().to(mixed.dtype)
        if self.shift:
            bias = (bias + self.walls.to(bias.dtype)).flatten(0, 1)[None]
            q, k, mixed = (
                t.reshape(*t.shape[:-4], batch, windows * heads, w * w, size) for t in (q, k, mixed)
            )
        x = attend(q.to(mixed.dtype), k.to(mixed.dtype), mixed[2], bias)
        x = x.reshape(-1, heads, w * w, size).transpose(1, 2).reshape(-1, w * w, width)
        x = self.out(x).view(batch, n // w, n // w, w, w, width).transpose(2, 3).reshape(batch, n, n, width)
        return x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x

    def _bias(self) -> Tensor:
        """The position bias, shape (1, heads, window**2, window**2)."""
        table: Tensor = 16 * torch.sigmoid(self.position(self.rows)).t()
        area = self.window**2
        return table.index_select(1, self.offsets).view(1, self.heads, area, area)


class Block(nn.Module):
    """One transformer block; each half is normalised before it is added.

    Parameters
    ----------
    width, heads, tokens, window, shift : int
        See `Attention`.
    hidden : int
        Hidden width of the perceptron.
    """

    def __init__(self, width: int, heads: int, tokens: int, window: int, shift: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, tokens, window, shift)
        self.attended = TimeNorm(width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mixed = TimeNorm(width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (batch, y, x, channel) to the same shape at the times (batch,)."""
        x = x + self.attended(self.attention(x), time)
        result: Tensor = x + self.mixed(self.second(F.gelu(self.first(x))), time)
        return result


class ConvNeXt(nn.Module):
    """A depthwise 7 x 7 convolution and a perceptron, added with a small learned factor.

    Parameters
    ----------
    width : int
        Channels.

    References
    ----------
    Z. Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = TimeNorm(width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.factor = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (batch, y, x, channel) to the same shape at the times (batch,)."""
        y = self.spread(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return torch.addcmul(x, self.second(F.gelu(self.first(self.norm(y, time)))), self.factor)
