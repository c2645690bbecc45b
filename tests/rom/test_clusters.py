"""Dissimilarities, clusterings and local bases: theorems, oracles, and the stage."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Context, Invalid
from sciflow_rom.bases import (
    dictionary_curves,
    error_curves,
    local_bases,
    member_errors,
    numerical_rank,
    pod,
    projection_errors,
)
from sciflow_rom.clusters.clusterers import (
    VQPCA,
    Chordal,
    Euclidean,
    Grassmann,
    Hierarchical,
    KMeans,
    KMedoids,
    MaxAngle,
    Parameters,
    ProjectionError,
    Sine,
    overlapping,
)
from sciflow_rom.clusters.clustering import Cluster, basis_rows, load_clustering
from sciflow_rom.clusters.dissimilarity import angles, sine
from sciflow_rom.clusters.refinement import refine
from sciflow_rom.compress.compression import Compress
from sciflow_rom.coordinates import Coordinates
from tests.rom.ensembles import write

ANGLES = [Sine(), MaxAngle(2), Grassmann(2), Chordal(2)]
ALL = [*ANGLES, ProjectionError(2), Euclidean(), Euclidean(normalised=True), Parameters()]
CLUSTERERS = [
    KMedoids(3),
    KMeans(3),
    KMeans(3, of="snapshots"),
    Hierarchical(3),
    VQPCA(KMedoids(3), modes=1),
]


def ids(component):
    return component.name


def held(snapshots, levels=1, floor=1e-14, names=None):
    """Coordinates of snapshots (dof, member * level), the levels of a member side by side."""
    count = snapshots.shape[1] // levels
    names = np.arange(count) if names is None else names
    times = np.tile(np.arange(levels), count) if levels > 1 else np.full(count, -1)
    points = np.stack([names * 1.0, 2.0 ** (names % 5)], axis=1).repeat(levels, axis=0)
    triangle = np.linalg.qr(snapshots)[1]
    return Coordinates(triangle, names.repeat(levels), times, points, floor, (False, True))


def some(members=12, levels=1, dof=30, seed=0, rank=None):
    rng = np.random.default_rng(seed)
    width = rank or dof
    return rng.standard_normal((dof, width)) @ rng.standard_normal((width, members * levels))


def groups_of_lines(seed=0, each=12, spread=0.05):
    """Three directions, with noise, any size and sign; and the group of each."""
    rng = np.random.default_rng(seed)
    base = np.linalg.qr(rng.standard_normal((25, 3)))[0]
    group = rng.permutation(np.arange(3).repeat(each))
    noisy = base[:, group] + spread * rng.standard_normal((25, 3 * each)) / 5
    return noisy * 10.0 ** rng.uniform(-2, 2, 3 * each) * rng.choice([-1, 1], 3 * each), group


# -- theorems of the sine --------------------------------------------------------------------------

seeds = st.integers(0, 10**6)


@given(seed=seeds, size=st.floats(-6, 6))
@settings(max_examples=60, deadline=None)
def test_the_sine_is_the_error_of_projecting_one_on_the_other(seed, size):
    """P1: the least of |u - a v| / |u| over all a."""
    u, v = some(2, seed=seed).T
    v = v * 10**size + 0.5 * u
    a = np.linalg.lstsq(v[:, None], u, rcond=None)[0]
    expected = np.linalg.norm(u - a * v) / np.linalg.norm(u)
    found = Sine().matrix(held(np.stack([u, v], axis=1)))
    assert found[0, 1] == pytest.approx(expected, rel=1e-9)
    basis = pod(held(np.stack([u, v], axis=1)), np.array([1]))
    assert projection_errors(held(np.stack([u, v], axis=1)), basis)[0] == pytest.approx(expected, rel=1e-9)


@given(seed=seeds, extra=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_space_that_holds_the_medoid_has_a_larger_error_than_the_sine(seed, extra):
    """P2: |u - P_V u| / |u| <= sine(u, m) for m in V; so the loss bounds the mean error."""
    coordinates = held(some(9, seed=seed))
    found = KMedoids(1).fit(coordinates, Sine(), np.random.default_rng(seed))
    others = np.random.default_rng(seed).choice(9, extra, replace=False)
    space = pod(coordinates, np.union1d(found.medoids, others))
    errors = projection_errors(coordinates, space)
    assert (errors <= Sine().to(coordinates, found.medoids, coordinates)[:, 0] + 1e-12).all()
    assert errors.mean() <= found.loss + 1e-12


@pytest.mark.parametrize("exponent", [1, 3, 5, 7, 8, 9, 11, 13])
def test_small_angles_are_right_as_well(exponent):
    """1 - c^2 alone is blind below 1e-8."""
    tiny = 10.0**-exponent
    u, w = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 2)))[0].T
    v = -3.0 * (u + tiny * w)
    expected = tiny / np.sqrt(1 + tiny**2)
    tolerance = max(1e-12, 1e-15 / tiny)
    pair = np.stack([u, v / np.linalg.norm(v)], axis=1)
    assert sine(pair, pair)[0, 1] == pytest.approx(expected, rel=tolerance)
    found = angles(u[None, :, None], pair.T[1:, :, None])
    assert np.sin(found[0, 0, 0]) == pytest.approx(expected, rel=tolerance)
    for one in (MaxAngle(1), ProjectionError(1)):
        assert one.matrix(held(np.stack([u, v], axis=1), floor=1e-15))[0, 1] == pytest.approx(
            expected, rel=10 * tolerance
        )


# -- all dissimilarities ---------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("measure", ALL, ids=ids)
def test_a_dissimilarity_is_symmetric_and_knows_new_members(measure, levels):
    coordinates = held(some(levels=levels, seed=levels), levels)
    found = measure.matrix(coordinates)
    assert found.shape == (12, 12)
    assert (found >= 0).all()
    assert (np.diagonal(found) == 0).all()
    np.testing.assert_array_equal(found, found.T)
    rows = np.array([7, 2, 9])
    np.testing.assert_allclose(measure.to(coordinates, rows, coordinates), found[:, rows], atol=1e-7)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("measure", ANGLES + ALL[5:], ids=ids)
@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_metrics_satisfy_the_triangle_inequality(measure, levels, seed):
    found = measure.matrix(held(some(8, levels, seed=seed, rank=5), levels))
    longest = (found[:, :, None] - found[:, None, :] - found[None]).max()
    assert longest <= 1e-7 * found.max()


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("measure", ALL, ids=ids)
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_members_does_not_matter(measure, levels, seed):
    snapshots, order = some(levels=levels, seed=seed), np.random.default_rng(seed).permutation(12)
    here = measure.matrix(held(snapshots, levels))
    blocks = snapshots.reshape(len(snapshots), 12, levels)[:, order].reshape(len(snapshots), -1)
    there = measure.matrix(held(blocks, levels, names=order))
    np.testing.assert_allclose(there, here[np.ix_(order, order)], rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("measure", [*ALL[:5], Euclidean(normalised=True)], ids=ids)
@given(seed=seeds, exponent=st.integers(-12, 12))
@settings(max_examples=10, deadline=None)
def test_units_and_amplitudes_do_not_matter_to_angles(measure, levels, seed, exponent):
    snapshots = some(levels=levels, seed=seed)
    sizes = np.random.default_rng(seed).uniform(0.5, 2, 12).repeat(levels) * 10.0**exponent
    if not isinstance(measure, Euclidean):
        sizes *= np.random.default_rng(seed).choice([-1, 1], 12).repeat(levels)
    here, there = measure.matrix(held(snapshots, levels)), measure.matrix(held(snapshots * sizes, levels))
    np.testing.assert_allclose(there, here, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("measure", [Euclidean(), Parameters()], ids=ids)
def test_what_depends_on_the_unit_does_so_as_it_should(measure):
    here, there = measure.matrix(held(some())), measure.matrix(held(-1e3 * some()))
    np.testing.assert_allclose(there, here * (1e3 if measure.name == "euclidean" else 1), rtol=1e-9)


@given(seed=seeds, n=st.integers(1, 4), near=st.floats(-9, 0))
@settings(max_examples=40, deadline=None)
def test_angles_are_those_of_scipy(seed, n, near):
    rng = np.random.default_rng(seed)
    ours = np.stack([np.linalg.qr(rng.standard_normal((20, n)))[0] for _ in range(2)])
    theirs = np.stack([np.linalg.qr(b + 10**near * rng.standard_normal((20, n)))[0] for b in ours])
    found = angles(ours, theirs)
    for i in range(2):
        for j in range(2):
            expected = np.sort(scipy.linalg.subspace_angles(ours[i], theirs[j]))
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-5, atol=1e-13)


@pytest.mark.parametrize("measure", [Sine(), MaxAngle(3), Chordal(3), ProjectionError(3)], ids=ids)
def test_with_one_level_all_angles_are_the_same(measure):
    coordinates = held(some(rank=4))
    np.testing.assert_allclose(measure.matrix(coordinates), Sine().matrix(coordinates), atol=1e-7)


@pytest.mark.parametrize("exponent", [2, 6, 9, 12])
def test_small_distances_are_right_as_well(exponent):
    tiny, rng = 10.0**-exponent, np.random.default_rng(0)
    u, w = np.linalg.qr(rng.standard_normal((50, 2)))[0].T
    found = Euclidean().matrix(held(np.stack([u, u + tiny * w, 3 * w], axis=1)))
    assert found[0, 1] == pytest.approx(tiny, rel=max(1e-9, 1e-15 / tiny))


def test_the_stacked_product_is_the_sum_over_the_levels():
    snapshots = some(levels=4)
    whole = snapshots.reshape(30, 12, 4).transpose(0, 2, 1).reshape(120, 12)
    for measure in (Sine(), Euclidean()):
        here, there = measure.matrix(held(snapshots, 4)), measure.matrix(held(whole))
        np.testing.assert_allclose(here, there, rtol=1e-9)


def test_parameters_are_taken_in_logarithms_where_they_are_spread_so():
    coordinates = held(some(members=10))
    rows = np.stack([np.arange(10.0), np.arange(10) % 5 * np.log(2.0)], axis=1)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    expected = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.testing.assert_allclose(Parameters().matrix(coordinates), expected, atol=1e-12)
    few = coordinates.of(np.array([1, 2]))
    found = Parameters().to(coordinates, np.array([0, 5]), few)
    np.testing.assert_allclose(found, expected[1:3][:, [0, 5]], atol=1e-12)


# -- bases -----------------------------------------------------------------------------------------


@given(seed=seeds, exponent=st.floats(-6, 0), normalised=st.booleans(), levels=st.integers(1, 2))
@settings(max_examples=50, deadline=None)
def test_the_basis_meets_the_tolerance_and_no_smaller_one_would(seed, exponent, normalised, levels):
    """Lifted from the snapshots themselves; the least error of any basis is a sum of singular values."""
    tolerance, rng = 10**exponent, np.random.default_rng(seed)
    snapshots = some(8, levels, seed=seed) @ np.diag(10.0 ** rng.uniform(-4, 0, 8 * levels))
    columns = rng.choice(8 * levels, 6, replace=False)
    basis = pod(held(snapshots, levels), columns, tolerance=tolerance, normalised=normalised)
    chosen = snapshots[:, columns]
    modes = chosen @ basis.weights
    np.testing.assert_allclose(modes.T @ modes, np.eye(basis.modes), atol=1e-8)
    if normalised:
        own = (columns // levels)[:, None] == columns // levels
        chosen = chosen / np.sqrt(own @ np.square(chosen).sum(axis=0))
    rest = np.linalg.norm(chosen - modes @ (modes.T @ chosen)) / np.linalg.norm(chosen)
    assert rest <= tolerance * (1 + 1e-6) + 1e-14
    sigma = np.linalg.svd(chosen, compute_uv=False)
    np.testing.assert_allclose(basis.sigma, sigma, rtol=1e-7, atol=1e-12 * sigma[0])
    if basis.modes > 1:
        assert np.linalg.norm(sigma[basis.modes - 1 :]) > tolerance * np.linalg.norm(sigma) * (1 - 1e-6)


@given(seed=seeds, levels=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_one_pass_gives_the_errors_of_all_numbers_of_modes(seed, levels):
    snapshots = some(10, levels, seed=seed)
    coordinates = held(snapshots, levels)
    basis = pod(coordinates, np.arange(5 * levels))
    curves = error_curves(coordinates, basis)
    assert (curves[0] == 1).all()
    assert (np.diff(curves, axis=0) <= 1e-12).all()
    for n in range(1, basis.modes + 1):
        fewer = pod(coordinates, np.arange(5 * levels), modes=n)
        modes = snapshots[:, : 5 * levels] @ fewer.weights
        rest = np.linalg.norm(
            (snapshots - modes @ (modes.T @ snapshots)).reshape(30, 10, levels), axis=(0, 2)
        )
        expected = rest / np.linalg.norm(snapshots.reshape(30, 10, levels), axis=(0, 2))
        np.testing.assert_allclose(curves[n], expected, atol=1e-10)
    np.testing.assert_allclose(member_errors(coordinates, basis), curves[-1], atol=1e-12)
    assert curves[-1, :5].max() < 1e-11


def test_small_errors_do_not_drown_in_rounding():
    u = np.linalg.qr(np.random.default_rng(1).standard_normal((40, 4)))[0]
    snapshots = u @ np.array([[1, 1.0], [0, 1e-5], [0, 1e-9], [0, 1e-12]])
    found = error_curves(held(snapshots, floor=1e-15), pod(held(snapshots, floor=1e-15), np.array([0])))
    assert found[1, 1] == pytest.approx(1e-5, rel=1e-6)
    assert found[1, 0] < 1e-15


def test_the_coordinates_of_a_basis_are_what_its_weights_give():
    coordinates = held(some(levels=2), 2)
    for normalised in (False, True):
        basis = pod(coordinates, np.arange(10), modes=4, normalised=normalised)
        np.testing.assert_allclose(
            coordinates.triangle[:, basis.columns] @ basis.weights, basis.coordinates, atol=1e-10
        )


def test_more_modes_than_the_snapshots_span_are_refused():
    coordinates = held(some(rank=3))
    assert numerical_rank(coordinates, np.arange(12)) == 3
    assert pod(coordinates, np.arange(12)).modes == 3
    with pytest.raises(Invalid, match=r"4 modes were asked for; these 12 snapshots span 3"):
        pod(coordinates, np.arange(12), modes=4)
    noisy = held(some(rank=3) + 1e-9 * some(seed=1), floor=1e-7)
    with pytest.raises(Invalid, match="cannot be told from noise"):
        pod(noisy, np.arange(12), tolerance=1e-10)
    assert pod(noisy, np.arange(12), tolerance=1e-6).modes == 3
    assert pod(noisy, np.arange(12), tolerance=1e-6, modes=2).modes == 2


def test_noise_that_is_scaled_up_with_a_small_snapshot_is_still_noise():
    """What is 1e-9 of the largest snapshot is 1e-5 of one that is 1e4 times smaller."""
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 2)))[0]
    snapshots = np.stack([u[:, 0], 1e-4 * u[:, 0] + 1e-9 * u[:, 1]], axis=1)
    coordinates = held(snapshots, floor=1e-8)
    for normalised in (False, True):
        assert numerical_rank(coordinates, np.arange(2), normalised=normalised) == 1
    assert numerical_rank(held(snapshots, floor=1e-12), np.arange(2), normalised=True) == 2


@pytest.mark.parametrize(
    ("columns", "change", "words"),
    [
        ([], 1.0, "at least one snapshot"),
        ([3], 0.0, "zero"),
        ([3], np.nan, r"members \[3\] are not finite"),
        ([3, 4], 1e-20, None),
    ],
)
def test_snapshots_that_are_no_basis_are_refused(columns, change, words):
    coordinates = held(some())
    triangle = coordinates.triangle.copy()
    triangle[:, 3] *= change
    coordinates = Coordinates(triangle, coordinates.members, coordinates.levels, coordinates.points, 1e-14)
    if words is None:
        assert pod(coordinates, np.array(columns), normalised=True).modes == 1
        return
    with pytest.raises(Invalid, match=words):
        pod(coordinates, np.array(columns, dtype=int), normalised=True)


def test_a_cluster_of_one_member_has_one_mode():
    coordinates = held(some())
    bases = local_bases(coordinates, [np.array([4]), np.arange(5, 12)], modes=3)
    assert [b.modes for b in bases] == [1, 3]
    curves = dictionary_curves(coordinates, bases, np.array([0] * 5 + [1] * 7), 5)
    assert curves[1:, 4].max() < 1e-14
    np.testing.assert_array_equal(curves[1], np.where(np.arange(12) < 5, curves[5], curves[1]))


# -- clusterings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clusterer", [KMedoids(3), Hierarchical(3), VQPCA(KMedoids(3), modes=1)], ids=ids)
@pytest.mark.parametrize("seed", range(3))
def test_directions_that_are_apart_are_found_whatever_the_amplitudes_and_the_order(clusterer, seed):
    snapshots, group = groups_of_lines(seed)
    whole = held(np.hstack([snapshots, -7.0 * snapshots[:, ::2]]), names=np.arange(54))
    known, new = whole.of(np.arange(36)), whole.of(np.arange(36, 54))
    found = clusterer.fit(known, Sine(), np.random.default_rng(seed))
    of = dict(zip(found.labels.tolist(), group.tolist(), strict=True))
    assert sorted(of.values()) == [0, 1, 2]
    assert [of[k] for k in found.labels.tolist()] == group.tolist()
    labels = clusterer.assign(found, known, Sine(), new)
    assert [of[k] for k in labels.tolist()] == group[::2].tolist()


@pytest.mark.parametrize("measure", ALL, ids=ids)
@pytest.mark.parametrize("clusterer", CLUSTERERS, ids=lambda c: f"{c.name}-{getattr(c, 'of', '')}")
def test_every_cluster_has_members_and_its_medoid_among_them(clusterer, measure):
    coordinates = held(some(20, 2, seed=3), 2)
    found = clusterer.fit(coordinates, measure, np.random.default_rng(0))
    assert found.labels.shape == (20,)
    assert sorted(set(found.labels.tolist())) == [0, 1, 2]
    np.testing.assert_array_equal(found.labels[found.medoids], np.arange(3))
    matrix = measure.matrix(coordinates)
    assert found.loss == pytest.approx(matrix[np.arange(20), found.medoids[found.labels]].mean())
    again = clusterer.fit(coordinates, measure, np.random.default_rng(0))
    np.testing.assert_array_equal(found.labels, again.labels)


def test_refinement_lowers_the_squared_error_in_every_round():
    coordinates = held(some(60, rank=8, seed=5))
    begun = KMedoids(4).fit(coordinates, Sine(), np.random.default_rng(0))
    found = VQPCA(KMedoids(4), modes=2).fit(coordinates, Sine(), np.random.default_rng(0))
    assert len(found.history) > 2
    assert (np.diff(found.history) < 0).all()
    errors = [
        np.square(
            dictionary_curves(
                coordinates, local_bases(coordinates, [c.members(k) for k in range(4)], modes=2), c.labels, 2
            )[2]
        ).mean()
        for c in (begun, found)
    ]
    assert errors == pytest.approx([found.history[0], found.history[-1]])


@given(seed=seeds, modes=st.integers(1, 6), rank=st.integers(2, 6), levels=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_refinement_loses_no_cluster_and_always_ends_lower(seed, modes, rank, levels):
    coordinates = held(some(20, levels, seed=seed, rank=rank), levels)
    start = np.random.default_rng(seed).permutation(np.arange(20) % 8)
    labels, history = refine(coordinates, start, 8, modes, 30)
    assert sorted(set(labels.tolist())) == list(range(8))
    assert (np.diff(history) < 0).all()


def test_neighbours_join_a_basis_by_their_nearness():
    coordinates = held(some(30))
    found = KMedoids(3).fit(coordinates, Sine(), np.random.default_rng(0))
    near = Sine().to(coordinates, found.medoids, coordinates)
    for k, (alone, more) in enumerate(
        zip(overlapping(found, near, 0.0), overlapping(found, near, 0.5), strict=True)
    ):
        np.testing.assert_array_equal(alone, found.members(k))
        joined = np.setdiff1d(more, alone)
        assert len(joined) == round(0.5 * len(alone))
        assert near[joined, k].max() <= near[np.setdiff1d(np.arange(30), more), k].min()


@pytest.mark.parametrize("clusterer", CLUSTERERS, ids=ids)
def test_more_clusters_than_members_are_refused(clusterer):
    with pytest.raises(Invalid, match="3 clusters were asked for of 2 members"):
        clusterer.fit(held(some(2)), Sine(), np.random.default_rng(0))


@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("measure", ALL[:5], ids=ids)
def test_members_without_a_direction_are_named(measure, value):
    coordinates = held(some())
    triangle = coordinates.triangle.copy()
    triangle[:, 7] = value
    with pytest.raises(Invalid, match=r"members \[7\]"):
        measure.matrix(
            Coordinates(triangle, coordinates.members, coordinates.levels, coordinates.points, 0.0)
        )


def test_trajectories_of_different_lengths_have_no_stacked_angle():
    whole = held(some(6, 3), 3)
    keep = np.arange(18) != 17
    cut = Coordinates(
        whole.triangle[:, keep], whole.members[keep], whole.levels[keep], whole.points[keep], 0.0
    )
    with pytest.raises(Invalid, match="member 5 has other time levels"):
        Sine().matrix(cut)
    assert MaxAngle(2).matrix(cut).shape == (6, 6)


# -- the stage -------------------------------------------------------------------------------------


def publish(stage, store, recipe, **inputs):
    stage.check(inputs)
    with store.writer(stage.output, recipe * 64) as out:
        stage.run(inputs, out, Context())
        return out.publish({})


@pytest.fixture
def compression(store):
    values = np.random.default_rng(0).standard_normal((40, 3, 9))
    lines = {"time": [0.0, 1.0, 2.0], "x": np.linspace(0, 1, 9)}
    ensemble = write(store, values, ("time", "x"), coordinates=lines)
    return publish(Compress(field="u", product="euclidean"), store, "1", ensemble=ensemble)


def test_the_stage_groups_training_members_and_labels_the_others(store, compression):
    stage = Cluster(clusterer=KMedoids(4), overlap=0.5)
    made = publish(stage, store, "2", compression=compression)
    np.testing.assert_array_equal(made.read("members"), compression.read("train_members"))
    others = np.concatenate([compression.read("valid_members"), compression.read("test_members")])
    np.testing.assert_array_equal(np.sort(made.read("other_members")), np.sort(others))
    found = load_clustering(made)
    assert found.clusters == 4
    near = made.read("other_to_medoids")
    np.testing.assert_array_equal(made.read("other_labels"), near.argmin(axis=1))
    for k, rows in enumerate(basis_rows(made)):
        assert set(found.members(k)) <= set(rows)
        assert len(rows) == len(found.members(k)) + round(0.5 * len(found.members(k)))
    again = publish(stage, store, "3", compression=compression)
    assert again.digest == made.digest


def test_the_stage_refuses_more_clusters_than_training_members(compression):
    with pytest.raises(Invalid, match="33 clusters were asked for of 32 members"):
        Cluster(clusterer=KMedoids(33)).check({"compression": compression})
    with pytest.raises(Invalid, match="overlap"):
        Cluster(overlap=1.5)
