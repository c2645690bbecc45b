"""Red-black SOR on a rectangle of points with the five-point stencil, without a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.kernels.compiling import kernel, reordered
from sciflow_control.kernels.relaxation import Relaxed

RED, BLACK = 0, 1
Coefficient = float | np.ndarray


@reordered
def _squares(values: Any) -> float:
    total = 0.0
    for k in range(values.size):
        total += values[k] * values[k]
    return total


@kernel
def _row(u: Any, f: Any, c: Any, omega: float, columns: int, row: int, colour: int, lack: Any) -> float:
    """Update the points of one colour in a row; the sum of squares of what they lacked, see `_pack`.

    Slices, so that the compiler sees that no index leaves its bounds and takes several points at once.
    """
    odd = (row + 1 + colour) % 2
    count, first = (columns + odd) // 2, 1 - odd
    here, other = u[colour, row + 1, first : first + count], u[1 - colour]
    before, behind = other[row + 1, :count], other[row + 1, 1 : count + 1]
    below, above = other[row, first : first + count], other[row + 2, first : first + count]
    source, left = f[colour, row, :count], lack[:count]
    centre, west, east = c[0, colour, row, :count], c[1, colour, row, :count], c[2, colour, row, :count]
    south, north = c[3, colour, row, :count], c[4, colour, row, :count]
    # Few arrays in a loop: with more, the compiler does not see that they are apart.
    for k in range(count):
        left[k] = source[k] - centre[k] * here[k]
    for k in range(count):
        left[k] += west[k] * before[k] + east[k] * behind[k]
    for k in range(count):
        left[k] += south[k] * below[k] + north[k] * above[k]
    for k in range(count):
        here[k] += omega * left[k] / centre[k]
    return float(_squares(left))


@kernel
def _row_constant(
    u: Any, f: Any, c: Any, omega: float, columns: int, row: int, colour: int, lack: Any
) -> float:
    """`_row` where centre, kx and ky are numbers."""
    odd = (row + 1 + colour) % 2
    count, first = (columns + odd) // 2, 1 - odd
    here, other = u[colour, row + 1, first : first + count], u[1 - colour]
    before, behind = other[row + 1, :count], other[row + 1, 1 : count + 1]
    below, above = other[row, first : first + count], other[row + 2, first : first + count]
    source, left = f[colour, row, :count], lack[:count]
    centre, kx, ky = c
    weight = omega / centre
    for k in range(count):
        s = source[k] - centre * here[k] + kx * (before[k] + behind[k]) + ky * (below[k] + above[k])
        left[k] = s
        here[k] += weight * s
    return float(_squares(left))


@kernel
def _sweep(u: Any, f: Any, c: Any, omega: float, columns: int, lack: Any) -> tuple[float, float]:
    """Red rows, the black ones a row behind; sums of squares of red and black."""
    rows = f.shape[1]
    red, black = _row(u, f, c, omega, columns, 0, RED, lack), 0.0
    for i in range(1, rows):
        red += _row(u, f, c, omega, columns, i, RED, lack)
        black += _row(u, f, c, omega, columns, i - 1, BLACK, lack)
    return red, black + _row(u, f, c, omega, columns, rows - 1, BLACK, lack)


@kernel
def _sweep_constant(u: Any, f: Any, c: Any, omega: float, columns: int, lack: Any) -> tuple[float, float]:
    """`_sweep` where the coefficients are numbers."""
    rows = f.shape[1]
    red, black = _row_constant(u, f, c, omega, columns, 0, RED, lack), 0.0
    for i in range(1, rows):
        red += _row_constant(u, f, c, omega, columns, i, RED, lack)
        black += _row_constant(u, f, c, omega, columns, i - 1, BLACK, lack)
    return red, black + _row_constant(u, f, c, omega, columns, rows - 1, BLACK, lack)


def _pack(values: np.ndarray) -> np.ndarray:
    """The points of each colour behind one another, so that a vector register takes neighbours.

    Parameters
    ----------
    values : ndarray, shape (y, x)
        With a ring of boundary values or without: red is i + j even in both.

    Returns
    -------
    ndarray, shape (colour, y, ceil(x / 2))
        Row i holds every second point from the first of its colour on.
    """
    rows, columns = values.shape
    packed = np.zeros((2, rows, (columns + 1) // 2))
    for place, points in _colours(values):
        packed[place][:, : points.shape[1]] = points
    return packed


def _colours(values: np.ndarray) -> Any:
    """Places in a packed array, and the points that belong there, as views."""
    for colour in (RED, BLACK):
        for start in (0, 1):
            yield (colour, slice(start, None, 2)), values[start::2, (start + colour) % 2 :: 2]


class _Packed:
    """A system in packed form, and its sweep."""

    def __init__(
        self,
        u: np.ndarray,
        f: np.ndarray,
        centre: Coefficient,
        kx: Coefficient,
        ky: Coefficient,
        omega: float,
    ) -> None:
        if not 0 < omega < 2:
            raise Invalid(f"omega must lie in (0, 2), got {omega}")
        if f.ndim != 2 or not f.size or u.shape != (f.shape[0] + 2, f.shape[1] + 2):
            raise Invalid(f"u of shape {u.shape} is not one ring wider than f of shape {f.shape}")
        if u.dtype != np.float64:
            raise Invalid(f"relaxation works in float64, got {u.dtype}")
        if not np.min(centre) > 0:
            raise Invalid(f"the diagonal must be positive, its smallest value is {np.min(centre)}")
        self._u, self._omega, self._columns = u, float(omega), f.shape[1]
        self._f, self.packed = _pack(f), _pack(u)
        self._lack = np.empty(self._f.shape[2])
        self._c: Any
        if all(np.ndim(c) == 0 for c in (centre, kx, ky)):
            self._call, self._c = _sweep_constant, (float(centre), float(kx), float(ky))
        else:
            self._call, self._c = _sweep, np.array([_pack(v) for v in _five(f.shape, centre, kx, ky)])

    def sweep(self) -> tuple[float, float]:
        """One sweep; the sums of squares of red and black."""
        found: tuple[float, float] = self._call(
            self.packed, self._f, self._c, self._omega, self._columns, self._lack
        )
        return found

    def unpack(self) -> None:
        """Bring the unknowns back to where they came from."""
        for place, points in _colours(self._u):
            points[...] = self.packed[place][:, : points.shape[1]]


def _five(
    shape: tuple[int, ...], centre: Coefficient, kx: Coefficient, ky: Coefficient
) -> tuple[np.ndarray, ...]:
    """Centre, west, east, south and north of every point."""
    rows, columns = shape
    across = np.broadcast_to(np.asarray(kx, dtype=float), (rows, columns + 1))
    along = np.broadcast_to(np.asarray(ky, dtype=float), (rows + 1, columns))
    middle = np.broadcast_to(np.asarray(centre, dtype=float), (rows, columns))
    return middle, across[:, :-1], across[:, 1:], along[:-1], along[1:]


def red_black_sweep(
    u: np.ndarray,
    f: np.ndarray,
    centre: Coefficient,
    kx: Coefficient,
    ky: Coefficient,
    omega: float,
    count: int = 1,
) -> tuple[float, float]:
    """Sweeps of red-black SOR over a five-point stencil, in place.

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
    count : int
        Sweeps. The points are first brought into an order of their own and at last back, which takes as
        long as a few sweeps.

    Returns
    -------
    float, float
        The norms of what the red and the black points lacked in the last of them, see Notes.

    Raises
    ------
    Invalid
        If shapes do not fit, `u` is not of float64, the diagonal is not positive or omega not in (0, 2).

    Notes
    -----
    The equation of a point is ``centre u - kx u_west - kx' u_east - ky u_south - ky' u_north = f``. Red
    points, i + j even, have black neighbours only and the other way round, so that the order within a colour
    changes nothing: any partition gives the same bits in u. Red points are updated from black ones a sweep
    old: their norm is that of the red part of the residual *before* the sweep. After the sweep the black part
    of the residual is (1 - omega) times the second norm. Nothing further has to be computed for either.
    """
    system, red, black = _Packed(u, f, centre, kx, ky, omega), math.nan, math.nan
    for _ in range(count):
        red, black = system.sweep()
    system.unpack()
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
        true residual of what is in `u`, relative to the first.

    Raises
    ------
    Invalid
        As `red_black_sweep`.
    """
    system = _Packed(u, f, centre, kx, ky, omega)
    start = float(np.linalg.norm(red_black_residual(u, f, centre, kx, ky)))
    if start == 0.0:
        return Relaxed(0, 0.0, True)
    after, left = math.inf, 1.0
    for k in range(1, max_it + 1):
        red, black = system.sweep()
        square, after = red + (1 - omega) ** 2 * after, black
        if k == max_it or (k > 1 and not square >= (tol * start) ** 2):
            system.unpack()
            left = float(np.linalg.norm(red_black_residual(u, f, centre, kx, ky))) / start
            if k == max_it or not left >= tol:
                return Relaxed(k, left, bool(left < tol))
    return Relaxed(0, left, False)


def red_black_residual(
    u: np.ndarray, f: np.ndarray, centre: Coefficient, kx: Coefficient, ky: Coefficient
) -> np.ndarray:
    """The residual, shape (y, x); parameters as for `red_black_sweep`."""
    middle, west, east, south, north = _five(f.shape, centre, kx, ky)
    found: np.ndarray = f - middle * u[1:-1, 1:-1] + west * u[1:-1, :-2] + east * u[1:-1, 2:]
    found += south * u[:-2, 1:-1] + north * u[2:, 1:-1]
    return found
