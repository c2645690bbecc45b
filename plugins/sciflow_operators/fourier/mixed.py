"""Training on parts of the grid, so that other grids are predicted better."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow_operators.fields.channels import Layout
from sciflow_operators.fields.grid import divides, thin
from sciflow_operators.training.fitted import Fitted

if TYPE_CHECKING:
    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.fourier.fno import FNO


class Mixed(Fitted):
    """A network that is trained on grids of several resolutions.

    Parameters
    ----------
    config : FNO
        Its `resolutions` say on which.
    signature, layout, net, scales
        See `Fitted`.

    Raises
    ------
    Invalid
        If a resolution is no part of the training grid: a periodic axis must have a multiple of ``k``
        points, any other a multiple of ``k`` and one more, so that both ends are kept.

    Notes
    -----
    The objective of an update is that of every ``k``-th point of inputs and outputs, which are exact values
    of the same fields. A network of the functions has the same weights on all of them; one that has seen a
    single grid may have learned its corners and its staircases.
    """

    def __init__(
        self,
        config: FNO,
        signature: Signature,
        layout: Channels,
        net: nn.Module,
        scales: tuple[Scale, Scale],
    ) -> None:
        super().__init__(config, signature, layout, net, scales)
        self.strides = config.resolutions
        assert isinstance(layout, Layout)
        for stride in self.strides:
            if not divides(layout.points, self.target.periodic, stride):
                axes = ", ".join(
                    f"{a} has {n} points{', periodic' if p else ''}"
                    for a, n, p in zip(layout.space, layout.points, self.target.periodic, strict=True)
                )
                raise Invalid(
                    f"every {stride}th point is no grid of the same domain: {axes}; choose resolutions that "
                    f"divide the points of periodic axes and the intervals of the others"
                )

    def objective(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> Tensor:
        """See `Fitted.objective`."""
        stride = self.strides[int(torch.randint(len(self.strides), (), generator=draw))]
        x, y = thin(x, stride), thin(y, stride)
        return super().objective(x, y, draw, progress)
