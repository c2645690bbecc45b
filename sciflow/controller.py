"""Controller: a decision that is learned while a solver runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component

if TYPE_CHECKING:
    import numpy as np

Features = Mapping[str, float]
"""What is known before a decision: sizes, tolerances, the last residual."""


@dataclass(frozen=True)
class Proposal:
    """A decision and the token by which its outcome is reported.

    Attributes
    ----------
    values : mapping of str to float or str
        The settings to use, for example ``{"omega": 1.7}``.
    token : int
        Goes back to `Controller.observe`; outcomes may come late and out of order.
    """

    values: Mapping[str, float | str]
    token: int


class Controller(Component):
    """A policy with explicit state: SOR weight, solver choice, tolerance, time step.

    The state is plain JSON or arrays and is passed in and out, so that it can be stored, merged
    and replayed.
    """

    kind: ClassVar[str] = "controller"

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The features that a decision needs, each with the range that it may lie in; none by default."""
        return {}

    @abstractmethod
    def init(self, rng: np.random.Generator) -> Any:
        """The state before anything was seen."""

    @abstractmethod
    def propose(self, state: Any, features: Features) -> tuple[Proposal, Any]:
        """A decision, and the state after having made it."""

    @abstractmethod
    def observe(self, state: Any, token: int, cost: float, status: str) -> Any:
        """The state after the outcome of an earlier proposal.

        Parameters
        ----------
        state : Any
            From `init`, `propose` or `observe`.
        token : int
            Of the proposal.
        cost : float
            What it cost, lower is better; any unit, the same for all outcomes.
        status : str
            ``"ok"``, or why it failed.

        Raises
        ------
        NotFound
            If the token was never proposed or already observed.
        """
