"""What a solve costs, counted in products with the operator, known before it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

COSTS = ("work", "iterations", "seconds")
"""`work` is what is counted here; `iterations` those of the Krylov method; `seconds` the slowest rank's."""

METHODS = {
    "cg": (1, 2.2),
    "pipecg": (1, 4.0),
    "fcg": (1, 16.0),
    "minres": (1, 6.0),
    "gmres": (1, 14.5),
    "fgmres": (1, 14.5),
    "bcgs": (2, 6.5),
    "richardson": (1, 1.7),
    "preonly": (0, 0.0),
}
"""Products with operator, or preconditioner, of one iteration, and vector operations of n each.

Measured with PETSc 3.18 on five-point operators of 1e3 to 6.5e4 unknowns, like all numbers here: they are
times over that of a product with the operator, so that work follows time.
"""
OTHER_METHOD = (1, 15.0)
PRECONDITIONERS = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "jacobi": (0.13, 1.1, 1.1, 0.0),
    "sor": (2.3, 0.7, 0.7, 0.0),
    "ssor": (4.6, 0.7, 0.7, 0.0),
    "eisenstat": (3.4, 1.2, 1.2, 0.0),
    "icc": (3.5, 16.0, 8.5, 1e5),
    "ilu": (3.8, 35.0, 8.0, 1e5),
    "bjacobi": (3.8, 35.0, 8.0, 1e5),
    "asm": (4.4, 97.0, 15.0, 3e5),
    "hypre": (20.0, 170.0, 145.0, 1e6),
    "gamg": (24.0, 1050.0, 310.0, 1e6),
}
"""An application, a set-up, and one where the pattern is known, in products with the operator; and what a
whole set-up costs besides, in nonzeros."""
OTHER_PRECONDITIONER = (5.0, 100.0, 50.0, 1e6)
WIDE = 200
"""Separators from here on are worth a factorisation in dense blocks."""


@dataclass(frozen=True)
class Size:
    """Of an operator, over all ranks.

    Attributes
    ----------
    unknowns, nonzeros : float
        How many.
    width : float
        Of the widest level of a breadth-first walk through the graph: about the size of the largest
        separator that a factorisation meets.
    """

    unknowns: float
    nonzeros: float
    width: float


@dataclass(frozen=True)
class Price:
    """In products with the operator.

    Attributes
    ----------
    setup : float
        Of a whole set-up.
    numeric : float
        Of a set-up where the pattern is known.
    iteration : float
        Of one iteration.
    check : float
        Of the true residual at the end.
    """

    setup: float
    numeric: float
    iteration: float
    check: float


def price(method: str, preconditioner: str, size: Size) -> Price:
    """What a method will cost, from sizes alone, the same on every machine.

    Parameters
    ----------
    method, preconditioner : str
        As in an arm; a direct solver is ``preonly`` with ``cholesky`` or ``lu``.
    size : Size
        Of the operator.

    Notes
    -----
    A factorisation with nested dissection spends most on its largest separator, of w unknowns: here
    7 w^3 nonzeros (Cholesky, known pattern) and 7 w^2 log2 w for a solve, which fits two dimensions (w about
    sqrt(n)) and has the right powers in three. It is an estimate.
    """
    nonzeros = max(size.nonzeros, 1.0)
    check = 1.0 + 3.0 * size.unknowns / nonzeros
    if preconditioner in ("cholesky", "lu"):
        return _direct(preconditioner, size, nonzeros, check)
    products, vectors = METHODS.get(method, OTHER_METHOD)
    apply, whole, numeric, besides = PRECONDITIONERS.get(preconditioner, OTHER_PRECONDITIONER)
    applied = 2 if method == "bcgs" else 1
    iteration = products + applied * apply + vectors * size.unknowns / nonzeros
    if preconditioner == "eisenstat":  # its sweeps contain the product
        iteration -= products
    return Price(whole + besides / nonzeros, numeric, max(iteration, 0.1), check)


def _direct(factor: str, size: Size, nonzeros: float, check: float) -> Price:
    width = max(size.width, 2.0)
    cubed = width**3 / nonzeros
    numeric = (12.5 if factor == "lu" or width >= WIDE else 7.0) * cubed
    solve = max(1.0, 7.0 * width**2 * math.log2(width) / nonzeros)
    return Price(300.0 + max(numeric, 19.0 * cubed if width < WIDE else 0.0), numeric, solve, check)
