"""Shifted Laplacians on a small square: the independent systems of "Learning to Relax"."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sciflow.errors import Invalid
from sciflow_control.systems.system import System, Systems


@dataclass(frozen=True)
class ShiftedLaplacian(Systems):
    """``(T + c I) x = b`` with T the five-point Laplacian (4 on the diagonal) and a random shift c.

    Attributes
    ----------
    a, b : float
        ``c = -0.15 + 0.6 Beta(a, b)``: (0.5, 1.5) has a high variance, (2, 6) a low one.
    size : int
        Points along a side; the matrix has size^2 rows.
    tolerance : float
        Of the residual relative to the right-hand side.

    Raises
    ------
    Invalid
        If `a`, `b`, `size` or `tolerance` has a value that it cannot have.

    Notes
    -----
    The right-hand side is standard normal, drawn again until its norm is at most the square root of its
    length. Feature ``c``, in [-0.15, 0.45].

    References
    ----------
    M. Khodak et al., Learning to Relax, ICLR 2024, arXiv:2310.02246, the experiments on independent systems.
    """

    name: ClassVar[str] = "shifted_laplacian"
    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    a: float
    b: float
    size: int = 10
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise Invalid(f"a Beta law needs positive parameters, got a={self.a}, b={self.b}")
        if self.size < 1 or not 0 < self.tolerance < 1:
            raise Invalid(f"size={self.size} must be positive and tolerance={self.tolerance} in (0, 1)")
        if 4 - 4 * math.cos(math.pi / (self.size + 1)) <= 0.15:
            raise Invalid(f"with size={self.size} the shift -0.15 leaves no positive definite matrix")

    @classmethod
    def example(cls) -> Self:
        """A small one."""
        return cls(0.5, 1.5, size=5)

    def draw(self, count: int, seed: int) -> Iterator[System]:
        """See `Systems.draw`."""
        import numpy as np
        from scipy.sparse import csr_matrix

        base = square_laplacian(self.size)
        n, diagonal = self.size**2, base.indices == np.repeat(np.arange(self.size**2), np.diff(base.indptr))
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            c = -0.15 + 0.6 * rng.beta(self.a, self.b)
            rhs = rng.standard_normal(n)
            while np.linalg.norm(rhs) > math.sqrt(n):
                rhs = rng.standard_normal(n)
            matrix = csr_matrix((base.data + c * diagonal, base.indices, base.indptr), shape=(n, n))
            yield System(matrix, rhs, {"c": c}, np.array([c]))

    def best_omega(self, features: Mapping[str, float]) -> float:
        """Young's relaxation parameter of the system with these features, which no grid restricts."""
        radius = 4 * math.cos(math.pi / (self.size + 1)) / (4 + features["c"])
        return 1 + (radius / (1 + math.sqrt(1 - radius**2))) ** 2


def square_laplacian(size: int) -> Any:
    """The five-point Laplacian of a square with Dirichlet values.

    Parameters
    ----------
    size : int
        Points along a side.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (size^2, size^2)
        4 on the diagonal, -1 beside it.
    """
    from scipy.sparse import diags, identity, kron

    line = diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(size, size))
    one = identity(size)
    found = (kron(line, one) + kron(one, line)).tocsr()
    found.sort_indices()
    return found
