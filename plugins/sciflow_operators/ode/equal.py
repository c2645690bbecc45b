"""The classical Runge-Kutta method with equal steps, for a batch of states."""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow_operators.ode.solve import Solution, Steps, started
from sciflow_operators.ode.stages import Derivative, column


def fixed(f: Derivative, z: Tensor, times: Tensor, count: int) -> tuple[Solution, Tensor]:
    """The classical Runge-Kutta method of order 4 with equal steps; gradients go through it.

    Parameters
    ----------
    f, z, times
        See `march`.
    count : int
        Steps from 0 to each sample's last time.

    Returns
    -------
    solution : Solution
        Between the steps a cubic, of order 3.
    states : Tensor, shape (step, batch, ...)
        At the beginning of every step.

    Notes
    -----
    Four evaluations for each step, and one more where several levels are asked for.
    """
    end = times.max(dim=1).values
    h = end / count
    length = column(h, z)
    values, states, begins = started(z, times), [], []
    several = times.shape[1] > 1
    slope = f(torch.zeros_like(end), z)
    for i in range(count):
        t = i * h
        second = f(t + h / 2, z + length / 2 * slope)
        third = f(t + h / 2, z + length / 2 * second)
        fourth = f(t + h, z + length * third)
        new = z + length / 6 * (slope + 2 * second + 2 * third + fourth)
        after = f(t + h, new) if several or i + 1 < count else fourth
        states.append(z)
        begins.append(t)
        values = _cubic(values, (z, new, length * slope, length * after), (times - t[:, None]), h)
        z, slope = new, after
    used = torch.full((len(z),), 4 * count + several, dtype=torch.int64, device=z.device)
    found = Steps(torch.stack(begins), h.expand(count, -1))
    return Solution(values, found, torch.where(end > 0, used, 0)), torch.stack(states)


def _cubic(values: Tensor, ends: tuple[Tensor, ...], since: Tensor, h: Tensor) -> Tensor:
    """Values with those at the times within a step; `since` is the time since its beginning."""
    part = since / torch.where(h > 0, h, 1.0)[:, None]
    inside = (h > 0)[:, None] & (part > 1e-9) & (part <= 1 + 1e-9)
    if not inside.any():
        return values
    begin, end, left, right = (v.unsqueeze(1) for v in ends)
    s = part.clamp(0, 1).to(begin.dtype).view(*part.shape, *(1,) * (begin.ndim - 2))
    r = 1 - s
    found = r * begin + s * end + s * r * (r * (left - (end - begin)) - s * (right - (end - begin)))
    return torch.where(inside.view(*inside.shape, *(1,) * (values.ndim - 2)), found, values)
