"""Functions of the loaded PETSc that petsc4py does not wrap, through ctypes; without them it goes slower."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from petsc4py import PETSc

_REAL = {4: ctypes.c_float, 8: ctypes.c_double}[np.dtype(PETSc.RealType).itemsize]
_LOCAL = 1  # MAT_LOCAL
_USED = 2  # nz_used in MatInfo, ten doubles


@cache
def function(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A C function of PETSc, or None if it cannot be found.

    It is looked up in petsc4py's own extension module and what that is linked to, so that it is the
    PETSc that petsc4py uses, wherever it was installed.
    """
    try:
        found = getattr(ctypes.CDLL(PETSc.__file__), name)
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = arguments, ctypes.c_int
    return found  # type: ignore[no-any-return]


def set_omega(pc: Any, omega: float) -> bool:
    """Set the relaxation of a PCSOR or PCEISENSTAT without a new set-up.

    Parameters
    ----------
    pc : petsc4py.PETSc.PC
        Of either type.
    omega : float
        In (0, 2).

    Returns
    -------
    bool
        Whether it is set; else it must go through the options.
    """
    name = {"sor": "PCSORSetOmega", "eisenstat": "PCEisenstatSetOmega"}[pc.getType()]
    call = function(name, ctypes.c_void_p, _REAL)
    return call is not None and call(pc.handle, omega) == 0


def pattern_count(mat: Any) -> int:
    """PETSc's count of the changes of a matrix's pattern; -1 if it cannot be asked."""
    call, count = function("MatGetNonzeroState", ctypes.c_void_p, ctypes.c_void_p), ctypes.c_int64(-1)
    if call is None or call(mat.handle, ctypes.addressof(count)):
        return -1
    return count.value


def _sequential(mat: int) -> np.ndarray | None:
    """The values of a sequential AIJ matrix, not copied; valid until the matrix changes."""
    read = function("MatSeqAIJGetArrayRead", ctypes.c_void_p, ctypes.c_void_p)
    info = function("MatGetInfo", ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    if read is None or info is None:
        return None
    numbers, start = (ctypes.c_double * 10)(), ctypes.c_void_p()
    if info(mat, _LOCAL, ctypes.addressof(numbers)) or read(mat, ctypes.addressof(start)):
        return None
    size = int(numbers[_USED])
    if size == 0 or start.value is None:
        return np.zeros(0, PETSc.ScalarType)
    dtype: np.dtype = np.dtype(PETSc.ScalarType)
    there = (ctypes.c_char * (size * dtype.itemsize)).from_address(start.value)
    return np.frombuffer(memoryview(there), dtype)


def values(mat: Any) -> list[np.ndarray] | None:
    """This rank's stored values, each part shape (nonzeros,); not to be kept, not to be written into.

    Parameters
    ----------
    mat : petsc4py.PETSc.Mat
        Assembled.

    Returns
    -------
    list of ndarray or None
        None for a matrix that does not store its values by rows.
    """
    kind = mat.getType()
    if kind == "seqaij":
        found = _sequential(mat.handle)
        return [mat.getValuesCSR()[2] if found is None else found]
    if kind != "mpiaij":
        return None
    split = function("MatMPIAIJGetSeqAIJ", *[ctypes.c_void_p] * 4)
    inner, outer = ctypes.c_void_p(), ctypes.c_void_p()
    if split is not None and not split(mat.handle, ctypes.addressof(inner), ctypes.addressof(outer), None):
        parts = [_sequential(part.value) for part in (inner, outer) if part.value is not None]
        if len(parts) == 2 and all(p is not None for p in parts):
            return [p for p in parts if p is not None]
    return [mat.getValuesCSR()[2]]
