"""Components that solve a problem's linear systems with what a tuner chooses, or with everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.controller import Controller
from sciflow.errors import Invalid
from sciflow.linear_solver import LinearSolver, Solving
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Solvers, Space

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context


@dataclass(frozen=True)
class Tuned(LinearSolver):
    """Chooses for every system how it is solved, and learns across the members of an ensemble.

    A member begins with what all members that were finished by then had learned, and adds its log when it
    is solved. What it knows travels with its restart, so that a killed member decides the same.

    Attributes
    ----------
    controller : Controller
        Chooses; a tuner over a space of solvers or relaxations.
    cost : {"work", "iterations", "seconds"}
        What it learns from. With ``seconds`` a run cannot be repeated exactly.
    limit : float
        How many times the work of the problem's own solver one solve may take.
    seed : int
        Of the controller's random numbers, beside that of the member.
    hold : int
        Solves that a decision is held for; 0: so many that deciding is short beside solving.
    amortise : bool
        Whether a set-up that breaks the limit may be paid once as much has been spent on an operator,
        or on its pattern for what is not done again while that stays.

    Raises
    ------
    Invalid
        If `controller`, `limit` or `hold` has a value that it cannot have.
    """

    name: ClassVar[str] = "tuned"
    requires: ClassVar[tuple[str, ...]] = ("petsc4py",)
    controller: Controller = Thompson(Solvers())
    cost: Literal["work", "iterations", "seconds"] = "work"
    limit: float = 2.0
    seed: int = 0
    hold: int = 0
    amortise: bool = False

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.controller, Controller):
            raise Invalid(
                f"tuned: the controller must be a tuner such as Thompson(Solvers()), got {self.controller!r}"
            )
        for arm in getattr(self.controller, "arms", ()):
            if not set(arm) <= {"method", "omega"}:
                raise Invalid(
                    f"tuned: the arm {dict(arm)} is no linear solver, which has a method, an omega or both; "
                    "take the space Solvers or Relaxation"
                )
        if not self.limit > 1:
            raise Invalid(
                f"the limit must be greater than 1, the problem's own solver alone, got {self.limit}"
            )
        if self.hold < 0:
            raise Invalid(f"a decision is held for 0 (automatic) or more solves, got {self.hold}")

    @classmethod
    def example(cls) -> Tuned:
        """Thompson sampling over a small space."""
        return cls(Thompson(Solvers(("cg+icc", "cg+ssor", "cg+jacobi"), (1.0, 1.5))))

    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """See `LinearSolver.wrap`."""
        from sciflow_control.tuned.solving import TunedSolving

        return TunedSolving(self, ksp, ctx, restart)


@dataclass(frozen=True)
class EveryArm(LinearSolver):
    """Solves every system with every arm, to know what a tuner could have reached at best.

    The problem goes on with the solution of its own solver, so that all see the same systems.

    Attributes
    ----------
    space : Space
        The arms.
    cost : {"work", "iterations", "seconds"}
        What is noted; the set-up of each arm is part of it where the operator changed.
    limit : float
        How many times the work of the problem's own solver an arm may take.

    Raises
    ------
    Invalid
        If `limit` has a value that it cannot have.
    """

    name: ClassVar[str] = "every_arm"
    requires: ClassVar[tuple[str, ...]] = ("petsc4py",)
    space: Space = Solvers()
    cost: Literal["work", "iterations", "seconds"] = "work"
    limit: float = 4.0

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.limit > 0:
            raise Invalid(f"the limit must be positive, got {self.limit}")

    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """See `LinearSolver.wrap`."""
        from sciflow_control.tuned.every import EverySolving

        return EverySolving(self, ksp, ctx, restart)
