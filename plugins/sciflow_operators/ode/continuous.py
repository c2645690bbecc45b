"""The continuous adjoint of torchdiffeq: a second equation, backwards in time, gives the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.errors import Diverged, Missing
from sciflow_operators.ode.solve import first_length
from sciflow_operators.ode.stages import Derivative, column, step


def integrate(
    f: Derivative, z: Tensor, end: Tensor, parts: Sequence[float], tolerance: float, weights: Sequence[Tensor]
) -> Tensor:
    """Integrate a batch with common steps; memory does not grow with their number.

    Parameters
    ----------
    f : callable
        The derivative.
    z : Tensor, shape (batch, ...)
        States at time 0.
    end : Tensor of float64, shape (batch,)
        Each sample's last time.
    parts : sequence of float
        When states are wanted, in parts of `end`; growing, not negative.
    tolerance : float
        Absolute and relative.
    weights : sequence of Tensor
        What the derivative depends on and gradients are wanted for.

    Returns
    -------
    Tensor, shape (batch, part, ...)

    Raises
    ------
    Missing
        Without torchdiffeq.
    Diverged
        If the step length goes to 0.
    """
    try:
        from torchdiffeq import odeint_adjoint
    except ImportError:
        raise Missing(
            "adjoint='torchdiffeq' needs torchdiffeq: pip install 'sciflow[ode]', or take adjoint='discrete'"
        ) from None

    def slope(part: Tensor, state: Tensor) -> Tensor:
        return column(end, state) * f(part.double() * end, state)

    begin = [] if parts[0] == 0 else [0.0]
    points = torch.tensor([*begin, *parts], dtype=torch.float64, device=z.device).to(z.dtype)
    if len(points) == 1:
        return z.unsqueeze(1)
    try:
        found = odeint_adjoint(
            slope, z, points, rtol=tolerance, atol=tolerance, method="dopri5", adjoint_params=tuple(weights)
        )
    except AssertionError as error:  # its word for a step length that is too short, or not a number
        raise Diverged(f"torchdiffeq gave up: {error}") from None
    values: Tensor = found.movedim(0, 1)
    return values[:, len(begin) :]


@torch.no_grad()
def next_length(f: Derivative, t: Tensor, z: Tensor, left: Tensor, tolerance: float) -> Tensor:
    """The step that a controller would take from a state, as torchdiffeq does not tell its own.

    Parameters
    ----------
    f : callable
        The derivative.
    t, left : Tensor of float64, shape (batch,)
        Times, and how far it is to the end.
    z : Tensor, shape (batch, ...)
        States at these times.
    tolerance : float
        See `solve.march`.

    Notes
    -----
    A first guess and two corrections by the estimated error: 14 evaluations.
    """

    def later(since: Tensor, state: Tensor) -> Tensor:
        return f(t + since, state)

    slope = f(t, z)
    h = first_length(later, z, slope, left, tolerance)
    for _ in range(2):
        error = step(f, t, z, h, slope).error(tolerance).double()
        factor = torch.nan_to_num(0.9 * error.clamp_min(1e-10) ** -0.2, nan=0.2).clamp(0.2, 10.0)
        h = torch.minimum(h * factor, left)
    return h
