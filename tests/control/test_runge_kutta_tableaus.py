"""Coefficients of Runge-Kutta methods against the conditions that define their order."""

import math

import numpy as np
import pytest

from sciflow.errors import NotFound
from sciflow_control.integrators.tableaus import METHODS, tableau


def trees(order):
    """Rooted trees with so many nodes, each the sorted tuple of its branches."""
    return sorted(forests(order - 1, order - 1))


def forests(nodes, largest):
    """Multisets of trees with so many nodes in all, none with more than `largest`."""
    if nodes == 0:
        return {()}
    found = set()
    for size in range(1, min(nodes, largest) + 1):
        for tree in trees(size):
            for rest in forests(nodes - size, size):
                found.add(tuple(sorted((tree, *rest))))
    return found


def nodes(tree):
    return 1 + sum(nodes(branch) for branch in tree)


def density(tree):
    return nodes(tree) * math.prod(density(branch) for branch in tree)


def stages(a, tree):
    """Derivative weights of a tree in each stage."""
    found = np.ones(len(a))
    for branch in tree:
        found = found * (a @ stages(a, branch))
    return found


def lack(made, weights, order):
    """Largest violation of the conditions of one order."""
    return max(abs(weights @ stages(made.a, tree) - 1 / density(tree)) for tree in trees(order))


def test_the_trees_are_as_many_as_is_known():
    assert [len(trees(n)) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@pytest.mark.parametrize("method", METHODS)
def test_both_solutions_have_their_order_and_no_higher_one(method):
    made = tableau(method)
    for weights, order in ((made.b, made.order), (made.embedded, made.lower)):
        assert max(lack(made, weights, n) for n in range(1, order + 1)) < 3e-14
        assert lack(made, weights, order + 1) > 1e-5
    assert np.all(np.triu(made.a) == 0)
    assert not np.allclose(made.b, made.embedded)


def test_the_last_stage_is_the_next_first_one_where_it_is_known_to_be():
    same = {method for method in METHODS if tableau(method).first_same_as_last}
    assert same == {"bogacki_shampine", "dormand_prince", "tsitouras"}


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(NotFound, match=r"'rk4'.*heun_euler.*tsitouras"):
        tableau("rk4")
