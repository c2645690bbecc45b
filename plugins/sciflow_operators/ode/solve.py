"""Integrators in torch for a batch of states, each sample with steps of its own.

Two passes make the discrete adjoint. `march` finds the steps without gradients: sample by sample, a pair
of orders 5 and 4 says how wrong a step is, and a PI controller how long the next one shall be. `replay`
takes the accepted steps again with gradients: the derivative of what it gives is that of a Runge-Kutta
method with these very steps, which no rejected step and no step length disturbs.

References
----------
E. Hairer, S. P. Norsett and G. Wanner, "Solving ordinary differential equations I", 2nd ed. 1993, sections
II.4 (first step, step lengths) and IV.2 (PI control).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow_operators.ode.stages import Derivative, Stages, column, rms, step
from sciflow_operators.ode.tableau import EVALUATIONS

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
"""Of the next step's length: a margin, and bounds of its ratio to this one's."""
SHORTEST = 1e-7
"""A step shorter than this part of the interval has failed: single precision no longer sees it."""


@dataclass(frozen=True)
class Steps:
    """Accepted steps of a batch.

    Attributes
    ----------
    begins, lengths : Tensor of float64, shape (step, batch)
        Time at the beginning and length, in the unit of the times; a sample that has ended has steps of
        length 0.
    """

    begins: Tensor
    lengths: Tensor

    @property
    def counts(self) -> Tensor:
        """Steps of each sample, int64, shape (batch,)."""
        return (self.lengths > 0).sum(dim=0)


@dataclass(frozen=True)
class Solution:
    """What an integration gives.

    Attributes
    ----------
    values : Tensor, shape (batch, level, ...)
        States at the times asked for; NaN from where on a sample could not be integrated.
    steps : Steps
        Accepted steps.
    evaluations : Tensor of int64, shape (batch,)
        Of the derivative, for each sample until it has ended; rejected steps count.
    """

    values: Tensor
    steps: Steps
    evaluations: Tensor


def first_length(f: Derivative, z: Tensor, slope: Tensor, end: Tensor, tolerance: float) -> Tensor:
    """Length of the first step from z, slope (batch, ...) and ends (batch,); one evaluation.

    As in Hairer et al., section II.4, a short Euler step shows how the solution bends; here in units of the
    interval to `end`, which is known, and of ``1 + |z|``.
    """
    scale = 1 + z.abs()
    speed = rms(slope / scale).double()
    guess = 0.01 * torch.minimum(1 / speed.clamp_min(1e-12), end)
    ahead = f(guess, z + column(guess, z) * slope)
    bend = rms((ahead - slope) / scale).double() / guess.clamp_min(1e-300)
    found = end * (0.1 * tolerance / (bend * end**2).clamp_min(1e-12)) ** 0.2
    return torch.nan_to_num(torch.minimum(torch.minimum(100 * guess, found), end), nan=0.0)


@torch.no_grad()
def march(f: Derivative, z: Tensor, times: Tensor, tolerance: float, most: int) -> Solution:
    """Integrate with steps as long as the tolerance lets them be; no gradients.

    Parameters
    ----------
    f : callable
        The derivative. It is called for the whole batch until the last sample has ended.
    z : Tensor, shape (batch, ...)
        States at time 0.
    times : Tensor of float64, shape (batch, level)
        When states are wanted, not negative.
    tolerance : float
        Of the error of a step: relative to ``1 + |z|``, root mean square over a sample's numbers.
    most : int
        Steps that a sample may try.

    Returns
    -------
    Solution
        A sample that fails (not finite, too many or too short steps) has NaN where it did not come to.
    """
    end = times.max(dim=1).values
    values = started(z, times)
    t, before = torch.zeros_like(end), torch.full_like(end, 1e-4)
    active, refused = end > 0, torch.zeros_like(end, dtype=torch.bool)
    begins: list[Tensor] = []
    lengths: list[Tensor] = []
    slope, h = z, t
    if active.any():
        slope = f(t, z)
        h = first_length(f, z, slope, end, tolerance)
    evaluations = 2 * active.to(torch.int64)
    for _ in range(most):
        active = active & (h >= SHORTEST * end)
        if not active.any():
            break
        last = h >= end - t
        tried = torch.where(active, torch.minimum(h, end - t), 0.0)
        stages = step(f, t, z, tried, slope)
        evaluations += EVALUATIONS * active
        error = stages.error(tolerance).double()
        good = active & (error <= 1)
        kept = torch.where(good, tried, 0.0)
        begins.append(t)
        lengths.append(kept)
        values = _filled(values, stages, times, t, kept)
        factor, before = _factor(error, before, good, refused)
        t = torch.where(good, torch.where(last, end, t + tried), t)
        z = torch.where(column(good, z).bool(), stages.end, z)
        slope = torch.where(column(good, z).bool(), stages.slopes[6], slope)
        h = torch.where(active, tried * factor, h)
        refused = active & ~good
        active = active & (t < end)
    return Solution(_unreached(values, times, t), _packed(begins, lengths, t), evaluations)


def started(z: Tensor, times: Tensor) -> Tensor:
    """Values (batch, time, ...) before the first step: the first state (batch, ...) everywhere."""
    return z.unsqueeze(1).expand(-1, times.shape[1], *z.shape[1:])


def _factor(error: Tensor, before: Tensor, good: Tensor, refused: Tensor) -> tuple[Tensor, Tensor]:
    """By what the step length changes, and the error that the next change remembers."""
    beta = 0.04
    small = error.clamp_min(1e-10)
    grown = (SAFETY * small ** -(0.2 - 0.75 * beta) * before**beta).clamp(SHRINK, GROW)
    grown = torch.where(refused, grown.clamp_max(1.0), grown)
    shrunk = (SAFETY * small**-0.2).clamp(SHRINK, 1.0)
    shrunk = torch.nan_to_num(shrunk, nan=SHRINK)
    return torch.where(good, grown, shrunk), torch.where(good, small.clamp_min(1e-4), before)


def _filled(values: Tensor, stages: Stages, times: Tensor, t: Tensor, kept: Tensor) -> Tensor:
    """Values with those at the times within this step."""
    part = (times - t[:, None]) / torch.where(kept > 0, kept, 1.0)[:, None]
    # Rounding of the last step's end is no reason to miss the last level.
    inside = (kept > 0)[:, None] & (part > 0) & (part <= 1 + 1e-9)
    if not inside.any():
        return values
    if times.shape[1] == 1:  # at the end of a step its state is known without the interpolant
        whole = inside & (part >= 1 - 1e-9)
        if bool((whole == inside).all()):
            return torch.where(column(inside[:, 0], stages.end).bool(), stages.end, values[:, 0]).unsqueeze(1)
    shown = inside.view(*inside.shape, *(1,) * (values.ndim - 2))
    return torch.where(shown, stages.between(part.clamp(0, 1)), values)


def _unreached(values: Tensor, times: Tensor, t: Tensor) -> Tensor:
    """NaN at the times that a sample did not come to."""
    missed = ~(times <= t[:, None])
    return torch.where(missed.view(*missed.shape, *(1,) * (values.ndim - 2)), torch.nan, values)


def _packed(begins: list[Tensor], lengths: list[Tensor], t: Tensor) -> Steps:
    """The accepted steps of every sample one after the other, without the rejected ones between."""
    if not begins:
        return Steps(t.new_zeros(0, len(t)), t.new_zeros(0, len(t)))
    start, length = torch.stack(begins), torch.stack(lengths)
    order = torch.argsort((length <= 0).to(torch.int8), dim=0, stable=True)
    most = int((length > 0).sum(dim=0).max())
    return Steps(start.gather(0, order)[:most], length.gather(0, order)[:most])


@dataclass(frozen=True)
class Replayed:
    """Accepted steps taken again, with gradients.

    Attributes
    ----------
    values : Tensor, shape (batch, level, ...)
        States at the times asked for.
    states : Tensor, shape (step, batch, ...)
        At the beginning of every step.
    errors, stiffness : Tensor, shape (step, batch)
        See `Stages`; 0 where a sample has ended. Empty where they were not asked for.
    """

    values: Tensor
    states: Tensor
    errors: Tensor
    stiffness: Tensor


def replay(
    f: Derivative, z: Tensor, times: Tensor, steps: Steps, tolerance: float, costs: bool = False
) -> Replayed:
    """Take given steps; gradients go through all of it, step lengths are constants.

    Parameters
    ----------
    f, z, times, tolerance
        See `march`.
    steps : Steps
        Of `march`.
    costs : bool
        Also give the estimated errors and stiffness of the steps.

    Notes
    -----
    Six evaluations for each step and one at the beginning; the activations of all are held.
    """
    values, states = started(z, times), []
    errors, stiffness = [], []
    slope = f(steps.begins[0], z) if len(steps.begins) else z
    for t, h in zip(steps.begins, steps.lengths, strict=True):
        stages = step(f, t, z, h, slope)
        values = _filled(values, stages, times, t, h)
        states.append(z)
        if costs:
            errors.append(torch.where(h > 0, stages.error(tolerance), 0.0))
            stiffness.append(torch.where(h > 0, stages.stiffness(), 0.0))
        z, slope = stages.end, stages.slopes[6]
    none = z.new_zeros(0, len(z))
    return Replayed(
        values,
        torch.stack(states) if states else z.new_zeros(0, *z.shape),
        torch.stack(errors) if errors else none,
        torch.stack(stiffness) if stiffness else none,
    )
