"""What the configurations of this plugin have in common."""

from __future__ import annotations

from typing import Any

from sciflow.errors import Invalid
from sciflow.step_controller import Knob

DOLFINX = ("dolfinx", "petsc4py", "mpi4py")
"""Modules that a problem of this plugin needs to be solved."""
SHORTEST = 1e-9
"""A step that is shorter than this part of the whole time is a failure."""
FEATURES = ("log_error", "log_step", "newton", "log_change", "bend", "heated", "log_since", "log_until")
"""What a controller of the steps of heat is told, see `HeatStepper.observe`."""


def step_knob(end: float, scheme: Any) -> Knob:
    """The length of a step of heat.

    Parameters
    ----------
    end : float
        s.
    scheme : {"euler", "crank_nicolson"}
        Order 1 or 2.
    """
    return Knob("dt", "s", end * SHORTEST, end, 2.0 if scheme == "euler" else 3.0)


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises
    ------
    Invalid
        With the name and the value.
    """
    if not isinstance(value, int) or value < least:
        raise Invalid(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_mesh(cells: int, degree: Any, grid: int) -> None:
    """Refuse a square that cannot be cut into cells, or elements and grids that there are not.

    Raises
    ------
    Invalid
        With the name and the value.
    """
    check_count("cells", cells, 2)
    if degree not in (1, 2):
        raise Invalid(f"degree must be 1 or 2, got {degree}")
    check_count("grid", grid, 2)


def space(degree: int) -> tuple[str, dict[str, str]]:
    """Axis and attributes of a Lagrange space: of degree 1 its values are those at the nodes."""
    if degree == 1:
        return "node", {"mesh": "mesh", "location": "node", "element": "Lagrange 1 triangle"}
    return "dof", {"mesh": "mesh", "element": f"Lagrange {degree} triangle", "cell_dofs": "cell_dofs"}
