"""Episodes: runs of a solver that a step controller can be trained and judged on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow.problem import Problem, member_seed
from sciflow.step_controller import TakesSteps

if TYPE_CHECKING:
    from sciflow.step_controller import Stepper


class Episodes(Component):
    """Runs of one solver from initial states that depend on a seed.

    Attributes
    ----------
    cost_unit, time_unit : str
        What work is counted in, and the unit of time.
    """

    kind: ClassVar[str] = "episodes"
    cost_unit: ClassVar[str] = "force evaluations"
    time_unit: ClassVar[str] = "1"

    @property
    @abstractmethod
    def until(self) -> float:
        """Where an episode ends, in `time_unit`."""

    @abstractmethod
    def begin(self, seed: int) -> Stepper:
        """The solver at the start of an episode; equal seeds, equal bits."""


@dataclass(frozen=True)
class ProblemEpisodes(Episodes):
    """Members of a problem whose steps can be steered, at random points of its parameter space.

    Attributes
    ----------
    problem : Problem
        With a field ``stepping``, which is not used here.

    Raises
    ------
    Invalid
        If `problem` has a value that it cannot have.
    """

    name: ClassVar[str] = "problem_episodes"
    cost_unit: ClassVar[str] = "solves"
    problem: Problem

    def __post_init__(self) -> None:
        if not isinstance(self.problem, TakesSteps):
            name = getattr(self.problem, "name", repr(self.problem))
            raise Invalid(f"the steps of {name} cannot be steered: it has no field 'stepping'")

    @property
    def until(self) -> float:
        """The problem's last stored time."""
        return float(self.problem.coordinates()["time"][-1])

    def begin(self, seed: int) -> Stepper:
        """See `Episodes.begin`; each parameter is uniform between its bounds, or in the logarithm."""
        import numpy as np

        from sciflow.context import Context

        rng = np.random.default_rng([seed])
        mu = {}
        for name, p in self.problem.parameters.items():
            part = rng.random()
            mu[name] = float(p.low * (p.high / p.low) ** part if p.log else p.low + (p.high - p.low) * part)
        assert isinstance(self.problem, TakesSteps)
        return self.problem.stepper(mu, Context(seed=member_seed(seed, 0)))
