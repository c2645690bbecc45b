"""What must hold for the controller: the rules of its kind, and what is known about it alone."""

import numpy as np
from sciflow.testing import check, example

from sciflow.templates.controller.template_name import TemplateName


def test_it_holds_to_the_rules_of_controllers() -> None:
    """Seeds, late outcomes, plain state, JSON, imports."""
    check(example(TemplateName))


def played(bandit: TemplateName, rounds: int) -> list[float]:
    """What it chooses where 1.6 costs 1 and all else costs 2, give or take a half."""
    noise = np.random.default_rng(1)
    state, taken = bandit.init(np.random.default_rng(0)), []
    for _ in range(rounds):
        proposal, state = bandit.propose(state, {})
        value = float(proposal.values[bandit.setting])
        cost = (1.0 if value == 1.6 else 2.0) + noise.uniform(-0.5, 0.5)
        state = bandit.observe(state, proposal.token, cost, "ok")
        taken.append(value)
    return taken


def test_it_settles_on_what_is_cheapest_and_goes_on_trying() -> None:
    """Three quarters of ``explore`` go to other choices, once each was tried."""
    later = played(TemplateName(explore=0.2), 400)[100:]
    assert 0.78 < later.count(1.6) / len(later) < 0.92
    assert set(later) == set(TemplateName().choices)
    assert set(played(TemplateName(explore=0.0), 400)[100:]) == {1.6}


def test_a_failure_counts_more_than_its_cost() -> None:
    """What is cheap and fails is left."""
    bandit = TemplateName(choices=(1.0, 2.0), explore=0.0, penalty=10.0)
    state = bandit.init(np.random.default_rng(0))
    for status in ("diverged", "ok"):
        proposal, state = bandit.propose(state, {})
        state = bandit.observe(state, proposal.token, 1.0 if status == "diverged" else 5.0, status)
    assert bandit.propose(state, {})[0].values == {"omega": 2.0}
