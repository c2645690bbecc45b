"""Quantities of interest: exact for what they promise, bounds that hold, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Field, Invalid
from sciflow.quantities import At, Exceeds, Integral, Maximum, Mean, segment
from sciflow.quantity import Grid

X, Y = np.array([0.0, 0.1, 0.4, 1.0]), np.linspace(-1.0, 2.0, 6)
PLANE = Grid(("y", "x"), {"x": X, "y": Y}, {"x": "m", "y": "m"})
POINTS = Grid(("point", "component"), {"point": np.arange(7.0), "component": np.arange(2.0)})
ALL = [Mean("u"), Integral("u"), Maximum("u"), At("u", position={"x": 0.3, "y": 0.5}),
       Mean("u", low={"x": 0.2}, high={"x": 0.7, "y": 1.1})]  # fmt: skip


def bilinear(a=1.0, b=-2.0, c=0.5, d=3.0):
    return (a + b * X + c * Y[:, None] + d * X * Y[:, None])[None]


def test_integrals_and_means_of_bilinear_fields_are_exact():
    # int_0.2^0.7 int_-1^1.1 (1 - 2 x + y/2 + 3 x y) dx dy, by hand: moments of x and y.
    x0, x1, y0, y1 = 0.5, (0.49 - 0.04) / 2, 2.1, (1.21 - 1) / 2
    exact = x0 * y0 - 2 * x1 * y0 + 0.5 * x0 * y1 + 3 * x1 * y1
    box = {"low": {"x": 0.2}, "high": {"x": 0.7, "y": 1.1}}
    assert Integral("u", **box).of(bilinear(), PLANE)[0] == pytest.approx(exact, rel=1e-12)
    assert Mean("u", **box).of(bilinear(), PLANE)[0] == pytest.approx(exact / (x0 * y0), rel=1e-12)
    assert At("u", position={"x": 0.3, "y": 0.5}).of(bilinear(), PLANE)[0] == pytest.approx(
        1 - 0.6 + 0.25 + 0.45, rel=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_boxes_side_by_side_add_up(a, b, c):
    low, middle, high = sorted((a, b, c))
    if min(middle - low, high - middle) < 1e-6:
        return
    parts = segment(X, low, middle) + segment(X, middle, high)
    np.testing.assert_allclose(parts, segment(X, low, high), atol=1e-12)
    assert segment(X, low, high).sum() == pytest.approx(high - low, abs=1e-12)


def test_a_periodic_integral_does_not_depend_on_where_the_period_begins():
    x = np.arange(12) / 12
    grid = Grid(("x",), {"x": x}, periodic=("x",))
    u = np.random.default_rng(0).random((1, 12))
    whole = Integral("u").of(u, grid)
    assert whole[0] == pytest.approx(u.mean(), rel=1e-12)
    assert Integral("u").of(np.roll(u, 5, axis=1), grid)[0] == pytest.approx(whole[0], rel=1e-12)
    fine = Integral("u").of(np.sin(2 * np.pi * x)[None] ** 2, grid)
    assert fine[0] == pytest.approx(0.5, rel=1e-12)


def test_values_without_a_place_count_alike():
    u = np.random.default_rng(0).random((3, 7, 2))
    np.testing.assert_allclose(Mean("u").of(u, POINTS), u.mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(Maximum("u").of(u, POINTS), u.max(axis=(1, 2)))
    at = At("u", position={"point": 3.0, "component": 1.0})
    np.testing.assert_allclose(at.of(u, POINTS), u[:, 3, 1], rtol=1e-12)


@pytest.mark.parametrize("quantity", [*ALL, Exceeds(Maximum("u"), 0.9), Exceeds(Mean("u"), 0.5)])
def test_no_error_of_the_field_moves_a_quantity_by_more_than_it_says(quantity):
    rng = np.random.default_rng(0)
    u = rng.random((200, 6, 4))
    errors = rng.standard_normal(u.shape) * 10 ** rng.uniform(-3, 0, (200, 1, 1))
    sizes = np.linalg.norm(errors.reshape(200, -1), axis=1)
    moved = np.abs(quantity.of(u + errors, PLANE) - quantity.of(u, PLANE))
    bound = quantity.change(u, sizes, PLANE)
    assert (moved <= bound + 1e-12).all()
    assert (quantity.change(u, np.zeros(200), PLANE) == 0).all()


def test_the_bound_of_a_linear_quantity_is_reached():
    quantity = Mean("u")
    worst = quantity.weights(PLANE)[None]
    bound = quantity.change(worst, np.array([np.linalg.norm(worst)]), PLANE)
    assert quantity.of(worst, PLANE)[0] == pytest.approx(bound[0], rel=1e-12)


@pytest.mark.parametrize("quantity", ALL)
def test_a_constant_moves_means_and_values_by_itself_and_integrals_by_the_area(quantity):
    u = np.random.default_rng(1).random((2, 6, 4))
    area = 3.0 if type(quantity) is Integral else 1.0
    gap = quantity.of(u + 5.0, PLANE) - quantity.of(u, PLANE)
    np.testing.assert_allclose(gap, 5.0 * area, rtol=1e-12)
    assert np.isnan(quantity.of(np.full((1, 6, 4), np.nan), PLANE)[0])


def test_units():
    field = Field(("y", "x"), "K")
    assert Integral("u").unit(field, PLANE) == "K m m"
    units = [q.unit(field, PLANE) for q in (Mean("u"), Maximum("u"), Exceeds(Maximum("u"), 1.0))]
    assert units == ["K", "K", "1"]


@pytest.mark.parametrize(
    ("quantity", "grid", "message"),
    [
        (Integral("u", low={"z": 0.0}), PLANE, "no axis 'z'"),
        (Integral("u", low={"x": 0.7}, high={"x": 0.2}), PLANE, "no part of the domain"),
        (Mean("u", high={"x": 4.0}), PLANE, "no part of the domain"),
        (Integral("u"), POINTS, "take its mean"),
        (Mean("u", low={"point": 1.0}), POINTS, "no length to cut a box of"),
        (At("u", position={"x": 0.1}), PLANE, "names each of the axes"),
        (At("u", position={"x": 1.1, "y": 0.0}), PLANE, "outside of the domain"),
        (Exceeds(At("u"), 1.0), PLANE, "names each of the axes"),
    ],
)
def test_fields_that_a_quantity_cannot_be_made_of_are_refused(quantity, grid, message):
    with pytest.raises(Invalid, match=message):
        quantity.check(grid)


def test_thresholds_that_cannot_be_are_refused():
    with pytest.raises(Invalid, match="is a number"):
        Exceeds(Maximum("u"), float("nan"))
    with pytest.raises(Invalid, match="0 or 1 itself"):
        Exceeds(Exceeds(Maximum("u"), 1.0), 0.5)
