"""The fitted surrogate: a network with its scaling, from fields to fields."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow.surrogate import Arrays, Model, Size
from sciflow_operators.fields.channels import Channels, Scale, before, groups
from sciflow_operators.training.start import notes
from sciflow_operators.training.target import Target, relative_l2

if TYPE_CHECKING:
    from sciflow.context import Comm
    from sciflow.samples import Signature
    from sciflow_operators.training.trained import Trained

PREDICT = 32
"""Samples that are predicted at once."""
SCALES = ("mean", "spread", "size")
"""Arrays of a `Scale` in a model's state."""


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Set torch's thread count for a while.

    Parameters
    ----------
    count : int
        0 takes the cores this process may use, or fewer where ``OMP_NUM_THREADS`` says so (the
        executors set it to each rank's share).
    """
    former = torch.get_num_threads()
    wanted = count or _allowed()
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(former)


def _allowed() -> int:
    """Threads this process may use."""
    cores = len(os.sched_getaffinity(0))
    # For nested parallel regions it may be a list; the first number is that of the outermost.
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores, int(told)) if told.isdecimal() and int(told) else cores


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


class Fitted(Model):
    """A trained network.

    Parameters
    ----------
    config : Trained
        Its configuration.
    signature : Signature
        What it maps from and to.
    layout : Channels
        How its fields become channels.
    net : Module
        The network, on its device.
    scales : tuple of Scale
        Of inputs and outputs.

    Attributes
    ----------
    call : callable
        The network as it is to be called, also by objectives of their own; see `called_by`.
    passes : int
        Of the network for one prediction.
    """

    passes: int = 1

    def __init__(
        self,
        config: Trained,
        signature: Signature,
        layout: Channels,
        net: nn.Module,
        scales: tuple[Scale, Scale],
    ) -> None:
        self.config, self.signature, self.layout = config, signature, layout
        self.net, self.scales = net, scales
        self.call: Callable[[Tensor], Tensor] = net
        self.device = next(net.parameters()).device
        self._scaling = [torch.tensor(v, device=self.device) for s in scales for v in (s.mean, s.spread)]
        self.target = Target(
            signature, layout, groups(layout.outputs), scales[1].typical(layout.outputs), self._scaling[3]
        )

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
        result = torch.addcmul(mean, self.call((x - mean_in) / spread_in), spread)
        return torch.add(result, before(self.layout, x))

    @contextlib.contextmanager
    def called_by(self, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let `call` be something else for a while, as training does: in mixed precision, compiled."""
        self.call = forward
        try:
            yield
        finally:
            self.call = self.net

    def errors(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """See `relative_l2`; of every sample."""
        return relative_l2(predicted, truth, self.target.groups, self.target.typical)

    def objective(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> Tensor:
        """What training minimises, of every sample; a subclass may train for something else.

        Parameters
        ----------
        x, y : Tensor, shape (batch, *points, channel)
            Inputs and outputs of the training samples, in the fields' units.
        draw : Generator
            On the CPU; seeded by seed, update and rank, so that a resumed training draws the same
            numbers.
        progress : float
            Part of the training that is done, 0 to 1.

        Returns
        -------
        Tensor, shape (batch,)
        """
        return self.config.loss(self.apply(x), y, x, self.target)

    def step(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """`objective`, and what the model predicts, from which a roll-out goes on.

        Where the objective is one of its own, the prediction costs a further pass; a subclass that has
        it already may override this.

        Returns
        -------
        losses : Tensor, shape (batch,)
        predicted : Tensor, shape (batch, *points, channel out)
            In the fields' units.
        """
        if type(self).objective is Fitted.objective:
            predicted = self.apply(x)
            return self.config.loss(predicted, y, x, self.target), predicted
        return self.objective(x, y, draw, progress), self.apply(x)

    def figures(self, comm: Comm) -> dict[str, float]:
        """What is reported beside the losses, counted since the last report, of all ranks; collective."""
        return {}

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; a network of a grid gives the result on the grid of the input.

        Raises
        ------
        Invalid
            If an input is missing or the shapes of the inputs do not fit together.
        """
        values = torch.from_numpy(self.layout.stack(x, self.layout.inputs))
        with torch.no_grad(), torch_threads(self.config.threads):
            parts = [self.apply(part.to(self.device)).cpu() for part in torch.split(values, PREDICT)]
        return self.layout.unstack(torch.cat(parts).numpy())

    def size(self, x: Arrays) -> Size:
        """See `Model.size`; the operations are those of matrix products, convolutions and attention."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.predict(x)
        return Size(sum(p.numel() for p in self.net.parameters()), float(counter.get_total_flops()))

    def notes(self) -> dict[str, Any]:
        """See `Model.notes`; those of the parts of the network."""
        return notes(self.net)

    def state(self) -> Arrays:
        """See `Model.state`."""
        weights = {f"net.{k}": v.detach().cpu().numpy() for k, v in self.net.state_dict().items()}
        for word, scale in zip(("input", "output"), self.scales, strict=True):
            weights |= {f"{word}.{kind}": getattr(scale, kind) for kind in SCALES}
        return weights


def load(config: Trained, state: Arrays, signature: Signature) -> Fitted:
    """Build a fitted model from its arrays; see `Surrogate.load`."""
    with torch.random.fork_rng(devices=[]):  # its random weights are replaced
        layout, net = config.network(signature)
    wanted = {f"net.{k}": tuple(v.shape) for k, v in net.state_dict().items()}
    for word, channels in (("input", layout.channels_in), ("output", layout.channels_out)):
        wanted |= {f"{word}.{kind}": (channels,) for kind in SCALES}
    require(config.name, state, wanted)
    net.load_state_dict({k: torch.tensor(np.asarray(state[f"net.{k}"])) for k in net.state_dict()})
    ends = [Scale(*(np.array(state[f"{w}.{kind}"]) for kind in SCALES)) for w in ("input", "output")]
    # Answers need no GPU, wherever the model was trained.
    device = pick_device(config.device if torch.cuda.is_available() else "auto")
    return config.fitted(signature, layout, net.to(device), (ends[0], ends[1]))


def require(name: str, state: Arrays, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a state in which arrays are missing or have other shapes.

    Raises
    ------
    Invalid
        Naming the first five of them.
    """
    wrong = []
    for key, shape in wanted.items():
        found = state.get(key)
        if found is None:
            wrong.append(f"{key} is missing, shape {shape} is needed")
        elif tuple(found.shape) != shape:
            wrong.append(f"{key} has shape {tuple(found.shape)}, {shape} is needed")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Invalid(f"these arrays are not of this {name} and signature: {'; '.join(wrong[:5])}{more}")
