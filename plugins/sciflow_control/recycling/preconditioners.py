"""Preconditioners by name, the same on any number of ranks."""

from __future__ import annotations

import itertools
from typing import Any

from petsc4py import PETSc

from sciflow.errors import Invalid, Missing, nearest

SETTINGS: dict[str, dict[str, str]] = {
    "none": {"pc_type": "none"},
    "jacobi": {"pc_type": "jacobi"},
    "bjacobi": {"pc_type": "bjacobi"},
    "sor": {"pc_type": "sor", "pc_sor_local_forward": ""},
    "ssor": {"pc_type": "sor", "pc_sor_local_symmetric": ""},
    "icc": {"pc_type": "icc"},
    "ilu": {"pc_type": "ilu"},
    "asm": {"pc_type": "asm"},
    "gamg": {"pc_type": "gamg"},
    "hypre": {"pc_type": "hypre"},
}
_numbers = itertools.count()


def preconditioner(name: str, comm: Any) -> Any:
    """A PETSc preconditioner without operators.

    Parameters
    ----------
    name : str
        A key of `SETTINGS`. On several ranks ``icc`` and ``ilu`` are those of every rank's block.
    comm : petsc4py.PETSc.Comm
        Of the operators.

    Returns
    -------
    petsc4py.PETSc.PC

    Raises
    ------
    Missing
        If this PETSc was built without it.
    """
    settings = SETTINGS[name]
    if name in ("icc", "ilu") and comm.getSize() > 1:
        settings = {"pc_type": "bjacobi", "sub_pc_type": name}
    prefix = f"recycling_{next(_numbers)}_"
    options = PETSc.Options(prefix)
    for key, value in settings.items():
        options[key] = value
    pc = PETSc.PC().create(comm)
    pc.setOptionsPrefix(prefix)
    try:
        pc.setFromOptions()
    except PETSc.Error:
        raise Missing(f"this PETSc was built without the preconditioner {name!r}") from None
    return pc


def check(name: str, method: str) -> None:
    """Refuse what a method cannot work with.

    Raises
    ------
    Invalid
        Naming those it can.
    """
    if name not in ("own", *SETTINGS):
        raise Invalid(f"no preconditioner {name!r}. {nearest(name, ('own', *SETTINGS))}")
    symmetric = [n for n in SETTINGS if n not in ("sor", "ilu", "asm", "bjacobi")]
    if method == "deflated_cg" and name not in ("own", *symmetric):
        raise Invalid(f"{name} is not symmetric, and deflated_cg needs that: one of {', '.join(symmetric)}")
