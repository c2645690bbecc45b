"""Systems: a sequence of linear systems, as a solver meets them while data are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class System:
    """One of them.

    Attributes
    ----------
    matrix : scipy.sparse.csr_matrix, shape (n, n)
        Of float64 with int32 indices, sorted, with every diagonal entry.
    rhs : ndarray, shape (n,)
        Right-hand side.
    features : mapping of str to float
        What a tuner may know before it chooses.
    parameters : ndarray, shape (p,)
        What the operator (and the right-hand side) was made from: near parameters, near systems.
    guess : ndarray, shape (n,), or None
        Where an iteration starts; None: at zero.
    """

    matrix: Any
    rhs: np.ndarray
    features: Mapping[str, float]
    parameters: np.ndarray
    guess: np.ndarray | None = None


class Systems(Component):
    """A random sequence of linear systems.

    Attributes
    ----------
    symmetric : bool
        Whether all operators are symmetric and positive definite.
    steady : bool
        Whether all systems share one operator.
    tolerance : float
        Of the residual relative to the right-hand side.
    """

    kind: ClassVar[str] = "systems"
    symmetric: ClassVar[bool] = True
    steady: ClassVar[bool] = False
    tolerance: float

    @abstractmethod
    def draw(self, count: int, seed: int) -> Iterator[System]:
        """The first `count` systems of the sequence with this seed; a longer one begins with them."""
