"""What an integration costs, as a term of the loss: estimated errors and stiffness of its steps.

The integrals over time of the estimated error ``E`` (over what is tolerated) and of the estimated
stiffness ``S``, as an integrator with steps ``h_j`` sees them::

    R_E = sum_j E_j h_j,        R_S = sum_j S_j h_j

Step lengths are constants: the controller keeps ``E_j`` near one by shortening steps, so the derivative
that counts is the one at fixed steps, which says what would let them be longer.

One step in place of all: if step J is the one that a time drawn uniformly falls into, ``P(J = j) = h_j / T``
and ``T E_J`` has the mean ``R_E``. If J is drawn among the steps, short ones, where the solution is hard,
come as often as long ones, and the mean is ``T`` times that of ``E`` over the steps.

References
----------
A. Pal, Y. Ma, V. Shah and C. Rackauckas, "Opening the blackbox: accelerating neural differential equations
by regularizing internal solver heuristics", ICML 2021, arXiv:2105.03918, section 3; their stiffness term is
the sum of S over the steps. A. Pal, A. Edelman and C. Rackauckas, "Locally regularized neural differential
equations: some black boxes were meant to remain closed!", ICML 2023, arXiv:2303.02262, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow_operators.ode.solve import Replayed, Steps
from sciflow_operators.ode.stages import Derivative, step

if TYPE_CHECKING:
    from sciflow_operators.ode.neural_ode import NeuralODE


@dataclass(frozen=True)
class Costs:
    """The two terms of every sample.

    Attributes
    ----------
    error, stiffness : Tensor, shape (batch,)
    """

    error: Tensor
    stiffness: Tensor

    def weighted(self, config: NeuralODE) -> Tensor:
        """What is added to the loss, shape (batch,)."""
        total = torch.zeros_like(self.error)
        if config.regularise in ("error", "both"):
            total = total + config.error_weight * self.error
        if config.regularise in ("stiffness", "both"):
            total = total + config.stiffness_weight * self.stiffness
        return total


def everywhere(replayed: Replayed, steps: Steps) -> Costs:
    """Over all steps."""
    h = steps.lengths.to(replayed.errors.dtype)
    return Costs((replayed.errors * h).sum(dim=0), (replayed.stiffness * h).sum(dim=0))


def pick(steps: Steps, sampling: str, uniform: Tensor) -> Tensor:
    """A step of every sample.

    Parameters
    ----------
    steps : Steps
    sampling : {"time", "steps"}
        Draw a time uniformly and take the step it falls into, or draw among the steps.
    uniform : Tensor of float64, shape (batch,)
        Numbers from 0 up to 1.

    Returns
    -------
    Tensor of int64, shape (batch,)
    """
    counts = steps.counts
    if sampling == "steps":
        found = (uniform * counts).long()
    else:
        ends = steps.begins + steps.lengths
        total = steps.lengths.sum(dim=0)
        found = ((ends <= uniform * total) & (steps.lengths > 0)).sum(dim=0)
    return torch.minimum(found, (counts - 1).clamp_min(0))


def at_one(f: Derivative, t: Tensor, z: Tensor, lengths: Tensor, total: Tensor, tolerance: float) -> Costs:
    """Over one more step from a state; seven evaluations.

    Parameters
    ----------
    f : callable
        The derivative.
    t, lengths : Tensor of float64, shape (batch,)
        When the step begins and how long it is.
    z : Tensor, shape (batch, ...)
        States at these times.
    total : Tensor of float64, shape (batch,)
        Length of the whole interval.
    tolerance : float
        See `solve.march`.
    """
    stages = step(f, t, z, lengths, f(t, z))
    there, length = lengths > 0, total.to(z.dtype)
    return Costs(
        torch.where(there, stages.error(tolerance) * length, 0.0),
        torch.where(there, stages.stiffness() * length, 0.0),
    )
