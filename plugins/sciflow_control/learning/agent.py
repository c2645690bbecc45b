"""Agent: a policy while it is learned, with everything that a training needs to go on."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from sciflow_control.learning.policy import Policy

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Progress:
    """What came of a part of a training.

    Attributes
    ----------
    returns : list of float
        Sum of the rewards of each episode that ended.
    loss : float
        Mean over the updates; NaN where there were none.
    explore : float
        Share of random steps at the end, or the entropy of the choices.
    """

    returns: list[float]
    loss: float
    explore: float


class Agent(ABC):
    """A policy in an environment.

    Attributes
    ----------
    steps : int
        Environment steps done.
    """

    steps: int

    @abstractmethod
    def advance(self, steps: int) -> Progress:
        """Learn from so many more environment steps, a multiple of the learner's stride.

        It leaves the generators of numpy, torch and Python as they were.
        """

    @abstractmethod
    def policy(self) -> Policy:
        """What would be chosen without exploring; sharing no memory with what is learned on."""

    @abstractmethod
    def save(self) -> dict[str, np.ndarray]:
        """Everything that is needed to go on with the same bits, as plain arrays."""

    @abstractmethod
    def restore(self, state: Arrays) -> None:
        """Go on where `save` was called, in an agent of the same configuration."""


class Randomness:
    """The generators of numpy, torch and Python that libraries take without being given one.

    Inside of `own` they go on where they were left at its end; outside nobody sees that.

    Parameters
    ----------
    seed : int
        Of all of them.
    device : {"cpu", "cuda"}
        The one whose generator of torch is taken too.
    """

    def __init__(self, seed: int, device: str) -> None:
        self._cuda = device == "cuda"
        with self._kept():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            self._state = self._now()

    @contextmanager
    def own(self) -> Iterator[None]:
        """These generators, and one thread of torch: small networks are slower with more."""
        threads = torch.get_num_threads()
        with self._kept():
            self._set(self._state)
            torch.set_num_threads(1)
            try:
                yield
            finally:
                self._state = self._now()
                torch.set_num_threads(threads)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        before = self._now()
        try:
            yield
        finally:
            self._set(before)

    def _now(self) -> dict[str, Any]:
        state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
        if self._cuda:
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def _set(self, state: Mapping[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if self._cuda:
            torch.cuda.set_rng_state(state["cuda"])

    def save(self) -> dict[str, np.ndarray]:
        """The states as arrays; that of Python is left out, which no learner draws from."""
        _, key, position, has_normal, normal = self._state["numpy"]
        arrays = {
            "numpy_key": np.array(key),
            "numpy_rest": np.array([position, has_normal, normal], dtype=np.float64),
            "torch": self._state["torch"].numpy().copy(),
        }
        if self._cuda:
            arrays["cuda"] = self._state["cuda"].numpy().copy()
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Go on where `save` was called."""
        position, has_normal, normal = np.asarray(arrays["numpy_rest"]).tolist()
        key = np.array(arrays["numpy_key"], dtype=np.uint32)
        self._state["numpy"] = ("MT19937", key, int(position), int(has_normal), normal)
        for name in ("torch", "cuda") if self._cuda else ("torch",):
            self._state[name] = torch.from_numpy(np.array(arrays[name], dtype=np.uint8))
