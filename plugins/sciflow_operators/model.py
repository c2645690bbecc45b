"""The fitted operator: a network with its scaling, from fields to fields."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import Invalid
from sciflow.surrogate import Arrays, Model
from sciflow_operators.channels import Layout, Scale
from sciflow_operators.fno import FNONet

if TYPE_CHECKING:
    from sciflow.samples import Signature
    from sciflow_operators.components import FNO

PREDICT = 32
"""Samples that are predicted at once."""


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Set torch's thread count for a while.

    Parameters
    ----------
    count : int
        0 takes the cores this process may use.
    """
    before = torch.get_num_threads()
    wanted = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)


def pick_device(wish: str) -> torch.device:
    """The device to compute on.

    Raises
    ------
    Invalid
        If a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if wish == "cuda" and not there:
        raise Invalid("device 'cuda' was asked for, torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if there and wish != "cpu" else "cpu")


def network(config: FNO, layout: Layout, periodic: tuple[str, ...]) -> FNONet:
    """The network for a configuration and a layout."""
    return FNONet(
        layout.channels_in,
        layout.channels_out,
        config.width,
        [config.modes] * len(layout.space),
        config.layers,
        [axis in periodic for axis in layout.space],
        config.padding,
        config.coordinates,
    )


FLOOR = 1e-3
"""A field smaller than this part of its typical size is measured against this part."""


def relative_l2(predicted: Tensor, truth: Tensor, groups: list[int], typical: list[float]) -> Tensor:
    """Relative L2 error of each sample, averaged over the output fields.

    Parameters
    ----------
    predicted, truth : Tensor, shape (batch, *points, channel)
        In the fields' units.
    groups : list of int
        Channels of each field.
    typical : list of float
        Root mean square of each field over the training samples, in its unit. A sample below
        `FLOOR` times this (a field that is zero, say) is divided by that bound instead.

    Returns
    -------
    Tensor, shape (batch,)
    """
    total = torch.zeros(len(truth), device=truth.device, dtype=truth.dtype)
    parts = zip(torch.split(predicted, groups, -1), torch.split(truth, groups, -1), typical, strict=True)
    for a, b, size in parts:
        least = max(FLOOR * size, torch.finfo(b.dtype).tiny) * math.sqrt(b[0].numel())
        total = total + (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp_min(least)
    return total / len(groups)


class Fitted(Model):
    """A trained FNO.

    Parameters
    ----------
    config : FNO
        Its configuration.
    signature : Signature
        What it maps from and to.
    net : FNONet
        The network, on its device.
    scales : tuple of Scale
        Of inputs and outputs.
    """

    def __init__(self, config: FNO, signature: Signature, net: FNONet, scales: tuple[Scale, Scale]) -> None:
        self.config, self.signature, self.net, self.scales = config, signature, net, scales
        self.layout = Layout.of(signature)
        self.device = next(net.parameters()).device
        self._scaling = [torch.tensor(v, device=self.device) for s in scales for v in (s.mean, s.spread)]

    def apply(self, x: Tensor) -> Tensor:
        """Output channels from input channels, both in the fields' units and on the device.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        mean_in, spread_in, mean, spread = self._scaling
        return torch.addcmul(mean, self.net((x - mean_in) / spread_in), spread)

    def errors(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """`relative_l2` of every sample."""
        typical = self.scales[1].typical(self.layout.outputs)
        return relative_l2(predicted, truth, list(self.layout.outputs.values()), typical)

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; any grid size, the result is on the grid of the input.

        Raises
        ------
        Invalid
            If an input is missing or the shapes of the inputs do not fit together.
        """
        values = torch.from_numpy(self.layout.stack(x, self.layout.inputs))
        with torch.no_grad(), torch_threads(self.config.threads):
            parts = [self.apply(part.to(self.device)).cpu() for part in torch.split(values, PREDICT)]
        axes = {n: f.axes for n, f in self.signature.outputs.items()}
        return self.layout.unstack(torch.cat(parts).numpy(), axes)

    def state(self) -> Arrays:
        """See `Model.state`."""
        weights = {f"net.{k}": v.detach().cpu().numpy() for k, v in self.net.state_dict().items()}
        for word, scale in zip(("input", "output"), self.scales, strict=True):
            weights |= {f"{word}.mean": scale.mean, f"{word}.spread": scale.spread}
        return weights


def load(config: FNO, state: Arrays, signature: Signature) -> Fitted:
    """Build a fitted model from its arrays; see `Surrogate.load`."""
    layout = Layout.of(signature)
    net = network(config, layout, signature.periodic)
    wanted = {f"net.{k}": tuple(v.shape) for k, v in net.state_dict().items()}
    for word, channels in (("input", layout.channels_in), ("output", layout.channels_out)):
        wanted |= {f"{word}.mean": (channels,), f"{word}.spread": (channels,)}
    require(state, wanted)
    net.load_state_dict({k: torch.tensor(np.asarray(state[f"net.{k}"])) for k in net.state_dict()})
    scales = [
        Scale(np.array(state[f"{w}.mean"]), np.array(state[f"{w}.spread"])) for w in ("input", "output")
    ]
    return Fitted(config, signature, net.to(pick_device(config.device)), (scales[0], scales[1]))


def require(state: Arrays, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a state in which arrays are missing or have other shapes."""
    wrong = []
    for name, shape in wanted.items():
        found = state.get(name)
        if found is None:
            wrong.append(f"{name} is missing, shape {shape} is needed")
        elif tuple(found.shape) != shape:
            wrong.append(f"{name} has shape {tuple(found.shape)}, {shape} is needed")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Invalid(f"these arrays are not of this FNO and signature: {'; '.join(wrong[:5])}{more}")
