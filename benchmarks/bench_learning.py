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


SEEDS, YEARS, RUNS = 3, 30.0, 100
"""Of trainings; length and number of the runs that they are compared on, which no training has seen."""


def bench_hermite() -> Iterator[Figure]:
    """Policies for Hermite's parameter beside constant ones at equal mean work, over training seeds."""
    _ready()
    import numpy as np

    from sciflow_control.bodies.three_body import ThreeBody
    from sciflow_control.learning.train import TrainPolicy

    episodes = ThreeBody(years=YEARS)
    constant = [_outcome(episodes, lambda _, mu=mu: mu) for mu in (0.0178, 0.01, 0.00562, 0.00316)]
    work = np.log([row[3] for row in constant])
    behind = []
    for seed in range(SEEDS):
        *errors, cost = _outcome(episodes, _trained(TrainPolicy.hermite(ThreeBody(), seed)))
        wanted = [np.interp(np.log(cost), work, [row[i] for row in constant]) for i in range(3)]
        behind.append([found - there for found, there in zip(errors, wanted, strict=True)])
    for i, name in enumerate(("p50", "p90", "max")):
        rows = [row[i] for row in behind]
        note = f"log10 drift above that of a constant mu at equal work, worst of {SEEDS}: {_words(rows)}"
        yield Figure(f"hermite_{name}_behind_constant", max(rows), 0.3, " dex", "<=", note)


def bench_leapfrog() -> Iterator[Figure]:
    """Policies for the leapfrog's parameter; equal steps of 1e-3 yr take 30000 evaluations."""
    _ready()
    from sciflow_control.bodies.leapfrog import Leapfrog
    from sciflow_control.bodies.three_body import ThreeBody
    from sciflow_control.learning.train import TrainPolicy

    equal = _outcome(ThreeBody(Leapfrog("fixed"), years=YEARS), lambda _: 1e-3)
    rows = []
    for seed in range(SEEDS):
        policy = _trained(TrainPolicy.leapfrog(ThreeBody(Leapfrog()), seed))
        rows.append(_outcome(ThreeBody(Leapfrog(), years=YEARS), policy))
    note = f"log10 drift, worst of {SEEDS}: {_words([r[1] for r in rows])}; equal steps {equal[1]:.2f}"
    yield Figure("leapfrog_p90", max(r[1] for r in rows), -2.5, "", "<=", note)
    note = f"worst of {SEEDS}: {_words([r[3] / equal[3] for r in rows])}"
    yield Figure("leapfrog_work_to_equal_steps", max(r[3] for r in rows) / equal[3], 1 / 3, "x", "<=", note)


def _words(numbers: list[float]) -> str:
    return ", ".join(f"{n:.2f}" for n in numbers)


def _trained(config: Any) -> Callable[[Any], float]:
    """The best policy of a training, asked with what a stepper tells."""
    from sciflow_control.learning import training

    agent, trial, best = training.begin(config)
    while agent.steps < config.steps:
        training.advance(config, agent, trial, best)
    policy = best.policy
    assert policy is not None
    return lambda stepper: policy.decide(stepper.observe())


def _outcome(episodes: Any, choose: Callable[[Any], float]) -> tuple[float, float, float, float]:
    """Median, ninth decile and maximum of log10 of the drift, and mean work; infinity where a run failed."""
    import numpy as np

    drifts, work = [], 0.0
    for seed in range(RUNS):
        stepper, whole = episodes.begin(seed), True
        while whole and stepper.time < episodes.until:
            result = stepper.attempt(choose(stepper), episodes.until)
            work += result.cost
            whole = result.converged
            (stepper.accept if whole else stepper.reject)()
        drifts.append(stepper.drift() if whole else np.inf)
    found = np.log10(np.maximum(drifts, 1e-16))
    high = float(np.quantile(found, 0.9, method="higher"))
    return float(np.median(found)), high, float(found.max()), work / RUNS
