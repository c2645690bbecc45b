"""How a network is called in training: in mixed precision, compiled, within the memory of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sciflow.errors import Failed

if TYPE_CHECKING:
    import logging

    from sciflow_operators.training.trained import Trained

Forward = Callable[[Tensor], Tensor]


def forward(config: Trained, net: nn.Module, device: torch.device, log: logging.Logger) -> Forward:
    """The network as training calls it; its weights and their names stay those of `net`.

    Parameters
    ----------
    config : Trained
        Its `compile` and `precision`.
    net : Module
        On its device.
    device : device
        Where it is.
    log : Logger
        Told where the network could not be compiled, and why.
    """
    call: Forward = net
    if config.compile == "on" or (config.compile == "auto" and device.type == "cuda"):
        call = Compiled(net, device, log)
    if config.precision == "float32":
        return call

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            result = call(x)
        return result.float()

    return mixed


class Compiled:
    """A network that torch compiles when it is first called; as it is where that fails.

    Parameters
    ----------
    net : Module
        The network.
    device : device
        A GPU takes CUDA graphs.
    log : Logger
        Told the reason of a failure.
    """

    def __init__(self, net: nn.Module, device: torch.device, log: logging.Logger) -> None:
        self._net, self._log = net, log
        self._mode = "reduce-overhead" if device.type == "cuda" else "default"
        self._call: Forward | None = None
        self._failed = False

    def __call__(self, x: Tensor) -> Tensor:
        """The network's result."""
        if self._failed:
            return self._net(x)  # type: ignore[no-any-return]
        try:
            if self._call is None:
                # The last batch of an epoch has a size of its own: two programs, each for its size, are
                # faster than one for all sizes.
                self._call = torch.compile(self._net, mode=self._mode, dynamic=False)
            return self._call(x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler of the system, torch's own: anything may be raised
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            self._log.warning("the network is not compiled, training goes on without: %s", reason)
            self._failed = True
            return self._net(x)  # type: ignore[no-any-return]


def new_update(device: torch.device) -> None:
    """Tell CUDA graphs that results of the last update are no longer needed."""
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def out_of_memory(config: Trained, samples: int, error: BaseException) -> Failed:
    """What to do when a batch does not fit into the memory of the GPU.

    Parameters
    ----------
    config : Trained
        What is trained.
    samples : int
        Of the batch, on this rank.
    error : exception
        Torch's.
    """
    what = f"the GPU has no memory for a batch of {samples} samples on this rank (batch={config.batch}"
    if config.horizon > 1:
        what += f", {config.horizon} steps each"
    advice = "lower the width or the resolution"
    if config.batch > 1:
        half, times = -(-config.batch // 2), 2 * config.accumulate
        advice = f"try batch={half} with accumulate={times}, which averages as many samples for an update"
    if config.precision == "float32":
        advice += ", or precision='bfloat16'"
    reason = str(error).split("\n")[0]
    return Failed(f"{what}): {advice}. Torch says: {reason}")
