"""PETSc solvers whose settings a controller chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciflow_control.tuned.ksp import TunedKSP
    from sciflow_control.tuned.solver import EveryArm, Tuned

__all__ = ["EveryArm", "Tuned", "TunedKSP"]


def __getattr__(name: str) -> Any:
    """`TunedKSP` needs petsc4py, which is imported when it is asked for."""
    if name == "TunedKSP":
        from sciflow_control.tuned.ksp import TunedKSP

        return TunedKSP
    if name in ("Tuned", "EveryArm"):
        from sciflow_control.tuned import solver

        return getattr(solver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
