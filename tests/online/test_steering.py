"""Where new members are put: inside the cube, by the loss, and the same again from the same state."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, qmc

from sciflow import Invalid, NotFound
from sciflow.stages.design import unit_points
from sciflow.testing import check_component, check_controller
from sciflow_online.steering import Breed, SobolSteering, importance, log_mixture, step

QUICK = settings(max_examples=40, deadline=None)


def run(controller, count, cost, dimension=2, seed=0, state=None, status=lambda u: "ok"):
    """Propose and observe `count` members; the points, shape (count, dimension), and the state."""
    state = controller.init(np.random.default_rng(seed)) if state is None else state
    points = []
    for _ in range(count):
        proposal, state = controller.propose(state, {"dimension": dimension})
        u = np.array([proposal.values[f"u{i}"] for i in range(dimension)])
        state = controller.observe(state, proposal.token, cost(u), status(u))
        points.append(u)
    return np.array(points), state


def same(one, two):
    return {k: np.asarray(v).tolist() for k, v in one.items()} == {
        k: np.asarray(v).tolist() for k, v in two.items()
    }


@pytest.mark.parametrize("controller", [SobolSteering(), SobolSteering(skip=5), Breed.example(), Breed()])
def test_conformance(controller):
    check_component(controller)
    check_controller(controller)
    check_controller(controller, steps=60)


@QUICK
@given(
    dimension=st.integers(1, 12),
    costs=st.lists(st.sampled_from([0.0, 1e-300, 1.0, 1.0, 7.5, 1e300, 1.7e308]), min_size=1, max_size=5),
    sigma=st.sampled_from([1e-6, 0.05, 0.5]),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    corrected=st.booleans(),
)
def test_points_stay_in_the_cube(dimension, costs, sigma, share, corrected):
    breed = Breed(
        initial=3, period=2, window=5, sigma=sigma, start=share, end=share / 2, corrected=corrected, rounds=3
    )
    given_costs = iter(costs * 30)
    points, state = run(breed, 25, lambda u: next(given_costs), dimension)
    assert points.shape == (25, dimension)
    assert np.isfinite(points).all()
    assert points.min() >= 0
    assert points.max() <= 1
    assert state["weights"].sum() == pytest.approx(1)
    assert len(state["points"]) == len(state["costs"]) == 5


@pytest.mark.parametrize("dimension", [1, 3])
@pytest.mark.parametrize("skip", [0, 7])
def test_sobol_is_a_prefix_of_one_sequence(dimension, skip):
    points, state = run(SobolSteering(skip=skip), 150, lambda u: 1.0, dimension)
    sequence = qmc.Sobol(dimension, scramble=True, seed=np.random.default_rng(state["seed"])).random(256)
    np.testing.assert_array_equal(points, sequence[skip : skip + 150])
    np.testing.assert_array_equal(
        points, unit_points("sobol", dimension, skip + 150, (), state["seed"])[skip:]
    )


@pytest.mark.parametrize("corrected", [True, False])
def test_breed_with_nothing_but_even_points_is_sobol(corrected):
    breed = Breed(initial=4, period=2, start=1.0, end=1.0, corrected=corrected)
    even, _ = run(SobolSteering(), 80, lambda u: 1.0)
    np.testing.assert_array_equal(run(breed, 80, lambda u: u[0])[0], even)
    np.testing.assert_array_equal(run(Breed(initial=80), 80, lambda u: u[0])[0], even)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("corrected", [True, False])
def test_a_hard_corner_gets_more_than_its_volume(seed, corrected):
    breed = Breed(initial=40, period=10, corrected=corrected)

    def cost(u):
        return 10.0 if (u < 0.3).all() else 0.1

    points, _ = run(breed, 300, cost, seed=seed)
    corner = (points[200:] < 0.3).all(axis=1).mean()
    assert corner > 3 * 0.09
    even = (points[:40] < 0.3).all(axis=1).mean()
    assert even < 0.15
    # The corner is not everything: even points go on everywhere.
    assert (points[200:] > 0.5).any(axis=1).mean() > 0.15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_losses_keep_points_even(seed):
    points, _ = run(
        Breed(initial=32, period=16, sigma=0.1, start=0.3, end=0.3), 640, lambda u: 2.0, seed=seed
    )
    counts, _, _ = np.histogram2d(*points[128:].T, bins=4, range=[[0, 1], [0, 1]])
    assert counts.sum() == 512
    # Each of the 16 cells expects 32. Points around clumps of members spread more than independent ones do.
    assert np.sum((counts - 32) ** 2 / 32) < 3 * chi2.ppf(1 - 1e-3, 15)


def test_corrected_weights_do_not_count_how_many_points_a_region_had():
    """Two halves with equal losses, one of which was drawn three times as often."""
    density = np.log(np.repeat([1.5, 0.5], [300, 100]))
    assert importance(np.ones(400))[:300].sum() == pytest.approx(0.75)
    assert importance(np.ones(400), density)[:300].sum() == pytest.approx(0.5)


@QUICK
@given(seed=st.integers(0, 50), power=st.integers(-300, 300), corrected=st.booleans())
def test_the_unit_of_the_loss_does_not_matter(seed, power, corrected):
    breed = Breed(initial=6, period=3, window=9, corrected=corrected)
    points, state = run(breed, 40, lambda u: 1 + u[0], seed=seed)
    again, other = run(breed, 40, lambda u: (1 + u[0]) * 2.0**power, seed=seed)
    np.testing.assert_allclose(points, again, rtol=1e-9)
    np.testing.assert_allclose(state["weights"], other["weights"], rtol=1e-9)


def test_replay_from_a_state_gives_the_same_points():
    breed = Breed(initial=6, period=3)
    _, state = run(breed, 30, lambda u: u[1])
    kept = copy.deepcopy(state)
    first, after = run(breed, 30, lambda u: u[1], state=state)
    again, other = run(breed, 30, lambda u: u[1], state=kept)
    np.testing.assert_array_equal(first, again)
    assert same(state, kept)
    assert same(after, other)
    assert not np.array_equal(run(breed, 30, lambda u: u[1], seed=1)[0], run(breed, 30, lambda u: u[1])[0])


def test_nothing_is_drawn_around_failed_members():
    breed = Breed(initial=32, period=8, sigma=0.02, start=0.0, end=0.0)
    points, state = run(
        breed, 160, lambda u: 1.0, status=lambda u: "diverged" if u[0] > 0.5 else "ok", dimension=2
    )
    assert (state["points"][:, 0] <= 0.5).all()
    late = points[100:, 0]
    assert (late < 0.65).all()


@pytest.mark.parametrize("sigma", [0.03, 0.2, 0.5])
def test_the_density_is_that_of_the_steps(sigma):
    centres, weights = np.array([[0.02], [0.9], [1.0]]), np.array([0.5, 0.2, 0.3])
    grid = (np.arange(4000) + 0.5) / 4000
    density = np.exp(log_mixture(grid[:, None], centres, weights, sigma))
    assert density.mean() == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(0)
    drawn = np.array([step(centres, weights, sigma, rng)[0] for _ in range(4000)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    expected = density.reshape(10, 400).mean(axis=1) * 400
    usual = expected > 5
    chi = np.sum((counts - expected)[usual] ** 2 / expected[usual])
    assert chi < chi2.ppf(1 - 1e-6, usual.sum())


def test_the_density_in_two_dimensions_has_mass_one():
    centres, weights = np.array([[0.0, 0.5], [0.9, 0.95]]), np.array([0.25, 0.75])
    line = (np.arange(300) + 0.5) / 300
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    assert np.exp(log_mixture(grid, centres, weights, 0.1)).mean() == pytest.approx(1, abs=1e-4)


@QUICK
@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=20))
def test_weights_are_in_proportion_to_the_loss(costs):
    weights = importance(np.array(costs))
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    if max(costs) > 0:
        relative = np.array(costs) / max(costs)
        np.testing.assert_allclose(weights / weights.max(), relative, rtol=1e-9, atol=1e-300)
    else:
        np.testing.assert_array_equal(weights, 1 / len(costs))


def test_the_share_of_even_points_falls_to_the_end():
    breed = Breed(start=0.8, end=0.2, rounds=4)
    assert [breed.share(n) for n in range(7)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert Breed(start=0.8, end=0.2, rounds=1).share(1) == pytest.approx(0.8)


@pytest.mark.parametrize(
    "bad",
    [
        {"initial": 0},
        {"period": 0},
        {"window": 0},
        {"rounds": 0},
        {"sigma": 0.0},
        {"sigma": 0.6},
        {"start": 0.2, "end": 0.3},
        {"start": 1.2},
        {"end": -0.1},
    ],
)
def test_bad_numbers_are_refused(bad):
    with pytest.raises(Invalid):
        Breed(**bad)
    with pytest.raises(Invalid):
        SobolSteering(skip=-1)


@pytest.mark.parametrize("controller", [SobolSteering(), Breed()])
@pytest.mark.parametrize("dimension", [0, 1.5, -1])
def test_a_bad_dimension_is_refused(controller, dimension):
    with pytest.raises(Invalid, match="dimension"):
        controller.propose(controller.init(np.random.default_rng(0)), {"dimension": dimension})


@pytest.mark.parametrize("cost", [np.inf, np.nan, -1.0])
def test_a_loss_that_is_no_loss_is_refused(cost):
    breed = Breed()
    proposal, state = breed.propose(breed.init(np.random.default_rng(0)), {"dimension": 2})
    with pytest.raises(Invalid, match="finite"):
        breed.observe(state, proposal.token, cost, "ok")
    after = breed.observe(state, proposal.token, cost, "diverged")
    assert len(after["points"]) == 0
    with pytest.raises(NotFound, match="already"):
        breed.observe(after, proposal.token, 1.0, "ok")
    _, observed = run(breed, 3, lambda u: 1.0)
    with pytest.raises(Invalid, match="had 2 parameters"):
        breed.propose(observed, {"dimension": 3})
