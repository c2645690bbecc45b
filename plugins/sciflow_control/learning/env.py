"""StepEnv: a solver whose steps are chosen, as an environment of gymnasium."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from sciflow.errors import Invalid
from sciflow_control.learning.policy import CLIP, seen

if TYPE_CHECKING:
    from sciflow.step_controller import Stepper, StepResult
    from sciflow_control.learning.actions import Actions
    from sciflow_control.learning.reward import Reward
    from sciflow_control.steering.episodes import Episodes

HELD_OUT, FIRST = 900_000, 1_000_000
"""Episodes that are drawn for training have seeds from `FIRST` on, those that choose the best policy from
`HELD_OUT` on; the ones below are left for comparisons."""


class StepEnv(gymnasium.Env):  # type: ignore[misc]
    """One step of gymnasium is one step of the solver, which stands where it converged.

    Observations are the stepper's features in their order, cut off at +-10, as float32. An episode ends
    (terminated) where the solver fails or the drift passes a limit, and is cut off (truncated) at the
    episodes' last time.

    Parameters
    ----------
    episodes : Episodes
        What is solved. Seeds of episodes are drawn from the environment's own generator.
    reward : Reward
        The worth of a step.
    actions : Actions
        Levels or a range of the knob.
    limit : float
        A drift above it ends the episode.
    longest : int
        So many steps at most; then the episode is cut off.

    Raises
    ------
    Invalid
        If the solver tells no features, or `actions` are not within the bounds of its knob.

    Notes
    -----
    A step costs about ten microseconds beside the solver's own time.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        episodes: Episodes,
        reward: Reward,
        actions: Actions,
        limit: float = 0.1,
        longest: int = 10_000,
    ) -> None:
        self.episodes, self.reward, self.actions = episodes, reward, actions
        self.limit, self.longest = limit, longest
        self.stepper: Stepper = episodes.begin(HELD_OUT)
        self.knob, self.features = self.stepper.knob, tuple(self.stepper.features)
        if not self.features:
            raise Invalid(
                f"{episodes.name} tells no features of its state, so there is nothing to learn from"
            )
        self.values = actions.values(self.knob)
        self.action_space = actions.space()
        self.levels = isinstance(self.action_space, gymnasium.spaces.Discrete)
        self.observation_space = gymnasium.spaces.Box(-CLIP, CLIP, (len(self.features),), np.float32)
        self._in_order = itemgetter(*self.features)
        self._until = float(episodes.until)
        self._begin(HELD_OUT)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        Parameters
        ----------
        seed : int or None
            Of the generator that seeds of episodes are drawn from; None: go on with it.
        options : dict or None
            ``{"episode": n}``: the episode with this seed; nothing is drawn.

        Returns
        -------
        observation : ndarray, shape (feature,)
            float32.
        info : dict
            ``episode``: its seed.

        Raises
        ------
        Invalid
            If there are other options.
        """
        super().reset(seed=seed)
        if options and set(options) != {"episode"}:
            raise Invalid(f"the only option of an episode is 'episode', got {sorted(options)}")
        chosen = options["episode"] if options else int(self.np_random.integers(FIRST, 2**31))
        self._begin(chosen)
        return self._seen, {"episode": chosen}

    def _begin(self, seed: int) -> None:
        self.seed = seed
        self.stepper = self.episodes.begin(seed)
        self.taken: list[float] = []
        self._before: float | None = None
        self._sums = [0.0, 0.0]  # of rewards and work
        self._look()

    def value(self, action: Any) -> float:
        """The value of the knob that an action stands for."""
        if self.levels:
            return self.values[int(action)]
        low, high = self.values
        place = min(1.0, max(0.0, (float(np.asarray(action).flat[0]) + 1) / 2))
        return float(low * (high / low) ** place)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Parameters
        ----------
        action : int or ndarray, shape (1,)
            A level, or a place in the range.

        Returns
        -------
        observation : ndarray, shape (feature,)
            float32; where the solver failed, the one before the step.
        reward : float
        terminated, truncated : bool
        info : dict
            At the end of an episode ``return`` (sum of the rewards), ``cost`` (sum of the work), ``drift``,
            ``steps`` and ``whole``: whether it came to its end.
        """
        stepper = self.stepper
        value = self.value(action)
        used = min(value, self._until - stepper.time) if self.knob.is_length else value
        result = stepper.attempt(used, self._until)
        drift = self._settle(result)
        self.taken.append(float(np.asarray(action).flat[0]))
        terminated = not result.converged or drift > self.limit
        reward = self.reward.of(result, drift, len(self.taken), self._before)
        reward -= self.reward.penalty if terminated else 0.0
        self._before = value
        self._sums[0] += reward
        self._sums[1] += result.cost
        truncated = not terminated and (stepper.time >= self._until or len(self.taken) >= self.longest)
        info: dict[str, Any] = {}
        if terminated or truncated:
            worth, cost = self._sums
            info = {"return": worth, "cost": cost, "drift": drift, "steps": len(self.taken)}
            info["whole"] = not terminated
        return self._seen, float(reward), terminated, truncated, info

    def _settle(self, result: StepResult) -> float:
        """Let an attempt stand or take it back, and look again; gives the drift."""
        if not result.converged:
            self.stepper.reject()
            return math.inf
        self.stepper.accept()
        self._look()
        return self.stepper.drift()

    def _look(self) -> None:
        self._seen = seen(self._in_order(self.stepper.observe()))

    def saved(self) -> dict[str, Any]:
        """Where it is, as plain JSON: the generator, the episode and the actions in it."""
        random = self.np_random.bit_generator.state
        return {"random": random, "episode": self.seed, "actions": list(self.taken)}

    def resume(self, saved: Mapping[str, Any]) -> np.ndarray:
        """Go on from `saved`: the episode's steps are taken again. Gives the observation."""
        super().reset(seed=0)
        self.np_random.bit_generator.state = saved["random"]
        self._begin(int(saved["episode"]))
        for action in saved["actions"]:
            self.step(np.array([action], dtype=np.float32) if not self.levels else int(action))
        return self._seen
