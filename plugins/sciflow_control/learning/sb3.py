"""What the learners of stable-baselines3 have in common: one environment, and states as plain arrays."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sciflow_control.learning.agent import Agent, Arrays, Progress, Randomness
from sciflow_control.learning.policy import Layer, Policy, Signature

if TYPE_CHECKING:
    from sciflow_control.learning.env import StepEnv


class Returns(BaseCallback):  # type: ignore[misc]
    """Notes the sum of the rewards of each episode that ends."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "return" in info:
                self.found.append(info["return"])
        return True


class Sb3Agent(Agent):
    """A model of stable-baselines3 that learns in parts.

    ``learn`` is called once for each part. What it would have changed with the part of the training that is
    done (a share of random steps) is a function of the steps here, so that the parts do not matter.

    Parameters
    ----------
    env : StepEnv
        Not begun yet.
    seed : int
        Of everything.
    device : {"cpu", "cuda"}
        Where it is learned.
    """

    def __init__(self, env: StepEnv, seed: int, device: str) -> None:
        self.env = env
        self.random = Randomness(seed, device)
        with self.random.own():
            self.model = self.make(DummyVecEnv([lambda: env]), seed, device)
            self.model.set_logger(Logger(folder=None, output_formats=[]))

    @abstractmethod
    def make(self, env: DummyVecEnv, seed: int, device: str) -> Any:
        """The model."""

    @abstractmethod
    def linears(self) -> list[nn.Linear]:
        """The layers of the policy, each once, in the order of their first use."""

    @property
    @abstractmethod
    def activation(self) -> str:
        """Between them."""

    @property
    def order(self) -> tuple[int, ...]:
        """In which they are applied."""
        return tuple(range(len(self.linears())))

    @abstractmethod
    def explored(self) -> float:
        """See `Progress.explore`."""

    @property
    def steps(self) -> int:  # type: ignore[override]
        """See `Agent`."""
        return int(self.model.num_timesteps)

    def advance(self, steps: int) -> Progress:
        """See `Agent.advance`."""
        noted = Returns()
        self.model.losses = []
        with self.random.own():
            self.model.learn(steps, callback=noted, log_interval=None, reset_num_timesteps=False)
        losses = self.model.losses
        return Progress(noted.found, float(np.mean(losses)) if losses else float("nan"), self.explored())

    def signature(self) -> Signature:
        """What the policy is told and sets."""
        env = self.env
        chooses = "level" if env.levels else "place"
        return Signature(env.features, env.knob, env.values, chooses, self.activation, self.order)  # type: ignore[arg-type]

    def view(self) -> Policy:
        """The policy on the processor; there it shares its memory with the network."""
        return Policy(self.signature(), [_layer(linear) for linear in self.linears()])

    def policy(self) -> Policy:
        """See `Agent.policy`."""
        return self.view().copy()

    def save(self) -> dict[str, np.ndarray]:
        """See `Agent.save`."""
        model = self.model
        arrays = {f"net.{k}": _array(v) for k, v in model.policy.state_dict().items()}
        for number, moments in model.policy.optimizer.state_dict()["state"].items():
            arrays |= {f"optimiser.{number}.{k}": _array(v) for k, v in moments.items()}
        arrays |= {f"random.{k}": v for k, v in self.random.save().items()}
        actions = model.action_space.np_random.bit_generator.state
        arrays["places"] = _text({"env": self.env.saved(), "actions": actions})
        counts = [model.num_timesteps, model._episode_num, model._n_updates]
        arrays["counts"] = np.array(counts, dtype=np.int64)
        arrays["begun"] = np.array(model._last_episode_starts, dtype=bool)
        return arrays

    def restore(self, state: Arrays) -> None:
        """See `Agent.restore`."""
        model = self.model
        weights = {k.removeprefix("net."): _tensor(v) for k, v in state.items() if k.startswith("net.")}
        model.policy.load_state_dict(weights)
        document = model.policy.optimizer.state_dict()
        document["state"] = {}
        for name, values in state.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".")
                document["state"].setdefault(int(number), {})[key] = _tensor(values)
        model.policy.optimizer.load_state_dict(document)
        self.random.restore({k.removeprefix("random."): v for k, v in state.items() if k[:7] == "random."})
        places = json.loads(bytes(np.asarray(state["places"])).decode())
        model.action_space.np_random.bit_generator.state = places["actions"]
        model._last_obs = self.env.resume(places["env"])[None].copy()
        model._last_episode_starts = np.array(state["begun"], dtype=bool)
        model.num_timesteps, model._episode_num, model._n_updates = np.asarray(state["counts"]).tolist()


def _layer(linear: nn.Linear) -> Layer:
    return linear.weight.detach().cpu().numpy().T, linear.bias.detach().cpu().numpy()


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values))


def _text(document: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(document, sort_keys=True).encode(), dtype=np.uint8).copy()
