"""PPO of stable-baselines3, with states as plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import stable_baselines3
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sciflow_control.learning.sb3 import Sb3Agent

if TYPE_CHECKING:
    from sciflow_control.learning.env import StepEnv
    from sciflow_control.learning.learner import PPO


class Model(stable_baselines3.PPO):  # type: ignore[misc]
    """Notes its losses."""

    losses: list[float]

    def train(self) -> None:
        """See stable-baselines3."""
        super().train()
        self.losses.append(float(self.logger.name_to_value["train/loss"]))


class PpoAgent(Sb3Agent):
    """See `Agent`.

    Parameters
    ----------
    config : PPO
        The configuration.
    env, seed, device
        See `Sb3Agent`.
    """

    activation = "tanh"

    def __init__(self, config: PPO, env: StepEnv, seed: int, device: str) -> None:
        self.config = config
        super().__init__(env, seed, device)

    def make(self, env: DummyVecEnv, seed: int, device: str) -> Model:
        """The model."""
        config = self.config
        layers = list(config.layers)
        return Model(
            "MlpPolicy",
            env,
            learning_rate=config.learning_rate,
            n_steps=config.rollout,
            batch_size=config.batch,
            n_epochs=config.epochs,
            gamma=config.discount,
            gae_lambda=config.trace,
            clip_range=config.clip,
            ent_coef=config.entropy,
            max_grad_norm=config.gradient_norm,
            policy_kwargs={"net_arch": {"pi": layers, "vf": layers}},
            seed=seed,
            device=device,
        )

    def linears(self) -> list[nn.Linear]:
        """See `Sb3Agent.linears`."""
        policy = self.model.policy
        return [m for m in policy.mlp_extractor.policy_net if isinstance(m, nn.Linear)] + [policy.action_net]

    def explored(self) -> float:
        """Entropy of the choices in the last update; nan before the first."""
        return -float(self.model.logger.name_to_value.get("train/entropy_loss", float("nan")))
