"""One step of Dormand and Prince's pair for a batch of states, each sample with a length of its own.

References
----------
J. R. Dormand and P. J. Prince, "A family of embedded Runge-Kutta formulae", J. Comput. Appl. Math. 6, 1980.
E. Hairer, S. P. Norsett and G. Wanner, "Solving ordinary differential equations I", 2nd ed. 1993, section
II.6 (interpolant).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow_operators.ode.tableau import DENSE, ERROR, NODES, STAGES

Derivative = Callable[[Tensor, Tensor], Tensor]
"""From times, shape (batch,), and states, shape (batch, ...), to derivatives of the states."""


@dataclass(frozen=True)
class Stages:
    """One step of every sample.

    Attributes
    ----------
    begin, end : Tensor, shape (batch, ...)
        States.
    slopes : sequence of Tensor, shape (batch, ...)
        The seven derivatives.
    before : Tensor, shape (batch, ...)
        The state of the sixth stage, another estimate of `end`.
    lengths : Tensor, shape (batch,)
    """

    begin: Tensor
    end: Tensor
    slopes: Sequence[Tensor]
    before: Tensor
    lengths: Tensor

    def error(self, tolerance: float) -> Tensor:
        """Estimated error of each sample over what is tolerated, shape (batch,)."""
        found = combined(ERROR, self.slopes) * column(self.lengths, self.begin)
        scale = tolerance * (1 + torch.maximum(self.begin.abs(), self.end.abs()))
        return rms(found / scale)

    def stiffness(self) -> Tensor:
        """Estimate of the largest eigenvalue's size, shape (batch,); 0 where nothing moves.

        Two stages end at the same time in different states: the difference of their derivatives over
        that of the states.
        """
        apart, states = rms(self.slopes[6] - self.slopes[5]), rms(self.end - self.before)
        return torch.where(states > 2 * least(states), apart / states, 0.0)

    def between(self, part: Tensor) -> Tensor:
        """States within the step, to order 4.

        Parameters
        ----------
        part : Tensor, shape (batch, level)
            0 at the beginning, 1 at the end.

        Returns
        -------
        Tensor, shape (batch, level, ...)
        """
        length = column(self.lengths, self.begin)
        change = self.end - self.begin
        bend = length * self.slopes[0] - change
        third = change - length * self.slopes[6] - bend
        last = length * combined(DENSE, self.slopes)
        s = part.to(self.begin.dtype).view(*part.shape, *(1,) * (self.begin.ndim - 1))
        first, change, bend, third, last = (v.unsqueeze(1) for v in (self.begin, change, bend, third, last))
        return first + s * (change + (1 - s) * (bend + s * (third + (1 - s) * last)))


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """One number for each sample, in the dtype and with the axes of a batch of states."""
    return numbers.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Weighted sum."""
    total = slopes[0] * weights[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=False):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total


def rms(values: Tensor) -> Tensor:
    """Root mean square of each sample, shape (batch, ...); its derivative is 0 where it is 0."""
    return values.square().flatten(1).mean(dim=1).clamp_min(least(values) ** 2).sqrt()


def least(values: Tensor) -> float:
    """What `rms` gives for zeros of the dtype."""
    return math.sqrt(torch.finfo(values.dtype).tiny)


def step(f: Derivative, t: Tensor, z: Tensor, lengths: Tensor, first: Tensor) -> Stages:
    """One step of Dormand and Prince's method; six evaluations.

    Parameters
    ----------
    f : callable
        The derivative.
    t, lengths : Tensor of float64, shape (batch,)
        Times and lengths of the steps.
    z, first : Tensor, shape (batch, ...)
        States and their derivatives.
    """
    h = column(lengths, z)
    slopes, before, state = [first], z, z
    for node, weights in zip(NODES[1:], STAGES, strict=True):
        before, state = state, z + h * combined(weights, slopes)
        slopes.append(f(t + node * lengths, state))
    return Stages(z, state, slopes, before, lengths)
