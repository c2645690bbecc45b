import numpy as np
import pytest
from scipy import integrate

from sciflow import Context, Invalid
from sciflow.problem import member_seed
from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes
from sciflow_spectral.equations import (
    burgers_flow,
    burgers_spread,
    random_waves,
    vorticity_flow,
    vorticity_waves,
)
from sciflow_spectral.etdrk4 import advance, coefficients


def run(problem, members=3, seed=1, **mu):
    points = {name: np.full(members, value) for name, value in mu.items()}
    points["member"] = np.arange(members)
    states = list(problem.solve_batch(points, Context(seed=seed)))
    (name,) = problem.fields
    return np.stack([s.fields[name] for s in states], axis=1)


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def test_the_scheme_has_order_four():
    """v' = -v + v^2 has a solution in closed form."""
    linear, start, end = np.array([-1.0]), 0.5, 2.0
    exact = 1 / (1 + (1 / start - 1) * np.exp(end))
    errors = []
    for steps in (10, 20, 40, 80):
        v, scheme = np.array([start]), coefficients(linear, end / steps)
        for _ in range(steps):
            v = advance(v, lambda z: z**2, scheme)
        errors.append(abs(v[0] - exact))
    assert order(errors).min() > 3.8


@pytest.mark.parametrize("rate", [0.0, -1e-9, -1e-3, -1.0, -40.0, -1e4, 2.0])
def test_the_coefficients_lose_no_digits(rate):
    """They are integrals of exponentials (Cox and Matthews, equations 26-29), also where L h -> 0."""
    h = 0.1

    def phi(k):
        """The integral of exp((1 - s) h L) s^(k - 1) / (k - 1)! over [0, 1]."""
        weight = (1.0, 1.0, 0.5)[k - 1]
        found, _ = integrate.quad(
            lambda s: np.exp((1 - s) * h * rate) * s ** (k - 1) * weight,
            0,
            1,
            epsabs=0,
            epsrel=1e-13,
            limit=500,
            points=(0.9, 0.99),
        )
        return found

    half, _ = integrate.quad(lambda s: np.exp(rate * s), 0, h / 2, epsabs=0, epsrel=1e-12, limit=500)
    c = coefficients(np.array([rate]), h)
    assert c.q[0] == pytest.approx(half, rel=1e-10)
    assert c.first[0] == pytest.approx(h * (phi(1) - 3 * phi(2) + 4 * phi(3)), rel=1e-9)
    assert c.middle[0] == pytest.approx(h * (phi(2) - 2 * phi(3)), rel=1e-9)
    assert c.last[0] == pytest.approx(h * (4 * phi(3) - phi(2)), rel=1e-9)


def test_burgers_agrees_with_cole_hopf():
    """u = -2 nu d/dx log phi with phi the heat flow of exp(-int u0 / 2 nu)."""
    nu, n, end = 0.05, 256, 0.5
    problem = Burgers(points=64, solve_points=n, end=end, steps=400)
    x = np.arange(n) / n
    start = np.sin(2 * np.pi * x) + 0.3 * np.cos(4 * np.pi * x)
    states = list(burgers_flow(problem, np.array([nu]), np.fft.rfft(start)[None]))
    potential = (1 - np.cos(2 * np.pi * x)) / (2 * np.pi) + 0.3 * np.sin(4 * np.pi * x) / (4 * np.pi)
    phi = np.fft.rfft(np.exp(-potential / (2 * nu)))
    k = 2 * np.pi * np.arange(n // 2 + 1)
    phi = phi * np.exp(-nu * k**2 * end)
    exact = -2 * nu * np.fft.irfft(1j * k * phi, n) / np.fft.irfft(phi, n)
    assert np.abs(states[-1].fields["u"][0] - exact[::4]).max() < 1e-8


def test_burgers_default_step_is_fine_enough():
    coarse, fine = run(Burgers(), viscosity=0.1), run(Burgers(steps=800), viscosity=0.1)
    assert np.abs(coarse - fine).max() < 1e-6 * np.abs(fine).max()


@pytest.mark.parametrize("n", [32, 64, 1024])
def test_a_seed_draws_the_same_function_on_every_grid(n):
    spread = burgers_spread(8)
    coarse = np.fft.irfft(random_waves(spread, np.random.default_rng(5), 32), 32)
    fine = np.fft.irfft(random_waves(spread, np.random.default_rng(5), n), n)
    np.testing.assert_allclose(fine[:: n // 32], coarse, atol=1e-12)


def test_ensembles_of_two_resolutions_are_the_same_members():
    coarse, fine = run(Burgers(points=64), viscosity=0.1), run(Burgers(points=256), viscosity=0.1)
    np.testing.assert_array_equal(coarse, fine[..., ::4])


def test_initial_states_have_the_covariance_they_claim():
    n, count = 64, 4000
    waves = [
        np.fft.irfft(random_waves(burgers_spread(16), np.random.default_rng(i), n), n) for i in range(count)
    ]
    found = np.cov(np.array(waves).T)[0]
    k = np.arange(1, 17)[:, None]
    x = np.arange(n) / n
    exact = (2 * 625 / ((2 * np.pi * k) ** 2 + 25) ** 2 * np.cos(2 * np.pi * k * x)).sum(axis=0)
    assert np.abs(found - exact).max() < 0.08 * exact[0]


def test_vorticity_waves_are_real_and_free_of_mean_on_every_grid():
    coarse = np.fft.irfft2(vorticity_waves(np.random.default_rng(2), 16, modes=5), s=(16, 16))
    fine = np.fft.irfft2(vorticity_waves(np.random.default_rng(2), 64, modes=5), s=(64, 64))
    np.testing.assert_allclose(fine[::4, ::4], coarse, atol=1e-12)
    field = vorticity_waves(np.random.default_rng(2), 16, modes=5)
    whole = np.fft.fft2(np.fft.irfft2(field, s=(16, 16)))
    np.testing.assert_allclose(whole[:, :9], field, atol=1e-10)


def test_kuramoto_sivashinsky_grows_at_the_linear_rate_while_small():
    problem = KuramotoSivashinsky(points=64, length=32.0, levels=2, end=1.0, steps=100)
    u = run(problem, amplitude=1e-7)
    v = np.fft.rfft(u, axis=-1)
    k = 2 * np.pi * np.arange(1, 9) / 32.0
    growth = np.log(np.abs(v[:, 1, 1:9]) / np.abs(v[:, 0, 1:9]))
    np.testing.assert_allclose(growth, np.broadcast_to(k**2 - k**4, growth.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "mu"),
    [
        (Burgers(points=64, solve_points=64, levels=3, steps=40), {"viscosity": 0.05}),
        (KuramotoSivashinsky(points=64, length=22.0, levels=3, end=5.0, steps=100), {"amplitude": 0.3}),
        (NavierStokes(points=32, levels=3, end=1.0, steps=100), {"viscosity": 1e-3, "force": 0.1}),
    ],
)
class TestEveryEquation:
    def test_the_mean_is_conserved(self, problem, mu):
        u = run(problem, **mu)
        means = u.reshape(*u.shape[:2], -1).mean(axis=-1)
        np.testing.assert_allclose(means, means[:, :1] * np.ones(u.shape[1]), atol=1e-12)

    def test_a_member_alone_is_the_member_in_its_block(self, problem, mu):
        block = run(problem, seed=4, **mu)
        (name,) = problem.fields
        alone = list(problem.solve(mu, Context(seed=member_seed(4, 2))))
        single = np.stack([s.fields[name] for s in alone])
        np.testing.assert_allclose(single, block[2], rtol=1e-9, atol=1e-11)

    def test_torch_gives_the_same(self, problem, mu):
        pytest.importorskip("torch")
        other = run(problem.replace(backend="torch"), **mu)
        np.testing.assert_allclose(other, run(problem, **mu), rtol=1e-8, atol=1e-10)


def test_burgers_loses_energy_at_the_viscous_rate():
    problem = Burgers(points=128, solve_points=128, levels=1601, end=0.2, steps=1600)
    u = run(problem, viscosity=0.05)
    energy = 0.5 * (u**2).mean(axis=-1)
    slope = np.fft.irfft(np.fft.rfft(u) * 2j * np.pi * np.arange(65), 128)
    rate = -0.05 * (slope**2).mean(axis=-1)
    lost = integrate.simpson(rate, x=problem.coordinates()["time"], axis=1)
    np.testing.assert_allclose(energy[:, -1] - energy[:, 0], lost, rtol=1e-5)


def test_taylor_green_vortices_decay_exactly():
    """A single shell of wave numbers does not interact with itself."""
    n, nu = 32, 0.01
    problem = NavierStokes(points=n, levels=2, end=1.0, steps=50)
    line = 2 * np.pi * np.arange(n) / n
    start = np.sin(line)[None, :] * np.sin(line)[:, None]
    states = list(vorticity_flow(problem, np.array([nu]), np.array([0.0]), np.fft.rfft2(start)[None]))
    decay = np.exp(-nu * 2 * (2 * np.pi) ** 2)
    np.testing.assert_allclose(states[-1].fields["vorticity"][0], decay * start, atol=1e-12)


def test_without_viscous_loss_and_force_enstrophy_stays():
    problem = NavierStokes(points=64, levels=2, end=1.0, steps=400)
    start = vorticity_waves(np.random.default_rng(0), 64, modes=4)
    states = list(vorticity_flow(problem, np.array([1e-12]), np.array([0.0]), start[None]))
    before, after = (np.mean(s.fields["vorticity"] ** 2) for s in states)
    assert after == pytest.approx(before, rel=1e-6)


def test_the_flow_commutes_with_translation():
    problem = NavierStokes(points=32, levels=2, end=0.5, steps=50)
    start = np.fft.irfft2(vorticity_waves(np.random.default_rng(3), 32, modes=5), s=(32, 32))

    def flow(field):
        states = vorticity_flow(problem, np.array([1e-3]), np.array([0.0]), np.fft.rfft2(field)[None])
        return list(states)[-1].fields["vorticity"][0]

    moved = np.roll(start, (5, 11), axis=(0, 1))
    np.testing.assert_allclose(flow(moved), np.roll(flow(start), (5, 11), axis=(0, 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Burgers(points=7), "even and at least 8"),
        (lambda: Burgers(points=96, solve_points=128), "multiple of points"),
        (lambda: Burgers(levels=1), "at least 2"),
        (lambda: Burgers(steps=7, levels=4), "multiple of levels"),
        (lambda: KuramotoSivashinsky(length=-1.0), "length must be positive"),
        (lambda: NavierStokes(end=0.0), "end must be positive"),
        (lambda: run(Burgers(device="cuda"), viscosity=0.1), "numpy computes on the cpu"),
    ],
)
def test_bad_configurations_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()


@pytest.mark.parametrize(
    ("problem", "mu"),
    [
        (KuramotoSivashinsky(points=32, length=22.0, levels=3, end=1.0, steps=20), {"amplitude": 0.3}),
        (NavierStokes(points=16, levels=3, end=0.2, steps=20), {"viscosity": 1e-2, "force": 0.1}),
    ],
)
def test_a_member_solved_more_finely_is_the_same_member(problem, mu):
    """Of NavierStokes 24 waves are drawn along each side: from 96 points on the solver holds them all."""
    base = problem if problem.name != "navier_stokes_vorticity" else problem.replace(solve_points=96)
    coarse, fine = run(base, **mu), run(problem.replace(solve_points=192), **mu)
    assert coarse.shape == fine.shape
    np.testing.assert_allclose(coarse, fine, atol=1e-3 * np.abs(fine).max())
    np.testing.assert_allclose(coarse[:, 0], fine[:, 0], atol=1e-12)
    with pytest.raises(Invalid, match="must be a multiple of points"):
        problem.replace(solve_points=40)


def test_time_begins_after_the_spin_up():
    whole = KuramotoSivashinsky(points=32, length=22.0, levels=5, end=2.0, steps=40)
    late = whole.replace(levels=3, end=1.0, steps=20, spin_up=20)
    np.testing.assert_array_equal(run(late, amplitude=0.3), run(whole, amplitude=0.3)[:, 2:])
