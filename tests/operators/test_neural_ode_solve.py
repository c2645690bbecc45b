"""Integrators of neural ODEs: orders, gradients, costs."""

import math

import numpy as np
import pytest
from scipy.integrate import RK45, solve_ivp

torch = pytest.importorskip("torch")
from sciflow import Diverged
from sciflow_operators.ode.continuous import integrate, next_length
from sciflow_operators.ode.equal import fixed
from sciflow_operators.ode.penalty import at_one, everywhere, pick
from sciflow_operators.ode.solve import Steps, _factor, march, replay
from sciflow_operators.ode.stages import step
from sciflow_operators.ode.tableau import DENSE, ERROR, NODES, STAGES

torch.set_num_threads(1)
STARTS = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.1, 0.0]], dtype=torch.float64)
TIMES = torch.linspace(0, 3, 7, dtype=torch.float64).expand(3, -1)


def oscillator(t, z):
    return torch.stack([z[:, 1], 2 * (1 - z[:, 0] ** 2) * z[:, 1] - z[:, 0] + t.sin()], 1)


def exact(z, times):
    def f(t, y):
        return [y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0] + math.sin(t)]

    return np.stack(
        [
            solve_ivp(f, (0, 3), s, "DOP853", t, rtol=1e-12, atol=1e-12).y.T
            for s, t in zip(z, times, strict=True)
        ]
    )


def net(seed=0, width=8):
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
    return made.double()


def test_no_step_grows_right_after_one_that_was_refused():
    error, before = torch.tensor([1e-6, 1e-6, 1e3]).double(), torch.full((3,), 1e-4).double()
    good, refused = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    factor, kept = _factor(error, before, good, refused)
    assert factor[0] == 1
    assert factor[1] > 3
    assert factor[2] == pytest.approx(0.9 * 1e3**-0.2)
    assert kept.tolist() == pytest.approx([1e-4] * 3)


class Counting:
    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, t, z):
        self.calls += 1
        return self.f(t, z)


def test_the_coefficients_are_those_of_scipy():
    for row, weights in zip(RK45.A[1:], STAGES, strict=False):
        np.testing.assert_allclose(row[: len(weights)], weights, rtol=1e-14)
    np.testing.assert_allclose(RK45.B, STAGES[-1], rtol=1e-14)
    np.testing.assert_allclose(RK45.C, NODES[:-1], rtol=1e-14)
    np.testing.assert_allclose(RK45.E, [-e for e in ERROR], rtol=1e-12)
    # The interpolant's highest coefficient: theta^2 (1 - theta)^2 = ... + theta^4.
    np.testing.assert_allclose(RK45.P[:, 3], DENSE, rtol=1e-12, atol=1e-14)


def test_a_step_is_of_order_five_its_interpolant_and_estimate_one_less():
    z, ends, middles, estimates = torch.tensor([[1.5, -0.5]]).double(), [], [], []
    for h in (0.2, 0.1, 0.05):
        lengths = torch.tensor([h], dtype=torch.float64)
        stages = step(oscillator, lengths * 0, z, lengths, oscillator(lengths * 0, z))
        truth = exact(z, np.array([[0.5 * h, h]]))
        ends.append(np.abs(stages.end.numpy() - truth[:, 1])[0, 0])
        part = torch.tensor([[0.5]], dtype=torch.float64)
        middles.append(np.abs(stages.between(part)[:, 0].numpy() - truth[:, 0])[0, 0])
        estimates.append(float(stages.error(1.0)))
    for errors, local in ((ends, 6), (middles, 5), (estimates, 5)):
        assert np.log2(errors[-2] / errors[-1]) == pytest.approx(local, abs=0.35)


def test_equal_steps_are_of_order_four():
    found = [
        np.abs(
            fixed(oscillator, STARTS, TIMES, n)[0].values[:, -1].numpy() - exact(STARTS, TIMES)[:, -1]
        ).max()
        for n in (60, 120)
    ]
    assert np.log2(found[0] / found[1]) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_the_error_follows_the_tolerance_at_all_levels(tolerance):
    solution = march(oscillator, STARTS, TIMES, tolerance, 1000)
    error = np.abs(solution.values.numpy() - exact(STARTS, TIMES)).max()
    assert 0.01 * tolerance < error < 60 * tolerance
    total = solution.steps.lengths.sum(dim=0)
    np.testing.assert_allclose(total, 3.0, rtol=1e-13)


def test_evaluations_are_the_calls_and_not_more_than_scipys():
    for start in STARTS.split(1):
        f = Counting(oscillator)
        solution = march(f, start, TIMES[:1], 1e-6, 1000)
        assert f.calls == int(solution.evaluations)
        scipys = solve_ivp(
            lambda t, y: oscillator(torch.tensor([t]), torch.from_numpy(y)[None])[0].numpy(),
            (0, 3),
            start[0].numpy(),
            rtol=1e-6,
            atol=1e-6,
        ).nfev
        assert f.calls < 1.15 * scipys
        f = Counting(oscillator)
        replay(f, start, TIMES[:1], solution.steps, 1e-6)
        assert f.calls == 1 + 6 * len(solution.steps.begins)
        f = Counting(oscillator)
        assert int(fixed(f, start, TIMES[:1], 5)[0].evaluations) == f.calls == 21
    together = march(Counting(oscillator), STARTS, TIMES, 1e-6, 1000).evaluations
    alone = [int(march(oscillator, s, TIMES[:1], 1e-6, 1000).evaluations) for s in STARTS.split(1)]
    assert together.tolist() == alone


def test_samples_with_times_of_their_own_do_not_know_each_other():
    times = torch.tensor([[3.0], [0.0], [1.3]], dtype=torch.float64)
    found = march(oscillator, STARTS, times, 1e-6, 1000)
    np.testing.assert_array_equal(found.values[1, 0], STARTS[1])
    assert found.evaluations[1] == 0
    for i in range(3):
        one = march(oscillator, STARTS[i : i + 1], times[i : i + 1], 1e-6, 1000)
        torch.testing.assert_close(found.values[i], one.values[0], rtol=1e-12, atol=1e-12)
    again = replay(oscillator, STARTS, times, found.steps, 1e-6)
    torch.testing.assert_close(again.values, found.values, rtol=1e-12, atol=1e-12)


def test_gradients_through_steps_are_finite_differences():
    f, tolerance = net(), 1e-4
    steps = march(lambda t, z: f(z), STARTS, TIMES, tolerance, 100).steps
    weight = f[0].weight

    def losses():
        found = replay(lambda t, z: f(z), STARTS, TIMES, steps, tolerance, True)
        costs = everywhere(found, steps)
        return torch.stack([found.values.square().mean(), costs.error.sum(), costs.stiffness.sum()])

    for i in range(3):
        (gradient,) = torch.autograd.grad(losses()[i], weight)
        for place in ((0, 0), (3, 1)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[place] += sign * 1e-5
                    ends.append(float(losses()[i]))
                    weight[place] -= sign * 1e-5
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_both_adjoints_give_the_same_gradients():
    pytest.importorskip("torchdiffeq")
    f, end = net(), TIMES[:, -1]

    def slope(t, z):
        return f(z)

    steps = march(slope, STARTS, TIMES, 1e-9, 1000).steps
    one = replay(slope, STARTS, TIMES, steps, 1e-9).values
    parts = (TIMES[0] / 3).tolist()
    other = integrate(slope, STARTS, end, parts, 1e-9, list(f.parameters()))
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
    pairs = [torch.autograd.grad(v.square().mean(), list(f.parameters())) for v in (one, other)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_costs_of_a_linear_equation_are_known():
    rate = -1.7
    h = torch.tensor([0.3, 0.2], dtype=torch.float64)[:, None]
    steps = Steps(torch.tensor([[0.0], [0.3]], dtype=torch.float64), h)
    z, times = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)
    found = replay(lambda t, z: rate * z, z, times, steps, 1e-3, True)
    state, error = 1.0, 0.0
    for (length,) in h.numpy():
        x = rate * length
        # Order 5 has x^6/600 behind the exponential's five terms; the difference to order 4 is
        # sum_i e_i of the stages' polynomials.
        grown = sum(x**k / math.factorial(k) for k in range(6)) + x**6 / 600
        slopes = [1.0]
        for weights in STAGES:
            slopes.append(1 + x * sum(a * b for a, b in zip(weights, slopes, strict=False)))
        assert slopes[-1] == pytest.approx(grown, rel=1e-14)
        difference = x * sum(e * k for e, k in zip(ERROR, slopes, strict=True)) * state
        error += abs(difference) / (1e-3 * (1 + state)) * length
        state *= grown
    costs = everywhere(found, steps)
    assert float(found.values) == pytest.approx(state, rel=1e-13)
    assert float(costs.error) == pytest.approx(error, rel=1e-10)
    assert float(costs.stiffness) == pytest.approx(1.7 * 0.5, rel=1e-9)


def test_the_mean_of_the_local_estimate_is_the_integral_over_all_steps():
    tolerance = 1e-3
    solution = march(oscillator, STARTS, TIMES, tolerance, 1000)
    steps = solution.steps
    found = replay(oscillator, STARTS, TIMES, steps, tolerance, True)
    total = steps.lengths.sum(dim=0)
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    each = torch.arange(3)
    mean = torch.zeros(2, 3, dtype=torch.float64)
    average = torch.zeros(3, dtype=torch.float64)
    local = {}
    for sampling in ("time", "steps"):
        for u in grid.tolist():
            chosen = pick(steps, sampling, torch.full((3,), u, dtype=torch.float64))
            key = tuple(chosen.tolist())
            if key not in local:
                begin, length = steps.begins[chosen, each], steps.lengths[chosen, each]
                local[key] = at_one(oscillator, begin, found.states[chosen, each], length, total, tolerance)
            if sampling == "time":
                mean += torch.stack([local[key].error, local[key].stiffness]) / len(grid)
            else:
                average += local[key].error / len(grid)
    whole = everywhere(found, steps)
    torch.testing.assert_close(mean[0], whole.error, rtol=5e-3, atol=0)
    torch.testing.assert_close(mean[1], whole.stiffness, rtol=5e-3, atol=0)
    torch.testing.assert_close(average, 3 * found.errors.sum(dim=0) / steps.counts, rtol=5e-3, atol=0)


def test_stiffness_of_a_linear_system_is_between_its_eigenvalues():
    matrix = torch.tensor([[-40.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    z, h = torch.ones(1, 2, dtype=torch.float64), torch.full((1,), 0.02, dtype=torch.float64)
    stages = step(lambda t, z: z @ matrix.T, h * 0, z, h, z @ matrix.T)
    assert float(stages.stiffness()) == pytest.approx(40, rel=0.01)
    still = step(lambda t, z: 0 * z, h * 0, z, h, 0 * z)
    assert float(still.stiffness()) == 0.0


def test_the_next_step_is_what_the_controller_takes():
    solution = march(oscillator, STARTS, TIMES, 1e-6, 1000)
    replayed = replay(oscillator, STARTS, TIMES, solution.steps, 1e-6)
    for j in (5, 10):
        begin, length = solution.steps.begins[j], solution.steps.lengths[j]
        guess = next_length(oscillator, begin, replayed.states[j], 3 - begin, 1e-6)
        assert ((guess / length) > 0.5).all()
        assert ((guess / length) < 2.0).all()


def test_what_blows_up_is_nan_from_there_on_and_does_not_spoil_its_neighbours():
    times = torch.tensor([[0.5, 2.0]] * 2, dtype=torch.float64)
    z = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    found = march(lambda t, z: z**2, z, times, 1e-6, 200)
    np.testing.assert_allclose(found.values[0, 0], 2.0, rtol=1e-5)
    assert torch.isnan(found.values[0, 1]).all()
    np.testing.assert_allclose(found.values[1, :, 0], [0.1 / 0.95, 0.1 / 0.8], rtol=1e-5)
    few = march(oscillator, STARTS, TIMES, 1e-6, 3)
    assert torch.isnan(few.values[:, -1]).all()
    assert torch.isfinite(few.values[:, 0]).all()
    wrong = torch.where(torch.arange(3)[:, None] == 1, torch.nan, STARTS)
    assert torch.isnan(march(oscillator, wrong, TIMES, 1e-6, 99).values).flatten(1).any(1).tolist() == [
        False,
        True,
        False,
    ]


def test_torchdiffeq_that_gives_up_is_an_error_of_ours():
    pytest.importorskip("torchdiffeq")
    z = torch.full((1, 1), 2.0, dtype=torch.float64)
    with pytest.raises(Diverged, match="torchdiffeq gave up"):
        integrate(lambda t, z: z**2, z, torch.ones(1, dtype=torch.float64), [1.0], 1e-6, [])
