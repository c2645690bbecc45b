"""Error measures against independent formulas, loops over points or terms, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow.stages import metrics

MEASURES = [metrics.relative_l2, metrics.relative_l1, metrics.vrmse, metrics.pearson]


def fields(*shape, seed=0, members=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((members, *shape)) + 0.3, rng.standard_normal((members, *shape)) + 0.3


@pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 4, 5)])
def test_measures_are_their_formulas_written_as_sums(shape):
    guess, truth = fields(*shape)
    for member in range(3):
        g, t = guess[member].ravel().tolist(), truth[member].ravel().tolist()
        n = len(g)
        square = sum((a - b) ** 2 for a, b in zip(g, t, strict=True))
        mean_t = sum(t) / n
        variance = sum((b - mean_t) ** 2 for b in t) / n
        got = {
            f.__name__: f(guess, truth)[member] for f in (*MEASURES, metrics.rmse, metrics.conserved_error)
        }
        assert got["rmse"] == pytest.approx((square / n) ** 0.5)
        assert got["relative_l2"] == pytest.approx((square / sum(b * b for b in t)) ** 0.5)
        assert got["vrmse"] == pytest.approx((square / n / variance) ** 0.5)
        absolute = sum(abs(a - b) for a, b in zip(g, t, strict=True))
        assert got["relative_l1"] == pytest.approx(absolute / sum(abs(b) for b in t))
        assert got["conserved_error"] == pytest.approx(abs(sum(g) - sum(t)) / n)
        assert got["pearson"] == pytest.approx(np.corrcoef(g, t)[0, 1])


def test_the_boundary_is_where_an_index_is_the_first_or_the_last():
    guess, truth = fields(5, 4)
    total, count = 0.0, 0
    for i in range(5):
        for j in range(4):
            sides = (i in (0, 4)) + (j in (0, 3))
            total += sides * (guess[0, i, j] - truth[0, i, j]) ** 2
            count += sides
    assert metrics.boundary_rmse(guess, truth, (1, 2))[0] == pytest.approx((total / count) ** 0.5)
    inside = truth.copy()
    inside[:, 1:-1, 1:-1] += 7
    assert metrics.boundary_rmse(inside, truth, (1, 2)).max() == 0


@pytest.mark.parametrize("shape", [(30,), (28, 30), (31, 27)])
def test_bands_are_sums_over_wavevectors(shape):
    guess, truth = fields(*shape, members=2)
    largest = min(shape) // 2
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape))
    error = (guess - truth).reshape(2, -1)
    sums = np.zeros((2, 3))
    signed = [np.arange(n) - n * (np.arange(n) > (n - 1) // 2) for n in shape]
    for vector in np.stack(np.meshgrid(*signed, indexing="ij"), axis=-1).reshape(-1, len(shape)):
        length = int(np.sqrt((vector**2).sum()) + 1e-9)
        band = 0 if length <= 4 else 1 if length <= 12 else 2 if length <= largest else None
        if band is not None:
            wave = np.exp(-2j * np.pi * (points * vector / np.array(shape)).sum(axis=1))
            sums[:, band] += np.abs(error @ wave / error.shape[1]) ** 2
    expected = np.sqrt(sums) / np.array([5, 8, largest - 12])
    np.testing.assert_allclose(
        metrics.fourier_rmse(guess, truth, range(1, 1 + len(shape))), expected, rtol=1e-9
    )


@pytest.mark.parametrize("points", [32, 64, 129])
@pytest.mark.parametrize(("wave", "band", "width"), [(3, 0, 5), (9, 1, 8)])
def test_a_wave_has_one_size_on_every_grid(points, wave, band, width):
    x = np.arange(points) / points
    guess = 0.1 * np.cos(2 * np.pi * wave * x)[None]
    found = metrics.fourier_rmse(guess, np.zeros_like(guess), (1,))[0]
    assert found[band] == pytest.approx(0.1 / np.sqrt(2) / width)
    assert np.delete(found, band).max() < 1e-15


def test_a_band_that_the_grid_does_not_resolve_has_no_error():
    guess, truth = fields(16)
    found = metrics.fourier_rmse(guess, truth, (1,))
    assert np.isfinite(found[:, :2]).all()
    assert np.isnan(found[:, 2]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.integers(0, 4))
def test_measures_without_a_unit_do_not_know_units_and_order(seed, factor, roll):
    guess, truth = fields(5, 4, seed=seed)
    for measure in MEASURES:
        plain = measure(guess, truth)
        np.testing.assert_allclose(measure(factor * guess, factor * truth), plain, rtol=1e-9)
        np.testing.assert_allclose(measure(guess[::-1], truth[::-1]), plain[::-1], rtol=1e-12)
        np.testing.assert_allclose(
            measure(np.roll(guess, roll, 1), np.roll(truth, roll, 1)), plain, rtol=1e-9
        )
    shifted = metrics.vrmse(guess + 5, truth + 5)
    np.testing.assert_allclose(shifted, metrics.vrmse(guess, truth), rtol=1e-9)
    np.testing.assert_allclose(
        metrics.pearson(3 * guess - 2, truth), metrics.pearson(guess, truth), atol=1e-9
    )
    assert (metrics.conserved_error(guess, truth) <= metrics.rmse(guess, truth)).all()


def test_what_a_measure_is_worth():
    _, truth = fields(6, 6)
    mean = np.broadcast_to(truth.mean(axis=(1, 2), keepdims=True), truth.shape)
    np.testing.assert_allclose(metrics.vrmse(mean, truth), 1)
    zero = np.zeros_like(truth)
    np.testing.assert_allclose(metrics.relative_l2(zero, truth), 1)
    np.testing.assert_allclose(metrics.relative_l1(zero, truth), 1)
    np.testing.assert_allclose(metrics.pearson(-truth, truth), -1)
    assert np.isnan(metrics.pearson(zero, truth)).all()
    assert not any(f(truth, truth).max() for f in MEASURES[:3])


def test_levels_are_measured_one_by_one():
    guess, truth = fields(3, 5, 4)
    for axis in (1, 2, 3):
        space = [i for i in (1, 2, 3) if i != axis]
        for measure, more in (
            (metrics.vrmse, ()),
            (metrics.boundary_rmse, (space,)),
            (metrics.fourier_rmse, (space,)),
        ):
            found = metrics.by_level(measure, guess, truth, axis, *more)
            for level in range(guess.shape[axis]):
                a, b = (np.take(v, level, axis) for v in (guess, truth))
                expected = measure(a, b, (1, 2)) if more else measure(a, b)
                np.testing.assert_allclose(found[:, level], expected)
    assert metrics.by_level(metrics.rmse, guess, truth, None).shape == (3, 1)


def test_what_is_lost_of_a_conserved_amount_is_at_most_the_error():
    rng = np.random.default_rng(0)
    truth, guess = rng.standard_normal((2, 6, 5, 4)) + 1.0
    lost = metrics.conservation(guess, truth)
    by_hand = [abs(g.mean() - t.mean()) / np.sqrt((t**2).mean()) for g, t in zip(guess, truth, strict=True)]
    np.testing.assert_allclose(lost, by_hand)
    assert (lost <= metrics.relative_l2(guess, truth) + 1e-12).all()
    moved = np.roll(truth, 2, axis=2)
    np.testing.assert_allclose(metrics.conservation(moved, truth), 0.0, atol=1e-14)
    zero = np.zeros((1, 3))
    assert metrics.conservation(zero, zero)[0] == 0
    assert metrics.conservation(zero + 1, zero)[0] == np.inf
