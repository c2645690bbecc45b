"""What the configurations of this plugin have in common."""

from __future__ import annotations

from typing import Any

from sciflow.errors import Invalid

DOLFINX = ("dolfinx", "petsc4py", "mpi4py")
"""Modules that a problem of this plugin needs to be solved."""


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
