"""A fully connected network."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLPNet(nn.Module):
    """Linear layers with SiLU between.

    Parameters
    ----------
    channels_in, channels_out : int
        Numbers in and out.
    width, layers : int
        See `MLP`.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int, layers: int) -> None:
        super().__init__()
        sizes = [channels_in, *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel in) to (batch, channel out)."""
        for layer in self.hidden:
            x = nn.functional.silu(layer(x))
        result: Tensor = self.last(x)
        return result
