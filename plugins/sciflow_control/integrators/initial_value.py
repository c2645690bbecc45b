"""What is integrated: a right-hand side and a state to begin with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciflow.errors import Invalid


@dataclass(frozen=True, eq=False)
class InitialValue:
    """``y' = f(t, y)`` with a state at a time.

    Attributes
    ----------
    rhs : callable
        f; what it is called with is said where it is integrated.
    state : ndarray or torch.Tensor
        At the start, finite.
    time : float
        Of the start, in `unit`.
    parameters : sequence of float
        Of f.
    scale : float or array like
        A size of the state below which an error is absolute, for all or for each of its numbers; > 0.
    unit : str
        Of the time.
    invariant : callable or None
        A number that the exact solution keeps, of a state.

    Raises
    ------
    Invalid
        If `time` or `parameters` has a value that it cannot have.
    """

    rhs: Callable[..., Any]
    state: Any
    time: float = 0.0
    parameters: Sequence[float] = ()
    scale: Any = 1.0
    unit: str = "1"
    invariant: Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.time):
            raise Invalid(f"the time of the initial state is {self.time}")
        if not np.isfinite(np.asarray(self.parameters, dtype=float)).all():
            raise Invalid(f"the parameters {list(self.parameters)} of the right-hand side are not finite")


def finite_start(finite: bool, positive: bool) -> None:
    """Refuse a start that is not finite, or a scale that is not positive.

    Raises
    ------
    Invalid
        If either is not so.
    """
    if not finite:
        raise Invalid("the initial state holds NaN or infinity")
    if not positive:
        raise Invalid("scale is a size of the state, for each of its numbers positive and finite")
