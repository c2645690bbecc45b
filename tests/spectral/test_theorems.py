"""What must hold for every solution: orders, balances, symmetries, and what a blow-up may touch."""

import numpy as np
import pytest
from scipy import integrate

from sciflow import Context, Diverged
from sciflow.problem import member_seed
from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes
from sciflow_spectral.equations import burgers_flow, flame_flow, vorticity_flow, vorticity_waves
from tests.spectral.test_spectral import order, run

LINE = 2 * np.pi * np.arange(64) / 64


def hump(x):
    """A function of period 2 pi whose every derivative is known to be smooth."""
    return np.sin(x) * np.exp(0.5 * np.cos(x + 1))


def burgers(points=64, steps=64, levels=2, end=0.4, nu=0.05, start=None):
    x = 2 * np.pi * np.arange(points) / points
    problem = Burgers(points=points, solve_points=points, levels=levels, end=end, steps=steps)
    u = hump(x) if start is None else start
    return last(burgers_flow(problem, np.array([nu]), np.fft.rfft(u)[None]))


def flame(points=64, steps=64, levels=2, end=4.0, start=None):
    x = 2 * np.pi * np.arange(points) / points
    problem = KuramotoSivashinsky(points=points, length=16.0, levels=levels, end=end, steps=steps)
    return last(flame_flow(problem, np.fft.rfft(hump(x) if start is None else start)[None]))


def flow(points=64, steps=64, levels=2, end=0.5, nu=5e-3, force=0.5, start=None):
    x = 2 * np.pi * np.arange(points) / points
    w = 5 * hump(x)[:, None] * np.cos(x + 0.3) + 4 * hump(x) if start is None else start
    problem = NavierStokes(points=points, levels=levels, end=end, steps=steps)
    return last(vorticity_flow(problem, np.array([nu]), np.array([force]), np.fft.rfft2(w)[None]))


def last(states):
    return [next(iter(s.fields.values()))[0] for s in states][-1]


SOLVERS = pytest.mark.parametrize("solve", [burgers, flame, flow], ids=lambda f: f.__name__)


@pytest.mark.parametrize(
    ("solve", "case", "first"),
    [
        (burgers, {"points": 32}, 32),
        # While h k^4 is large the scheme shows an order between 3 and 4, so not too many points.
        (flame, {"points": 24, "end": 2.0}, 64),
        (flow, {"points": 32}, 16),
    ],
)
def test_every_stepper_has_order_four(solve, case, first):
    fine = solve(steps=1024, **case)
    errors = [np.abs(solve(steps=first * 2**i, **case) - fine).max() for i in range(3)]
    assert errors[-1] > 1e-11, "the errors are round-off and say nothing"
    assert order(errors).min() > 3.9
    assert order(errors).max() < 4.1


@SOLVERS
def test_the_error_in_space_falls_faster_than_any_power(solve):
    fine = solve(points=128)
    errors = [
        np.abs(solve(points=n) - fine[tuple([slice(None, None, 128 // n)] * fine.ndim)]).max()
        for n in (16, 32, 64)
    ]
    orders = order(errors)
    assert orders[1] > orders[0]
    assert orders[1] > 8
    assert errors[-1] < 1e-5 * np.abs(fine).max()


@SOLVERS
def test_solutions_commute_with_translation(solve):
    start = solve(
        steps=1,
        end=1e-9,
        **({} if solve is flame else {"nu": 1e-3}),
        **({"force": 0.0} if solve is flow else {}),
    )
    shift = (5, 11)[: start.ndim]
    extra = {"force": 0.0} if solve is flow else {}
    axes = tuple(range(start.ndim))
    moved = solve(start=np.roll(start, shift, axes), **extra)
    still = solve(start=start, **extra)
    assert np.abs(still - start).max() > 0.1, "nothing happened, so nothing is shown"
    np.testing.assert_allclose(moved, np.roll(still, shift, axes), atol=1e-11)


@SOLVERS
@pytest.mark.parametrize("points", [48, 64])
def test_the_energy_of_rough_fields_is_not_fed_by_aliasing(solve, points):
    """The nonlinear terms neither make nor lose energy (or enstrophy), for any field of the band.

    Forty-eight points divide by three: the largest wave of the band would hit itself.
    """
    shape = (points,) if solve is not flow else (points, points)
    noise = 3 * np.random.default_rng(0).standard_normal(shape)
    v = np.fft.fftn(noise)
    for axis in range(v.ndim):
        number = np.abs(np.fft.fftfreq(points, 1 / points))
        v = np.moveaxis(np.moveaxis(v, axis, -1) * ((3 * number < points) & (number > 0)), -1, axis)
    start = np.fft.ifftn(v).real
    step = 1e-6
    extra = {burgers: {"nu": 1e-15}, flame: {}, flow: {"nu": 1e-15, "force": 0.0}}[solve]
    one = solve(points=points, start=start, steps=1, end=step, **extra)
    if solve is flame:  # take out what the linear part does
        k = 2 * np.pi * np.fft.fftfreq(points, 1 / points) / 16.0
        linear = np.fft.ifft((np.exp(step * (k**2 - k**4)) - 1) * v).real
        one = one - linear
    moved = np.abs(one - start).max()
    gained = np.mean(start * (one - start))
    assert moved > 1e-7
    assert abs(gained) < 1e-4 * moved * np.abs(start).max()


@SOLVERS
def test_the_band_neither_hears_nor_feeds_the_waves_above_it(solve):
    """On the grid a product with a high wave looks like a low one; the nonlinear term must not see it."""
    low, high = np.cos(18 * LINE) + np.sin(3 * LINE), np.cos(30 * LINE) + np.cos(29 * LINE)
    if solve is flow:
        low, high = 100 * low[:, None] * low, high[:, None] * low + high
    extra = {burgers: {"nu": 1e-12}, flame: {}, flow: {"nu": 1e-12, "force": 0.0}}[solve]
    number = np.abs(np.fft.fftfreq(64, 1 / 64))
    inside = number <= 21 if solve is not flow else (number[:, None] <= 21) & (number <= 21)
    both, alone = (
        np.fft.fftn(solve(start=start, steps=1, end=1e-4, **extra)) for start in (low + 100 * high, low)
    )
    moved = np.abs(alone - np.fft.fftn(low)).max()
    assert moved > 1e-2
    assert np.abs(both - alone)[inside].max() < 1e-7 * moved
    assert np.abs(alone)[~inside].max() < 1e-7 * moved


@pytest.mark.parametrize(
    ("problem", "period"),
    [
        (Burgers(points=16), 1.0),
        (KuramotoSivashinsky(points=16, length=22.0), 22.0),
        (NavierStokes(points=16), 1.0),
    ],
)
def test_coordinates_are_a_period_without_its_end(problem, period):
    for axis in problem.periodic:
        x = problem.coordinates()[axis]
        np.testing.assert_allclose(np.append(x, period), np.linspace(0, period, 17), atol=1e-12)


def test_the_energy_of_a_flame_grows_and_decays_as_it_must():
    """d/dt mean(u^2)/2 = mean(u_x^2) - mean(u_xx^2)."""
    problem = KuramotoSivashinsky(points=128, length=32.0, levels=2001, end=20.0, steps=2000)
    u = run(problem, amplitude=0.4)
    k = 2 * np.pi * np.arange(65) / 32.0
    v = np.fft.rfft(u)
    slope, bend = np.fft.irfft(1j * k * v, 128), np.fft.irfft(-(k**2) * v, 128)
    rate = (slope**2).mean(axis=-1) - (bend**2).mean(axis=-1)
    gained = integrate.simpson(rate, x=problem.coordinates()["time"], axis=1)
    energy = 0.5 * (u**2).mean(axis=-1)
    np.testing.assert_allclose(energy[:, -1] - energy[:, 0], gained, rtol=1e-5)


def test_enstrophy_is_what_the_force_gives_less_what_viscosity_takes():
    """d/dt mean(w^2)/2 = mean(w f) - nu mean(|grad w|^2)."""
    nu, force = 4e-3, 0.2
    problem = NavierStokes(points=48, levels=201, end=2.0, steps=400)
    w = run(problem, members=2, viscosity=nu, force=force)
    line = np.arange(48) / 48
    phase = 2 * np.pi * (line[:, None] + line)
    given = (w * force * (np.sin(phase) + np.cos(phase))).mean(axis=(-2, -1))
    k = 2 * np.pi * np.fft.fftfreq(48, 1 / 48)
    power = np.abs(np.fft.fft2(w) / 48**2) ** 2
    taken = nu * (power * (k[:, None] ** 2 + k**2)).sum(axis=(-2, -1))
    change = integrate.simpson(given - taken, x=problem.coordinates()["time"], axis=1)
    enstrophy = 0.5 * (w**2).mean(axis=(-2, -1))
    np.testing.assert_allclose(enstrophy[:, -1] - enstrophy[:, 0], change, rtol=1e-4)


def test_initial_vorticity_has_the_covariance_it_claims():
    n, count = 16, 3000
    fields = np.array(
        [np.fft.irfft2(vorticity_waves(np.random.default_rng(i), n, modes=7), s=(n, n)) for i in range(count)]
    )
    found = np.einsum("m,myx->yx", fields[:, 3, 5], fields) / count
    k = np.arange(-7, 8)
    eigen = 7**1.5 / (4 * np.pi**2 * (k[:, None] ** 2 + k**2) + 49) ** 2.5
    eigen[7, 7] = 0  # the mean is left out
    y, x = (np.arange(n) - 3) / n, (np.arange(n) - 5) / n
    across, along = np.exp(2j * np.pi * np.outer(k, y)), np.exp(2j * np.pi * np.outer(k, x))
    exact = np.einsum("ab,ay,bx->yx", eigen, across, along).real
    assert np.abs(found - exact).max() < 0.08 * exact.max()


def test_members_do_not_depend_on_their_block():
    """Each has its own viscosity and its own draw, wherever it stands."""
    problem = Burgers(points=32, solve_points=64, steps=50)
    mu = {"viscosity": np.array([0.02, 0.1, 0.4]), "member": np.array([7, 0, 3])}
    block = [s.fields["u"] for s in problem.solve_batch(mu, Context(seed=2))][-1]
    turned = [
        s.fields["u"] for s in problem.solve_batch({k: v[::-1] for k, v in mu.items()}, Context(seed=2))
    ][-1]
    np.testing.assert_array_equal(turned[::-1], block)
    for i, member in enumerate(mu["member"]):
        seed = member_seed(2, int(member))
        alone = list(problem.solve({"viscosity": mu["viscosity"][i]}, Context(seed=seed)))[-1].fields["u"]
        np.testing.assert_allclose(alone, block[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_member_that_blows_up_is_nan_and_the_others_are_untouched(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    problem = NavierStokes(points=16, levels=3, end=1.0, steps=10, backend=backend)
    mu = {"viscosity": np.full(3, 1e-2), "force": np.array([0.1, 1e30, 0.1]), "member": np.arange(3)}
    states = list(problem.solve_batch(mu, Context(seed=1)))
    assert np.isfinite(states[0].fields["vorticity"]).all()
    assert np.isnan(states[-1].fields["vorticity"][1]).all()
    calm = {**mu, "force": np.full(3, 0.1)}
    for state, other in zip(states, problem.solve_batch(calm, Context(seed=1)), strict=True):
        np.testing.assert_array_equal(state.fields["vorticity"][::2], other.fields["vorticity"][::2])
    with pytest.raises(Diverged, match="'vorticity' is not finite at time 0.5"):
        list(problem.solve({"viscosity": 1e-2, "force": 1e30}, Context(seed=1)))


def test_what_single_precision_cannot_hold_has_diverged():
    """The stored fields are single precision: an infinity there would be found too late."""
    problem = NavierStokes(points=8, levels=2, end=1e-3, steps=1)
    with pytest.raises(Diverged):
        list(problem.solve({"viscosity": 1e-2, "force": 1e43}, Context()))
