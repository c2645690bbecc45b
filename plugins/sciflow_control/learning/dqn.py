"""DQN of stable-baselines3, with steps chosen by numpy and states as plain arrays."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import stable_baselines3
import torch
from gymnasium.spaces import Space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sciflow.errors import Invalid
from sciflow_control.learning.agent import Arrays
from sciflow_control.learning.sb3 import Sb3Agent

if TYPE_CHECKING:
    from sciflow_control.learning.env import StepEnv
    from sciflow_control.learning.learner import DQN
    from sciflow_control.learning.policy import Policy

REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Repeated(BaseFeaturesExtractor):  # type: ignore[misc]
    """Hidden layers of which the last is applied several times with the same weights.

    Parameters
    ----------
    space : Space
        Of observations.
    layers : tuple of int
        Widths.
    repeats : int
        How often the last is applied; then the last two widths are the same.
    """

    def __init__(self, space: Space, layers: tuple[int, ...], repeats: int) -> None:
        super().__init__(space, layers[-1])
        widths = (int(np.prod(space.shape or (1,))), *layers)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self._repeats = repeats

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Observations to features, shape (batch, width)."""
        last = len(self.hidden) - 1
        for number, layer in enumerate(self.hidden):
            for _ in range(self._repeats if number == last else 1):
                x = torch.relu(layer(x))
        return x


class Model(stable_baselines3.DQN):  # type: ignore[misc]
    """Notes its losses, and has steps chosen by a policy of numpy where there is one."""

    losses: list[float]
    chooser: Policy | None = None

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """See stable-baselines3."""
        super().train(gradient_steps, batch_size)
        self.losses.append(float(self.logger.name_to_value["train/loss"]))

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """See stable-baselines3; for observations of shape (1, feature)."""
        if self.chooser is None:
            found: tuple[np.ndarray, Any] = super().predict(observation, state, episode_start, deterministic)
            return found
        if not deterministic and np.random.rand() < self.exploration_rate:
            return np.array([self.action_space.sample()]), state
        return np.array([self.chooser.act(observation[0])]), state


class DqnAgent(Sb3Agent):
    """See `Agent`.

    Parameters
    ----------
    config : DQN
        The configuration.
    env, seed, device
        See `Sb3Agent`.

    Raises
    ------
    Invalid
        If there are no levels to choose from.
    """

    activation = "relu"

    def __init__(self, config: DQN, env: StepEnv, seed: int, device: str) -> None:
        if not env.levels:
            raise Invalid(
                f"dqn chooses among levels, not from a range ({env.actions.name}): take PPO, or Levels"
            )
        self.config = config
        super().__init__(env, seed, device)
        self.model.exploration_schedule = lambda _: config.exploring(self.model.num_timesteps)
        self.model.chooser = self.view() if device == "cpu" else None

    def make(self, env: DummyVecEnv, seed: int, device: str) -> Model:
        """The model."""
        config = self.config
        adam = config.optimiser == "adam"
        network = {
            "net_arch": [],
            "features_extractor_class": Repeated,
            "features_extractor_kwargs": {"layers": config.layers, "repeats": config.repeats},
            "optimizer_class": torch.optim.Adam if adam else torch.optim.AdamW,
            "optimizer_kwargs": {"fused": True} if adam else {"amsgrad": True},
        }
        return Model(
            "MlpPolicy",
            env,
            learning_rate=config.learning_rate,
            buffer_size=config.replay,
            learning_starts=config.warm_up,
            batch_size=config.batch,
            tau=config.tau,
            gamma=config.discount,
            train_freq=config.train_every,
            target_update_interval=config.target_every,
            max_grad_norm=config.gradient_norm,
            policy_kwargs=network,
            seed=seed,
            device=device,
        )

    def linears(self) -> list[nn.Linear]:
        """See `Sb3Agent.linears`."""
        return [m for m in self.model.q_net.modules() if isinstance(m, nn.Linear)]

    @property
    def order(self) -> tuple[int, ...]:
        """See `Sb3Agent.order`."""
        last = len(self.config.layers) - 1
        return (*range(last), *[last] * self.config.repeats, last + 1)

    def explored(self) -> float:
        """Share of random steps."""
        return self.config.exploring(self.steps)

    def save(self) -> dict[str, np.ndarray]:
        """See `Agent.save`; of the replay what is filled."""
        kept = self.model.replay_buffer
        filled = kept.buffer_size if kept.full else kept.pos
        arrays = super().save() | {f"replay.{n}": np.array(getattr(kept, n)[:filled]) for n in REPLAY}
        places = [kept.pos, int(kept.full), self.model._n_calls]
        return arrays | {"replay.places": np.array(places, dtype=np.int64)}

    def restore(self, state: Arrays) -> None:
        """See `Agent.restore`."""
        super().restore(state)
        kept = self.model.replay_buffer
        for name in REPLAY:
            values = np.asarray(state[f"replay.{name}"])
            getattr(kept, name)[: len(values)] = values
        position, full, self.model._n_calls = np.asarray(state["replay.places"]).tolist()
        kept.pos, kept.full = position, bool(full)
        self.model.exploration_rate = self.config.exploring(self.steps)
