"""Held, Keyed and Discounted: what they hold, keep apart and forget, alone and one in the other."""

import math

import numpy as np
import pytest

from sciflow.component import canonical
from sciflow.errors import Invalid, NotFound
from sciflow.testing import check_component, check_controller
from sciflow_control.bandits.bayes_chebyshev import BayesChebyshev
from sciflow_control.bandits.chebcb import ChebCB
from sciflow_control.bandits.discounted import Discounted
from sciflow_control.bandits.held import Held
from sciflow_control.bandits.keyed import Keyed
from sciflow_control.bandits.relaxation_model import RelaxationModel
from sciflow_control.bandits.stored import load, save
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tsallis import Tsallis
from sciflow_control.bandits.tuner import OPEN, STATUSES
from sciflow_control.space import Relaxation
from tests.control.test_bandits import bits, rough

FIVE = Relaxation(1.0, 1.8, 5)
CHEBCB = ChebCB(FIVE, "c", 0.0, 1.0, degree=2)
TUNERS = {
    "held": Held(Thompson(FIVE), 3),
    "held_chebcb": Held(CHEBCB, 2),
    "keyed": Keyed(Tsallis(FIVE), ("level", "ranks")),
    "keyed_held": Keyed(Held(CHEBCB, 3), ("ranks",)),
    "held_keyed": Held(Keyed(Thompson(FIVE), ("ranks",)), 3),
    "discounted": Discounted(Thompson(FIVE), 6),
    "keyed_discounted": Keyed(Discounted(BayesChebyshev(FIVE, "c", 0.0, 1.0, degree=1), 6), ("level",)),
}
every = pytest.mark.parametrize("name", TUNERS)


def known(i):
    return {"c": (i * 0.37) % 1, "level": float(i // 5 % 2), "ranks": float(1 + i // 7 % 3)}


def game(tuner, steps, *, state=None, seed=0, delay=1, start=0, status=lambda i: "ok", cost=rough):
    """The state after some steps and the log of them; outcomes come `delay` at a time, the last first."""
    state = tuner.init(np.random.default_rng(seed)) if state is None else state
    log, waiting = [], []
    for i in range(start, start + steps):
        proposal, state = tuner.propose(state, known(i))
        waiting.append((i, proposal.token))
        if len(waiting) < delay:
            continue
        for j, token in reversed(waiting):
            made = tuner.decision(state, token)
            price = float(cost(j, made.arm))
            state = tuner.observe(state, token, price, status(j))
            row = {"arm": made.arm, "probability": made.probability, "cost": price}
            row |= {"status": STATUSES.index(status(j))}
            log.append(row | {f"feature_{n}": v for n, v in made.features.items()})
        waiting.clear()
    return state, {n: np.array([row[n] for row in log]) for n in log[0]}


def knowledge(state):
    """A state without its random numbers, counters and what is open."""
    if not isinstance(state, dict) or "moments" in state:
        return state
    dropped = ("seed", "count", "open", "last", "blocks")
    return {k: knowledge(v) for k, v in state.items() if k not in dropped}


@every
def test_they_are_components_and_controllers(name):
    tuner = TUNERS[name]
    check_component(tuner)
    check_controller(tuner, steps=24)
    assert type(tuner).from_json(tuner.to_json()) == tuner
    assert canonical(tuner.to_json())


@every
def test_a_log_teaches_what_its_outcomes_taught(name):
    tuner = TUNERS[name]
    state, log = game(tuner, 126)  # every hold is complete, of every key
    fresh = tuner.init(np.random.default_rng(1))
    assert bits(knowledge(tuner.absorb(fresh, log))) == bits(knowledge(state))


@every
def test_merging_is_associative_and_commutative_to_the_bit(name):
    tuner = TUNERS[name]
    a, b, c = (game(tuner, n, seed=n, start=s)[0] for n, s in ((8, 0), (12, 30), (20, 7)))
    left = tuner.merge([tuner.merge([a, b]), c])
    assert bits(left) == bits(tuner.merge([a, tuner.merge([b, c])])) == bits(tuner.merge([a, b, c]))
    for one, two in ((a, b), (b, c), (a, c)):
        assert bits(knowledge(tuner.merge([one, two]))) == bits(knowledge(tuner.merge([two, one])))
    with pytest.raises(Invalid, match="no states to merge"):
        tuner.merge([])


@every
def test_a_restarted_tuner_takes_the_same_decisions(name, tmp_path):
    tuner = TUNERS[name]
    whole, _ = game(tuner, 60)
    state, _ = game(tuner, 31)
    save(tmp_path / "state", tuner, state)
    state, _ = game(tuner, 29, state=load(tmp_path / "state", tuner), start=31)
    assert bits(state) == bits(whole)


@every
def test_a_cost_that_is_none_leaves_the_state_alone(name):
    tuner = TUNERS[name]
    proposal, state = tuner.propose(game(tuner, 4)[0], known(0))
    before = bits(state)
    for cost in (math.nan, -1.0, math.inf, None):
        with pytest.raises(Invalid, match="a cost must be finite and not negative"):
            tuner.observe(state, proposal.token, cost, "ok")
    with pytest.raises(NotFound, match="no proposal with token 99"):
        tuner.decision(state, 99)
    assert bits(state) == before


@every
def test_what_never_comes_back_is_forgotten(name):
    tuner = TUNERS[name]
    state = tuner.init(np.random.default_rng(0))
    for i in range(10):
        proposal, state = tuner.propose(state, known(i))
    assert len(state["open"]) == 10
    state = tuner.expire(state, proposal.token)
    assert list(state["open"]) == ["9"]
    with pytest.raises(NotFound):
        tuner.observe(state, 3, 1.0, "ok")
    state, _ = game(tuner, 9, state=tuner.observe(state, proposal.token, 1.0, "ok"), start=10)
    for i in range(OPEN + 20):
        proposal, state = tuner.propose(state, known(i))
    assert len(state["open"]) <= OPEN
    tuner.observe(state, proposal.token, 1.0, "ok")


def test_held_holds():
    tuner, inner = Held(Thompson(FIVE), 3), Thompson(FIVE)
    state, log = game(tuner, 30)
    assert (log["arm"].reshape(10, 3) == log["arm"].reshape(10, 3)[:, :1]).all()
    assert (log["feature_held"] == np.repeat(np.arange(10), 3)).all()
    assert len(set(log["arm"])) > 1
    plain = inner.init(np.random.default_rng(0))
    for block in range(10):
        proposal, plain = inner.propose(plain, known(3 * block))
        cost = math.fsum(log["cost"][3 * block : 3 * block + 3]) / 3
        plain = inner.observe(plain, proposal.token, cost, "ok")
    assert bits(state["inner"]) == bits(plain)


def test_held_takes_the_mean_of_costs_whose_sum_is_no_number():
    tuner = Held(Thompson(FIVE), 2)
    state, log = game(tuner, 2, cost=lambda i, arm: 1.7e308)
    assert len(state["inner"]["open"]) == 0
    assert bits(tuner.absorb(tuner.init(np.random.default_rng(0)), log)["inner"]["sums"]) == bits(
        state["inner"]["sums"]
    )


def test_held_takes_outcomes_in_any_order():
    tuner = Held(Thompson(FIVE), 4)
    states = []
    for order in ((0, 1, 2, 3, 4, 5, 6, 7), (7, 2, 5, 0, 1, 6, 4, 3)):
        state = tuner.init(np.random.default_rng(0))
        for i in range(8):
            _, state = tuner.propose(state, known(i))
        for token in order:
            state = tuner.observe(state, token, 0.1 * (token + 1), "ok")
        states.append(bits(state))
    assert states[0] == states[1]


def test_a_failure_ends_a_hold():
    tuner = Held(Thompson(FIVE), 5)
    state = tuner.init(np.random.default_rng(0))
    for _ in range(3):
        _, state = tuner.propose(state, {})
    state = tuner.observe(state, 0, 4.0, "ok")
    arm = tuner.decision(state, 1).arm
    state = tuner.observe(state, 1, 8.0, "failed")
    table = state["inner"]["sums"]
    assert state["inner"]["open"] == {}
    expected = tuner.inner.learn(
        tuner.inner.empty(),
        tuner.inner.decision(
            {"open": {"0": {"arm": arm, "probability": 1.0, "features": {}}}, "count": 1}, 0
        ),
        6.0,
        "failed",
    )
    assert bits(table) == bits(expected)
    late = tuner.observe(state, 2, 1.0, "ok")
    assert bits(late["inner"]) == bits(state["inner"])
    _, after = tuner.propose(late, {})
    assert after["last"] == 1


def test_a_log_of_held_solves_is_cut_where_one_failed():
    tuner = Held(Thompson(FIVE), 4)
    failing = {5, 6, 13}
    state, log = game(tuner, 24, status=lambda i: "failed" if i in failing else "ok")
    absorbed = tuner.absorb(tuner.init(np.random.default_rng(9)), log)
    last = state["blocks"]
    if last:  # the hold that was still going on counts in a log
        state = tuner.absorb(
            {**state, "blocks": {}}, {n: v[log["feature_held"] == state["last"]] for n, v in log.items()}
        )
    assert bits(absorbed["inner"]["sums"]) == bits(state["inner"]["sums"])
    _, whole = game(tuner, 4)
    twice = tuner.absorb(absorbed, {n: np.tile(v, 2) for n, v in whole.items()})
    assert bits(twice) == bits(tuner.absorb(tuner.absorb(absorbed, whole), whole))
    plain = {n: v for n, v in log.items() if n != "feature_held"}
    each = tuner.absorb(tuner.init(np.random.default_rng(9)), plain)["inner"]
    assert bits(each) == bits(tuner.inner.absorb(tuner.inner.init(np.random.default_rng(9)), plain))


def test_keys_are_kept_apart():
    tuner = Keyed(Thompson(FIVE), ("level",))

    def cost(i, arm):
        return 1 + abs(arm - (1 if known(i)["level"] else 3))

    state, _ = game(tuner, 120, cost=cost)
    assert sorted(state["states"]) == ["level=0", "level=1"]
    assert [tuner.best(state, {"level": v}) for v in (0.0, 1.0)] == [3, 1]
    one = bits(state["states"]["level=1"])
    after, _ = game(tuner, 5, state=state, start=120)
    assert bits(after["states"]["level=1"]) == one
    assert bits(after["states"]["level=0"]) != bits(state["states"]["level=0"])


def test_what_a_key_does_depends_on_no_other_key():
    tuner = Keyed(Thompson(FIVE), ("level",))

    def arms(levels):
        state, found = tuner.init(np.random.default_rng(3)), []
        for i, level in enumerate(levels):
            proposal, state = tuner.propose(state, {"level": level})
            made = tuner.decision(state, proposal.token)
            found.append(made.arm)
            assert made.features["level"] == level
            state = tuner.observe(state, proposal.token, rough(i if level else 1, made.arm), "ok")
        return [a for a, level in zip(found, levels, strict=True) if not level]

    assert arms([0.0] * 12) == arms([0.0, 1.0] * 12) == arms([1.0] * 5 + [0.0] * 12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_key_must_be_there_and_a_number(value):
    tuner = Keyed(Thompson(FIVE), ("ranks",))
    state = tuner.init(np.random.default_rng(0))
    with pytest.raises(Invalid, match="needs the feature 'ranks'.*'rank'"):
        tuner.propose(state, {"rank": 1.0})
    with pytest.raises(Invalid, match="'ranks' must lie between"):
        tuner.propose(state, {"ranks": value})
    _, log = game(tuner, 3)
    with pytest.raises(Invalid, match="'ranks' must be a number"):
        tuner.absorb(state, {**log, "feature_ranks": np.full(3, value)})
    with pytest.raises(Invalid, match="needs the feature 'ranks'"):
        tuner.best(state, {})


@pytest.mark.parametrize(
    "inner",
    [
        Thompson(Relaxation()),
        BayesChebyshev(Relaxation(), "c", 0.0, 1.0, degree=1, action_degree=3),
        RelaxationModel(spread=10.0),
    ],
    ids=["thompson", "bayes", "model"],
)
def test_after_a_switch_of_the_best_arm_a_discounted_tuner_recovers_in_fifty_solves(inner):
    late = []
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def cost(i, arm, rng=rng):
            best = 1.3 if i < 140 else 1.8
            omega = inner.arms[arm]["omega"]
            return (20 + 400 * (omega - best) ** 2) * math.exp(0.05 * rng.standard_normal())

        tuner = Discounted(inner)
        _, log = game(tuner, 260, seed=seed, cost=cost)
        assert np.median(log["cost"][100:140]) < 23
        late.append(log["cost"][190:])
    assert np.median(late) < 23
    assert np.mean(late) < 35


def test_a_discounted_tuner_knows_nothing_older_than_two_windows():
    tuner = Discounted(Thompson(FIVE), 6)
    _, log = game(tuner, 32)
    other = {**log, "cost": np.concatenate([log["cost"][:20] * 7, log["cost"][20:]])}
    fresh = tuner.init(np.random.default_rng(0))
    assert bits(tuner.absorb(fresh, log)) == bits(tuner.absorb(fresh, other))
    other["cost"][24] *= 2
    assert bits(tuner.absorb(fresh, log)) != bits(tuner.absorb(fresh, other))
    state = tuner.absorb(fresh, log)
    recent = {n: v[24:] for n, v in log.items()}
    inner = tuner.inner.absorb(tuner.inner.init(np.random.default_rng(0)), recent)
    assert bits(state["sums"]["both"]) == bits(inner["sums"])
    merged = tuner.merge([state, state])["sums"]["both"]
    assert bits(merged) == bits(tuner.inner.merge([inner, inner])["sums"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Held(Thompson(), 0), "one solve at least, got every=0"),
        (lambda: Keyed(Thompson(), ()), "by must name features"),
        (lambda: Keyed(Thompson(), ("a", "a")), "each once"),
        (lambda: Keyed(Thompson(), ("a,b",)), "without commas"),
        (lambda: Keyed(CHEBCB, ("c",)), "'c' is a feature of chebcb"),
        (lambda: Discounted(Thompson(), 0), "window=0"),
        (lambda: Discounted(Held(Thompson())), r"held has no sums to forget.*Keyed\(Discounted"),
    ],
)
def test_wrong_configurations_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()
