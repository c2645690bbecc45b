"""Kernels of a Runge-Kutta step in numba, compiled once for all right-hand sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from sciflow.errors import Invalid
from sciflow_control.kernels.compiling import kernel

VECTOR = types.Array(types.float64, 1, "C")
_POINTER = types.CPointer(types.float64)
_RAW = types.void(types.float64, _POINTER, _POINTER, _POINTER, types.intp, types.intp)
Y, NEW, SCALE, STAGE, BEFORE, K = 0, 1, 2, 3, 4, 5
"""Rows of the work array: states, scale, states of the last two stages, and the first slope."""


def jitted(function: Callable[..., Any]) -> Any:
    """A right-hand side for numba; a quotient by 0 is infinite and no error."""
    return numba.njit(error_model="numpy", nogil=True)(function)


@lru_cache(maxsize=256)
def pointer(rhs: Callable[..., Any]) -> Any:
    """A C function that calls a right-hand side, with its ``address``.

    Parameters
    ----------
    rhs : callable
        ``rhs(t, y, parameters, out)``, compiled by numba or what it can compile.

    Raises
    ------
    Invalid
        If it cannot be compiled for a number and three arrays.
    """
    inner = rhs if isinstance(rhs, Dispatcher) else jitted(rhs)

    def call(t: Any, y: Any, parameters: Any, out: Any, size: Any, count: Any) -> None:
        inner(t, carray(y, size), carray(parameters, count), carray(out, size))

    try:
        return numba.cfunc(_RAW)(call)
    except NumbaError as error:
        raise Invalid(f"numba cannot compile rhs(t, y, parameters, out): {error}") from error


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, address: Any, t: Any, y: Any, parameters: Any, out: Any) -> Any:
    """Call what `pointer` gave by its address: a kernel compiled for an integer serves every function."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        real, size = ir.DoubleType(), context.get_value_type(types.intp)
        arrays = [context.make_array(signature.args[i])(context, builder, values[i]) for i in (2, 3, 4)]
        sizes = [builder.extract_value(a.shape, 0) for a in arrays[:2]]
        call = ir.FunctionType(ir.VoidType(), [real, *(real.as_pointer(),) * 3, size, size])
        function = builder.inttoptr(values[0], call.as_pointer())
        builder.call(function, [values[1], *(a.data for a in arrays), *sizes])
        return context.get_dummy_value()

    return types.void(types.intp, types.float64, VECTOR, VECTOR, VECTOR), build


@kernel
def evaluate(address: int, t: float, state: Any, parameters: Any, out: Any) -> None:
    """The right-hand side; NaN where it raised an error, which C functions cannot pass on."""
    out[:] = math.nan
    _call(address, t, state, parameters, out)


@kernel
def slope(address: int, t: float, work: Any, parameters: Any) -> None:
    """The first stage."""
    evaluate(address, t, work[Y], parameters, work[K])


@kernel
def pace(work: Any) -> float:
    """Norm of the first stage."""
    total = 0.0
    for j in range(work.shape[1]):
        part = work[K, j] / (work[SCALE, j] + abs(work[Y, j]))
        total += part * part
    return math.sqrt(total / work.shape[1])


@kernel
def advance(work: Any, last: int) -> None:
    """The new state is the state, and the slope the row `last`."""
    for j in range(work.shape[1]):
        work[Y, j] = work[NEW, j]
        work[K, j] = work[last, j]


@kernel
def step(
    address: int, t: float, h: float, work: Any, table: Any, parameters: Any, same: bool
) -> tuple[float, float]:
    """All stages but the first, and the new state; error and stiffness, see `embedded.Embedded`.

    Parameters
    ----------
    work : ndarray, shape (K + stages, n)
        Its rows are named above.
    table : ndarray, shape (stages + 3, stages)
        See `Tableau.packed`.
    same : bool
        The last stage is taken at the new state.
    address : int
        Of the compiled right-hand side.
    t, h : float
        Beginning and length of the step, in the unit of time of the equation.
    parameters : ndarray, shape (parameter,)
        Of the equation.
    """
    stages, n = table.shape[1], work.shape[1]
    for stage in range(1, stages):
        at = STAGE if stage == stages - 1 else BEFORE
        _combine(work, table[stage], h, stage, at)
        evaluate(address, t + table[stages + 2, stage] * h, work[at], parameters, work[K + stage])
    if same:
        work[NEW, :] = work[STAGE]
    else:
        _combine(work, table[stages], h, stages, NEW)
    if stages == 2:
        work[BEFORE, :] = work[Y]
    error, slopes, states = 0.0, 0.0, 0.0
    for j in range(n):
        size = work[SCALE, j] + max(abs(work[Y, j]), abs(work[NEW, j]))
        lack = 0.0
        for i in range(stages):
            lack += table[stages + 1, i] * work[K + i, j]
        error += (h * lack / size) ** 2
        slopes += ((work[K + stages - 1, j] - work[K + stages - 2, j]) / size) ** 2
        states += ((work[STAGE, j] - work[BEFORE, j]) / size) ** 2
    return math.sqrt(error / n), h * math.sqrt(slopes / states) if states > 0 else 0.0


@kernel
def _combine(work: Any, weights: Any, h: float, count: int, into: int) -> None:
    for j in range(work.shape[1]):
        total = 0.0
        for i in range(count):
            total += weights[i] * work[K + i, j]
        work[into, j] = work[Y, j] + h * total
