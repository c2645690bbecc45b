"""Burgers, Kuramoto-Sivashinsky and Navier-Stokes vorticity: pseudo-spectral, dealiased, ETDRK4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.problem import State
from sciflow_spectral.arrays import Arrays
from sciflow_spectral.etdrk4 import Scheme, advance, coefficients

if TYPE_CHECKING:
    from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes


def stack_schemes(linear: list[np.ndarray], step: float) -> Scheme:
    """Coefficients for members with different linear parts, stacked along a first axis."""
    distinct = {values.tobytes(): coefficients(values, step) for values in linear}
    each = [distinct[values.tobytes()] for values in linear]
    names = ("whole", "half", "q", "first", "middle", "last")
    return Scheme(*(np.stack([getattr(s, n) for s in each]) for n in names))


def march(
    v: Any,
    nonlinear: Callable[[Any], Any],
    scheme: Scheme,
    times: np.ndarray,
    steps: int,
    show: Callable[[Any], dict[str, np.ndarray]],
) -> Iterator[State]:
    """Yield the initial state and then one state after every ``steps / (levels - 1)`` steps."""
    yield State(float(times[0]), show(v))
    for time in times[1:]:
        for _ in range(steps // (len(times) - 1)):
            v = advance(v, nonlinear, scheme)
        yield State(float(time), show(v))


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


def burgers(problem: Burgers, viscosity: np.ndarray, rngs: list[np.random.Generator]) -> Iterator[State]:
    """``u_t + u u_x = nu u_xx`` on [0, 1).

    Parameters
    ----------
    problem : Burgers
        Configuration.
    viscosity : ndarray, shape (member,)
    rngs : list of numpy Generator
        One a member, for the initial state.
    """
    xp = Arrays(problem.backend, problem.device)
    n = problem.solve_points
    k = 2 * np.pi * np.arange(n // 2 + 1)
    scheme = xp.scheme(stack_schemes([-nu * k**2 for nu in viscosity], problem.end / problem.steps))
    factor = xp.take(-0.5j * k * (np.arange(n // 2 + 1) <= n // 3))
    start = np.stack([random_waves(burgers_spread(), rng, n) for rng in rngs])

    def nonlinear(v: Any) -> Any:
        u = xp.inverse(v, (n,), (-1,))
        return factor * xp.forward(u * u, (-1,))

    def show(v: Any) -> dict[str, np.ndarray]:
        return {"u": xp.give(xp.inverse(v, (n,), (-1,)))[:, :: n // problem.points]}

    times = problem.coordinates()["time"]
    return march(xp.take(start), nonlinear, scheme, times, problem.steps, show)


def kuramoto_sivashinsky(
    problem: KuramotoSivashinsky, amplitude: np.ndarray, rngs: list[np.random.Generator]
) -> Iterator[State]:
    """``u_t + u u_x + u_xx + u_xxxx = 0`` on [0, length).

    Parameters
    ----------
    problem : KuramotoSivashinsky
        Configuration.
    amplitude : ndarray, shape (member,)
        Of the initial waves.
    rngs : list of numpy Generator
        One a member, for the initial state.
    """
    xp = Arrays(problem.backend, problem.device)
    n = problem.points
    number = np.arange(n // 2 + 1)
    k = 2 * np.pi * number / problem.length
    linear = k**2 - k**4
    scheme = xp.scheme(stack_schemes([linear] * len(rngs), problem.end / problem.steps))
    factor = xp.take(-0.5j * k * (number <= n // 3))
    start = np.stack([a * random_waves(np.ones(8), rng, n) for a, rng in zip(amplitude, rngs, strict=True)])

    def nonlinear(v: Any) -> Any:
        u = xp.inverse(v, (n,), (-1,))
        return factor * xp.forward(u * u, (-1,))

    def show(v: Any) -> dict[str, np.ndarray]:
        return {"u": xp.give(xp.inverse(v, (n,), (-1,)))}

    return march(xp.take(start), nonlinear, scheme, problem.coordinates()["time"], problem.steps, show)


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


def navier_stokes(
    problem: NavierStokes, viscosity: np.ndarray, force: np.ndarray, rngs: list[np.random.Generator]
) -> Iterator[State]:
    """``w_t + u . grad w = nu lap w + f`` with ``f = a (sin + cos)(2 pi (x + y))``.

    Parameters
    ----------
    problem : NavierStokes
        Configuration.
    viscosity, force : ndarray, shape (member,)
    rngs : list of numpy Generator
        One a member, for the initial state.
    """
    n = problem.points
    start = np.stack([vorticity_waves(rng, n) for rng in rngs])
    return vorticity_flow(problem, viscosity, force, start)


def vorticity_flow(
    problem: NavierStokes, viscosity: np.ndarray, force: np.ndarray, start: np.ndarray
) -> Iterator[State]:
    """`navier_stokes` from given coefficients of the initial vorticity.

    Parameters
    ----------
    problem : NavierStokes
        Configuration.
    viscosity, force : ndarray, shape (member,)
    start : ndarray, shape (member, points, points // 2 + 1)
        Coefficients for ``irfft2``.
    """
    xp = Arrays(problem.backend, problem.device)
    n = problem.points
    ky = 2 * np.pi * np.fft.fftfreq(n, 1 / n)[:, None]
    kx = 2 * np.pi * np.arange(n // 2 + 1)[None, :]
    square = kx**2 + ky**2
    keep = (np.abs(ky) <= 2 * np.pi * (n // 3)) & (kx <= 2 * np.pi * (n // 3))
    scheme = xp.scheme(stack_schemes([-nu * square for nu in viscosity], problem.end / problem.steps))
    stream = np.where(square > 0, 1 / np.where(square > 0, square, 1), 0.0)
    to_u, to_v = xp.take(1j * ky * stream), xp.take(-1j * kx * stream)
    dx, dy = xp.take(1j * kx * keep), xp.take(1j * ky * keep)
    line = np.arange(n) / n
    phase = 2 * np.pi * (line[None, :] + line[:, None])
    pushed = np.fft.rfft2(np.sin(phase) + np.cos(phase))
    push = xp.take(force[:, None, None] * pushed)
    axes, shape = (-2, -1), (n, n)

    def nonlinear(w: Any) -> Any:
        u, v = xp.inverse(to_u * w, shape, axes), xp.inverse(to_v * w, shape, axes)
        field = xp.inverse(w, shape, axes)
        return push - dx * xp.forward(u * field, axes) - dy * xp.forward(v * field, axes)

    def show(w: Any) -> dict[str, np.ndarray]:
        return {"vorticity": xp.give(xp.inverse(w, shape, axes))}

    return march(xp.take(start), nonlinear, scheme, problem.coordinates()["time"], problem.steps, show)
