"""How a policy is trained: learn for a while, look at episodes that were never trained on, keep the best."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciflow.errors import Diverged, Invalid
from sciflow.stages.train import Checkpoints
from sciflow_control.learning.env import HELD_OUT, StepEnv
from sciflow_control.learning.evaluation import Evaluation, evaluate
from sciflow_control.learning.policy import Policy
from sciflow_control.learning.train import POLICY

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_control.learning.agent import Agent, Arrays
    from sciflow_control.learning.train import TrainPolicy

Row = dict[str, float]


class Best:
    """The best policy so far and its worth.

    Attributes
    ----------
    policy : Policy or None
        None before the first.
    found : Evaluation or None
        On the held-out episodes.
    steps : int
        Environment steps it was trained for.
    """

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self.found: Evaluation | None = None
        self.steps = 0

    def offer(self, policy: Policy, found: Evaluation, steps: int) -> None:
        """Take it if it is better."""
        if self.found is None or found.better(self.found):
            self.policy, self.found, self.steps = policy, found, steps

    def save(self) -> dict[str, np.ndarray]:
        """As plain arrays."""
        assert self.policy is not None
        assert self.found is not None
        arrays = {"found": np.array(astuple(self.found)), "steps": np.array(self.steps)}
        for i, (weights, bias) in enumerate(self.policy.layers):
            arrays |= {f"weight.{i}": weights, f"bias.{i}": bias}
        return arrays

    def restore(self, arrays: Arrays, like: Policy) -> None:
        """Go on where `save` was called; `like` is any policy of the same shape."""
        self.found, self.steps = Evaluation(*np.asarray(arrays["found"]).tolist()), int(arrays["steps"])
        layers = [(arrays[f"weight.{i}"], arrays[f"bias.{i}"]) for i in range(len(like.layers))]
        self.policy = Policy(like.signature, layers)


def run(config: TrainPolicy, out: Writer, ctx: Context) -> None:
    """See `TrainPolicy.run`."""
    if ctx.comm.size > 1:
        raise Invalid(f"a policy is trained on one rank, this job has {ctx.comm.size}; ask for one")
    kept = Checkpoints(out.scratch)
    history, state = kept.latest()
    agent, trial, best = begin(config)
    if state is not None:
        restore(config, agent, best, state)
        ctx.log.info("training goes on after %d steps", agent.steps)
    while agent.steps < config.steps:
        ctx.progress(agent.steps, config.steps, "environment steps")
        before = agent.steps
        history.append(advance(config, agent, trial, best))
        row = history[-1]
        ctx.metric(agent.steps, **{k: v for k, v in row.items() if k != "steps" and math.isfinite(v)})
        due = agent.steps // config.checkpoint_every > before // config.checkpoint_every
        if due and agent.steps < config.steps:
            kept.save(history, save(config, agent, best))
    _store(config, best, history, out)


def begin(config: TrainPolicy) -> tuple[Agent, StepEnv, Best]:
    """An agent with random weights, an environment for the held-out episodes, and no best policy yet.

    Raises
    ------
    Invalid
        If a GPU is asked for that is not there, or if the learner does not fit the actions.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise Invalid("device 'cuda' was asked for, torch sees no GPU here; use 'auto' or 'cpu'")
    device = "cuda" if there and config.device != "cpu" else "cpu"
    agent = config.learner.begin(_env(config), config.seed, device)
    return agent, _env(config), Best()


def _env(config: TrainPolicy) -> StepEnv:
    return StepEnv(config.episodes, config.reward, config.actions, config.limit, config.longest)


def advance(config: TrainPolicy, agent: Agent, trial: StepEnv, best: Best) -> Row:
    """Train up to the next note and look at the held-out episodes.

    Raises
    ------
    Diverged
        If the weights are no longer finite.
    """
    stride, before = config.learner.stride, agent.steps
    end = min(config.steps, (before // config.evaluate_every + 1) * config.evaluate_every)
    progress = agent.advance(-(-(end - before) // stride) * stride)
    policy = agent.policy()
    if not all(np.isfinite(a).all() for layer in policy.layers for a in layer):
        raise Diverged(
            f"after {agent.steps} steps the weights are no longer finite; lower the learning rate of "
            f"{config.learner.name}, or the size of its rewards"
        )
    found = evaluate(policy, trial, range(HELD_OUT, HELD_OUT + config.evaluate_seeds))
    row = {
        "steps": agent.steps,
        "reward": float(np.mean(progress.returns)) if progress.returns else math.nan,
        "loss": progress.loss,
        "explore": progress.explore,
        **asdict(found),
    }
    best.offer(policy, found, agent.steps)
    return row


def save(config: TrainPolicy, agent: Agent, best: Best) -> dict[str, np.ndarray]:
    """Everything that training needs to go on, as plain arrays."""
    arrays = {f"agent.{k}": v for k, v in agent.save().items()}
    arrays |= {f"best.{k}": v for k, v in best.save().items()}
    return arrays | {"about": np.frombuffer(_about(config).encode(), dtype=np.uint8).copy()}


def restore(config: TrainPolicy, agent: Agent, best: Best, state: Arrays) -> None:
    """Go on where `save` was called.

    Raises
    ------
    Invalid
        If the checkpoint is one of another configuration.
    """
    written = bytes(np.asarray(state["about"])).decode()
    if written != _about(config):
        raise Invalid(
            f"the checkpoint is one of {written}, this is {_about(config)}; delete it to train from the "
            "beginning"
        )
    parts: dict[str, dict[str, Any]] = {"agent": {}, "best": {}}
    for name, values in state.items():
        room, _, key = name.partition(".")
        if room in parts:
            parts[room][key] = values
    agent.restore(parts["agent"])
    best.restore(parts["best"], agent.policy())


def _about(config: TrainPolicy) -> str:
    return json.dumps(config.identity(), sort_keys=True)


def _store(config: TrainPolicy, best: Best, history: list[Row], out: Writer) -> None:
    assert best.policy is not None
    best.policy.write(out)
    values: dict[str, np.ndarray] = {"values": np.array(best.policy.signature.values)}
    for name in POLICY.fields:
        if name.startswith("history_"):
            values[name] = np.array([row[name.removeprefix("history_")] for row in history])
    values["history_steps"] = values["history_steps"].astype(np.int64)
    for name, field in POLICY.fields.items():
        out.write(name, values[name], field)
    out.describe(
        learner=config.learner.to_json(),
        reward=config.reward.to_json(),
        episodes=config.episodes.to_json(),
        chosen_at=best.steps,
        cost_unit=config.episodes.cost_unit,
    )
