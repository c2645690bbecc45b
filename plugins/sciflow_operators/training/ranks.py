"""What the ranks of a data-parallel training share: averaged gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sciflow.context import summed
from sciflow_operators.training.distributed import reduces, total

if TYPE_CHECKING:
    from sciflow.context import Comm


def average(parameters: Sequence[nn.Parameter], count: int, comm: Comm) -> None:
    """Turn gradients of sums over local samples into the gradient of the mean over all; collective.

    Parameters
    ----------
    parameters : sequence of Parameter
        Their ``grad`` is replaced.
    count : int
        Local samples.
    comm : Comm
        See `summed`.

    Notes
    -----
    One buffer holds everything, so that a step costs one reduction of as many single-precision numbers as
    there are weights. All ranks get the same bits from it, and so keep the same weights. Whether MPI, gloo or
    NCCL sums: see `sciflow_operators.training.distributed.reduces`.
    """
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # Exact as a single-precision number below 2^24 samples.
    buffer = torch.cat([*(g.flatten() for g in grads), grads[0].new_tensor([count])])
    if reduces(comm, buffer.device):
        total(buffer)
    else:
        buffer = torch.from_numpy(summed(buffer.cpu().numpy(), comm)).to(buffer.device)
    mean: Sequence[Tensor] = torch.split(
        buffer[:-1] / buffer[-1].clamp_min(1), [p.numel() for p in parameters]
    )
    for parameter, values in zip(parameters, mean, strict=True):
        parameter.grad = values.view_as(parameter)
