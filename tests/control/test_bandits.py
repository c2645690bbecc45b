"""Plain bandits: probabilities, sums that know no order, regret, bounds instead of costs, bad input."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from sciflow.errors import Invalid, NotFound
from sciflow.testing.controller import _plain_state
from sciflow_control.bandits import beliefs, draws, estimates, exact, simplex
from sciflow_control.bandits.binned import Binned
from sciflow_control.bandits.fixed import Fixed, Random
from sciflow_control.bandits.held import Held
from sciflow_control.bandits.keyed import Keyed
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tsallis import Tsallis
from sciflow_control.bandits.tuner import OPEN, STATUSES, Decision
from sciflow_control.space import Options, Relaxation, Solvers

FIVE = Relaxation(1.0, 1.8, 5)
MANY = Relaxation(1.0, 1.9, 40)
BANDITS = [
    Thompson(FIVE),
    Tsallis(FIVE),
    Tsallis(FIVE, "iw"),
    Tsallis(FIVE, log=True),
    Tsallis(MANY),
    Binned(Thompson(FIVE), "c", 0.0, 1.0, 3),
    Binned(Tsallis(FIVE), "c", 0.0, 1.0, 3),
    Random(FIVE),
    Fixed(FIVE, 2),
]
IDS = ["thompson", "tsallis", "iw", "log", "many", "binned", "binned_tsallis", "random", "fixed"]
every = pytest.mark.parametrize("tuner", BANDITS, ids=IDS)

costs = st.one_of(
    st.floats(0, 1e300),
    st.sampled_from([0.0, 1.0, 1.0, 5e-324, 1e-12, 1e12, 1e300]),
)
statuses = st.sampled_from(STATUSES)
probabilities = st.floats(0, 1, exclude_min=True)
histories = st.lists(st.tuples(st.integers(0, 4), probabilities, costs, statuses), max_size=30)


def bits(value):
    plain = _plain_state(value)
    return json.dumps(plain, sort_keys=True, default=lambda raw: raw.hex())


def play(tuner, cost, steps, *, status=lambda arm: "ok", seed=0, delay=1):
    """The state after some steps, and the log of them; outcomes come `delay` at a time, the last first."""
    state = tuner.init(np.random.default_rng(seed))
    log, waiting = [], []
    for i in range(steps):
        proposal, state = tuner.propose(state, {"c": (i * 0.37) % 1})
        waiting.append((i, proposal.token))
        if len(waiting) < delay:
            continue
        for j, token in reversed(waiting):
            made = tuner.decision(state, token)
            price, word = float(cost(j, made.arm)), status(made.arm)
            state = tuner.observe(state, token, price, word)
            row = {"arm": made.arm, "probability": made.probability, "cost": price}
            row |= {"status": STATUSES.index(word)}
            log.append(row | {f"feature_{n}": v for n, v in made.features.items()})
        waiting.clear()
    names = {name for row in log for name in row}
    return state, {name: np.array([row.get(name, 0.0) for row in log]) for name in names}


def rough(i, arm):
    return (1 + abs(arm - 3)) * math.exp(0.5 * math.sin(12.9898 * i + 78.233 * arm))


def sometimes(arm):
    return STATUSES[arm % 3]


def rows(log, pick):
    return {name: values[pick] for name, values in log.items()}


@given(losses=st.lists(st.floats(0, 1e12), min_size=1, max_size=70), rate=st.floats(1e-6, 1e3))
def test_probabilities_solve_the_equation(losses, rate):
    losses = np.array(losses)
    p = simplex.probabilities(losses, rate)
    assert abs(p.sum() - 1) <= 1e-12
    a = (losses - losses.min()) * rate / 2
    u = brentq(lambda u: (1 / (a + u) ** 2).sum() - 1, 1, math.sqrt(len(a)) + 1, xtol=1e-14, rtol=1e-14)
    assert np.allclose(p, (a + u) ** -2.0, rtol=1e-8, atol=0)


@given(losses=st.lists(st.floats(0, 1e9), min_size=2, max_size=20), rate=st.floats(1e-3, 10))
def test_what_costs_less_is_as_probable_at_least(losses, rate):
    p = simplex.probabilities(np.array(losses), rate)
    order = np.argsort(losses)
    assert (np.diff(p[order]) <= 1e-15).all()


@pytest.mark.parametrize("tuner", BANDITS[1:4], ids=IDS[1:4])
@given(history=histories)
def test_probabilities_sum_to_one_after_any_history(tuner, history):
    sums = tuner.empty()
    for i, (arm, p, cost, status) in enumerate(history):
        sums = tuner.learn(sums, Decision(arm, p, {"shifted_0": float(i % 32)}), cost, status)
        found = tuner.probabilities(sums)
        assert abs(found.sum() - 1) <= 1e-12
        assert (found >= 0).all()
        made = tuner.decide(sums, {}, 1, i)
        assert 0 < made.probability <= 1


@pytest.mark.parametrize("estimator", ["iw", "rv"])
def test_tsallis_follows_its_formula_outcome_by_outcome(estimator):
    tuner = Tsallis(FIVE, estimator)
    state, arms, weights, costs, bases = tuner.init(np.random.default_rng(0)), [], [], [], []
    for i in range(150):
        proposal, state = tuner.propose(state, {})
        made, losses = tuner.decision(state, proposal.token), np.zeros(5)
        if len(set(costs)) > 1:
            scaled = (np.array(costs) - min(costs)) / (np.mean(costs) - min(costs))
            for arm, weight, loss, base in zip(arms, weights, scaled, bases, strict=True):
                losses += base
                losses[arm] += weight * (loss - base[arm])
        rate = (4 if estimator == "rv" else 2) / math.sqrt(i + 1)
        low = losses.min()
        x = brentq(
            lambda x, a=losses, r=rate: (4 / (r * (a - x)) ** 2).sum() - 1, low - 5 / rate, low - 2 / rate
        )
        p = 4 / (rate * (losses - x)) ** 2
        assert made.probability == pytest.approx(p[made.arm], rel=1e-6)
        arms.append(made.arm)
        weights.append(1 / made.probability)
        costs.append(float(rough(i, made.arm)))
        bases.append((p >= 16 / (i + 1)).astype(float) if estimator == "rv" else np.zeros(5))
        state = tuner.observe(state, proposal.token, costs[-1], "ok")


@pytest.mark.parametrize("log", [False, True])
def test_bounds_count_for_tsallis_as_its_notes_say(log):
    tuner = Tsallis(FIVE, "iw", log)
    sums = tuner.empty()
    for arm, cost, status in ((0, 2.0, "ok"), (0, 4.0, "ok"), (1, 5.0, "censored"), (2, 1.0, "failed")):
        sums = tuner.learn(sums, Decision(arm, 0.5, {}), cost, status)
    prices = [math.log(2), math.log(4)] if log else [2.0, 4.0]
    mean = sum(prices) / 2
    bound = [math.log(5) + 1, mean + 1] if log else [10.0, 2 * mean]
    each = np.array([*prices, *bound]) - prices[0]
    expected = np.array([each[0] + each[1], each[2], each[3], 0, 0]) * 2 / each.mean()
    assert estimates.estimates(sums, log) == pytest.approx(expected, rel=1e-12)


def test_a_belief_is_the_mean_of_a_log_normal_cost_and_its_deviation():
    y = np.array([0.3, -0.1, 0.9])
    sums = [beliefs.SCALE * v for v in (y.sum(), (y**2).sum())]
    spread = ((y - y.mean()) ** 2).sum()
    variance = (beliefs.WEIGHT * beliefs.VARIANCE + spread) / (beliefs.WEIGHT + 3)
    assert beliefs.belief(3, *sums) == pytest.approx((y.mean() + variance / 2, math.sqrt(variance / 3)))


def test_a_baseline_changes_no_expectation():
    tuner, p, mask = Tsallis(FIVE), np.array([0.4, 0.3, 0.15, 0.1, 0.05]), 0b01011
    shift = np.zeros(5)
    for arm in range(5):
        sums = tuner.learn(tuner.empty(), Decision(arm, p[arm], {"shifted_0": float(mask)}), 1.0, "ok")
        shift += p[arm] * (sums["shifted"] - sums["weighted"][6])
    assert np.allclose(shift, 0, atol=1e-15)
    assert (sums["shifted"] == [1, 1, 0, 1, 0]).all()


def test_the_arms_with_a_baseline_are_those_that_are_probable():
    tuner = Tsallis(MANY)
    state, log = play(tuner, rough, 900)
    p = tuner.probabilities(state["sums"])
    made = tuner.decide(state["sums"], {}, 0, 7)
    expected = p >= 16 / 901
    assert 0 < expected.sum() < 40
    found = [int(made.features[f"shifted_{i // 32}"]) >> i % 32 & 1 for i in range(40)]
    assert found == expected.tolist()
    assert tuner.decide(tuner.empty(), {}, 0, 0).features == {"shifted_0": 0, "shifted_1": 0}
    assert log["feature_shifted_0"].any()


@given(st.lists(st.floats(0, 1e40), max_size=20), st.randoms())
def test_exact_sums_know_no_order(numbers, random):
    first, second = (np.zeros(exact.LIMBS, dtype=np.int64) for _ in range(2))
    for x in numbers:
        exact.add(first, x)
    random.shuffle(numbers)
    for x in numbers:
        exact.add(second, x)
    assert (first == second).all()
    truth = math.fsum(numbers)
    assert exact.value(first) == pytest.approx(truth, rel=1e-14, abs=1e-45)
    assert exact.values(first[None])[0] == exact.value(first)


@every
def test_the_order_of_outcomes_changes_no_bit(tuner):
    state, log = play(tuner, rough, 154, status=sometimes, delay=7)
    order = np.random.default_rng(3).permutation(len(log["arm"]))
    new = tuner.init(np.random.default_rng(0))
    assert bits(tuner.absorb(new, rows(log, order))["sums"]) == bits(state["sums"])


@every
def test_a_log_teaches_what_was_observed(tuner):
    state, log = play(tuner, rough, 150)
    new = tuner.init(np.random.default_rng(5))
    learned = tuner.absorb(new, {**log, "iterations": log["cost"]})
    assert bits(learned["sums"]) == bits(state["sums"])
    assert learned["count"] == 0
    assert learned["seed"] == new["seed"]


@every
def test_merging_is_associative_and_commutative(tuner):
    _, log = play(tuner, rough, 150, status=sometimes)
    new = tuner.init(np.random.default_rng(0))
    a, b, c = (tuner.absorb(new, rows(log, slice(k, None, 3))) for k in range(3))
    whole = bits(tuner.absorb(new, log)["sums"])
    for order in permutations((a, b, c)):
        assert bits(tuner.merge(order)["sums"]) == whole
    assert bits(tuner.merge([tuner.merge([a, b]), c])) == bits(tuner.merge([a, tuner.merge([b, c])]))


def test_merging_keeps_what_is_open_in_the_first():
    tuner = Thompson(FIVE)
    first = tuner.propose(tuner.init(np.random.default_rng(1)), {})[1]
    second, _ = play(tuner, rough, 12, seed=2)
    merged = tuner.merge([first, second])
    assert (merged["seed"], merged["open"]) == (first["seed"], first["open"])
    merged = tuner.observe(merged, 0, 1.0, "ok")
    assert merged["sums"]["table"][0].sum() == 13
    with pytest.raises(Invalid, match="no states to merge"):
        tuner.merge([])


@pytest.mark.parametrize(
    "other",
    [
        Thompson(Relaxation(count=2)),
        Thompson(Relaxation(count=6)),
        Tsallis(FIVE),
        Keyed(Thompson(FIVE), ("k",)),
    ],
    ids=lambda t: f"{t.name}_{len(t.arms)}",
)
def test_states_of_different_tuners_are_not_merged(other):
    states = [t.init(np.random.default_rng(0)) for t in (Thompson(FIVE), other)]
    for tuner in (Thompson(FIVE), Binned(Thompson(FIVE), "c", 0.0, 1.0), Held(Thompson(FIVE))):
        begun = tuner.init(np.random.default_rng(0))
        for pair in ([states[0], states[1]], [begun, states[1]], [states[1], begun]):
            with pytest.raises(Invalid, match=r"states of different tuners"):
                tuner.merge(pair)
    tuner = Keyed(Held(Thompson(FIVE)), ("ranks",))
    with pytest.raises(Invalid, match="keyed: states of different tuners"):
        tuner.merge([tuner.init(np.random.default_rng(0)), states[0]])


@every
def test_nothing_is_changed_in_place(tuner):
    state, log = play(tuner, rough, 20)
    before = bits(state)
    later = tuner.propose(state, {"c": 0.5})[1]
    tuner.observe(later, later["count"] - 1, 2.0, "failed")
    tuner.absorb(state, log)
    tuner.merge([state, state])
    tuner.best(state, {"c": 0.5})
    assert bits(state) == before


@given(history=histories)
def test_a_view_is_the_same_bits_made_anew(history):
    space = Options({"a": (1, 2, 3), "b": ("x", "y")}) if len(history) % 2 else FIVE
    tuner = Thompson(space)
    sums = tuner.empty()
    for arm, _, cost, status in history:
        sums = tuner.learn(sums, Decision(arm), cost, status)
        assert sums["view"].tobytes() == beliefs.view(sums["table"], sums["lost"], space.families).tobytes()
        assert sums["lost"] == beliefs.lost(sums["table"])


def regret(tuner, losses):
    """Of a tuner against the best fixed arm, and of uniform draws."""
    state, _ = play(tuner, lambda i, arm: losses[i, arm], len(losses))
    assert state["count"] == len(losses)
    total = 0.0
    state = tuner.init(np.random.default_rng(11))
    for row in losses:
        proposal, state = tuner.propose(state, {})
        arm = tuner.decision(state, proposal.token).arm
        total += row[arm]
        state = tuner.observe(state, proposal.token, float(row[arm]), "ok")
    best = losses.sum(axis=0).min()
    return total - best, losses.mean(axis=1).sum() - best


def stochastic(steps):
    means = np.array([0.8, 0.7, 0.3, 0.75, 0.9])
    return (np.random.default_rng(0).random((steps, 5)) < means).astype(float)


def switching(steps):
    """The gap stays, the level jumps: what was seen of an arm in one phase misleads in the next."""
    level = np.where((np.log(np.arange(1, steps + 1)) / math.log(1.6)).astype(int) % 2, 0.7, 0.0)
    means = level[:, None] + 0.3 * (np.arange(5) != 2)
    return (np.random.default_rng(1).random((steps, 5)) < means).astype(float)


@pytest.mark.parametrize("estimator", ["rv", "iw"])
@pytest.mark.parametrize("losses", [stochastic, switching])
def test_regret_of_tsallis_is_below_its_bound(estimator, losses):
    table = losses(1500)
    found, uniform = regret(Tsallis(FIVE, estimator), table)
    assert found <= 4 * math.sqrt(5 * len(table)) + 1
    assert found < uniform / 2


def test_the_unit_of_the_costs_does_not_change_what_tsallis_does():
    tuner = Tsallis(FIVE)
    _, log = play(tuner, rough, 200)
    for unit in (2.0**-40, 2.0**30):
        _, other = play(tuner, lambda i, arm, unit=unit: unit * rough(i, arm), 200)
        assert (other["arm"] == log["arm"]).all()


@pytest.mark.parametrize("delay", [1, 8])
def test_thompson_finds_the_best_arm(delay):
    tuner, random = Thompson(Relaxation(1.0, 1.9, 10)), np.random.default_rng(4)
    medians = [30, 25, 21, 17, 13, 11, 10, 12, 20, 60]
    for seed in range(5):
        state, log = play(
            tuner, lambda i, a: medians[a] * random.lognormal(0, 0.3), 240, seed=seed, delay=delay
        )
        assert tuner.best(state, {}) in (5, 6, 7)
        assert np.isin(log["arm"][-80:], (5, 6, 7)).mean() > 0.8
        # The neighbours of bad arms are bad: not all were tried.
        assert (log["arm"] == 9).sum() <= 4


def test_thompson_minds_the_mean_and_not_the_median():
    tuner = Thompson(Solvers(("cg+icc", "cg+jacobi")))
    # Mostly 1 and sometimes 100 is dearer than always 4.
    state, _ = play(tuner, lambda i, arm: (100.0 if i % 8 == 0 else 1.0) if arm == 0 else 4.0, 400)
    assert tuner.best(state, {}) == 1


def test_jobs_that_begin_together_begin_with_different_families():
    tuner = Thompson(Solvers(("cg+icc", "cg+jacobi", "gmres+ilu", "cholesky", "lu", "cg+ssor")))
    state = tuner.init(np.random.default_rng(0))
    arms = set()
    for _ in range(6):
        proposal, state = tuner.propose(state, {})
        arms.add(proposal.values["method"])
    assert len(arms) == 6


@pytest.mark.parametrize("tuner", BANDITS[:4], ids=IDS[:4])
def test_an_arm_that_breaks_down_at_once_is_not_fast(tuner):
    state, log = play(
        tuner, lambda i, a: 1e-3 if a == 1 else 1.0 + a, 400, status=lambda a: "failed" if a == 1 else "ok"
    )
    assert tuner.best(state, {}) == 0
    assert (log["arm"][-100:] == 1).mean() < 0.2
    assert (log["arm"][-100:] == 0).mean() > 0.3


@pytest.mark.parametrize("tuner", BANDITS[:4], ids=IDS[:4])
def test_a_limit_is_no_reason_to_play_an_arm(tuner):
    # Both are stopped at 3: the cost of one is below, that of the others beyond.
    state, log = play(
        tuner, lambda i, a: 2.9 if a == 1 else 3.0, 600, status=lambda a: "ok" if a == 1 else "censored"
    )
    assert tuner.best(state, {}) == 1
    assert (log["arm"][-100:] == 1).mean() > 0.5


def test_one_failure_does_not_ruin_an_arm_that_did_well():
    tuner = Thompson(FIVE)
    sums = tuner.empty()
    for i in range(50):
        for arm in range(5):
            sums = tuner.learn(sums, Decision(arm), (2.0 if arm == 3 else 4.0) * (1 + 0.1 * (i % 3)), "ok")
    sums = tuner.learn(sums, Decision(3), 0.5, "failed")
    state = {**tuner.init(np.random.default_rng(0)), "sums": sums}
    assert tuner.best(state, {}) == 3
    assert math.exp(sums["view"][0, 3]) < 2.6


def test_bins_learn_by_themselves():
    tuner = Binned(Thompson(FIVE), "c", 0.01, 1.0, 2, log=True)
    state = tuner.init(np.random.default_rng(0))
    for i in range(120):
        c = 0.03 if i % 2 else 0.9
        proposal, state = tuner.propose(state, {"c": c})
        arm = tuner.decision(state, proposal.token).arm
        state = tuner.observe(state, proposal.token, 1.0 + abs(arm - (1 if i % 2 else 4)), "ok")
    assert (tuner.best(state, {"c": 0.02}), tuner.best(state, {"c": 0.5})) == (1, 4)
    assert (tuner.bin({"c": 0.01}), tuner.bin({"c": 1.0}), tuner.bin({"c": 0.11})) == ("0", "1", "1")


def test_features_are_checked_at_the_door():
    tuner = Binned(Thompson(FIVE), "shift", -1.0, 2.0)
    state = tuner.init(np.random.default_rng(0))
    assert tuner.ranges == {"shift": (-1.0, 2.0)}
    with pytest.raises(Invalid, match="needs the feature 'shift'.*'shft'|Did you mean 'shft'"):
        tuner.propose(state, {"shft": 0.0})
    for value in (math.nan, -1.1, math.inf, None, "far"):
        with pytest.raises(Invalid, match=f"'shift' must lie between -1 and 2, got {value}"):
            tuner.propose(state, {"shift": value})
        with pytest.raises(Invalid, match="'shift' must lie"):
            tuner.best(state, {"shift": value})
    # What is not needed is not looked at.
    tuner.propose(state, {"shift": 0.0, "other": math.nan})


@every
@pytest.mark.parametrize("cost", [math.nan, -1.0, math.inf, None, "fast"])
def test_costs_that_are_none_are_refused(tuner, cost):
    proposal, state = tuner.propose(tuner.init(np.random.default_rng(0)), {"c": 0.5})
    with pytest.raises(Invalid, match=f"{tuner.name}: a cost must be finite and not negative, got"):
        tuner.observe(state, proposal.token, cost, "ok")
    assert tuner.decision(state, proposal.token).arm in range(len(tuner.arms))


def test_unknown_tokens_are_refused():
    tuner = Thompson(FIVE)
    _, state = tuner.propose(tuner.init(np.random.default_rng(0)), {})
    with pytest.raises(NotFound, match="no proposal with token 7 waits for its outcome; 1 were made, 0 wait"):
        tuner.observe(state, 7, 1.0, "ok")
    state = tuner.observe(state, 0, 1.0, "ok")
    with pytest.raises(NotFound, match="1 were made, none wait"):
        tuner.observe(state, 0, 1.0, "ok")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": None}, "the log has no column cost"),
        ({"arm": np.array([0, 5])}, "row 1 of the log has the arm 5; there are 5: another space"),
        ({"arm": np.array([0.5, 1])}, "row 0 of the log has the arm 0.5"),
        ({"probability": np.array([0.5, 0.0])}, "row 1 of the log has the probability 0.0"),
        ({"status": np.array([0, 3])}, "row 1 of the log has the status 3"),
        ({"cost": np.array([math.nan, 1.0])}, "row 0: a cost must be finite"),
        ({"feature_c": np.array([1.0])}, "must have one length"),
    ],
)
def test_logs_that_cannot_be_are_refused(change, message):
    log = {"arm": np.array([0, 4]), "probability": np.array([0.5, 1.0])}
    log |= {"cost": np.array([1.0, 2.0]), "status": np.array([0, 2])}
    tuner = Thompson(FIVE)
    state = tuner.init(np.random.default_rng(0))
    assert tuner.absorb(state, log)["sums"]["table"][0].sum() == 1
    bad = {k: v for k, v in {**log, **change}.items() if v is not None}
    with pytest.raises(Invalid, match=message):
        tuner.absorb(state, bad)


def test_a_log_without_the_feature_of_the_bins_is_refused():
    tuner = Binned(Thompson(FIVE), "c", 0.0, 1.0)
    log = {
        "arm": np.array([0]),
        "probability": np.array([1.0]),
        "cost": np.array([1.0]),
        "status": np.array([0]),
    }
    with pytest.raises(Invalid, match="needs the feature 'c'"):
        tuner.absorb(tuner.init(np.random.default_rng(0)), log)


def test_what_never_comes_back_is_forgotten():
    tuner = Random(FIVE)
    state = tuner.init(np.random.default_rng(0))
    for _ in range(OPEN + 10):
        _, state = tuner.propose(state, {})
    assert len(state["open"]) == OPEN
    state = tuner.observe(state, 10, 1.0, "ok")
    with pytest.raises(NotFound):
        tuner.observe(state, 9, 1.0, "ok")
    state = tuner.expire(state, OPEN + 8)
    assert list(state["open"]) == [str(OPEN + 8), str(OPEN + 9)]


def test_random_draws_are_even_and_fixed_ones_are_not():
    _, log = play(Random(FIVE), rough, 1000)
    assert (np.bincount(log["arm"].astype(int), minlength=5) > 150).all()
    assert (log["probability"] == 0.2).all()
    _, log = play(Fixed(FIVE, 3), rough, 10)
    assert (log["arm"] == 3).all()
    with pytest.raises(Invalid, match="no arm 5, relaxation has 0 to 4"):
        Fixed(FIVE, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "range of 'c' must be finite with low < high, got 1.0 to 1.0"),
        ({"high": math.inf}, "range of 'c' must be finite"),
        ({"low": -1e308, "high": 1e308}, "range of 'c' must be finite"),
        ({"log": True}, "range of 'c' must be positive"),
        ({"bins": 0}, "at least one bin"),
    ],
)
def test_bins_that_cannot_be_are_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Binned(Thompson(FIVE), **{"feature": "c", "low": 0.0, "high": 2.0, **settings})


def test_an_estimator_that_is_none_is_refused():
    with pytest.raises(Invalid, match="estimator 'best' is not one of rv, iw"):
        Tsallis(FIVE, "best")


def test_random_numbers_are_a_function_of_seed_and_counter():
    order = np.random.default_rng(0).permutation(500).tolist()
    first = {i: (draws.uniform(2**63 - 1, i), draws.normals(5, i, 3).tobytes()) for i in range(500)}
    draws._uniforms.cache_clear()
    draws._normals.cache_clear()
    again = {i: (draws.uniform(2**63 - 1, i), draws.normals(5, i, 3).tobytes()) for i in order}
    assert first == again
    assert len({u for u, _ in first.values()}) == 500
    values = np.array([draws.normals(1, i, 4) for i in range(1000)])
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    with pytest.raises(ValueError, match="read-only"):
        draws.normals(1, 0, 4)[0] = 1


@pytest.mark.parametrize("wrong", [-1.0, 2.0**32, 0.5, math.inf])
def test_baselines_that_are_none_are_refused(wrong):
    tuner = Tsallis(FIVE)
    _, log = play(tuner, rough, 3)
    with pytest.raises(Invalid, match=f"the baselines of 5 arms are 1 whole numbers, got {wrong}"):
        tuner.absorb(tuner.init(np.random.default_rng(0)), {**log, "feature_shifted_0": np.full(3, wrong)})


def test_a_log_without_baselines_has_none():
    tuner = Tsallis(FIVE)
    _, log = play(tuner, rough, 150)
    assert log["feature_shifted_0"].any()
    plain = {name: values for name, values in log.items() if "shifted" not in name}
    holes = {**log, "feature_shifted_0": np.full(150, math.nan)}
    new = tuner.init(np.random.default_rng(0))
    learned = tuner.absorb(new, plain)
    assert bits(tuner.absorb(new, holes)) == bits(learned)
    assert not learned["sums"]["shifted"].any()
    iw = Tsallis(FIVE, "iw")
    assert bits(iw.absorb(iw.init(np.random.default_rng(0)), plain)["sums"]) == bits(learned["sums"])
