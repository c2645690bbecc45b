"""What must be known of a time stepper of PETSc to control its steps, through functions petsc4py lacks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from petsc4py import PETSc

from sciflow.errors import Invalid, Missing
from sciflow_control.tuned.library import function

_INT = {4: ctypes.c_int32, 8: ctypes.c_int64}[np.dtype(PETSc.IntType).itemsize]
_REAL = {4: ctypes.c_float, 8: ctypes.c_double}[np.dtype(PETSc.RealType).itemsize]
_NORM_2 = 1
ARKIMEX = {"1bee": 2, "a2": 2, "l2": 2, "ars122": 2, "2c": 2, "2d": 2, "2e": 2, "prssp2": 2}
ARKIMEX |= {"3": 3, "ars443": 3, "bpr3": 3, "4": 4, "5": 5}
ROSW = {"theta1": 1, "theta2": 2, "2p": 2, "2m": 2, "ra3pw": 3, "ra34pw2": 3, "rodas3": 3, "sandu3": 3}
ROSW |= {"assp3p3s1c": 3, "lassp3p4s2c": 3, "llssp3p4s2c": 3, "ark3": 3, "grk4t": 4, "shamp4": 4}
ROSW |= {"veldd4": 4, "4l": 4}
"""Orders of methods with an embedded one of the order below; `prssp2`, `theta1` and `theta2` have none."""


@dataclass(frozen=True)
class Scheme:
    """A method of PETSc.

    Attributes
    ----------
    type : str
        PETSc's name.
    order : int
        Of the solution.
    estimates : tuple of str
        Of its error, the one to be preferred first.
    stages : int
        Evaluations of the right-hand side in a step; 0 for implicit methods.
    same : bool
        The last of them is the first of the next step.
    constant : float
        The error of a step is this times ``h^(order + 1)`` times the derivative of that order; 0: unknown.
    """

    type: str
    order: int
    estimates: tuple[str, ...]
    stages: int = 0
    same: bool = False
    constant: float = 0.0

    @property
    def remembers(self) -> bool:
        """Whether it needs more than the last state."""
        return self.type == "bdf"


def scheme(ts: Any) -> Scheme:
    """What is known of the method of a TS.

    Parameters
    ----------
    ts : petsc4py.PETSc.TS
        With a type.

    Raises
    ------
    Invalid
        If its type is not set, or not one whose steps can be controlled.
    """
    kind = ts.getType()
    if kind not in _SCHEMES:
        known = ", ".join(map(str, _SCHEMES))
        raise Invalid(f"the steps of a TS of type {kind!r} cannot be controlled; those of {known} can")
    return _SCHEMES[kind](ts)


def _explicit(ts: Any) -> Scheme:
    ts.getRKType()
    stages, same, rows = _INT(0), ctypes.c_int(0), [ctypes.c_void_p() for _ in range(5)]
    order = _INT(0)
    places = [ctypes.addressof(p) for p in (stages, *rows[:4], order, rows[4], same)]
    _call("TSRKGetTableau", ts, *places)
    estimates = ("embedded", "doubling") if rows[3].value else ("doubling",)
    # The order that the tableau gives is that of its interpolant.
    return Scheme("rk", _integer(ts, "TSRKGetOrder"), estimates, stages.value, bool(same.value & 0xFF))


def _theta(ts: Any) -> Scheme:
    theta = ts.getTheta()
    if theta != 0.5:
        return Scheme("theta", 1, ("differences", "doubling"), constant=abs(0.5 - theta))
    if ts.getThetaEndpoint():
        return Scheme("theta", 2, ("differences", "doubling"), constant=1 / 12)
    return Scheme("theta", 2, ("doubling",))


def _rosenbrock(ts: Any) -> str:
    name = ctypes.c_char_p()
    _call("TSRosWGetType", ts, ctypes.addressof(name))
    return (name.value or b"ra34pw2").decode()


_SCHEMES: dict[str | None, Callable[[Any], Scheme]] = {
    "rk": _explicit,
    "beuler": lambda ts: Scheme("beuler", 1, ("differences", "doubling"), constant=0.5),
    "cn": lambda ts: Scheme("cn", 2, ("differences", "doubling"), constant=1 / 12),
    "theta": _theta,
    "arkimex": lambda ts: Scheme("arkimex", ARKIMEX[ts.getARKIMEXType()], ("embedded", "doubling")),
    "rosw": lambda ts: Scheme("rosw", ROSW[_rosenbrock(ts)], ("embedded", "doubling")),
    "bdf": lambda ts: Scheme("bdf", _integer(ts, "TSBDFGetOrder"), ("embedded",)),
}


def fix_steps(ts: Any) -> None:
    """Let PETSc itself neither choose steps nor reject them, and say where a solve failed.

    Raises
    ------
    Invalid
        If PETSc cannot.
    """
    adapt = ctypes.c_void_p()
    _call("TSGetAdapt", ts, ctypes.addressof(adapt))
    call = _function("TSAdaptSetType", ctypes.c_void_p, ctypes.c_char_p)
    if call(adapt, b"none"):
        raise Invalid("PETSc cannot switch off its own choice of time steps")
    ts.setErrorIfStepFails(False)
    ts.setMaxSNESFailures(1)
    ts.setExactFinalTime(PETSc.TS.ExactFinalTime.STEPOVER)


def embedded(ts: Any, order: int, into: Any) -> bool:
    """Put the solution of another order at the end of the step into a vector; whether there is one."""
    done = ctypes.c_int(0)
    call = _function("TSEvaluateStep", ctypes.c_void_p, _INT, ctypes.c_void_p, ctypes.c_void_p)
    failed = call(ts.handle, order, into.handle, ctypes.addressof(done))
    into.stateIncrease()
    return not failed and bool(done.value & 0xFF)


def truncation(ts: Any) -> float:
    """The method's own estimate of the error in the tolerances of the TS; NaN where it has none."""
    order, found = _INT(-1), _REAL(-1.0)
    call = _function("TSEvaluateWLTE", ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    failed = call(ts.handle, _NORM_2, ctypes.addressof(order), ctypes.addressof(found))
    return float("nan") if failed or found.value < 0 else float(found.value)


def _integer(ts: Any, name: str) -> int:
    found = _INT(0)
    _call(name, ts, ctypes.addressof(found))
    return int(found.value)


def _call(name: str, ts: Any, *places: int) -> None:
    if _function(name, *(ctypes.c_void_p,) * (1 + len(places)))(ts.handle, *places):
        raise Invalid(f"PETSc's {name} fails for a TS of type {ts.getType()!r}")


def _function(name: str, *arguments: Any) -> Any:
    found = function(name, *arguments)
    if found is None:
        raise Missing(f"the PETSc of petsc4py does not show its function {name}; it needs shared libraries")
    return found
