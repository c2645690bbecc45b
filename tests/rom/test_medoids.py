"""k-medoids: against brute force, and what holds for every result."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow_rom.clusters.medoids import changes, faster_pam


def distances(n, seed, kind="plane"):
    rng = np.random.default_rng(seed)
    if kind == "plane":
        x = rng.random((n, 2))
        return np.linalg.norm(x[:, None] - x, axis=2)
    if kind == "ties":
        x = rng.integers(0, 3, (n, 2)).astype(float)
        return np.abs(x[:, None] - x).sum(axis=2)
    found = rng.random((n, n)) ** 3
    found = found + found.T
    np.fill_diagonal(found, 0)
    return found


def loss(matrix, medoids):
    return matrix[list(medoids)].min(axis=0).sum()


def brute(matrix, k):
    return min(loss(matrix, chosen) for chosen in itertools.combinations(range(len(matrix)), k))


cases = {
    "n": st.integers(1, 12),
    "k": st.integers(1, 12),
    "seed": st.integers(0, 10**6),
    "kind": st.sampled_from(["plane", "ties", "any"]),
}


@given(**cases)
@settings(max_examples=150, deadline=None)
def test_no_single_swap_improves_the_result(n, k, seed, kind):
    k = min(k, n)
    matrix = distances(n, seed, kind)
    found = faster_pam(matrix, k, np.random.default_rng(seed), restarts=1)
    assert len(set(found.medoids.tolist())) == k
    assert found.loss == pytest.approx(loss(matrix, found.medoids), rel=1e-12, abs=1e-14)
    for i, c in itertools.product(range(k), range(n)):
        swapped = found.medoids.copy()
        swapped[i] = c
        assert loss(matrix, swapped) >= found.loss - 2e-12 * found.history[0]
    assert (np.diff(found.history) < 0).all()
    assert found.history[-1] == found.loss
    np.testing.assert_array_equal(found.labels[found.medoids], np.arange(k))
    assert matrix[np.arange(n), found.medoids[found.labels]].sum() == pytest.approx(found.loss, abs=1e-14)


@given(**cases)
@settings(max_examples=60, deadline=None)
def test_with_every_start_the_best_is_that_of_brute_force(n, k, seed, kind):
    """Each of the choices is a start, the optimum among them; a descent never ends above its start."""
    n = min(n, 7)
    k = min(k, n)
    matrix, rng = distances(n, seed, kind), np.random.default_rng(seed)
    starts = itertools.combinations(range(n), k)
    best = min(faster_pam(matrix, k, rng, start=np.array(s)).loss for s in starts)
    assert best <= brute(matrix, k) * (1 + 1e-12)


def test_a_few_random_starts_find_what_brute_force_finds():
    missed, cases = 0, 0
    for n, k, seed in itertools.product((8, 10, 12), (2, 3, 5), range(10)):
        matrix = distances(n, seed)
        found = faster_pam(matrix, k, np.random.default_rng(seed), restarts=10)
        exact = brute(matrix, k)
        assert exact * (1 - 1e-12) <= found.loss <= 1.1 * exact
        missed, cases = missed + (found.loss > exact * (1 + 1e-12)), cases + 1
    assert missed <= cases // 30


@given(n=st.integers(2, 40), k=st.integers(1, 8), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_predicted_changes_are_those_of_the_loss(n, k, seed):
    k = min(k, n - 1)
    matrix, rng = distances(n, seed, "any"), np.random.default_rng(seed)
    medoids = rng.choice(n, k, replace=False)
    others = np.setdiff1d(np.arange(n), medoids)
    found = changes(matrix, medoids, others)
    for row, c in enumerate(others):
        for i in range(k):
            swapped = medoids.copy()
            swapped[i] = c
            expected = loss(matrix, swapped) - loss(matrix, medoids)
            assert found[row, i] == pytest.approx(expected, abs=1e-12 * n)


@given(seed=st.integers(0, 10**6), factor=st.sampled_from([2.0**-40, 0.5, 2.0**30]))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_the_distances_does_not_matter(seed, factor):
    """To the bit, for powers of two."""
    matrix = distances(60, seed)
    here = faster_pam(matrix, 5, np.random.default_rng(seed))
    there = faster_pam(factor * matrix, 5, np.random.default_rng(seed))
    np.testing.assert_array_equal(here.medoids, there.medoids)
    assert there.loss == factor * here.loss


def test_the_order_of_the_points_does_not_matter_for_groups_that_are_apart():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 2)) + 50 * np.array([[0, 0], [1, 0], [0, 1]]).repeat(30, axis=0)
    matrix = np.linalg.norm(x[:, None] - x, axis=2)
    order = rng.permutation(90)
    here = faster_pam(matrix, 3, np.random.default_rng(1))
    there = faster_pam(matrix[np.ix_(order, order)], 3, np.random.default_rng(2))
    assert sorted(order[there.medoids].tolist()) == here.medoids.tolist()
    np.testing.assert_array_equal(order[there.medoids[there.labels]], here.medoids[here.labels][order])


def test_equal_generators_give_equal_results_and_starts_only_help():
    matrix = distances(200, 3)
    one, same, more = (
        faster_pam(matrix, 9, np.random.default_rng(4), restarts=restarts) for restarts in (1, 1, 8)
    )
    np.testing.assert_array_equal(one.medoids, same.medoids)
    assert more.loss <= one.loss


@pytest.mark.parametrize(
    ("matrix", "k", "words"),
    [
        (np.zeros((4, 4)), 5, "5 clusters were asked for of 4 members"),
        (np.zeros((4, 4)), 0, "ask for 1 to 4"),
        (np.zeros((4, 3)), 2, "square"),
        (np.full((4, 4), np.nan), 2, "not finite"),
        (np.full((4, 4), -1.0), 2, "negative"),
        (np.zeros((0, 0)), 1, "square"),
    ],
)
def test_what_cannot_be_grouped_is_refused(matrix, k, words):
    with pytest.raises(Invalid, match=words):
        faster_pam(matrix, k, np.random.default_rng(0))


def test_equal_points_still_give_as_many_clusters_as_were_asked_for():
    found = faster_pam(np.zeros((6, 6)), 4, np.random.default_rng(0))
    assert found.loss == 0
    assert set(found.labels.tolist()) == {0, 1, 2, 3}
