"""Spaces: which arms there are, and what cannot be one."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow.component import canonical
from sciflow.errors import Invalid, NotFound
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import (
    DIRECT,
    METHODS,
    PRECONDITIONERS,
    Joined,
    Options,
    Relaxation,
    Solvers,
    Space,
)
from sciflow_control.tuned.solver import Tuned

SPACES = [Relaxation(), Solvers(), Options.example(), Joined.example()]


@given(low=st.floats(0.01, 1.5), width=st.floats(1e-3, 0.49), count=st.integers(2, 50))
def test_relaxation_parameters_lie_evenly_between_both_ends(low, width, count):
    space = Relaxation(low, low + width, count)
    omegas = [a["omega"] for a in space.arms]
    assert len(omegas) == count
    assert (omegas[0], omegas[-1]) == (low, low + width)
    assert all(math.isclose(b - a, width / (count - 1), rel_tol=1e-6) for a, b in pairwise(omegas))


def test_solvers_have_an_arm_for_each_omega_where_it_matters():
    space = Solvers(("cg+icc", "gmres+sor", "given", "lu", "richardson+ssor", "cg+none"), (1.0, 1.5))
    assert space.arms == (
        {"method": "cg+icc"},
        {"method": "gmres+sor", "omega": 1.0},
        {"method": "gmres+sor", "omega": 1.5},
        {"method": "given"},
        {"method": "lu"},
        {"method": "richardson+ssor", "omega": 1.0},
        {"method": "richardson+ssor", "omega": 1.5},
        {"method": "cg+none"},
    )


def test_every_method_goes_with_every_preconditioner_but_one():
    pairs = [f"{m}+{p}" for m in METHODS for p in PRECONDITIONERS]
    asymmetric = {"cg+sor", "fcg+sor", "minres+sor"}
    assert len(Solvers(tuple(p for p in pairs if p not in asymmetric), (1.5,)).arms) == len(pairs) - 3
    assert Solvers(DIRECT).arms == ({"method": "cholesky"}, {"method": "lu"})
    for pair in asymmetric:
        with pytest.raises(Invalid, match=r"needs a symmetric preconditioner, use '\w+\+ssor'"):
            Solvers((pair,))


def test_options_are_combined():
    space = Options({"smoother": ("jacobi", "sor"), "level": (2, 3)})
    assert space.arms == (
        {"level": 2, "smoother": "jacobi"},
        {"level": 2, "smoother": "sor"},
        {"level": 3, "smoother": "jacobi"},
        {"level": 3, "smoother": "sor"},
    )
    binary = Options({f"condition_{i}": (0, 1) for i in range(5)})
    assert len(binary.arms) == 32


def test_equal_digests_are_equal_arms():
    one = Options({"a": (1, 2), "b": ("x", "y")})
    other = Options({"b": ("x", "y"), "a": (1, 2)})
    assert one.digest() == other.digest()
    assert one.arms == other.arms
    assert Options({"a": (2, 1), "b": ("x", "y")}).digest() != one.digest()


def test_spaces_are_joined_one_after_the_other():
    parts = (Relaxation(1.0, 1.5, 3), Solvers(("cg+icc",)))
    assert Joined(parts).arms == parts[0].arms + parts[1].arms


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_every_arm_is_in_one_family_whose_members_differ_in_one_number(space):
    assert sorted(i for family in space.families for i in family) == list(range(len(space.arms)))
    for family in space.families:
        arms = [space.arms[i] for i in family]
        differing = {k for k in arms[0] if len({a[k] for a in arms}) > 1}
        assert len(differing) <= 1
        for name in differing:
            values = [a[name] for a in arms]
            assert values == sorted(values)


def test_families_go_along_the_number_with_most_values():
    space = Options({"levels": (2, 3), "threshold": (0.1, 0.0, 0.2), "smoother": ("sor", "jacobi")})
    assert sorted(map(len, space.families)) == [3, 3, 3, 3]
    first = [space.arms[i] for i in space.families[0]]
    assert [a["threshold"] for a in first] == [0.0, 0.1, 0.2]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_an_arm_is_found_by_its_settings(space):
    for i, arm in enumerate(space.arms):
        assert space.index(dict(reversed(arm.items()))) == i
    with pytest.raises(NotFound, match=r"no arm \{'omega': 3.0\}"):
        space.index({"omega": 3.0})


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_json_gives_the_space_back(space):
    again = Space.from_json(json.loads(canonical(space.to_json())))
    assert again == space
    assert [dict(a) for a in again.arms] == [dict(a) for a in space.arms]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Relaxation(0.0, 1.5), r"omega must lie in \(0, 2\)"),
        (lambda: Relaxation(1.0, 2.0), r"omega must lie in \(0, 2\)"),
        (lambda: Relaxation(1.5, 1.5), "low < high"),
        (lambda: Relaxation(math.nan, 1.5), r"omega must lie in \(0, 2\)"),
        (lambda: Relaxation(count=1), "at least two values"),
        (lambda: Solvers(()), "no methods to choose from"),
        (lambda: Solvers(("cgg+icc",)), "no method 'cgg'. Did you mean 'cg'.*richardson"),
        (lambda: Solvers(("cg+ic",)), "no preconditioner 'ic'. Did you mean 'icc'.*hypre"),
        (lambda: Solvers(("choleski",)), "Did you mean 'cholesky'"),
        (lambda: Solvers(("cg",)), r"as in 'cg\+none'"),
        (lambda: Solvers(("cg+icc", "cg+icc")), r"\{'method': 'cg\+icc'\} is there twice"),
        (lambda: Solvers(("cg+ssor",), (1.0, 2.5)), r"omegas must lie in \(0, 2\)"),
        (lambda: Solvers(("cg+ssor",), ()), "need omegas, none are given"),
        (lambda: Options({}), "every option needs a value at least"),
        (lambda: Options({"a": ()}), "every option needs a value at least"),
        (lambda: Options({"a": (1, 1)}), r"\{'a': 1\} is there twice"),
        (lambda: Joined(()), "no spaces"),
        (lambda: Joined((Solvers(("lu",)), Solvers(("lu", "cholesky")))), "'lu'} is there twice"),
    ],
)
def test_what_is_no_space_is_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()


def test_a_form_can_choose_tuned_alone_and_what_chooses_no_solver_is_refused():
    assert Tuned.from_json({"component": "tuned"}) == Tuned(Thompson(Solvers()))
    with pytest.raises(Invalid, match=r"must be a tuner such as Thompson\(Solvers\(\)\), got Solvers"):
        Tuned(Solvers())
    with pytest.raises(Invalid, match=r"the arm \{'smoother': 'a'\} is no linear solver"):
        Tuned(Thompson(Options({"smoother": ("a", "b")})))
