"""Tuners with a feature: sums beside plain regressions, theory beside matrices, what is learned."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev as reference
from scipy.linalg import eigh, eigvals
from scipy.optimize import lsq_linear
from scipy.stats import multivariate_t

from sciflow.errors import Invalid
from sciflow_control.bandits import chebcb, posterior, surrogate
from sciflow_control.bandits.bayes_chebyshev import BayesChebyshev
from sciflow_control.bandits.chebcb import ChebCB
from sciflow_control.bandits.chebyshev import boxed, gram, gram2, polynomials
from sciflow_control.bandits.relaxation_model import RelaxationModel
from sciflow_control.bandits.stored import load, save
from sciflow_control.bandits.tuner import STATUSES, Decision
from sciflow_control.space import Relaxation, Solvers
from tests.control.test_bandits import bits, rough, sometimes

FIVE = Relaxation(1.0, 1.8, 5)
MIXED = Solvers(("cg+ssor", "cholesky", "cg+icc"), (1.0, 1.3, 1.6, 1.9))
TUNERS = {
    "chebcb": ChebCB(FIVE, "c", 0.0, 1.0, degree=2),
    "bayes": BayesChebyshev(FIVE, "c", 0.0, 1.0, degree=2),
    "bayes_log": BayesChebyshev(FIVE, "c", 1e-3, 1.0, log=True, degree=2, action_degree=3),
    "bayes_mixed": BayesChebyshev(MIXED, "c", 0.0, 1.0, degree=2),
    "model": RelaxationModel(FIVE, "c", 0.0, 1.0),
    "model_scale": RelaxationModel(FIVE, "c", 1e-3, 1.0, enters="scale", method="ssor_cg"),
    "model_plain": RelaxationModel(FIVE),
}
every = pytest.mark.parametrize("name", TUNERS)
rows = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0, 1), st.floats(0, 1e6), st.sampled_from(STATUSES)), max_size=40
)


def shifted(i):
    """A feature that all of `TUNERS` take."""
    return 1e-3 + 0.999 * ((i * 0.37) % 1)


def game(tuner, steps, *, seed=0, delay=1, status=sometimes, start=0):
    """`play` with a feature in all ranges."""
    state, log, waiting = tuner.init(np.random.default_rng(seed)), [], []
    for i in range(start, start + steps):
        proposal, state = tuner.propose(state, {"c": shifted(i)})
        waiting.append((i, proposal.token))
        if len(waiting) < delay:
            continue
        for j, token in reversed(waiting):
            made = tuner.decision(state, token)
            price, word = float(rough(j, made.arm)), status(made.arm)
            state = tuner.observe(state, token, price, word)
            row = {"arm": made.arm, "probability": made.probability, "cost": price}
            row |= {"status": STATUSES.index(word)}
            log.append(row | {f"feature_{n}": v for n, v in made.features.items()})
        waiting.clear()
    return state, {n: np.array([row[n] for row in log]) for n in log[0]}


def learned(tuner, history):
    """Sums after a history of (arm, feature, cost, status)."""
    sums = tuner.empty()
    for arm, c, cost, status in history:
        sums = tuner.learn(sums, Decision(arm, 1.0, {"c": c}), cost, status)
    return sums


@given(u=st.floats(-1, 1), count=st.integers(1, 20))
def test_polynomials_are_those_of_numpy(u, count):
    assert polynomials(u, count) == pytest.approx(reference.chebvander(u, count - 1).ravel(), abs=1e-12)


@given(seed=st.integers(0, 10**6), first=st.integers(1, 6), second=st.integers(1, 6))
def test_sums_of_polynomials_hold_the_normal_equations(seed, first, second):
    u, v = np.random.default_rng(seed).uniform(-1, 1, (2, 9))
    t, a = (reference.chebvander(x, 2 * n - 2) for x, n in ((u, first), (v, second)))
    assert gram(t.sum(axis=0), first) == pytest.approx(t[:, :first].T @ t[:, :first], abs=1e-12)
    phi = np.einsum("ni,nj->nij", t[:, :first], a[:, :second]).reshape(9, -1)
    moments = np.einsum("np,nq->pq", t, a)
    assert gram2(np.stack([moments, 2 * moments]), first, second)[1] == pytest.approx(
        2 * phi.T @ phi, abs=1e-11
    )


@given(seed=st.integers(0, 10**6))
def test_bounds_are_kept_and_one_that_is_met_gives_the_minimiser(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    free = np.linalg.lstsq(x, y, rcond=None)[0]
    wide = boxed(x.T @ x, x.T @ y, np.full(4, 1e3))
    assert wide == pytest.approx(free, abs=1e-9)
    bounds = np.abs(free) * 1e3
    worst = np.abs(free).argmax()
    bounds[worst] = np.abs(free[worst]) / 2
    expected = lsq_linear(x, y, (-bounds, bounds), tol=1e-14).x
    assert boxed(x.T @ x, x.T @ y, bounds) == pytest.approx(expected, abs=1e-5)
    narrow = np.abs(rng.standard_normal(4)) / 10
    assert (np.abs(boxed(x.T @ x, x.T @ y, narrow)) <= narrow * (1 + 1e-9)).all()


def test_chebcb_fits_every_arm_by_least_squares():
    tuner = ChebCB(FIVE, "c", 0.0, 1.0, degree=3)
    rng = np.random.default_rng(0)
    history = [
        (int(a), c, 50 + 9 * a * c + rng.random(), "ok")
        for a, c in zip(rng.integers(0, 5, 200), rng.random(200), strict=True)
    ]
    fits = learned(tuner, history)["fits"]
    ridge = np.sqrt(chebcb.RIDGE * np.maximum(np.arange(4), 1) ** 2)
    for arm in range(5):
        own = [(c, y) for a, c, y, _ in history if a == arm]
        t = reference.chebvander(2 * np.array([c for c, _ in own]) - 1, 3)
        y = np.array([y for _, y in own])
        theta = np.linalg.lstsq(np.vstack([t, np.diag(ridge)]), np.append(y, np.zeros(4)), rcond=None)[0]
        assert fits[arm, :4] == pytest.approx(theta, rel=1e-6, abs=1e-5)
        assert fits[arm, 4] == pytest.approx(((y - t @ theta) ** 2).sum(), abs=0.1)


def test_the_slope_of_a_fit_of_chebcb_is_bounded_by_the_spread_of_the_costs():
    tuner = ChebCB(FIVE, "c", 0.0, 1.0, degree=1)
    fits = learned(tuner, [(2, 0.5, 1.0, "ok"), (2, 0.55, 2.0, "ok")] * 10)["fits"]
    assert fits[2, 1] == pytest.approx(2 * (2.0 - 1.0))  # without the bound it were above 6
    assert 1.0 < fits[2, 0] < 2.0


def test_chebcb_takes_a_bound_for_twice_that_and_a_failure_for_the_worst():
    tuner = ChebCB(FIVE, "c", 0.0, 1.0, degree=0)
    sums = learned(tuner, [(0, 0.5, 10.0, "ok"), (1, 0.5, 10.0, "censored"), (2, 0.5, 1.0, "failed")] * 20)
    assert sums["fits"][:3, 0] == pytest.approx([10, 20, 20], rel=0.01)


@given(history=rows, c=st.floats(0, 1))
def test_probabilities_of_chebcb_sum_to_one_and_favour_the_cheap(history, c):
    tuner = ChebCB(FIVE, "c", 0.0, 1.0, degree=2)
    sums = learned(tuner, history)
    p, y = tuner.probabilities(sums, {"c": c}), tuner._predicted(sums, {"c": c})
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p > 0).all()
    assert p[y.argmin()] >= p.max() - 1e-12
    others = [i for i in np.argsort(y) if i != y.argmin()]
    assert (np.diff(p[others]) <= 1e-12).all()


def test_probabilities_of_chebcb_follow_the_formula():
    tuner, m, d = ChebCB(FIVE, "c", 0.0, 1.0, degree=2), 3, 5
    rng = np.random.default_rng(1)
    sums, missed, costs = tuner.empty(), 0.0, []
    for _ in range(60):
        arm, c = int(rng.integers(5)), float(rng.random())
        y = 10 + 5 * abs(arm - 4 * c) + rng.random()
        expected = float(tuner._predicted(sums, {"c": c})[arm])
        sums = tuner.learn(sums, Decision(arm, 0.2, {"c": c, "predicted": expected}), y, "ok")
        missed += (expected - y) ** 2
        costs.append(y)
    most, span = max(costs), max(costs) - min(costs)
    n = 2 + 4 * span / most * (1 + math.log(m))
    alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) * span / (2 * most * n * (m + 1))
    regret = (missed - sums["fits"][:, m].sum()) / (most * n) ** 2
    eta = 2 * 60 * math.sqrt(d * 60 / (regret + 2 * alpha**2 * 60))
    y = sums["fits"][:, :m] @ reference.chebvander(2 * 0.3 - 1, m - 1).ravel()
    p = 1 / (d + eta * (y - y.min()) / (most * n))
    p[y.argmin()] += 1 - p.sum()
    assert tuner.probabilities(sums, {"c": 0.3}) == pytest.approx(p, rel=1e-4)


def test_posterior_is_that_of_a_bayesian_regression():
    tuner = BayesChebyshev(MIXED, "c", 0.0, 2.0, degree=2, action_degree=2)
    rng = np.random.default_rng(2)
    history = [
        (int(rng.integers(6)), float(2 * rng.random()), float(np.exp(rng.standard_normal())), "ok")
        for _ in range(31)
    ]
    sums = learned(tuner, history)
    omegas = -np.log(2 - np.array([1.0, 1.3, 1.6, 1.9]))
    v = 2 * (omegas - omegas[0]) / (omegas[-1] - omegas[0]) - 1
    level = np.mean([math.log(y) for *_, y, _ in history])
    rest, found = posterior.DOUBT * posterior.NOISE**2, []
    for arms in ((0, 1, 2, 3), (4,), (5,)):
        k = min(3, len(arms))
        own = [row for row in history if row[0] in arms]
        t = reference.chebvander(np.array([row[1] for row in own]) - 1, 2)
        a = reference.chebvander(np.array([v[row[0]] if k > 1 else 0.0 for row in own]), k - 1)
        phi = np.einsum("ni,nj->nij", t, a).reshape(len(own), -1)
        y = np.array([math.log(row[2]) - level for row in own])
        sizes = np.add.outer(np.arange(3), np.arange(k)).ravel()
        prior = np.diag((posterior.NOISE / posterior.SPREAD) ** 2 * posterior.DECAY ** (-2.0 * sizes))
        matrix = phi.T @ phi + prior
        mean = np.linalg.solve(matrix, phi.T @ y)
        rest += y @ y - mean @ phi.T @ y
        found.append((k, mean, np.linalg.inv(matrix)))
    variance = rest / (posterior.DOUBT + 31)
    for f, (k, mean, covariance) in enumerate(found):
        places = (np.arange(3)[:, None] * 3 + np.arange(k)).ravel()
        assert sums["mean"][f][places] == pytest.approx(mean, abs=1e-5)
        got = sums["root"][f] @ sums["root"][f].T
        assert got[np.ix_(places, places)] == pytest.approx(variance * covariance, rel=1e-4, abs=1e-9)


def test_probabilities_of_hypotheses_are_marginal_likelihoods():
    tuner, rng, history = RelaxationModel(FIVE, "c", 0.0, 1.0, spread=0.4), np.random.default_rng(3), []
    for _ in range(12):
        arm, c = int(rng.integers(5)), float(rng.uniform(0.3, 1))
        k = surrogate.sor_iterations(np.array(1 / (1.02 + 0.3 * c)), np.array(FIVE.arms[arm]["omega"]), 1e-8)
        history.append((arm, c, float(k * np.exp(0.2 + 0.1 * rng.standard_normal())), "ok"))
    state = {**tuner.init(rng), "sums": learned(tuner, history)}
    z, u, logs = (
        np.array(x) for x in zip(*[(c, 2 * c - 1, math.log(y)) for _, c, y, _ in history], strict=True)
    )
    shape = surrogate.NOISE**2 * np.eye(12) + 0.4**2 + surrogate.TILT**2 * np.outer(u, u)
    law = multivariate_t(np.zeros(12), shape, df=surrogate.DOUBT)
    theory, places = tuner._theory, np.arange(0, tuner._theory.hard.size, 97)
    expected = []
    for j in places:
        beta = 1 / (1 + theory.hard[j] + z * theory.rise[j])
        omegas = np.array([FIVE.arms[a]["omega"] for a, *_ in history])
        expected.append(law.logpdf(logs - np.log(surrogate.sor_iterations(beta, omegas, 1e-8))))
    got = np.log(tuner.posterior(state)[places])
    apart = (got - got.max()) - (np.array(expected) - max(expected))
    likely = got > got.max() - 12
    assert likely.sum() > 5
    assert np.abs(apart[likely]).max() < 0.3  # the tables are in steps of 2 % of h


def square(points, shift=0.0):
    line = 2 * np.eye(points) - np.eye(points, k=1) - np.eye(points, k=-1)
    return np.kron(line, np.eye(points)) + np.kron(np.eye(points), line) + shift * np.eye(points**2)


@pytest.mark.parametrize("omega", [1.0, 1.3, 1.5, 1.6, 1.8, 1.95])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_theory_is_that_of_the_matrices(omega, shift):
    a = square(7, shift)
    d, lower = np.diag(np.diag(a)), np.tril(a, -1)
    beta = np.abs(np.linalg.eigvalsh(np.eye(49) - a / (4 + shift))).max()
    assert beta == pytest.approx(4 * math.cos(math.pi / 8) / (4 + shift))
    radius = np.abs(eigvals(np.eye(49) - np.linalg.solve(d / omega + lower, a))).max()
    assert surrogate.sor_radius(np.array(beta), np.array(omega)) == pytest.approx(radius, abs=2e-3)
    half = d + omega * lower
    m = half @ np.linalg.inv(d) @ half.T / (omega * (2 - omega))
    values = eigh(a, m, eigvals_only=True)
    assert values.max() <= 1 + 1e-12
    condition = surrogate.ssor_condition(np.array(beta), np.array(omega))
    assert condition == pytest.approx(1 / values.min(), rel=0.2)
    k = surrogate.ssor_cg_iterations(np.array(beta), np.array(omega), 1e-8)
    root = math.sqrt(condition)
    assert 2 * ((root - 1) / (root + 1)) ** (k - 1) * root == pytest.approx(1e-8, rel=0.1)


def iterations(a, omega, rng):
    """Of SOR for a random right-hand side."""
    step = np.linalg.inv(np.diag(np.diag(a)) / omega + np.tril(a, -1))
    residual = rng.standard_normal(len(a))
    spread, end = np.eye(len(a)) - a @ step, 1e-8 * np.linalg.norm(residual)
    count = 0
    while np.linalg.norm(residual) > end:
        residual, count = spread @ residual, count + 1
    return count


@pytest.mark.parametrize("points", [6, 12])
@pytest.mark.parametrize("spread", [0.3, 10.0])
def test_the_model_recovers_the_best_omega_of_the_model_problem(points, spread):
    tuner = RelaxationModel(Relaxation(count=96), spread=spread)
    a, rng = square(points), np.random.default_rng(points)
    unit = 1.0 if spread < 1 else 3e-5
    state = tuner.init(np.random.default_rng(0))
    for _ in range(30):
        proposal, state = tuner.propose(state, {})
        state = tuner.observe(
            state, proposal.token, unit * iterations(a, proposal.values["omega"], rng), "ok"
        )
    radius = math.cos(math.pi / (points + 1))
    expected = surrogate.best_omega(radius)
    assert expected == pytest.approx(2 / (1 + math.sin(math.pi / (points + 1))))
    assert tuner.arms[tuner.best(state, {})]["omega"] == pytest.approx(expected, abs=0.03)
    assert (tuner.posterior(state) * tuner.radii({})).sum() == pytest.approx(radius, abs=0.01)


def theory(c, omegas, rng=None):
    """SOR iterations for the 10x10 Laplacian shifted by c, with noise."""
    beta = 4 * math.cos(math.pi / 11) / (4 + c)
    k = surrogate.sor_iterations(np.array(beta), np.asarray(omegas), 1e-8)
    return k * np.exp(0.1 * rng.standard_normal()) if rng else k


@pytest.mark.parametrize(
    ("tuner", "steps", "first", "last"),
    [
        (RelaxationModel(Relaxation(count=39), "c", -0.15, 0.45), 100, 1.25, 1.1),
        (BayesChebyshev(Relaxation(), "c", -0.15, 0.45), 600, 2.5, 1.05),
        (ChebCB(Relaxation(count=6), "c", -0.15, 0.45), 1500, 4.0, 1.3),
    ],
    ids=["model", "bayes", "chebcb"],
)
def test_costs_come_near_those_of_the_best_arms(tuner, steps, first, last):
    rng, omegas = np.random.default_rng(5), np.array([a["omega"] for a in tuner.arms])
    state, paid, best = tuner.init(rng), [], []
    for _ in range(steps):
        c = float(-0.15 + 0.6 * rng.beta(2, 6))
        proposal, state = tuner.propose(state, {"c": c})
        cost = float(theory(c, proposal.values["omega"], rng))
        state = tuner.observe(state, proposal.token, cost, "ok")
        paid.append(float(theory(c, proposal.values["omega"])))
        best.append(theory(c, omegas).min())
    assert sum(paid[:100]) <= first * sum(best[:100])
    end = -steps // 3
    assert sum(paid[end:]) <= last * sum(best[end:])


def test_one_model_covers_methods_with_and_without_omega():
    tuner, rng = BayesChebyshev(MIXED, "c", 0.0, 1.0, degree=3), np.random.default_rng(0)

    def cost(arm, c):
        values = MIXED.arms[arm]
        if "omega" in values:
            return 1 + 8 * (values["omega"] - 1.6) ** 2 + 4 * c
        return {"cholesky": 3.0, "cg+icc": 5.0}[values["method"]]

    state = tuner.init(rng)
    for _ in range(200):
        c = float(rng.random())
        proposal, state = tuner.propose(state, {"c": c})
        arm = tuner.decision(state, proposal.token).arm
        state = tuner.observe(
            state, proposal.token, cost(arm, c) * math.exp(0.05 * rng.standard_normal()), "ok"
        )
    assert MIXED.arms[tuner.best(state, {"c": 0.1})] == {"method": "cg+ssor", "omega": 1.6}
    assert MIXED.arms[tuner.best(state, {"c": 0.9})] == {"method": "cholesky"}


@every
def test_merging_is_associative_and_commutative_to_the_bit(name):
    tuner = TUNERS[name]
    a, b, c = (game(tuner, n, seed=n, start=n)[0] for n in (7, 40, 19))
    left = tuner.merge([tuner.merge([a, b]), c])
    assert bits(left) == bits(tuner.merge([a, tuner.merge([b, c])])) == bits(tuner.merge([a, b, c]))
    for one, two in ((a, b), (b, c)):
        assert bits(tuner.merge([one, two])["sums"]) == bits(tuner.merge([two, one])["sums"])
    fresh = tuner.init(np.random.default_rng(0))
    assert bits(tuner.merge([fresh, left])["sums"]) == bits(left["sums"])


@every
def test_a_log_teaches_what_its_outcomes_taught(name):
    tuner = TUNERS[name]
    state, log = game(tuner, 45, delay=3)
    fresh = tuner.init(np.random.default_rng(1))
    assert bits(tuner.absorb(fresh, log)["sums"]) == bits(state["sums"])
    order = np.random.default_rng(0).permutation(45)
    other = tuner.absorb(fresh, {n: v[order] for n, v in log.items()})
    # What follows from the sums may be older than they are; a merge makes it anew.
    assert bits(tuner.merge([fresh, other])["sums"]) == bits(tuner.merge([fresh, state])["sums"])


@every
def test_a_restarted_tuner_takes_the_same_decisions(name, tmp_path):
    tuner = TUNERS[name]
    whole, log = game(tuner, 90)
    state, _ = game(tuner, 50)
    save(tmp_path / "state", tuner, state)
    state = load(tmp_path / "state", tuner)
    for i in range(50, 90):
        proposal, state = tuner.propose(state, {"c": shifted(i)})
        arm = tuner.decision(state, proposal.token).arm
        assert arm == log["arm"][i]
        state = tuner.observe(state, proposal.token, rough(i, arm), sometimes(arm))
    assert bits(state) == bits(whole)


@pytest.mark.parametrize("name", [n for n in TUNERS if n != "model_plain"])
@pytest.mark.parametrize("value", [math.nan, 1.5, -0.1, math.inf])
def test_features_outside_the_range_are_refused(name, value):
    tuner = TUNERS[name]
    state, log = game(tuner, 3)
    for call in (tuner.propose, tuner.best):
        with pytest.raises(Invalid, match=rf"'c' must lie between .* and 1, got {value}"):
            call(state, {"c": value})
        with pytest.raises(Invalid, match="needs the feature 'c'.*'cc'"):
            call(state, {"cc": 0.5})
    with pytest.raises(Invalid, match=rf"'c' must lie between .* and 1, got {value}"):
        tuner.absorb(state, {**log, "feature_c": np.full(3, value)})
    with pytest.raises(Invalid, match="needs the feature 'c'"):
        tuner.absorb(state, {n: v for n, v in log.items() if n != "feature_c"})


@every
def test_the_best_arm_is_left_once_it_breaks_down(name):
    tuner = TUNERS[name]
    state, broken = tuner.init(np.random.default_rng(0)), None
    plays = np.zeros(len(tuner.arms))
    for i in range(260):
        if i == 60:
            broken = tuner.best(state, {"c": 0.5})
        proposal, state = tuner.propose(state, {"c": shifted(i)})
        arm = tuner.decision(state, proposal.token).arm
        plays[arm] += i >= 160
        cost = 0.5 if arm == broken else 30.0 + 10 * abs(arm - 2)
        state = tuner.observe(state, proposal.token, cost, "failed" if arm == broken else "ok")
    assert plays[broken] <= 30
    assert tuner.best(state, {"c": 0.5}) != broken


def test_a_bound_counts_against_those_who_predict_less():
    tuner = TUNERS["model"]
    sums, made = tuner.empty(), Decision(2, 1.0, {"c": 0.5})
    low, high = (tuner.learn(sums, made, cost, "censored") for cost in (1e-3, 1e6))
    assert not low["squares"].any()
    assert (high["squares"] > 0).all()
    small, large = (surrogate.probabilities(s, 0.3) @ tuner.radii({"c": 0.5}) for s in (low, high))
    assert large > small + 0.1


@pytest.mark.parametrize("delay", [1, 4])
def test_a_logarithmic_feature_is_the_logarithm_of_the_feature(delay):
    one = BayesChebyshev(FIVE, "c", 0.01, 1.0, log=True)
    two = BayesChebyshev(FIVE, "log_c", math.log(0.01), 0.0)
    a, b = (t.init(np.random.default_rng(0)) for t in (one, two))
    for i in range(60):
        c = 0.01 ** ((i * 0.37) % 1)
        p, a = one.propose(a, {"c": c})
        q, b = two.propose(b, {"log_c": math.log(c)})
        assert p == q
        if i % delay == 0:
            a, b = (t.observe(s, i, rough(i, 1), "ok") for t, s in ((one, a), (two, b)))
    assert (a["sums"]["moments"] == b["sums"]["moments"]).mean() > 0.9


@given(history=rows)
@settings(max_examples=25)
def test_anything_that_may_be_observed_leaves_finite_beliefs(history):
    for tuner in (TUNERS["chebcb"], TUNERS["bayes"], TUNERS["model"]):
        sums = learned(tuner, history)
        numbers = [v for v in sums.values() if isinstance(v, np.ndarray)]
        assert all(np.isfinite(v).all() for v in numbers)
        assert 0 <= tuner.choose(sums, {"c": 0.5}, 1, 2)[0] < 5


@pytest.mark.parametrize("status", ["ok", "censored", "failed"])
def test_chebcb_adds_up_the_largest_costs_for_many_millions_of_outcomes(status):
    tuner = ChebCB(FIVE, "c", 0.0, 1.0, degree=2)
    sums = tuner.learn(tuner.empty(), Decision(3, 1.0, {"c": 0.8}), 1e12, status)
    one, least = sums["fits"][3], sums["most"]
    for _ in range(28):
        sums = tuner.combine(sums, sums)
    assert (sums["table"][3, 0] >= 0).all()
    assert one[0] > 0
    assert sums["fits"][3, 0] == pytest.approx(least, rel=1e-6)
    assert 0 <= sums["fits"][3, -1] <= 1e-3 * 2**28 * least**2
    p = tuner.probabilities(sums, {"c": 0.8})
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p.argmin() == 3


@pytest.mark.parametrize("none", [math.nan, math.inf, -1e300])
def test_a_log_with_predictions_that_cannot_be_has_none(none):
    tuner = ChebCB(FIVE, "c", 0.0, 1.0, degree=2)
    _, log = game(tuner, 30)
    new = tuner.init(np.random.default_rng(0))
    plain = tuner.absorb(new, {name: v for name, v in log.items() if name != "feature_predicted"})
    assert bits(tuner.absorb(new, {**log, "feature_predicted": np.full(30, none)})) == bits(plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChebCB(FIVE, "c", -1e308, 1e308), "range of 'c' must be finite"),
        (lambda: ChebCB(FIVE, "c", 1.0, 1.0), "range of 'c' must be finite with low < high, got 1.0 to 1.0"),
        (lambda: ChebCB(FIVE, "c", 0.0, math.inf), "range of 'c' must be finite"),
        (lambda: ChebCB(FIVE, "c", 0.0, 1.0, degree=-1), "degree=-1 must be in 0 to 20"),
        (lambda: ChebCB(FIVE, "c", 0.0, 1.0, unit=0.0), "unit=0.0 positive"),
        (lambda: BayesChebyshev(FIVE, "c", 0.0, 1.0, log=True), "range of 'c' must be positive, got 0.0"),
        (lambda: BayesChebyshev(FIVE, "c", 0.0, 1.0, degree=40), "degree=40 and action_degree=7"),
        (lambda: RelaxationModel(FIVE, "c", 0.0, 1.0, enters="scale"), "must be positive"),
        (lambda: RelaxationModel(FIVE, "c", 0.0, 1.0, method="jacobi"), "method"),
        (lambda: RelaxationModel(FIVE, tolerance=1.0), "tolerance=1.0 must be in"),
        (lambda: RelaxationModel(MIXED), "it chooses an omega, which the arm .*cholesky.* does not have"),
    ],
)
def test_wrong_configurations_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()
