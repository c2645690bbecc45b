"""The scalable operator transformer as a network between named fields on a regular grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow_operators.poseidon import published
from sciflow_operators.poseidon.scot import ScOT, resample

if TYPE_CHECKING:
    from sciflow_operators.fields.port import Port
    from sciflow_operators.poseidon.poseidon import Poseidon

LEAD = "lead_time"
"""Name of the input that the norms are conditioned on."""


class PoseidonNet(nn.Module):
    """A `ScOT` behind a port: the lead time goes to the norms, other grids are resampled.

    Parameters
    ----------
    config : Poseidon
        Its configuration.
    port : Port
        What goes in and comes out.

    Raises
    ------
    Invalid
        If the fields have no square grid, or no input is a field.

    Notes
    -----
    The channel of the lead time comes standardised, as every channel; `clock` holds the affine map to
    lead time over the longest one (where that is not known, roughly). Without such a channel the time is
    1, as for steady problems.
    """

    clock: Tensor

    def __init__(self, config: Poseidon, port: Port) -> None:
        super().__init__()
        if len(port.points) != 2 or port.points[0] != port.points[1]:
            raise Invalid(f"poseidon takes square grids, these fields have {port.points}")
        self.config = config
        leads = [i for i in port.scalars if port.names[i] == LEAD]
        self.lead = leads[0] if leads else None
        self.fields = [i for i in range(port.channels_in) if i != self.lead]
        if not self.fields:
            raise Invalid("poseidon needs an input besides the lead time")
        self.net = ScOT(len(self.fields), port.channels_out, config.sizes)
        # Lead times of all pairs of equally distant levels are spread like this around their mean.
        self.register_buffer("clock", torch.tensor([1 / 3, 1 / 4]))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        x : Tensor, shape (batch, points, points, channel in)
            Standardised, on a square grid of any size.

        Returns
        -------
        Tensor, shape (batch, points, points, channel out)

        Raises
        ------
        Invalid
            If the grid is not square.
        """
        points = x.shape[1]
        if x.shape[2] != points:
            raise Invalid(f"poseidon takes square grids, these fields have {tuple(x.shape[1:3])}")
        time = x.new_ones(x.shape[0])
        if self.lead is not None:
            time = self.clock[0] + self.clock[1] * x[:, 0, 0, self.lead]
            x = x[..., self.fields]
        native = self.config.sizes.points
        result = self.net(resample(x, native), time)
        return resample(result, points)

    def begin(self, log: logging.Logger, scalars: Mapping[str, tuple[float, float]]) -> None:
        """See `Prepared.begin`: take the unit of the lead time and the configured weights.

        Raises
        ------
        NotFound
            If the weights are not there.
        Invalid
            If they are others than those that the configuration names, or of another architecture.
        """
        config = self.config
        if self.lead is not None and config.horizon_time:
            self.clock.copy_(torch.tensor(scalars[LEAD]) / config.horizon_time)
        if not config.weights:
            return
        found = published.sha256(config.weights)
        if found != config.sha256:
            raise Invalid(
                f"the weights in {config.weights} have the SHA-256 {found}, the configuration names "
                f"{config.sha256}; leave sha256 out to take the file that is there"
            )
        size, weights = published.read(config.weights)
        if size != config.sizes:
            raise Invalid(
                f"the weights in {config.weights} are of {size}, the configuration is {config.sizes}"
            )
        kept = published.put(self.net, size, weights)
        log.info("weights of %s, SHA-256 %s", config.weights, found)
        log.warning("licence of these weights and of all that is trained from them: %s", config.licence)
        if kept:
            log.info("new, because the fields have other channels: %s", ", ".join(kept))

    def notes(self) -> dict[str, Any]:
        """See `Prepared.notes`: where its first weights came from, and their licence."""
        config = self.config
        if not config.weights:
            return {}
        return {"weights": config.weights, "weights_sha256": config.sha256, "licence": config.licence}
