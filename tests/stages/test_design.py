import asyncio
import warnings
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from sciflow import Context, Invalid, NotFound, Parameter, ParameterSpace, run
from sciflow.stages.design import Design, scale, unit_points
from sciflow.store import Store
from tests.toys import Wave

METHODS = ["sobol", "lhs", "random"]
groups = st.lists(st.integers(1, 40), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(METHODS), st.integers(1, 6), st.integers(1, 70), groups, st.integers(0, 2**31))
def test_more_points_leave_the_earlier_ones_where_they_are(method, dimension, count, more, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = unit_points(method, dimension, count, (), seed)
        longer = unit_points(method, dimension, count, more, seed)
    assert first.shape == (count, dimension)
    assert longer.shape == (count + sum(more), dimension)
    np.testing.assert_array_equal(longer[:count], first)
    assert ((longer >= 0) & (longer <= 1)).all()


@given(st.sampled_from(METHODS), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_seed_decides_everything(method, seed):
    one = unit_points(method, 3, 16, (), seed)
    np.testing.assert_array_equal(unit_points(method, 3, 16, (), seed), one)
    assert np.abs(unit_points(method, 3, 16, (), seed + 1) - one).max() > 1e-3


@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_latin_hypercube_has_one_point_in_every_slice(count):
    points = unit_points("lhs", 4, count, (), 0)
    for column in points.T:
        assert sorted(np.floor(column * count).astype(int)) == list(range(count))


def test_sobol_points_are_more_even_than_random_ones():
    discrepancy = {m: qmc.discrepancy(unit_points(m, 3, 256, (), 1)) for m in ("sobol", "random")}
    assert discrepancy["sobol"] < 0.2 * discrepancy["random"]


def test_a_grid_holds_every_combination():
    points = unit_points("grid", 2, 3, (), 0)
    assert {tuple(p) for p in points} == {(i / 2, j / 2) for i in range(3) for j in range(3)}


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.booleans())
def test_scaling_stays_in_bounds_and_keeps_the_ends(low, factor, log):
    space = ParameterSpace(p=Parameter(low, low * factor, "m", log))
    values = scale(np.array([[0.0], [0.25], [0.5], [1.0]]), space)[:, 0]
    assert values.min() >= low
    assert values.max() <= low * factor
    assert (np.diff(values) >= 0).all()
    middle = np.sqrt(low * low * factor) if log else (low + low * factor) / 2
    assert values[2] == pytest.approx(middle, rel=1e-9)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({}, "either a problem or parameters"),
        ({"problem": Wave(), "count": 0}, "at least one point"),
        ({"problem": Wave(), "seed": -1}, "cannot be negative"),
        ({"problem": Wave(), "method": "grid", "more": (3,)}, "cannot be extended"),
        ({"problem": Wave(), "bounds": {"a": (2.0, 1.0)}}, "'a': the lower bound 2.0 must be below"),
        ({"problem": Wave(), "bounds": {"a": (0.0, float("nan"))}}, "'a': bounds must be finite"),
        ({"problem": Wave(), "bounds": {"b": (0.0, 1.0)}}, "'b': .*positive lower bound"),
    ],
)
def test_bad_designs_are_refused(settings_, message):
    with pytest.raises(Invalid, match=message):
        Design(**settings_)


def test_an_unknown_parameter_suggests_the_nearest():
    with pytest.raises(NotFound, match="no parameter 'aa'. .*There is: a, b"):
        Design(problem=Wave(), bounds={"aa": (0.0, 1.0)})


def test_bounds_from_json_are_checked_with_their_path():
    with pytest.raises(Invalid, match=r"design.*bounds.*a"):
        Design.from_json({"problem": {"component": "toy_wave"}, "bounds": {"a": ["x", 2]}})
    explicit = Design.from_json({"parameters": {"k": {"low": 1, "high": 2, "unit": "W"}}, "count": 4})
    assert list(explicit.space) == ["k"]
    assert Design.from_json(explicit.to_json()) == explicit


def test_only_the_parameters_of_a_problem_decide_its_design():
    assert Design(problem=Wave(points=8)).identity() == Design(problem=Wave(points=16)).identity()
    assert Design(problem=Wave(), count=5).identity() != Design(problem=Wave(), count=6).identity()


def test_a_fixed_parameter_has_one_value_and_leaves_the_others_as_they_are(tmp_path):
    space = {"a": Parameter(0.0, 1.0, "m"), "b": Parameter(1.0, 2.0, "s"), "c": Parameter(-1.0, 1.0, "1")}
    rest = {name: p for name, p in space.items() if name != "b"}

    def drawn(**settings):
        design = Design(count=7, seed=3, **settings)
        with Store(tmp_path, "rename").writer(
            design.output, sha256(repr(settings).encode()).hexdigest()
        ) as out:
            design.run({}, out, Context())
            return out.publish({}).read("parameters")

    some = drawn(parameters=space, fixed={"b": 1.25})
    np.testing.assert_array_equal(some[:, [0, 2]], drawn(parameters=rest))
    assert set(some[:, 1]) == {1.25}
    whole = drawn(parameters=space, fixed={"a": 0.5, "b": 5.0, "c": 0.0})
    np.testing.assert_array_equal(whole, np.tile([0.5, 5.0, 0.0], (7, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fixed": {"a": float("nan")}}, "cannot be fixed at nan"),
        ({"fixed": {"a": 0.1}, "bounds": {"a": (0.0, 0.5)}}, "has bounds and is fixed"),
    ],
)
def test_a_parameter_that_cannot_be_fixed(settings, message):
    with pytest.raises(Invalid, match=message):
        Design(parameters={"a": Parameter(0.0, 1.0, "m")}, **settings)


def test_designs_without_fixed_parameters_keep_their_identity():
    plain = Design(problem=Wave()).identity()
    assert "fixed" not in plain
    assert Design(problem=Wave(), fixed={"a": 1.0}).identity() != plain


@pytest.mark.parametrize(("name", "law"), [("a", (0.7, 0.3)), ("a", (1.9, 0.4)), ("b", (0.05, 0.8))])
def test_normal_parameters_follow_their_distribution_within_the_bounds(plain, name, law):
    """Against scipy's truncated normal distribution; the other parameter stays as it was."""
    from scipy.stats import kstest, truncnorm

    found = asyncio.run(run(Design(problem=Wave(), count=512, normal={name: law}, seed=4)))
    even = asyncio.run(run(Design(problem=Wave(), count=512, seed=4)))
    column = ["a", "b"].index(name)
    values, p = found.read("parameters")[:, column], Wave.parameters[name]
    assert (values >= p.low).all()
    assert (values <= p.high).all()
    mean, spread = law
    if p.log:
        values, mean, ends = np.log(values), np.log(mean), np.log([p.low, p.high])
    else:
        ends = np.array([p.low, p.high])
    cut = (ends - mean) / spread
    assert kstest(values, truncnorm(*cut, loc=mean, scale=spread).cdf).statistic < 0.02
    np.testing.assert_array_equal(
        found.read("parameters")[:, 1 - column], even.read("parameters")[:, 1 - column]
    )
    assert found.attributes["normal"] == {name: list(law)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normal": {"a": (1.0, 0.0)}}, "cannot be normal"),
        ({"normal": {"b": (-1.0, 1.0)}}, "cannot be normal"),
        ({"normal": {"a": (90.0, 0.1)}}, "next to nothing"),
        ({"normal": {"a": (1.0, 0.1)}, "fixed": {"a": 1.0}}, "give one of the two"),
        ({"normal": {"a": (1.0, 0.1)}, "method": "grid"}, "a grid has no distribution"),
    ],
)
def test_normal_distributions_that_cannot_be_are_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Design(problem=Wave(), **settings)
