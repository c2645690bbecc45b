"""The harness: bounds that hold for any tuner, tables that are refused, replay, a kill in the middle."""

import asyncio
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.store import Store
from sciflow_control.bandits.chebcb import ChebCB
from sciflow_control.bandits.fixed import Fixed
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tuner import Bandit
from sciflow_control.harness import cost_table as module
from sciflow_control.harness.cost_table import CostTable, label
from sciflow_control.harness.play import Prices, curves, figures, play, policies, pulls
from sciflow_control.harness.table import Table, of_ensemble
from sciflow_control.harness.trial import Trial
from sciflow_control.harness.tuner_table import TunerTable
from sciflow_control.space import Relaxation, Solvers
from sciflow_control.systems.heat2d import HeatSequence
from sciflow_control.systems.laplacian import ShiftedLaplacian

SMALL = Relaxation(count=5)


@dataclass(frozen=True)
class Stubborn(Bandit):
    """Always the same arm."""

    name: ClassVar[str] = "stubborn"
    space: Relaxation = SMALL
    arm: int = 0

    def empty(self):
        return {}

    def choose(self, sums, features, seed, index):
        return self.arm, 1.0

    def learn(self, sums, decision, cost, status):
        return sums

    def best(self, state, features):
        return self.arm


def table(cost, status=None, default=None):
    cost = np.asarray(cost, dtype=float)
    ends = np.zeros(cost.shape, dtype=int) if status is None else np.asarray(status)
    return Table(cost, ends, {}, Relaxation(count=cost.shape[1]).arms, default)


costs = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.floats(0.1, 1e4), min_size=5, max_size=5), min_size=n, max_size=n)
)


@given(costs, st.integers(0, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nobody_beats_the_oracle_and_no_arm_the_best_fixed_one(cost, default, seed):
    it, tuner = table(cost), Thompson(SMALL)
    prices = Prices.of(it, tuner, default)
    assert prices.best_fixed == min(range(5), key=lambda k: sum(row[k] for row in cost))
    order = np.arange(len(cost))[None]
    choice = play(tuner, it, order[0], np.random.default_rng(seed)).choice[None]
    paid = policies(prices, order, choice, np.random.default_rng(seed))
    assert all((values >= paid["oracle"]).all() for values in paid.values())
    assert paid["best_fixed"].sum() == pytest.approx(min(map(sum, zip(*cost, strict=True))))
    one = figures(paid["tuner"], paid["oracle"], paid["best_fixed"])
    assert one["to_oracle"] >= 1 - 1e-12
    assert one["p50"] <= one["p90"] <= one["max"]


def test_the_regret_of_a_policy_that_never_learns_is_a_sum():
    cost = np.random.default_rng(0).random((60, 5)) + 0.1
    it, tuner = table(cost), Stubborn(arm=3)
    order = np.random.default_rng(1).permutation(60)[None]
    choice = play(tuner, it, order[0], np.random.default_rng(0)).choice[None]
    paid = policies(Prices.of(it, tuner, 0), order, choice, np.random.default_rng(0))
    at = pulls(60)
    mean, regret = curves(paid, at)
    expected = np.cumsum(cost[order[0], 3] - cost[order[0]].min(axis=1))
    np.testing.assert_allclose(regret[0], expected[at - 1])
    np.testing.assert_allclose(mean[0][-1], cost[:, 3].mean())
    assert not regret[list(paid).index("oracle")].any()


def test_a_failed_solve_pays_for_the_default_and_tempts_nobody():
    cost = [[10.0, 1.0, 4.0], [10.0, 1.0, 4.0]]
    status = [[0, 1, 0], [0, 1, 0]]
    prices = Prices.of(table(cost, status), Thompson(Relaxation(count=3)), 0)
    assert prices.best_fixed == 2
    assert prices.oracle.tolist() == [2, 2]
    assert prices.paid[0].tolist() == [10.0, 11.0, 4.0]
    # The default has nobody to fall back on: it pays once, and beats no oracle.
    all_fail = Prices.of(table(cost, np.ones((2, 3), dtype=int)), Thompson(Relaxation(count=3)), 0)
    assert all_fail.paid[0].tolist() == [10.0, 11.0, 14.0]
    assert all_fail.paid[:, 0].tolist() == all_fail.default.tolist()
    own = Prices.of(table(cost, status, np.array([3.0, 30.0])), Thompson(Relaxation(count=3)), 0)
    assert own.paid[:, 1].tolist() == [4.0, 31.0]
    assert own.best_fixed == 2


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_costs_that_are_none_are_refused(wrong):
    with pytest.raises(Invalid, match=r"system 1, arm 2: a cost must be finite and not negative"):
        table([[1, 1, 1], [1, 1, wrong]])
    with pytest.raises(Invalid, match="default solver"):
        table([[1, 1, 1]], default=np.array([wrong]))
    with pytest.raises(Invalid, match="no table"):
        table(np.empty((0, 3)))


def test_what_does_not_fit_is_said():
    with pytest.raises(Invalid, match=r"no arm \{'omega': 1.02"):
        table([[1.0] * 20]).places(Relaxation(count=39).arms)
    assert table([[1.0] * 39]).places(Relaxation().arms).tolist() == list(range(0, 39, 2))
    for wrong, message in (
        ({"count": 0}, "count=0"),
        ({"space": Solvers()}, "takes arms like"),
    ):
        with pytest.raises(Invalid, match=message):
            CostTable(HeatSequence(5), **wrong)
    for wrong, message in (({"seeds": 0}, "at least one play"), ({"default": 20}, "default=20")):
        with pytest.raises(Invalid, match=message):
            Trial(**wrong)
    with pytest.raises(Invalid, match="different names"):
        TunerTable(("a", "a"))
    assert label(CostTable(HeatSequence(5), count=7)) == "cost_table(systems=heat_sequence(nx=5), count=7)"


SEQUENCE = CostTable(ShiftedLaplacian(0.5, 1.5, size=5), SMALL, count=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table, a trial on it and both again in another store."""
    pytest.importorskip("numba")
    found = []
    for name in ("one", "two"):
        with within(Session(Store(tmp_path_factory.mktemp(name)))):
            costs = asyncio.run(run(SEQUENCE))
            found.append((costs, asyncio.run(run(Trial(Thompson(SMALL), shuffle=True), table=costs))))
    return found


def test_a_trial_replays(made):
    (costs, first), (again, second) = made
    for name in ("cost", "status", "features"):
        np.testing.assert_array_equal(costs.read(name), again.read(name))
    for name in ("order", "choice", "paid", "regret"):
        np.testing.assert_array_equal(first.read(name), second.read(name))
    orders = first.read("order")
    assert sorted(orders[1]) == list(range(40))
    assert not np.array_equal(orders[0], orders[1])
    expected = costs.read("cost")[orders, first.read("choice")]
    np.testing.assert_array_equal(first.read("paid"), expected)


def test_the_table_holds_what_the_solver_needs(made):
    from sciflow_control.kernels.relaxation import sor

    costs = made[0][0]
    systems = list(SEQUENCE.systems.draw(40, 0))
    for i in (0, 39):
        a = systems[i].matrix
        counts = [
            sor(a.indptr, a.indices, a.data, systems[i].rhs, np.zeros(25), arm["omega"]).iterations
            for arm in SMALL.arms
        ]
        assert costs.read("cost")[i].tolist() == counts
        assert costs.read("features")[i] == systems[i].features["c"]
    assert (costs.read("seconds") > 0).all()


def test_a_killed_table_goes_on_where_it_was(tmp_path, monkeypatch, made):
    monkeypatch.setattr(module, "SAVED", -1.0)
    solved = []

    class Killed(BaseException):
        pass

    def draw(self, count, seed, whole=ShiftedLaplacian.draw):
        for i, system in enumerate(whole(self, count, seed)):
            if i == 25 and not solved:
                solved.append(i)
                raise Killed
            yield system

    counted = []
    before = CostTable._solver

    def solver(self):
        inner = before(self)

        def solve(system):
            counted.append(1)
            return inner(system)

        return solve

    monkeypatch.setattr(ShiftedLaplacian, "draw", draw)
    monkeypatch.setattr(CostTable, "_solver", solver)
    with within(Session(Store(tmp_path))):
        with pytest.raises(Killed):
            asyncio.run(run(SEQUENCE))
        assert len(counted) == 25
        again = asyncio.run(run(SEQUENCE))
    assert len(counted) == 40
    np.testing.assert_array_equal(again.read("cost"), made[0][0].read("cost"))
    np.testing.assert_array_equal(again.read("features"), made[0][0].read("features"))


def test_trials_stand_side_by_side_and_in_the_report(made, tmp_path):
    costs, trial = made[0]
    with within(Session(Store(tmp_path))):
        other = asyncio.run(run(Trial(Thompson(Relaxation(count=3, high=1.475))), table=costs))
        both = asyncio.run(run(TunerTable(("it_few", "it_all")), it_few=other, it_all=trial))
        page = asyncio.run(report("Tuners", both, trial)).read_text()
    rows = [r["policy"] for r in both.attributes["rows"]]
    assert rows == ["few", "all", "oracle", "best_fixed", "default", "random"]
    assert "| shifted_laplacian(a=0.5, b=1.5, size=5) | best fixed |" in both.file("table.md").read_text()
    for text in ("Tuners side by side", "What thompson learned", "best fixed: omega", "µs per decision"):
        assert text in page
    assert len(re.findall("data:image/", page)) == 3


def test_what_no_tuner_decides_is_told_by_the_trial_with_the_most_plays(made, tmp_path):
    costs, _ = made[0]
    with within(Session(Store(tmp_path))):
        once = asyncio.run(run(Trial(Fixed(SEQUENCE.space, 1), 1), table=costs))
        thrice = asyncio.run(run(Trial(Thompson(SEQUENCE.space), 3), table=costs))
        both = asyncio.run(run(TunerTable(("omega_1_5", "thompson")), omega_1_5=once, thompson=thrice))
    rows, figures = [r["policy"] for r in both.attributes["rows"]], both.read("figures")
    assert rows == ["omega_1_5", "thompson", "oracle", "best_fixed", "default", "random"]
    for policy in rows[2:]:
        expected = thrice.read("figures")[thrice.attributes["policies"].index(policy)]
        np.testing.assert_array_equal(figures[rows.index(policy)], expected)
    assert "| omega 1.5 |" in both.file("table.md").read_text()


class Sealed:
    """An ensemble's log columns, as `of_ensemble` reads them."""

    path = "here"

    def __init__(self, **columns):
        self.columns = {f"decision_{k}": np.asarray(v) for k, v in columns.items()}
        self.schema = type("S", (), {"fields": self.columns})

    def read(self, name):
        return self.columns[name]


def test_an_ensemble_that_tried_every_arm_is_a_table():
    arm = [-1, 0, 1] * 3
    member, solve = [0] * 6 + [2] * 3, [0, 0, 0, 1, 1, 1, 0, 0, 0]
    cost = [9.0, 1.0, 2.0, 9.0, 3.0, 4.0, 8.0, 5.0, 6.0]
    shuffled = np.random.default_rng(0).permutation(9)
    columns = {
        "member": member, "solve": solve, "arm": arm, "cost": cost, "status": [0, 0, 1] * 3,
        "feature_dt": [0.1] * 3 + [0.2] * 3 + [0.3] * 3,
    }  # fmt: skip
    two = ({"method": "cg+icc"}, {"method": "cholesky"})
    mixed = Sealed(**{k: np.asarray(v)[shuffled] for k, v in columns.items()})
    found = of_ensemble(mixed, "cost", two)
    assert found.cost.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.status.tolist() == [[0, 1]] * 3
    assert found.default.tolist() == [9, 9, 8]
    assert found.features["dt"].tolist() == [0.1, 0.2, 0.3]
    three = of_ensemble(mixed, "cost", (*two, {"method": "given"}))
    assert three.cost.tolist() == [[1, 2, 9], [3, 4, 9], [5, 6, 8]]
    with pytest.raises(Invalid, match="solved with 2 arms, the tuner has 1"):
        of_ensemble(mixed, "cost", two[:1])
    with pytest.raises(Invalid, match="system 0 has no cost, or NaN, for arm 2"):
        of_ensemble(mixed, "cost", (*two, {"method": "lu"}))
    with pytest.raises(Invalid, match="system 1 has no cost, or NaN, for arm 1"):
        of_ensemble(Sealed(**{k: np.delete(v, 5) for k, v in columns.items()}), "cost", two)
    with pytest.raises(Invalid, match=r"no fields decision_seconds.*EveryArm"):
        of_ensemble(Sealed(**columns), "seconds", two)


def test_a_feature_that_the_table_lacks_is_missed_at_the_door(made):
    tuner = ChebCB(SMALL, "log_diffusion", -3.0, 1.0)
    with pytest.raises(
        Invalid, match=r"chebcb needs the feature 'log_diffusion', which .* does not have.*'?c'?"
    ):
        Trial(tuner).check({"table": made[0][0]})
    Trial(ChebCB(SMALL, "c", -0.15, 0.45)).check({"table": made[0][0]})


def test_rows_are_called_by_what_differs_in_the_names_of_their_trials():
    titles = TunerTable._titles
    one = {"heat_25_cheb": "h", "heat_25_oracle": "h", "heat_50_cheb": "g", "beta": "b"}
    assert titles(one) == {
        "heat_25_cheb": "cheb",
        "heat_25_oracle": "oracle (a tuner)",
        "heat_50_cheb": "heat_50_cheb",
        "beta": "beta",
    }
    assert titles({"a": "s", "a_b": "s"}) == {"a": "a", "a_b": "a_b"}


def test_a_tuner_plays_over_an_ensemble_whose_systems_were_all_solved_with_every_arm(tmp_path):
    pytest.importorskip("dolfinx")
    from sciflow.executors.local import Local
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow_control.tuned.solver import EveryArm
    from sciflow_fenics.components import Heat

    space = Solvers(("cg+icc", "bcgs+ilu", "given"))
    problem = Heat(cells=8, grid=9, levels=2, substeps=2, solver=EveryArm(space))

    async def flow():
        design = await run(Design(problem=problem, count=2))
        data = await run(Simulate(problem), design=design, executor=Local())
        return data, await run(Trial(Thompson(space)), ensemble=data)

    with within(Session(Store(tmp_path))):
        data, trial = asyncio.run(flow())
    own = data.read("decision_arm") == -1
    about = trial.attributes
    assert about["sequence"] == "an ensemble of heat"
    assert trial.read("paid").shape == (3, own.sum())
    mean = dict(zip(about["policies"], trial.read("figures")[:, 0], strict=True))
    assert mean["default"] == pytest.approx(data.read("decision_cost")[own].mean())
    assert mean["oracle"] <= min(mean.values())
    assert "dt" in about["features"]
    # The columns are those of the space that the systems were solved with, whatever the order of the tuner's.
    with within(Session(Store(tmp_path))):
        turned = Solvers(("given", "bcgs+ilu"))
        again = asyncio.run(run(Trial(Thompson(turned)), ensemble=data))
        with pytest.raises(Invalid, match=r"no arm \{'method': 'cholesky'\}"):
            asyncio.run(run(Trial(Thompson(Solvers(("cg+icc", "cholesky", "given")))), ensemble=data))
        with pytest.raises(Invalid, match=r"chebcb needs the feature 'sigma', which"):
            asyncio.run(run(Trial(ChebCB(space, "sigma", 0, 1)), ensemble=data))
    given = again.read("choice") == 0
    assert (again.read("paid")[given] == data.read("decision_cost")[own][again.read("order")[given]]).all()
