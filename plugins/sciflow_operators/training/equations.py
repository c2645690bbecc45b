"""The terms of differential equations on regular grids; what `residuals` configures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.errors import Invalid
from sciflow_operators.training.derivatives import derivative

if TYPE_CHECKING:
    from sciflow_operators.training.residuals import BurgersStep, DarcyFlow, VorticityStep
    from sciflow_operators.training.target import Target


def _given(value: str | float, x: Tensor, target: Target) -> Tensor | float:
    """An input by name, shape (batch, *points, 1), or the number itself."""
    return target.input(x, value) if isinstance(value, str) else value


def _levels(name: str, x: Tensor, y: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """A field at the begin and at the end of each time step, shape (batch, *points, step)."""
    after = target.output(y, name)
    first = target.input(x, name)[..., -1:]
    return torch.cat([first, after[..., :-1]], dim=-1), after


def darcy(config: DarcyFlow, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
    """Terms of `DarcyFlow`, one for each axis and the source; x, y of shape (batch, *points, channel)."""
    u, a = target.output(y, config.field), target.input(x, config.coefficient)
    spacings = target.spacings(u)
    terms = []
    for axis, h in enumerate(spacings):
        inner_u, inner_a = (_inner(values, except_axis=axis) for values in (u, a))
        dim, n = 1 + axis, u.shape[1 + axis]
        low_u, high_u = inner_u.narrow(dim, 0, n - 1), inner_u.narrow(dim, 1, n - 1)
        low_a, high_a = inner_a.narrow(dim, 0, n - 1), inner_a.narrow(dim, 1, n - 1)
        flux = (low_a + high_a) / 2 * (high_u - low_u) / h
        terms.append((flux.narrow(dim, 0, n - 2) - flux.narrow(dim, 1, n - 2)) / h)
    source = _given(config.source, x, target)
    if isinstance(source, Tensor):
        return [*terms, -_inner(source).expand_as(terms[0])]
    return [*terms, torch.full_like(terms[0], -source)]


def _inner(values: Tensor, except_axis: int | None = None) -> Tensor:
    """Values without the first and last point of each axis of the grid."""
    for axis in range(values.ndim - 2):
        n = values.shape[1 + axis]
        if n < 3:
            raise Invalid(f"the residual needs three points along each axis, there are {n}")
        if axis != except_axis:
            values = values.narrow(1 + axis, 1, n - 2)
    return values


def burgers(config: BurgersStep, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
    """Terms of `BurgersStep`: change, advection, diffusion; x, y of shape (batch, *points, channel).

    Raises
    ------
    Invalid
        If the fields have more than one spatial axis.
    """
    old, new = _levels(config.field, x, y, target)
    if len(target.space) != 1:
        raise Invalid(f"burgers_step is for one spatial axis, these fields have {target.space}")
    h, around = target.spacings(new)[0], target.periodic[0]
    nu, step = _given(config.viscosity, x, target), _given(config.step, x, target)

    def slopes(u: Tensor) -> tuple[Tensor, Tensor]:
        first = derivative(u, 1, h, around)
        second = derivative(first, 1, h, True) if around else _second(u, 1, h)
        return u * first, second

    (advected, diffused), (advected_new, diffused_new) = slopes(old), slopes(new)
    half = step / 2
    return [new - old, half * (advected + advected_new), -half * nu * (diffused + diffused_new)]


def _second(values: Tensor, axis: int, spacing: float) -> Tensor:
    """Second derivative by differences, second order also at the two ends."""
    n = values.shape[axis]
    if n < 4:
        raise Invalid(f"a second derivative needs four points along an axis, there are {n}")

    def at(start: int, count: int = 1) -> Tensor:
        return values.narrow(axis, start, count)

    inner = at(0, n - 2) - 2 * at(1, n - 2) + at(2, n - 2)
    first = 2 * at(0) - 5 * at(1) + 4 * at(2) - at(3)
    last = 2 * at(n - 1) - 5 * at(n - 2) + 4 * at(n - 3) - at(n - 4)
    return torch.cat([first, inner, last], dim=axis) / spacing**2


def vorticity(config: VorticityStep, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
    """Terms of `VorticityStep`: change, advection, diffusion, force; x, y of shape (batch, *points, channel).

    Raises
    ------
    Invalid
        If the fields do not have two periodic axes.
    """
    old, new = _levels(config.field, x, y, target)
    if len(target.space) != 2 or not all(target.periodic):
        raise Invalid(f"vorticity_step is for two periodic axes; these fields have {target.space}")
    spacings = target.spacings(new)
    nu, step = _given(config.viscosity, x, target), _given(config.step, x, target)
    force = _given(config.force, x, target)
    rates = [_vorticity_rates(w, spacings, target.space) for w in (old, new)]
    half = step / 2
    lines = [torch.arange(n, dtype=new.dtype, device=new.device) / n for n in new.shape[1:3]]
    phase = (2 * math.pi * (lines[0][:, None] + lines[1]))[..., None]
    push = (torch.sin(phase) + torch.cos(phase)) * force
    return [
        new - old,
        half * (rates[0][0] + rates[1][0]),
        -half * nu * (rates[0][1] + rates[1][1]),
        -(step * push).expand_as(new),
    ]


def _vorticity_rates(w: Tensor, spacings: list[float], space: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Advection ``u . grad w`` and ``lap w`` of a vorticity, in the order of its axes.

    With the first axis p and the second q, ``u . grad w = +-(psi_q w_p - psi_p w_q)``; the sign is that of
    the orientation of (q, p), plus for axes named y, x.
    """
    (n, m), (h, k) = w.shape[1:3], spacings
    rows = torch.fft.fftfreq(n, h, dtype=w.dtype, device=w.device)[:, None] * (2 * math.pi)
    columns = torch.fft.rfftfreq(m, k, dtype=w.dtype, device=w.device)[None, :] * (2 * math.pi)
    square = (rows**2 + columns**2)[None, ..., None, None]
    spectrum = torch.view_as_real(torch.fft.rfft2(w, dim=(1, 2)))
    flat = torch.where(square > 0, 1 / square.clamp_min(torch.finfo(w.dtype).tiny), 0.0)
    stream, laplacian = (
        torch.fft.irfft2(torch.view_as_complex((spectrum * factor).contiguous()), s=(n, m), dim=(1, 2))
        for factor in (flat, -square)
    )
    along = [[derivative(f, axis, d, True) for axis, d in ((1, h), (2, k))] for f in (stream, w)]
    (psi_p, psi_q), (w_p, w_q) = along
    # Velocity (psi_y, -psi_x): u . grad w = psi_y w_x - psi_x w_y.
    advected = psi_p * w_q - psi_q * w_p
    return (-advected if space == ("x", "y") else advected), laplacian
