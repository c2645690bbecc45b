"""Flow through a medium of two phases: the medium, the discretisation, and what both conserve."""

import numpy as np
import pytest

from sciflow import Context, Invalid
from sciflow_spectral.darcy import between, gaussian, pressure
from sciflow_spectral.two_phase import TwoPhaseDarcy


def solved(seed=3, source=1.0, **settings):
    (state,) = TwoPhaseDarcy(**settings).solve({"source": source}, Context(seed=seed))
    return state.fields["permeability"], state.fields["pressure"]


def test_a_member_is_the_same_medium_on_every_grid():
    coarse = gaussian(20, 17, np.random.default_rng(5))
    fine = gaussian(20, 65, np.random.default_rng(5))
    np.testing.assert_allclose(fine[::4, ::4], coarse, atol=1e-14)
    a, _ = solved(points=9, solve_points=17)
    np.testing.assert_array_equal(a, solved(points=9, solve_points=65)[0])
    np.testing.assert_array_equal(a, solved(points=17, solve_points=65)[0][::2, ::2])


def test_the_field_has_the_covariance_of_the_operator():
    """E g(x) g(x') is the Green function: here summed term by term, without a product of matrices."""
    points, modes, draws = 5, 4, 4000
    rng = np.random.default_rng(0)
    fields = np.stack([gaussian(modes, points, rng).ravel() for _ in range(draws)])
    x = np.linspace(0, 1, points)
    expected = np.zeros((points**2, points**2))
    for k in range(modes):
        for m in range(modes):
            if k == m == 0:
                continue
            scale = (2 if k else 1) * (2 if m else 1)
            wave = np.outer(np.cos(np.pi * k * x), np.cos(np.pi * m * x)).ravel()
            expected += scale * np.outer(wave, wave) / (np.pi**2 * (k**2 + m**2) + 9) ** 2
    found = fields.T @ fields / draws
    assert np.abs(found - expected).max() < 5 * expected.max() / np.sqrt(draws)


def test_the_field_is_flat_across_the_boundary():
    """Neumann conditions: the first difference at the boundary is of second order in h."""
    slopes = []
    for points in (65, 129):
        g = gaussian(10, points, np.random.default_rng(1))
        slopes.append(np.abs(g[1] - g[0]).max())
    assert slopes[1] < slopes[0] / 3.5


@pytest.mark.parametrize("faces", ["harmonic", "arithmetic"])
def test_order_two_where_the_medium_is_smooth(faces):
    errors = []
    for n in (17, 33, 65):
        y, x = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
        a, (sx, sy) = 2 + x * y, (np.sin(np.pi * x), np.sin(np.pi * y))
        cx, cy = np.cos(np.pi * x), np.cos(np.pi * y)
        source = 2 * np.pi**2 * a * sx * sy - np.pi * (y * cx * sy + x * sx * cy)
        errors.append(np.abs(pressure(a, source, faces) - sx * sy).max())
    assert np.log2(np.array(errors[:-1]) / errors[1:]).min() > 1.9


@pytest.mark.parametrize("faces", ["harmonic", "arithmetic"])
def test_the_matrix_is_that_of_the_loop_over_points(faces):
    n = 6
    rng = np.random.default_rng(2)
    a, source = np.where(rng.random((n, n)) > 0.5, 12.0, 3.0), rng.random((n, n))
    u = pressure(a, source, faces)
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            out = 0.0
            for p, q in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                pair = a[i, j], a[p, q]
                mean = 2 / (1 / pair[0] + 1 / pair[1]) if faces == "harmonic" else sum(pair) / 2
                out += mean * (u[i, j] - u[p, q]) * (n - 1) ** 2
            assert out == pytest.approx(source[i, j], rel=1e-10)


def test_what_is_fed_flows_out_and_nothing_is_negative():
    n = 33
    a = np.where(gaussian(16, n, np.random.default_rng(7)) > 0, 12.0, 3.0)
    u = pressure(a, np.ones((n, n)), "harmonic")
    down, right = between(a, 0, "harmonic"), between(a, 1, "harmonic")
    out = (down[0] * u[1]).sum() + (down[-1] * u[-2]).sum()
    out += (right[:, 0] * u[:, 1]).sum() + (right[:, -1] * u[:, -2]).sum()
    assert out == pytest.approx((n - 2) ** 2 / (n - 1) ** 2, rel=1e-11)
    assert u[1:-1, 1:-1].min() > 0


def test_metamorphic_relations():
    _, u = solved(points=9, solve_points=33)
    np.testing.assert_allclose(solved(points=9, solve_points=33, source=3.0)[1], 3 * u, rtol=1e-12)
    doubled = solved(points=9, solve_points=33, high=24.0, low=6.0)[1]
    np.testing.assert_allclose(doubled, u / 2, rtol=1e-12)
    a = np.where(gaussian(8, 17, np.random.default_rng(0)) > 0, 12.0, 3.0)
    one = np.ones_like(a)
    np.testing.assert_allclose(pressure(a.T, one, "harmonic"), pressure(a, one, "harmonic").T, rtol=1e-11)
    np.testing.assert_allclose(
        pressure(a[::-1], one, "harmonic"), pressure(a, one, "harmonic")[::-1], rtol=1e-11
    )


def test_it_converges_although_the_medium_jumps():
    difference = []
    for n in (33, 65, 129):
        pairs = [[solved(seed, points=17, solve_points=m)[1] for m in (n, 2 * n - 1)] for seed in range(4)]
        difference.append(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]))
    assert difference[-1] < 0.45 * difference[0]
    assert difference[-1] < 5e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 43, "solve_points": 170}, "multiple of points - 1"),
        ({"points": 43, "solve_points": 22}, "multiple of points - 1"),
        ({"points": 2}, "at least 3"),
        ({"low": 0.0}, "must be positive"),
        ({"low": float("nan")}, "must be positive and finite"),
        ({"high": float("inf")}, "must be positive and finite"),
        ({"modes": 1}, "at least 2"),
        ({"faces": "geometric"}, "not one of"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        TwoPhaseDarcy(**settings)
