"""Red-black SOR on a rectangle of points with the five-point stencil, without a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.kernels.compiling import kernel
from sciflow_control.kernels.relaxation import Relaxed

RED, BLACK = 0, 1


@kernel
def _row(u: Any, f: Any, centre: Any, kx: Any, ky: Any, omega: float, i: int, colour: int) -> float:
    """Update the points of one colour in a row; the sum of squares of their residuals before."""
    below, here, above, source, diagonal = u[i], u[i + 1], u[i + 2], f[i], centre[i]
    west_east, south, north = kx[i], ky[i], ky[i + 1]
    total = 0.0
    for j in range((i + colour) % 2, f.shape[1], 2):
        s = source[j] - diagonal[j] * here[j + 1] + west_east[j] * here[j] + west_east[j + 1] * here[j + 2]
        s += south[j] * below[j + 1] + north[j] * above[j + 1]
        here[j + 1] += omega * s / diagonal[j]
        total += s * s
    return total


@kernel
def _row_constant(
    u: Any, f: Any, centre: float, kx: float, ky: float, omega: float, i: int, colour: int
) -> float:
    """`_row` where the coefficients are numbers."""
    below, here, above, source = u[i], u[i + 1], u[i + 2], f[i]
    weight, total = omega / centre, 0.0
    for j in range((i + colour) % 2, f.shape[1], 2):
        s = (
            source[j]
            - centre * here[j + 1]
            + kx * (here[j] + here[j + 2])
            + ky * (below[j + 1] + above[j + 1])
        )
        here[j + 1] += weight * s
        total += s * s
    return total


@kernel
def _sweep(u: Any, f: Any, centre: Any, kx: Any, ky: Any, omega: float) -> tuple[float, float]:
    """Red rows, the black ones a row behind; sums of squares of red and black."""
    red, black, rows = _row(u, f, centre, kx, ky, omega, 0, RED), 0.0, f.shape[0]
    for i in range(1, rows):
        red += _row(u, f, centre, kx, ky, omega, i, RED)
        black += _row(u, f, centre, kx, ky, omega, i - 1, BLACK)
    return red, black + _row(u, f, centre, kx, ky, omega, rows - 1, BLACK)


@kernel
def _sweep_constant(u: Any, f: Any, centre: float, kx: float, ky: float, omega: float) -> tuple[float, float]:
    """`_sweep` where the coefficients are numbers."""
    red, black, rows = _row_constant(u, f, centre, kx, ky, omega, 0, RED), 0.0, f.shape[0]
    for i in range(1, rows):
        red += _row_constant(u, f, centre, kx, ky, omega, i, RED)
        black += _row_constant(u, f, centre, kx, ky, omega, i - 1, BLACK)
    return red, black + _row_constant(u, f, centre, kx, ky, omega, rows - 1, BLACK)


Coefficient = float | np.ndarray


def _checked(
    u: np.ndarray, f: np.ndarray, centre: Coefficient, kx: Coefficient, ky: Coefficient, omega: float
) -> tuple[Any, tuple[Any, ...]]:
    """The sweep to call and what it takes behind u and f."""
    if not 0 < omega < 2:
        raise Invalid(f"omega must lie in (0, 2), got {omega}")
    if f.ndim != 2 or not f.size or u.shape != (f.shape[0] + 2, f.shape[1] + 2):
        raise Invalid(f"u of shape {u.shape} is not one ring wider than f of shape {f.shape}")
    rows, columns = f.shape
    given = (centre, kx, ky)
    if all(np.ndim(c) == 0 for c in given):
        if not float(centre) > 0:
            raise Invalid(f"the diagonal must be positive, got {centre}")
        return _sweep_constant, (*map(float, given), float(omega))
    shapes = ((rows, columns), (rows, columns + 1), (rows + 1, columns))
    fields = [
        np.ascontiguousarray(np.broadcast_to(c, s), dtype=float) for c, s in zip(given, shapes, strict=True)
    ]
    if not fields[0].min() > 0:
        raise Invalid("the diagonal must be positive everywhere")
    return _sweep, (*fields, float(omega))


def red_black_sweep(
    u: np.ndarray, f: np.ndarray, centre: Coefficient, kx: Coefficient, ky: Coefficient, omega: float
) -> tuple[float, float]:
    """One sweep of red-black SOR over a five-point stencil, in place.

    Parameters
    ----------
    u : ndarray, shape (y + 2, x + 2), float64
        Unknowns within a ring of boundary values; overwritten inside.
    f : ndarray, shape (y, x), float64
        Right-hand side.
    centre : float or ndarray, shape (y, x)
        Diagonal, positive.
    kx : float or ndarray, shape (y, x + 1)
        Coupling over the face before each point along x, and over the last face.
    ky : float or ndarray, shape (y + 1, x)
        Likewise along y.
    omega : float
        In (0, 2).

    Returns
    -------
    float, float
        The norms of what the red and the black points lacked when they were updated, see Notes.

    Raises
    ------
    Invalid
        If shapes do not fit, the diagonal is not positive or omega not in (0, 2).

    Notes
    -----
    The equation of a point is ``centre u - kx u_west - kx' u_east - ky u_south - ky' u_north = f``. Red
    points, i + j even, have black neighbours only and the other way round, so that the order within a colour
    changes nothing: any partition gives the same bits in u. Red points are updated from black ones a sweep
    old: their norm is that of the red part of the residual *before* the sweep. After the sweep the black part
    of the residual is (1 - omega) times the second norm. Nothing further has to be computed for either.
    """
    call, rest = _checked(u, f, centre, kx, ky, omega)
    red, black = call(u, f, *rest)
    return math.sqrt(red), math.sqrt(black)


def red_black_sor(
    u: np.ndarray,
    f: np.ndarray,
    centre: Coefficient,
    kx: Coefficient,
    ky: Coefficient,
    omega: float,
    tol: float = 1e-8,
    max_it: int = 10000,
) -> Relaxed:
    """Solve by red-black SOR over a five-point stencil, in place.

    Parameters
    ----------
    u, f, centre, kx, ky, omega
        As for `red_black_sweep`.
    tol : float
        Stops behind the first iterate with ``||r_k|| < tol ||r_0||``.
    max_it : int
        Sweeps at most.

    Returns
    -------
    Relaxed
        The sweeps, one more than that iterate had, because its residual is known in the next sweep; and the
        true residual of what is in `u`.

    Raises
    ------
    Invalid
        As `red_black_sweep`.
    """
    call, rest = _checked(u, f, centre, kx, ky, omega)
    start = math.sqrt(float(np.sum(red_black_residual(u, f, centre, kx, ky) ** 2)))
    if start == 0.0:
        return Relaxed(0, 0.0, True)
    left, black = math.inf, math.inf
    for k in range(1, max_it + 1):
        red, after = call(u, f, *rest)
        square = red + (1 - omega) ** 2 * black
        black = after
        if k == max_it or (k > 1 and not square >= (tol * start) ** 2):
            left = math.sqrt(float(np.sum(red_black_residual(u, f, centre, kx, ky) ** 2))) / start
            if not left >= tol or k == max_it:
                return Relaxed(k, left, bool(left < tol))
    return Relaxed(0, 1.0, False)


def red_black_residual(
    u: np.ndarray, f: np.ndarray, centre: Coefficient, kx: Coefficient, ky: Coefficient
) -> np.ndarray:
    """The residual, shape (y, x); parameters as for `red_black_sweep`."""
    rows, columns = f.shape
    across = np.broadcast_to(kx, (rows, columns + 1))
    along = np.broadcast_to(ky, (rows + 1, columns))
    inside = u[1:-1, 1:-1]
    couplings = across[:, :-1] * u[1:-1, :-2] + across[:, 1:] * u[1:-1, 2:]
    couplings += along[:-1] * u[:-2, 1:-1] + along[1:] * u[2:, 1:-1]
    found: np.ndarray = f - centre * inside + couplings
    return found
