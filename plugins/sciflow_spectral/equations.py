"""Burgers, Kuramoto-Sivashinsky and Navier-Stokes vorticity: pseudo-spectral, dealiased, ETDRK4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.problem import State
from sciflow_spectral.arrays import Arrays
from sciflow_spectral.etdrk4 import Scheme, advance, coefficients

if TYPE_CHECKING:
    from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes, Spectral


@dataclass(frozen=True)
class System:
    """``v' = L v + N(v)`` for some members, whatever it is stepped with.

    Attributes
    ----------
    xp : Arrays
        Where the coefficients are.
    start : array, complex, shape (member, ...)
        Spectral coefficients of the initial state.
    linear : list of ndarray, shape (...)
        Eigenvalues of L, one array a member.
    nonlinear : callable
        N.
    show : callable
        From coefficients to fields, each of shape (member, ...).
    rates : callable
        From coefficients to the largest speed over the grid size and the largest gradient of the
        velocity, one over time, over all members.
    """

    xp: Arrays
    start: Any
    linear: list[np.ndarray]
    nonlinear: Callable[[Any], Any]
    show: Callable[[Any], dict[str, np.ndarray]]
    rates: Callable[[Any], tuple[float, float]]


def stack_schemes(linear: list[np.ndarray], step: float) -> Scheme:
    """Coefficients for members with different linear parts, stacked along a first axis."""
    distinct = {values.tobytes(): values for values in linear}
    made = {key: coefficients(values, step) for key, values in distinct.items()}
    each = [made[values.tobytes()] for values in linear]
    names = ("whole", "half", "q", "first", "middle", "last")
    return Scheme(*(np.stack([getattr(s, n) for s in each]) for n in names))


def finite(values: np.ndarray) -> np.ndarray:
    """Fill members that single precision cannot hold with NaN.

    Parameters
    ----------
    values : ndarray, shape (member, ...)

    Returns
    -------
    ndarray, shape (member, ...)
    """
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    lost = ~(largest <= np.finfo(np.float32).max)
    if lost.any():
        values = values.copy()
        values[lost] = np.nan
    return values


def march(
    v: Any,
    nonlinear: Callable[[Any], Any],
    scheme: Scheme,
    times: np.ndarray,
    steps: int,
    show: Callable[[Any], dict[str, np.ndarray]],
) -> Iterator[State]:
    """Yield the initial state and then one state after every ``steps / (levels - 1)`` steps.

    Parameters
    ----------
    v : array, complex, shape (member, ...)
        Spectral coefficients of the initial state.
    nonlinear : callable
        The part of ``v'`` that is not linear.
    scheme : Scheme
        Of the step size.
    times : ndarray, shape (time,)
        Of the states.
    steps : int
        Time steps in all.
    show : callable
        From coefficients to fields; a member that blew up is filled with NaN.
    """
    for level, time in enumerate(times):
        # A member may overflow, the others go on; the setting must not leak through the yield.
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps // (len(times) - 1) if level else 0):
                v = advance(v, nonlinear, scheme)
            fields = {name: finite(values) for name, values in show(v).items()}
        yield State(float(time), fields)


def marched(problem: Spectral, system: System) -> Iterator[State]:
    """The states of all members with the fixed steps of `problem`."""
    scheme = system.xp.scheme(stack_schemes(system.linear, problem.end / problem.steps))
    times = problem.coordinates()["time"]
    return march(system.start, system.nonlinear, scheme, times, problem.steps, system.show)


def band(number: np.ndarray, points: int) -> np.ndarray:
    """Which wave numbers, any shape, the nonlinear term sees and feeds: those below a third of the points.

    Of a product of two such waves, only what falls outside the band is wrong on the grid (the 2/3
    rule): ``2 k < points - k``.
    """
    return np.asarray(3 * np.abs(number) < points)


def random_waves(spread: np.ndarray, rng: np.random.Generator, points: int) -> np.ndarray:
    """A real Gaussian field from independent waves, the same function on every grid.

    Parameters
    ----------
    spread : ndarray, shape (modes,)
        Standard deviation of the amplitudes of wave numbers 1, 2, ...
    rng : numpy Generator
        One pair of numbers a wave, from the longest to the shortest.
    points : int
        Grid points on [0, 1).

    Returns
    -------
    ndarray, shape (points // 2 + 1,)
        Coefficients for ``irfft`` on `points` points; waves the grid cannot carry are left out.
    """
    pairs = rng.standard_normal((len(spread), 2))
    coefficients_ = np.zeros(points // 2 + 1, dtype=complex)
    kept = min(len(spread), points // 2 - 1)
    amplitude = spread[:kept, None] * pairs[:kept] / 2
    coefficients_[1 : kept + 1] = points * (amplitude[:, 0] - 1j * amplitude[:, 1])
    return coefficients_


def burgers_spread(modes: int = 128) -> np.ndarray:
    """Standard deviations of cos and sin waves of N(0, 625 (-D + 25)^-2) on [0, 1).

    Notes
    -----
    The covariance operator has the eigenvalue ``625 / ((2 pi k)^2 + 25)^2`` for both
    ``sqrt(2) cos 2 pi k x`` and ``sqrt(2) sin 2 pi k x``; the mean is left out.
    """
    k = np.arange(1, modes + 1)
    return np.asarray(np.sqrt(2) * 25 / ((2 * np.pi * k) ** 2 + 25))


def burgers_start(problem: Burgers, rngs: list[np.random.Generator]) -> np.ndarray:
    """Coefficients of the initial velocity of members with one generator each."""
    return np.stack([random_waves(burgers_spread(), rng, problem.solve_points) for rng in rngs])


def burgers(problem: Burgers, viscosity: np.ndarray, start: np.ndarray) -> System:
    """``u_t + u u_x = nu u_xx`` on [0, 1).

    Parameters
    ----------
    problem : Burgers
        Configuration.
    viscosity : ndarray, shape (member,)
    start : ndarray, shape (member, solve_points // 2 + 1)
        Coefficients for ``irfft``.
    """
    k = 2 * np.pi * np.arange(problem.solve_points // 2 + 1)
    linear = [-nu * k**2 for nu in viscosity]
    return advected(problem, linear, k, start, problem.solve_points // problem.points)


def burgers_flow(problem: Burgers, viscosity: np.ndarray, start: np.ndarray) -> Iterator[State]:
    """See `burgers`; its states with fixed steps."""
    return marched(problem, burgers(problem, viscosity, start))


def flame_start(
    problem: KuramotoSivashinsky, amplitude: np.ndarray, rngs: list[np.random.Generator]
) -> np.ndarray:
    """Coefficients of the first states of members with amplitudes, shape (member,), and a generator each."""
    n = problem.solve_points or problem.points
    return np.stack([a * random_waves(np.ones(8), rng, n) for a, rng in zip(amplitude, rngs, strict=True)])


def kuramoto_sivashinsky(problem: KuramotoSivashinsky, start: np.ndarray) -> System:
    """``u_t + u u_x + u_xx + u_xxxx = 0`` on [0, length); `start` is what the spin-up begins with.

    Parameters
    ----------
    problem : KuramotoSivashinsky
        Configuration.
    start : ndarray, shape (member, solve_points // 2 + 1)
        Coefficients for ``irfft``.
    """
    n = problem.solve_points or problem.points
    k = 2 * np.pi * np.arange(n // 2 + 1) / problem.length
    system = advected(problem, [k**2 - k**4] * len(start), k, start, n // problem.points)
    if not problem.spin_up:
        return system
    scheme = system.xp.scheme(stack_schemes(system.linear, problem.end / problem.steps))
    v = system.start
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(problem.spin_up):
            v = advance(v, system.nonlinear, scheme)
    return replace(system, start=v)


def flame_flow(problem: KuramotoSivashinsky, start: np.ndarray) -> Iterator[State]:
    """See `kuramoto_sivashinsky`; its states with fixed steps."""
    return marched(problem, kuramoto_sivashinsky(problem, start))


def advected(
    problem: Burgers | KuramotoSivashinsky,
    linear: list[np.ndarray],
    k: np.ndarray,
    start: np.ndarray,
    every: int,
) -> System:
    """``u_t + u u_x = L u`` on a periodic line.

    Parameters
    ----------
    problem : Burgers or KuramotoSivashinsky
        Configuration.
    linear : list of ndarray, shape (mode,)
        Eigenvalues of L, one array a member.
    k : ndarray, shape (mode,)
        Wave numbers.
    start : ndarray, shape (member, mode)
        Coefficients for ``irfft``.
    every : int
        Every so many grid points are stored.
    """
    xp = Arrays(problem.backend, problem.device)
    n = 2 * (len(k) - 1)
    seen = band(np.arange(len(k)), n)
    keep, factor, slope = (xp.take(values) for values in (seen.astype(float), -0.5j * k * seen, 1j * k))

    def nonlinear(v: Any) -> Any:
        u = xp.inverse(keep * v, (n,), (-1,))
        return factor * xp.forward(u * u, (-1,))

    def show(v: Any) -> dict[str, np.ndarray]:
        return {"u": xp.give(xp.inverse(v, (n,), (-1,)))[:, ::every]}

    def rates(v: Any) -> tuple[float, float]:
        fastest, steepest = (float(abs(xp.inverse(w, (n,), (-1,))).max()) for w in (v, slope * v))
        return fastest * n * float(k[1]) / (2 * np.pi), steepest

    return System(xp, xp.take(start), linear, nonlinear, show, rates)


def vorticity_waves(rng: np.random.Generator, points: int, modes: int = 24) -> np.ndarray:
    """Initial vorticity N(0, 7^1.5 (-D + 49)^-2.5) on the unit square.

    Parameters
    ----------
    rng : numpy Generator
        Draws the waves in an order that does not depend on the grid.
    points : int
        Grid points along each side.
    modes : int
        Largest wave number along each axis.

    Returns
    -------
    ndarray, shape (points, points // 2 + 1)
        Coefficients for ``irfft2``.
    """
    k = np.arange(-modes, modes + 1)
    pairs = rng.standard_normal((len(k), modes + 1, 2))
    ky, kx = np.meshgrid(k, np.arange(modes + 1), indexing="ij")
    spread = np.sqrt(2) * 7**0.75 / (4 * np.pi**2 * (kx**2 + ky**2) + 49) ** 1.25
    # Half of the plane is enough for a real field; on kx = 0 the upper half stands for both.
    spread = np.where((kx > 0) | (ky > 0), spread, 0.0)
    field = np.zeros((points, points // 2 + 1), dtype=complex)
    fits = (np.abs(ky) < points // 2) & (kx < points // 2)
    values = points**2 * spread * (pairs[..., 0] - 1j * pairs[..., 1]) / 2
    field[ky[fits] % points, kx[fits]] = values[fits]
    column = field[:, 0]
    upper = np.arange(1, (points + 1) // 2)
    column[-upper] = np.conj(column[upper])
    return field


def vorticity_start(problem: NavierStokes, rngs: list[np.random.Generator]) -> np.ndarray:
    """Coefficients of the initial vorticity of members with one generator each."""
    return np.stack([vorticity_waves(rng, problem.solve_points or problem.points) for rng in rngs])


def navier_stokes(
    problem: NavierStokes, viscosity: np.ndarray, force: np.ndarray, start: np.ndarray
) -> System:
    """``w_t + u . grad w = nu lap w + f`` with ``f = a (sin + cos)(2 pi (x + y))``.

    Parameters
    ----------
    problem : NavierStokes
        Configuration.
    viscosity, force : ndarray, shape (member,)
    start : ndarray, shape (member, solve_points, solve_points // 2 + 1)
        Coefficients of the initial vorticity for ``irfft2``.
    """
    xp = Arrays(problem.backend, problem.device)
    n = problem.solve_points or problem.points
    every = n // problem.points
    rows, columns = np.fft.fftfreq(n, 1 / n)[:, None], np.arange(n // 2 + 1)[None, :]
    ky, kx = 2 * np.pi * rows, 2 * np.pi * columns
    square = kx**2 + ky**2
    seen = band(rows, n) & band(columns, n)
    keep = xp.take(seen.astype(float))
    stream = np.where(square > 0, seen / np.where(square > 0, square, 1), 0.0)
    to_u, to_v = xp.take(1j * ky * stream), xp.take(-1j * kx * stream)
    dx, dy = xp.take(1j * kx * seen), xp.take(1j * ky * seen)
    line = np.arange(n) / n
    phase = 2 * np.pi * (line[None, :] + line[:, None])
    pushed = np.fft.rfft2(np.sin(phase) + np.cos(phase))
    push = xp.take(force[:, None, None] * pushed)
    axes, shape = (-2, -1), (n, n)

    def nonlinear(w: Any) -> Any:
        u, v = xp.inverse(to_u * w, shape, axes), xp.inverse(to_v * w, shape, axes)
        field = xp.inverse(keep * w, shape, axes)
        return push - dx * xp.forward(u * field, axes) - dy * xp.forward(v * field, axes)

    def show(w: Any) -> dict[str, np.ndarray]:
        return {"vorticity": xp.give(xp.inverse(w, shape, axes))[:, ::every, ::every]}

    def rates(w: Any) -> tuple[float, float]:
        u, v, field = (abs(xp.inverse(part * w, shape, axes)) for part in (to_u, to_v, keep))
        return float((u + v).max()) * n, float(field.max())

    linear = [-nu * square for nu in viscosity]
    return System(xp, xp.take(start), linear, nonlinear, show, rates)


def vorticity_flow(
    problem: NavierStokes, viscosity: np.ndarray, force: np.ndarray, start: np.ndarray
) -> Iterator[State]:
    """See `navier_stokes`; its states with fixed steps."""
    return marched(problem, navier_stokes(problem, viscosity, force, start))
