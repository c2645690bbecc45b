"""Learned steps: the environment, rewards, training that goes on, policies without torch, the controller."""

import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("stable_baselines3")
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_sb3

from sciflow import Diverged, Invalid, NotFound
from sciflow.context import Context
from sciflow.step_controller import Knob, StepController, Stepper, StepResult, StepState
from sciflow.stepping import Stepping
from sciflow.store import Store
from sciflow.testing import check_component, check_stage, check_step_controller, check_stepper, example
from sciflow_control.learning import report, training
from sciflow_control.learning.actions import Levels, LogRange
from sciflow_control.learning.agent import Randomness
from sciflow_control.learning.env import HELD_OUT, StepEnv
from sciflow_control.learning.evaluation import Evaluation, evaluate
from sciflow_control.learning.learned import Learned
from sciflow_control.learning.learner import DQN, PPO
from sciflow_control.learning.policy import Policy, Signature, load
from sciflow_control.learning.reward import PaperReward, WorkReward
from sciflow_control.learning.train import TrainPolicy
from sciflow_control.steering.episodes import Episodes

# -- a toy whose best step is known ------------------------------------------------------------------


class DecayStepper(Stepper):
    """y' = -a(t) y with Euler's method; a jumps between 1 and 100, and the error of a step is (a h)^2 / 2."""

    features = ("rate", "error")

    def __init__(self, seed, held):
        self.knob = Knob("h", "s", 1e-4, 1.0, held=held) if held else Knob("dt", "s", 1e-3, 1.0)
        self.time, self.held, self._error = 0.0, held, 1e-3
        self.rates = 10 ** np.random.default_rng([seed]).uniform(0, 2, 1000)
        self._next = (0.0, 0.0)

    @property
    def rate(self):
        return float(self.rates[min(int(self.time), 999)])

    def attempt(self, value, until):
        length = min(self.held or value, until - self.time)
        error = (self.rate * value) ** 2 / 2
        self._next = (until if length >= until - self.time else self.time + length, error)
        return StepResult(
            self.time, length, value, self.knob, error, cost=length / value, converged=value < 0.9
        )

    def accept(self):
        self.time, self._error = self._next

    def reject(self):
        pass

    def observe(self):
        return {"rate": math.log10(self.rate), "error": math.log10(self._error)}

    def drift(self):
        return self._error

    def restart(self):
        return {"state": np.array([self.time, self._error])}


@dataclass(frozen=True)
class Decay(Episodes):
    name: ClassVar[str] = "decay"
    cost_unit: ClassVar[str] = "steps"
    length: float = 40.0
    held: float | None = 1.0

    @property
    def until(self):
        return self.length

    def begin(self, seed):
        return DecayStepper(seed, self.held)


REWARD = WorkReward(target=5e-3, work=1.0, penalty=40.0)
LEVELS = Levels(7, 1e-3, 0.8)
SMALL = DQN(
    discount=0.5, layers=(16, 16), warm_up=200, explore_steps=1500, batch=32, learning_rate=2e-3, replay=3000
)
STAGE = TrainPolicy(
    Decay(), REWARD, SMALL, LEVELS, steps=2400, limit=1e9, evaluate_every=400, evaluate_seeds=5,
    checkpoint_every=800,
)  # fmt: skip


def best_level(rate):
    """The level of the largest reward where the rate is known."""

    def worth(h):
        return math.log10(h) - max(0.0, math.log10((rate * h) ** 2 / 2 / 5e-3))

    return max(LEVELS.values(DecayStepper(0, 1.0).knob), key=worth)


def train(stage, tmp_path, ctx=None):
    with Store(tmp_path).writer(stage.output, "a" * 64) as out:
        stage.run({}, out, ctx or Context())
        return out.publish({})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(STAGE, tmp_path_factory.mktemp("store"))


def test_the_toy_is_a_stepper():
    check_stepper(lambda: DecayStepper(3, 1.0), 1e-2)
    check_stepper(lambda: DecayStepper(3, None), 1e-2)


# -- the environment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [LEVELS, LogRange(1e-3, 0.5)], ids=["levels", "range"])
@pytest.mark.parametrize("held", [1.0, None], ids=["parameter", "length"])
def test_both_checkers_are_content(actions, held):
    # It draws no pictures: without a `spec` gymnasium would warn that it could not look at them.
    check_env(StepEnv(Decay(held=held), REWARD, actions), skip_render_check=True)
    check_sb3(StepEnv(Decay(held=held), REWARD, actions))


def play(env, actions, **how):
    seen = [env.reset(**how)[0]]
    rewards = []
    for action in actions:
        x, reward, terminated, truncated, _ = env.step(action)
        seen.append(x)
        rewards.append(reward)
        if terminated or truncated:
            seen.append(env.reset()[0])
    return np.array(seen).tobytes(), rewards


def test_equal_seeds_equal_bits_and_other_seeds_other_episodes():
    env, actions = StepEnv(Decay(), REWARD, LEVELS), [i % 6 for i in range(90)]
    assert play(env, actions, seed=5) == play(StepEnv(Decay(), REWARD, LEVELS), actions, seed=5)
    assert play(env, actions, seed=5) != play(env, actions, seed=6)
    _, one = env.reset(seed=5)
    _, other = env.reset()
    assert 10**6 <= one["episode"] != other["episode"] >= 10**6


def test_a_named_episode_draws_nothing():
    env = StepEnv(Decay(), REWARD, LEVELS)
    env.reset(seed=1)
    before = env.np_random.bit_generator.state
    assert env.reset(options={"episode": 17})[1] == {"episode": 17}
    assert env.np_random.bit_generator.state == before
    assert env.stepper.rates[0] == DecayStepper(17, 1.0).rates[0]
    with pytest.raises(Invalid, match=r"'episode', got \['seed'\]"):
        env.reset(options={"seed": 17})


def test_an_episode_is_cut_off_at_its_end_and_says_what_it_was():
    env = StepEnv(Decay(3.0), REWARD, LEVELS)
    env.reset(seed=0)
    ends = [env.step(2) for _ in range(3)]
    assert [e[2:4] for e in ends] == [(False, False), (False, False), (False, True)]
    info = ends[-1][4]
    assert info["return"] == pytest.approx(sum(e[1] for e in ends))
    assert info["steps"] == 3
    assert info["cost"] == pytest.approx(3 / env.value(2))
    assert info["whole"]


def test_failure_and_drift_end_an_episode():
    env = StepEnv(Decay(), REWARD, Levels(2, 1e-3, 1.0))
    before, _ = env.reset(seed=0)
    after, reward, terminated, truncated, info = env.step(1)
    assert (terminated, truncated, reward, info["whole"]) == (True, False, -40.0, False)
    np.testing.assert_array_equal(before, after)
    strict = StepEnv(Decay(), REWARD, LEVELS, limit=1e-12)
    strict.reset(seed=0)
    _, reward, terminated, truncated, info = strict.step(0)
    assert (terminated, truncated, info["whole"]) == (True, False, False)
    assert -45 < reward < -40
    short = StepEnv(Decay(), REWARD, LEVELS, limit=1e9, longest=2)
    short.reset(seed=0)
    assert [short.step(0)[3] for _ in range(2)] == [False, True]


def test_what_was_chosen_before_counts_within_an_episode():
    env = StepEnv(Decay(3.0), WorkReward(work=0.0, target=1e9, change=1.0), LEVELS, limit=1e9)
    env.reset(seed=0)
    rewards = [env.step(level)[1] for level in (0, 6, 6)]
    np.testing.assert_allclose(rewards, [0, -math.log10(800), 0], atol=1e-9)
    env.reset()
    assert env.step(3)[1] == 0


def test_lengths_meet_the_end_of_the_episode():
    env = StepEnv(Decay(1.0, None), REWARD, Levels(3, 0.1, 0.8), limit=1e9)
    env.reset(seed=0)
    over = False
    while not over:
        _, _, _, over, info = env.step(2)
    assert env.stepper.time == 1.0
    assert info["steps"] == 2


def test_features_are_cut_off_and_numbers_that_are_none_are_small():
    env = StepEnv(Decay(), REWARD, LEVELS)
    env.stepper.observe = lambda: {"rate": math.inf, "error": math.nan}
    env._look()
    assert env._seen.tolist() == [10, -10]
    assert env._seen.dtype == np.float32


def test_a_place_of_the_range_is_a_value():
    env = StepEnv(Decay(), REWARD, LogRange(1e-3, 1e-1))
    found = [env.value(np.array([a], np.float32)) for a in (-1, 0, 1, 7)]
    np.testing.assert_allclose(found, [1e-3, 1e-2, 1e-1, 1e-1])


@pytest.mark.parametrize("actions", [LEVELS, LogRange(1e-3, 0.5)], ids=["levels", "range"])
def test_an_environment_goes_on_with_the_same_bits(actions):
    one, other = (StepEnv(Decay(10.0), REWARD, actions) for _ in range(2))
    one.reset(seed=4)
    one.action_space.seed(0)
    moves = [one.action_space.sample() for _ in range(60)]
    for i, action in enumerate(moves):
        if i == 33:
            seen = other.resume(json.loads(json.dumps(one.saved())))
            np.testing.assert_array_equal(seen, one._seen)
        mine = one.step(action)
        theirs = other.step(action) if i >= 33 else mine
        assert (mine[0].tobytes(), mine[1:]) == (theirs[0].tobytes(), theirs[1:])
        if mine[2] or mine[3]:
            one.reset()
            if i >= 33:
                other.reset()


# -- actions and rewards -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.floats(1e-6, 1e-3), st.floats(1.5, 1e5))
def test_levels_are_even_in_the_logarithm_and_meet_their_ends(count, low, ratio):
    values = Levels(count).values(Knob("h", "s", low, low * ratio))
    assert (values[0], values[-1]) == (low, low * ratio)
    np.testing.assert_allclose(np.diff(np.log(values)), np.log(ratio) / (count - 1), rtol=1e-6)


def result(error=1e-3, cost=10.0, value=0.1, length=1.0, held=1.0, converged=True):
    return StepResult(0.0, length, value, Knob("h", "s", 1e-3, 1.0, held=held), error, 0, cost, converged)


def test_the_reward_is_its_formula():
    plain = WorkReward(target=1e-4, work=0.5)
    assert plain.of(result(1e-2, 100.0), 0.0, 1, None) == pytest.approx(-0.5 * 2 - 2)
    assert plain.of(result(1e-9, 100.0), 0.0, 1, None) == pytest.approx(-1)
    assert plain.of(result(0.0, 100.0), 0.0, 1, None) == pytest.approx(-1)
    assert plain.of(result(converged=False), 0.0, 1, None) == 0
    shared = WorkReward(target=1e-4, work=0.5, shared=1.0, usual=10)
    assert shared.of(result(1e-2, 100.0), 0.0, 1, None) == pytest.approx(-1 - (2 - 1))
    steady = WorkReward(target=1e-4, change=4.0)
    for before in (0.01, 1.0):
        assert steady.of(result(1e-9, 100.0), 0.0, 2, before) == pytest.approx(-1 - 4)
    assert steady.of(result(1e-9, 100.0), 0.0, 1, None) == pytest.approx(-1)
    # A step of a length costs what a time of the largest one would.
    assert plain.of(result(1e-9, 1.0, 0.01, 0.01, None), 0, 1, None) == pytest.approx(-1)


def test_an_end_that_differs_by_rounding_is_the_knobs_own():
    knob = Knob("h", "s", 1e-4, 0.1)
    assert Levels(2, 1e-4 * (1 - 1e-15), 0.1 * (1 + 1e-15)).values(knob) == (1e-4, 0.1)


@settings(max_examples=40, deadline=None)
@given(st.floats(1.1, 100.0), st.floats(0.0, 2.0))
def test_the_unit_of_work_moves_all_rewards_alike(factor, shared):
    reward = WorkReward(target=1e-6, shared=shared, usual=7.0)
    other = replace(reward, usual=7.0 * factor)
    moved = [other.of(result(e, c * factor), 0, 1, None) - reward.of(result(e, c), 0, 1, None)
             for e, c in ((1e-4, 3.0), (1e-9, 50.0), (1e-3, 1e3))]  # fmt: skip
    np.testing.assert_allclose(moved, -0.5 * math.log10(factor), atol=1e-9)


def test_the_published_reward_is_its_formula():
    paper = PaperReward()
    assert paper.of(result(), 1e-6, 1, None) == 0
    wanted = -3000 * math.log10(1e-6 / 1e-10) / 6**3 / 5 + 4 / abs(math.log10(0.1))
    assert paper.of(result(), 1e-6, 5, None) == pytest.approx(wanted)
    changed = PaperReward(change=2.0).of(result(9e-7), 1e-6, 5, None)
    assert changed == pytest.approx(wanted - 2 * (math.log10(1e-6) - math.log10(1e-7)))
    for drift in (0.0, math.nan, math.inf, 1.0, 3.0):
        assert math.isfinite(paper.of(result(converged=drift != math.inf), drift, 2, None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Levels(1), "at least 2 levels"),
        (
            lambda: Levels(5, 1e-5, 1e-1).values(Knob("h", "s", 1e-4, 1.0)),
            "from 1e-05 to 0.1 s, .* 0.0001 to 1",
        ),
        (lambda: LogRange(0.5, 0.1), "in order, got 0.5 and 0.1"),
        (lambda: WorkReward(target=0.0), "target"),
        (lambda: WorkReward(work=math.nan), "work"),
        (lambda: PaperReward(error=-1.0), "error"),
        (lambda: PaperReward(accurate=2.0), "accurate"),
        (lambda: DQN(layers=()), "layers"),
        (lambda: DQN(discount=0.0), "discount"),
        (lambda: DQN(batch=0), "batch"),
        (lambda: DQN(learning_rate=math.inf), "learning_rate"),
        (lambda: DQN(explore_from=0.1, explore_to=0.5), "must not grow"),
        (lambda: DQN(layers=(8, 16), repeats=3), "as wide"),
        (lambda: DQN(optimiser="sgd"), "optimiser"),
        (lambda: PPO(rollout=100, batch=64), "multiple of batch"),
        (lambda: PPO(entropy=-1.0), "entropy"),
        (lambda: replace(STAGE, steps=0), "steps"),
        (lambda: replace(STAGE, limit=0.0), "limit"),
        (lambda: replace(STAGE, evaluate_seeds=10**6), "100000 held-out"),
        (lambda: replace(STAGE, device="tpu"), "device"),
        (lambda: training.begin(replace(STAGE, actions=LogRange(1e-3, 0.5))), "take PPO"),
        (lambda: Learned(""), "train_policy"),
        (lambda: Learned("x", cut=1.0), "cut"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(Invalid, match=message):
        make()


def test_the_presets_are_what_they_are_named_after():
    paper = TrainPolicy.published(Decay())
    assert paper.reward == PaperReward(3000.0, 0.0, 4.0, 1e-10)
    assert paper.actions == Levels(10, 1e-4, 1e-1)
    assert (paper.learner.layers, paper.learner.repeats) == ((200, 200), 9)
    assert paper.learner.exploring(1000) == pytest.approx(0.05 + 0.85 / math.e)
    for ours in (TrainPolicy.hermite(Decay(), 3), TrainPolicy.leapfrog(Decay(), 3)):
        assert (ours.reward.change, ours.seed, ours.learner) == (8.0, 3, DQN())


def test_components_conform():
    for component in (LEVELS, LogRange(), REWARD, PaperReward(), SMALL, DQN.published(), PPO()):
        check_component(component)
    check_component(example(Learned))


# -- training ----------------------------------------------------------------------------------------


def returns(policy, seeds=range(20)):
    """Mean sum of the rewards of something that chooses a level by the rate."""
    env, total = StepEnv(Decay(), REWARD, LEVELS, limit=1e9), 0.0
    for seed in seeds:
        env.reset(options={"episode": seed})
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(policy(env.stepper))
            total += reward
            over = terminated or truncated
    return total / len(seeds)


def test_dqn_comes_near_the_best_choice(trained):
    values = LEVELS.values(DecayStepper(0, 1.0).knob)
    policy, rng = load(trained.path), np.random.default_rng(0)
    best = returns(lambda s: values.index(best_level(s.rate)))
    fixed = max(returns(lambda s, level=level: level) for level in range(7))
    chance = returns(lambda s: int(rng.integers(7)))
    learned = returns(lambda s: values.index(policy.decide(s.observe())))
    assert chance < fixed < learned <= best + 1e-9
    assert best - learned < 0.35 * (best - fixed)


def test_what_is_stored_tells_how_it_went(trained):
    steps, value = trained.read("history_steps"), trained.read("history_value")
    assert steps.tolist() == list(range(400, 2401, 400))
    about = trained.attributes
    assert about["chosen_at"] == steps[value.argmax()]
    np.testing.assert_allclose(trained.read("values"), LEVELS.values(DecayStepper(0, 1.0).knob))
    found = evaluate(load(trained.path), StepEnv(Decay(), REWARD, LEVELS, 1e9), range(HELD_OUT, HELD_OUT + 5))
    assert found.value == value.max()
    assert trained.read("history_explore")[-1] == SMALL.exploring(2400)
    assert np.isfinite(trained.read("history_loss")[1:]).all()
    check_stage(STAGE)


def test_a_report_says_what_was_learned(trained):
    ((title, body),) = report.sections(trained)
    assert title == "Learned steps"
    assert "chooses h, 7 values from 0.001 to 0.8 s, by rate, error" in body
    assert f"after {trained.attributes['chosen_at']} of 2400" in body
    assert "data:image" in body


class Killed(Exception):
    pass


class KilledContext(Context):
    def progress(self, done, total, what, figures=None):
        with self.scratch.joinpath("done").open("a") as told:
            print(done, file=told)
        if done > 0.7 * total and not self.scratch.joinpath("again").exists():
            self.scratch.joinpath("again").touch()
            raise Killed


SHORT = replace(
    STAGE, steps=1000, evaluate_every=250, checkpoint_every=500, learner=replace(SMALL, replay=400)
)
CASES = {
    "dqn": SHORT,
    "published": replace(
        SHORT,
        learner=replace(DQN.published(), layers=(8, 8), batch=16, warm_up=16),
        steps=600,
        evaluate_every=150,
        checkpoint_every=300,
    ),
    "ppo": replace(SHORT, learner=PPO((8,), rollout=50, batch=25, epochs=2), actions=LogRange(1e-3, 0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_goes_on_with_the_same_bits(case, tmp_path):
    stage = CASES[case]
    whole = train(stage, tmp_path / "whole")
    (tmp_path / "scratch").mkdir()
    ctx = KilledContext(scratch=tmp_path / "scratch")
    with pytest.raises(Killed):
        train(stage, tmp_path / "parts", ctx)
    before = len((tmp_path / "scratch" / "done").read_text().split())
    parts = train(stage, tmp_path / "parts", ctx)
    assert int((tmp_path / "scratch" / "done").read_text().split()[before]) == stage.checkpoint_every
    assert whole.schema == parts.schema
    for name in whole.schema:
        assert whole.read(name).tobytes() == parts.read(name).tobytes(), name


@pytest.mark.parametrize("case", CASES)
def test_every_array_of_a_state_comes_back(case):
    stage = CASES[case]
    agent, trial, best = training.begin(stage)
    training.advance(stage, agent, trial, best)
    state = training.save(stage, agent, best)
    assert all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in state.values())
    other, _, none = training.begin(replace(stage, seed=7))
    with pytest.raises(Invalid, match="delete it"):
        training.restore(replace(stage, steps=1), other, none, state)
    training.restore(stage, other, none, state)
    again = training.save(stage, other, none)
    assert state.keys() == again.keys()
    for name, values in state.items():
        assert values.tobytes() == again[name].tobytes(), name


def test_nobody_sees_the_generators_of_a_training():
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        agent, trial, best = training.begin(STAGE)
        training.advance(STAGE, agent, trial, best)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after


def test_episodes_that_fail_are_counted():
    env = StepEnv(Decay(3.0), REWARD, Levels(2, 1e-3, 1.0), limit=1e9)
    found = evaluate(SimpleNamespace(act=lambda _: int(env.seed % 4 == 1)), env, range(8))
    assert (found.whole, found.error) == (0.75, math.inf)
    assert found.cost == pytest.approx(0.75 * 3000 + 0.25)


def test_more_whole_episodes_are_better_than_larger_rewards():
    few = Evaluation(-1.0, 1e-3, 1.0, 0.5)
    all_, cheaper = Evaluation(-9.0, 1e-9, 9.0, 1.0), Evaluation(-8.0, 1e-9, 9.0, 1.0)
    assert all_.better(few)
    assert cheaper.better(all_)
    assert not all_.better(cheaper)
    assert not few.better(cheaper)


def test_other_generators_do_not_change_a_training():
    rows = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            agent, trial, best = training.begin(STAGE)
            torch.manual_seed(seed + 10)
            training.advance(STAGE, agent, trial, best)
            rows.append(agent.save()["net.q_net.q_net.0.weight"].tobytes())
    assert rows[0] == rows[1]


def test_own_generators_go_on_where_they_were():
    own = Randomness(3, "cpu")
    with own.own():
        first = np.random.random(), torch.rand(1).item()
    other = Randomness(4, "cpu")
    saved = own.save()
    with own.own():
        second = np.random.random(), torch.rand(1).item()
    other.restore(saved)
    with other.own():
        assert (np.random.random(), torch.rand(1).item()) == second
    assert first != second


def test_several_ranks_are_refused(tmp_path):
    class Two:
        rank, size = 0, 2

        def barrier(self):
            pass

    with pytest.raises(Invalid, match="one rank"):
        train(STAGE, tmp_path, Context(comm=Two()))


def test_weights_that_are_not_finite_end_a_training():
    agent, trial, best = training.begin(STAGE)
    with torch.no_grad():
        agent.linears()[0].weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="learning rate"):
        training.advance(STAGE, agent, trial, best)


# -- policies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_numpy_chooses_what_torch_chooses(case):
    stage = CASES[case]
    agent, trial, best = training.begin(stage)
    training.advance(stage, agent, trial, best)
    policy, model = agent.policy(), agent.model
    x = np.random.default_rng(1).uniform(-10, 10, (3000, 2)).astype(np.float32)
    with torch.no_grad():
        if case == "ppo":
            wanted = model.policy.get_distribution(torch.from_numpy(x)).distribution.mean.numpy()
        else:
            wanted = model.q_net(torch.from_numpy(x)).numpy()
    found = np.array([policy.outputs(row) for row in x])
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    if case == "ppo":
        return
    near = np.sort(wanted, axis=1)
    clear = near[:, -1] - near[:, -2] > 1e-4 * np.abs(wanted).max()
    assert clear.mean() > 0.5
    acts = np.array([policy.act(row) for row in x])
    assert (acts == wanted.argmax(1))[clear].all()


def test_a_policy_is_read_without_torch(trained):
    policy = load(trained.path)
    told = {"rate": 1.3, "error": -2.0}
    code = (
        "import sys; from sciflow_control.learning.policy import load; "
        f"p = load({str(trained.path)!r}); print(repr(p.decide({told!r})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [repr(policy.decide(told)), "False"]


def test_features_go_by_name_and_odd_ones_do_no_harm(trained):
    policy = load(trained.path)
    values = policy.signature.values
    for rate, error in ((0.3, -2.0), (1.9, 0.0), (math.nan, math.inf), (1e300, -1e300)):
        told = {"error": error, "unknown": 3.0, "rate": rate}
        assert policy.decide(told) in values
        place = policy.place(told)
        assert values[round(place * (len(values) - 1))] == policy.decide(told)


def signature(**changes):
    base = Signature(("a",), Knob("h", "s", 1e-4, 1.0), (0.1, 0.2), "level", "relu", (0,))
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("sign", "shape", "message"),
    [
        (signature(), (2, 2), "weights of float32 of shape"),
        (signature(), (1, 3), "3 outputs, it chooses among 2"),
        (signature(order=(0, 1)), (1, 2), "layer 1 is to be applied, there are 1"),
        (signature(chooses="place"), (1, 2), "2 outputs, it chooses among 1"),
    ],
)
def test_layers_that_do_not_fit_are_refused(sign, shape, message):
    with pytest.raises(Invalid, match=message):
        Policy(sign, [(np.zeros(shape, np.float32), np.zeros(shape[1], np.float32))])
    with pytest.raises(Invalid, match="float64"):
        Policy(signature(), [(np.zeros((1, 2)), np.zeros(2))])


def test_a_signature_comes_back_from_json():
    sign = signature(knob=Knob("mu", "1", 1e-4, 1.0, 4.0, held=0.1))
    assert Signature.from_json(json.loads(json.dumps(sign.to_json()))) == sign


# -- the controller ------------------------------------------------------------------------------------


def test_a_learned_controller_steers(trained):
    controller = Learned(str(trained.path))
    stepping = Stepping(DecayStepper(5, 1.0), controller)
    leg = stepping.to(20.0)
    assert stepping.stepper.time == 20.0
    policy = load(trained.path)
    rates = [DecayStepper(5, 1.0).rates[int(r.time)] for r in leg.taken]
    chosen = [r.value for r in leg.taken]
    assert set(chosen) <= set(policy.signature.values)
    assert np.corrcoef(np.log(rates), np.log(chosen))[0, 1] < -0.9


def test_what_failed_is_tried_again_with_less(trained):
    controller = Learned(str(trained.path), cut=0.25)
    failed = result(converged=False, value=0.8)
    assert controller.judge({}, failed)[0].retry == pytest.approx(0.2)
    # The lower bound is tried before a run ends.
    assert controller.judge({}, result(converged=False, value=2e-3))[0].retry == 1e-3
    assert controller.judge({}, result(converged=False, value=1e-3))[0].retry == 2.5e-4
    assert controller.judge({}, result())[0].accepted


def test_another_feature_set_is_refused_with_both_named(trained):
    controller, knob = Learned(str(trained.path)), DecayStepper(0, 1.0).knob
    with pytest.raises(Invalid, match="features rate, error; this solver tells closest, speed"):
        controller.init(knob, ("closest", "speed"))
    with pytest.raises(Invalid, match="tells none"):
        controller.init(knob)
    with pytest.raises(Invalid, match="tells error, rate"):
        controller.init(knob, ("error", "rate"))


def test_another_knob_is_refused_unless_it_is_to_be_transferred(trained):
    features = DecayStepper.features
    for knob, words in (
        (Knob("mu", "1", 1e-3, 10.0, held=1.0), "set h in s, held for 1, this solver has mu, held for 1"),
        (Knob("h", "s", 1e-4, 1.0, held=2.0), "held for 2"),
        (Knob("h", "s", 1e-2, 1.0, held=1.0), "from 0.001 to 0.8 s, this solver takes 0.01 to 1"),
    ):
        with pytest.raises(Invalid, match=words):
            Learned(str(trained.path)).init(knob, features)
    other, same = Knob("mu", "1", 1e-3, 10.0, held=2.0), DecayStepper(0, 1.0).knob
    controller = Learned(str(trained.path), transfer=True)
    controller.init(other, features)
    for rate in (0.1, 1.0, 1.9):
        told = {"rate": rate, "error": -2.0}
        chosen, _ = controller.choose({}, StepState(0, 1, same, told))
        moved, _ = controller.choose({}, StepState(0, 1, other, told))
        assert math.log(moved / 1e-3) / math.log(1e4) == pytest.approx(
            math.log(chosen / 1e-3) / math.log(800)
        )


def test_artifacts_of_no_use_are_refused(trained, tmp_path):
    import shutil

    with pytest.raises(NotFound):
        Learned(str(tmp_path / "none")).init(DecayStepper(0, 1.0).knob, DecayStepper.features)
    with pytest.raises(Invalid, match="trained anew"):
        load(trained.path, "0123")
    assert load(trained.path, trained.digest[:12])
    broken = tmp_path / "broken"
    shutil.copytree(trained.path, broken)
    chunk = next(
        p for p in (broken / "data.zarr" / "weight_0").rglob("*") if p.is_file() and p.name != "zarr.json"
    )
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.chmod(0o644)
    chunk.write_bytes(bytes(data))
    with pytest.raises(Invalid, match="weight_0"):
        load(broken)


def test_it_is_a_step_controller(tmp_path):
    features, knob = ("load",), Knob("mu", "1", 1e-6, 1.0, order=4.0, held=0.1)
    sign = Signature(features, knob, (1e-4, 1e-3, 1e-2), "level", "relu", (0, 1))
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(1, 8)), rng.normal(size=8)), (rng.normal(size=(8, 3)), rng.normal(size=3))]
    policy = Policy(sign, [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers])
    best = training.Best()
    best.offer(policy, Evaluation(0.0, 0.0, 1.0, 1.0), 1)
    names = ("steps", "reward", "loss", "explore", "value", "error", "cost", "whole")
    row = dict.fromkeys(names, 0.0)
    with Store(tmp_path).writer(STAGE.output, "b" * 64) as out:
        training._store(STAGE, best, [row], out)
        artifact = out.publish({})
    controller = Learned(str(artifact.path))
    assert isinstance(controller, StepController)
    check_step_controller(controller)
    assert artifact.to_xarray()["weight_1"].shape == (8, 3)


# -- three bodies ------------------------------------------------------------------------------------


@pytest.mark.torture
def test_the_leapfrog_of_three_bodies_learns_to_beat_equal_steps(tmp_path):
    from sciflow_control.bodies.leapfrog import Leapfrog
    from sciflow_control.bodies.three_body import ThreeBody

    episodes = ThreeBody(Leapfrog(), years=10.0)
    stage = TrainPolicy(
        episodes, WorkReward(1e-5, shared=1.0, usual=30.0), actions=Levels(10, 1e-3), steps=30_000
    )
    learned = load(train(stage, tmp_path).path)

    def drifts(episodes, choose):
        found, cost = [], 0.0
        for seed in range(40):
            stepper = episodes.begin(seed)
            while stepper.time < episodes.until:
                result = stepper.attempt(choose(stepper), episodes.until)
                assert result.converged
                stepper.accept()
                cost += result.cost
            found.append(math.log10(stepper.drift()))
        return np.quantile(found, 0.9), cost

    ours, work = drifts(episodes, lambda s: learned.decide(s.observe()))
    equal, more = drifts(ThreeBody(Leapfrog("fixed"), years=10.0), lambda s: 1e-3)
    assert work < more
    assert ours < equal - 3
