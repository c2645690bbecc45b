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
