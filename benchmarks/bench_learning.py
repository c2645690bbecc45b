"""What learning to choose steps costs: environment, training from end to end, and a decision afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.figure import Figure, NotRun, medians

if TYPE_CHECKING:
    from sciflow_control.learning.agent import Agent
    from sciflow_control.learning.env import StepEnv
    from sciflow_control.learning.learner import Learner
    from sciflow_control.learning.policy import Policy

STEPS, PART, ROUNDS = 4000, 1000, 5
"""Environment steps with random actions; of a training in one measurement, and measurements."""
DECISIONS = 2000


def _ready() -> None:
    from importlib.util import find_spec

    absent = [
        name for name in ("torch", "gymnasium", "stable_baselines3", "numba") if find_spec(name) is None
    ]
    if absent:
        raise NotRun(f"{', '.join(absent)} not installed; pip install sciflow[control,rl]")


def _env(low: float | None = None) -> StepEnv:
    from sciflow_control.bodies.three_body import ThreeBody
    from sciflow_control.learning.actions import Levels
    from sciflow_control.learning.env import StepEnv
    from sciflow_control.learning.reward import WorkReward

    return StepEnv(ThreeBody(), WorkReward(), Levels(10, low))


def bench_environment() -> Iterator[Figure]:
    """Random values of Hermite's parameter, beside the solver alone with the same values."""
    _ready()
    import numpy as np

    env, other = _env(), _env()
    actions = np.random.default_rng(0).integers(10, size=STEPS).tolist()

    def alone() -> float:
        """The steps without gymnasium, seconds in the solver."""
        other.reset(seed=0)
        stepper = other.stepper
        for number, action in enumerate(actions):
            if stepper.time >= other.episodes.until:
                stepper = other.episodes.begin(10**6 + number)
            stepper.attempt(other.values[action], other.episodes.until)
            stepper.accept()
            stepper.observe()
        return 0.0

    def played() -> None:
        env.reset(seed=0)
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    seconds = medians({"env": played, "solver": alone}, repeats=5)
    note = f"mu from 1e-4 to 0.1; the solver alone {STEPS / seconds['solver']:.0f}/s"
    yield Figure("hermite_env_steps", STEPS / seconds["env"], 16_000, "/s", ">=", note)
    note = "the same numbers of steps, other states"
    yield Figure("env_over_solver", seconds["env"] / seconds["solver"], 1.5, "x", "<=", note)


def bench_training() -> Iterator[Figure]:
    """DQN from end to end in turn with what stable-baselines3 does by itself with the same settings."""
    _ready()
    from sciflow_control.learning.learner import DQN

    # Exploring ends at once: random steps are chosen faster.
    default = DQN(warm_up=100, explore_steps=1)
    ours, plain = _agent(default), _agent(default, plain=True)
    published = _agent(DQN.published())
    runs: dict[str, Callable[[], object]] = {
        "default": partial(ours.advance, PART),
        "plain": partial(plain.advance, PART),
        "published": partial(published.advance, PART // 5),
    }
    seconds = medians(runs, ROUNDS, warm=1)
    rates = {"default": PART / seconds["default"], "plain": PART / seconds["plain"]}
    rates["published"] = PART / 5 / seconds["published"]
    note = "2 layers of 64, an update every 4 steps, one thread, mu from 1e-3"
    yield Figure("dqn_env_steps", rates["default"], 1000, "/s", ">=", note)
    note = f"stable-baselines3 with its own acting and optimiser {rates['plain']:.0f}/s"
    yield Figure("dqn_over_plain", rates["default"] / rates["plain"], 1.0, "x", ">=", note)
    note = "9 x 200, an update every step; 107 to 150 where it was measured before"
    yield Figure("dqn_published_env_steps", rates["published"], 107, "/s", ">=", note)


def _agent(learner: Learner, plain: bool = False) -> Agent:
    import torch

    agent: Any = learner.begin(_env(1e-3), 0, "cpu")
    if plain:
        agent.model.chooser = None
        old = agent.model.policy.optimizer
        agent.model.policy.optimizer = torch.optim.Adam(
            agent.model.policy.parameters(), lr=old.defaults["lr"]
        )
    agent.advance(200)
    made: Agent = agent
    return made


def bench_decision() -> Iterator[Figure]:
    """One decision of two layers of 64, features by name to the value of the knob."""
    _ready()
    import numpy as np
    import torch

    from sciflow_control.learning.learner import DQN

    agent: Any = DQN().begin(_env(), 0, "cpu")
    policy: Policy = agent.policy()
    told = [dict(zip(policy.signature.features, row, strict=True))
            for row in np.random.default_rng(0).normal(size=(DECISIONS, 7)).tolist()]  # fmt: skip

    def numpy() -> None:
        for one in told:
            policy.decide(one)

    def with_torch() -> None:
        with torch.inference_mode():
            for one in told:
                x = torch.tensor([list(one.values())], dtype=torch.float32)
                policy.signature.values[int(agent.model.q_net(x).argmax())]

    def sb3() -> None:
        model = super(type(agent.model), agent.model)
        for one in told:
            model.predict(np.array(list(one.values()), np.float32), deterministic=True)

    with agent.random.own():
        begin = time.perf_counter()
        seconds = medians({"numpy": numpy, "torch": with_torch, "sb3": sb3}, repeats=7)
        took = time.perf_counter() - begin
    us = {name: 1e6 * s / DECISIONS for name, s in seconds.items()}
    note = f"torch {us['torch']:.0f} us, stable-baselines3 {us['sb3']:.0f} us, in turn over {took:.0f} s"
    yield Figure("decision", us["numpy"], 10, " us", "<=", note)
    yield Figure("decision_torch_over_numpy", us["torch"] / us["numpy"], 3, "x", ">=", note)
