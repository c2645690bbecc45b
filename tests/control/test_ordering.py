"""Orders of designs and of parameter fields."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sciflow import Context, Invalid, Parameter
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate, points_of
from sciflow.store import Store
from sciflow_control.recycling.hilbert import hilbert_index
from sciflow_control.recycling.order_design import OrderDesign
from sciflow_control.recycling.ordering import components, low_frequencies, nearest_first, order, path_length
from sciflow_control.systems.darcy import DarcySystems
from tests.toys import Wave

METHODS = ["none", "greedy", "hilbert"]
tables = st.tuples(st.integers(1, 30), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-100, 100))
)


def every_cell(dimension, bits):
    return np.stack(np.meshgrid(*[np.arange(1 << bits)] * dimension, indexing="ij"), -1).reshape(
        -1, dimension
    )


@pytest.mark.parametrize(("dimension", "bits"), [(1, 6), (2, 1), (2, 5), (3, 3), (4, 2), (5, 2), (6, 1)])
def test_the_curve_visits_every_cell_once_in_steps_of_one(dimension, bits):
    cells = every_cell(dimension, bits)
    index = hilbert_index(cells, bits)
    assert np.array_equal(np.sort(index), np.arange(len(cells)))
    steps = np.abs(np.diff(cells[np.argsort(index)], axis=0))
    assert (steps.sum(axis=1) == 1).all()


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_every_finer_curve_passes_the_coarse_cells_in_the_same_order(dimension):
    fine = every_cell(dimension, 2)
    coarse = fine[np.argsort(hilbert_index(fine, 2))] >> 1
    pieces = coarse.reshape(-1, 1 << dimension, dimension)
    assert (pieces == pieces[:, :1]).all()
    # Each stays within a cell until it is full: near on the curve is near in space.
    assert len(np.unique(pieces[:, 0], axis=0)) == 1 << dimension


def test_on_a_line_the_curve_is_the_line():
    assert np.array_equal(hilbert_index(np.arange(64)[:, None], 6), np.arange(64))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.data())
def test_the_index_of_a_point_does_not_depend_on_the_others(dimension, data):
    bits = 64 // dimension
    cells = data.draw(arrays(np.uint64, (5, dimension), elements=st.integers(0, (1 << bits) - 1)))
    together = hilbert_index(cells, bits)
    assert [int(hilbert_index(c[None], bits)[0]) for c in cells] == [int(i) for i in together]
    equal = (cells[:, None] == cells[None]).all(axis=2)
    assert np.array_equal(together[:, None] == together[None], equal)


@pytest.mark.parametrize(
    ("cells", "bits", "message"),
    [
        (np.array([[4]]), 2, "between 0 and 3"),
        (np.array([[-1]]), 2, "between 0 and 3"),
        (np.zeros((1, 5), int), 13, "64 bits"),
        (np.zeros((1, 2)), 2, "whole numbers"),
        (np.zeros(3, int), 2, "whole numbers"),
    ],
)
def test_cells_outside_the_grid_are_refused(cells, bits, message):
    with pytest.raises(Invalid, match=message):
        hilbert_index(cells, bits)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from(METHODS), st.integers(2, 12))
@example(np.zeros((1, 1)), "hilbert", 2)
@example(np.zeros((9, 3)), "greedy", 3)
def test_an_order_is_a_permutation_and_never_a_longer_way(rows, method, group):
    found = order(rows, method, group)
    assert np.array_equal(np.sort(found), np.arange(len(rows)))
    assert path_length(rows, found) <= path_length(rows, np.arange(len(rows)))


@settings(max_examples=30, deadline=None)
@given(tables, st.integers(0, 1000))
def test_each_next_row_is_the_nearest_that_is_left(rows, seed):
    rows = rows + np.random.default_rng(seed).random(rows.shape)
    path = nearest_first(rows, 0)
    assert path[0] == 0
    for place in range(len(rows) - 1):
        left = np.linalg.norm(rows[path[place + 1 :]] - rows[path[place]], axis=1)
        assert left[0] <= left.min() + 1e-6


@pytest.mark.parametrize("method", ["greedy", "hilbert"])
def test_unit_shift_and_rotation_do_not_change_the_way(method):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 3)) * [3.0, 2.0, 1.0]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    length = path_length(rows, order(rows, method))
    assert np.array_equal(order(1e-6 * rows, method), order(rows, method))
    assert np.array_equal(order(rows + 5.0, method), order(rows, method))
    # The curve may be mirrored, which changes a few of its steps.
    turned = path_length(rows, order(rows @ turn, method))
    assert turned == pytest.approx(length, rel=1e-9 if method == "greedy" else 0.3)


def test_points_on_a_line_are_passed_from_end_to_end():
    rows = np.random.default_rng(1).permutation(200)[:, None] * np.array([[0.3, -0.2]])
    rows = rows[np.argsort(np.abs(rows[:, 0]) > 0, kind="stable")]
    assert path_length(rows, order(rows, "greedy")) == pytest.approx(199 * np.hypot(0.3, 0.2))
    assert path_length(rows, order(rows, "hilbert")) == pytest.approx(199 * np.hypot(0.3, 0.2))


def test_sorted_points_of_a_square_are_far_nearer_to_each_other():
    rows = np.random.default_rng(2).random((1500, 2))
    given_, greedy, hilbert, pieces = (
        path_length(rows, order(rows, *how))
        for how in (("none",), ("greedy",), ("hilbert",), ("greedy", 100))
    )
    # Mean distance of two points .52; nearest-neighbour paths take about 0.9 sqrt(n area).
    assert given_ == pytest.approx(0.52 * 1500, rel=0.1)
    assert greedy < 0.05 * given_
    assert hilbert < 0.06 * given_
    assert pieces < hilbert


def test_a_greedy_way_that_is_longer_than_the_given_one_is_not_taken():
    rows = np.array([[0.0], [-1.5], [1.0], [3.0]])
    assert nearest_first(rows, 0).tolist() == [0, 2, 3, 1]
    assert order(rows, "greedy").tolist() == [0, 1, 2, 3]


def test_groups_are_followed_one_after_the_other():
    rows = np.random.default_rng(3).random((300, 3))
    found = order(rows, "greedy", 50)
    assert path_length(rows, found) < path_length(rows, order(rows, "hilbert"))
    assert path_length(rows, found) < 1.6 * path_length(rows, order(rows, "greedy"))


def test_long_waves_keep_distances_as_far_as_they_go():
    fields = np.random.default_rng(4).standard_normal((6, 9, 7))
    whole = np.linalg.norm(fields[:, None] - fields[None], axis=(2, 3))

    def apart(waves):
        rows = low_frequencies(fields, waves)
        return np.linalg.norm(rows[:, None] - rows[None], axis=2)

    np.testing.assert_allclose(apart(9), whole, atol=1e-12)
    assert (apart(4) <= apart(6) + 1e-12).all()
    assert (apart(6) <= whole + 1e-12).all()
    # A wave is one coefficient.
    wave = np.cos(np.pi * 2 * (np.arange(8) + 0.5) / 8) * np.ones((8, 1))
    found = low_frequencies(wave[None], 4)[0]
    assert np.flatnonzero(np.abs(found) > 1e-12).tolist() == [2]


@pytest.mark.parametrize("shape", [(4, 40), (40, 4)])
def test_components_are_those_of_a_singular_value_decomposition(shape):
    rows = np.random.default_rng(5).standard_normal(shape)
    u, s, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    found = components(rows, 3)
    np.testing.assert_allclose(np.abs(found), np.abs(u * s)[:, :3], atol=1e-10)


@pytest.mark.parametrize("method", ["greedy", "hilbert"])
def test_random_media_are_nearer_in_order(method):
    fields = np.array([s.parameters for s in DarcySystems(14).draw(60, 0)])
    given_, found = path_length(fields, np.arange(60)), path_length(fields, order(fields, method))
    assert found < 0.96 * given_
    as_fields = order(fields.reshape(60, 16, 16), method)
    assert path_length(fields, as_fields) < 0.96 * given_


@pytest.mark.parametrize(
    ("parameters", "how", "message"),
    [
        (np.array([[0.0], [np.nan], [1.0]]), ("greedy",), "row 1 has a parameter that is not finite"),
        (np.array([[np.inf, 1.0]]), ("hilbert",), "row 0"),
        (np.array([[np.nan]]), ("none",), "row 0"),
        (np.zeros((0, 2)), ("greedy",), r"\(0, 2\)"),
        (np.zeros(4), ("greedy",), r"\(4,\)"),
        (np.zeros((3, 2)), ("best",), "none, greedy, hilbert"),
        (np.zeros((3, 2)), ("greedy", 1), "group=1"),
    ],
)
def test_what_has_no_order_is_refused(parameters, how, message):
    with pytest.raises(Invalid, match=message):
        order(parameters, *how)


def write(store, stage, **inputs):
    with store.writer(stage.output, stage.digest()) as out:
        stage.run(inputs, out, Context())
        return out.publish({})


@pytest.mark.parametrize("method", METHODS)
def test_an_ordered_design_holds_the_same_points_and_tells_where_they_were(method, tmp_path):
    store = Store(tmp_path)
    space = {"a": Parameter(1.0, 2.0, "K"), "b": Parameter(1e-6, 1e6, "Pa", log=True)}
    stage = Design(parameters=space, method="random", count=50)
    design = write(store, stage)
    ordered = write(store, OrderDesign(method=method), design=design)
    before, after = design.read("parameters"), ordered.read("parameters")
    assert np.array_equal(before[ordered.read("permutation")], after)
    assert ordered.attributes["bounds"] == design.attributes["bounds"]
    unit = np.stack([after[:, 0] - 1, np.log10(after[:, 1]) / 12 + 0.5], axis=1)
    assert ordered.attributes["path_length"] == pytest.approx(path_length(unit, np.arange(50)))
    shorter = {"none": 1.0, "greedy": 0.35, "hilbert": 0.45}[method]
    assert ordered.attributes["path_length"] <= shorter * ordered.attributes["path_length_given"]


def test_an_ordered_design_is_simulated_like_any_other(tmp_path):
    store = Store(tmp_path)
    design = write(store, Design(problem=Wave(), fixed={"b": 0.1}, count=7))
    ordered = write(store, OrderDesign(), design=design)
    stage = Simulate(Wave())
    stage.check({"design": ordered})
    OrderDesign().check({"design": ordered})
    again = write(store, OrderDesign("none"), design=ordered)
    assert np.array_equal(again.read("parameters"), ordered.read("parameters"))
    assert again.attributes["path_length_given"] == ordered.attributes["path_length"]
    assert np.array_equal(points_of(ordered, Wave()), points_of(design, Wave())[ordered.read("permutation")])


def test_a_point_that_is_not_finite_is_named(tmp_path):
    store = Store(tmp_path)
    stage = Design(problem=Wave(), count=3)
    with store.writer(stage.output, "a" * 64) as out:
        stage.run({}, out, Context())
        bad = np.array([[1.0, 0.1], [1.0, np.nan], [0.5, 0.5]])
        out.write("parameters", bad, stage.output["parameters"])
        design = out.publish({})
    with pytest.raises(Invalid, match="member 1, parameter 'b' is nan"):
        write(store, OrderDesign(), design=design)
