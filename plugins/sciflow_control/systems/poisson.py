"""Poisson's equation with random sources and boundary values: one operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid
from sciflow_control.systems.darcy import check_draw, check_tolerance
from sciflow_control.systems.system import System, Systems

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PoissonSystems(Systems):
    """``-Laplace u = f(x)`` in the unit square with boundary values: random Chebyshev series.

    Attributes
    ----------
    size : int
        Unknowns along each side: n = size^2.
    degree : int
        Of the five series: the source along x, and the values along the four sides.
    tolerance : float
        Of the residual relative to the right-hand side.

    Raises
    ------
    Invalid
        If `size` or `degree` has a value that it cannot have.

    Notes
    -----
    Five-point differences. Coefficients are uniform in [-1, 1], each series runs over the whole length of its
    side. All right-hand sides are sums of ``5 (degree + 1)`` vectors. The published code has the values of
    the two vertical sides constant, and quadratic elements on triangles.

    References
    ----------
    H. Wang et al., ICLR 2024, arXiv 2401.09516, section 6 and the code of its authors.
    """

    name: ClassVar[str] = "poisson_systems"
    steady: ClassVar[bool] = True
    size: int = 50
    degree: int = 5
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if self.size < 2 or self.degree < 0:
            raise Invalid(
                f"a grid needs two unknowns along each side and a series a degree from 0 on, got "
                f"size={self.size} and degree={self.degree}"
            )
        check_tolerance(self.tolerance)

    def draw(self, count: int, seed: int) -> Iterator[System]:
        """Systems with all coefficients as parameters; nothing that a tuner would have to know."""
        import numpy as np

        from sciflow_control.systems.stencils import diffusion

        check_draw(count, seed)
        matrix = diffusion(np.ones((self.size + 2, self.size + 2)))
        for index in range(count):
            series = np.random.default_rng([seed, index]).uniform(-1, 1, (5, self.degree + 1))
            yield System(matrix, self.rhs(series), {}, series.ravel())

    def rhs(self, series: np.ndarray) -> np.ndarray:
        """The right-hand side of five series.

        Parameters
        ----------
        series : ndarray, shape (5, degree + 1)
            Chebyshev coefficients of the source along x, then of the values at y = 0 and 1 along x and at
            x = 0 and 1 along y.

        Returns
        -------
        ndarray, shape (size^2,)
            Times h^2.
        """
        import numpy as np

        h = 1 / (self.size + 1)
        places = 2 * h * np.arange(1, self.size + 1) - 1
        # Chebyshev polynomials, shape (degree + 1, point).
        waves = np.cos(np.arange(self.degree + 1)[:, None] * np.arccos(places))
        source, bottom, top, left, right = np.asarray(series) @ waves
        load = np.tile(h**2 * source, (self.size, 1))
        load[0] += bottom
        load[-1] += top
        load[:, 0] += left
        load[:, -1] += right
        return load.ravel()
