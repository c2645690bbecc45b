"""A heat equation with a diffusion coefficient that swings: the dependent systems of "Learning to Relax"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow_control.systems.laplacian import square_laplacian
from sciflow_control.systems.system import System, Systems

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class HeatSequence(Systems):
    """The time steps of ``u_t = kappa(t) (u_xx + u_yy) + f`` on the unit square, by Crank-Nicolson.

    ``kappa = max(0.1 sin 2 pi t, -10 sin 2 pi t)``; f is a bump that goes round in a circle, u a bump at the
    start and 0 on the boundary.

    Attributes
    ----------
    nx : int
        Cells along a side; a system has (nx - 1)^2 rows.
    dt : float
        Time step, 1 being a period of kappa.
    tolerance : float
        Of the residual relative to the right-hand side.

    Raises
    ------
    Invalid
        If `nx`, `dt` or `tolerance` has a value that it cannot have.

    Notes
    -----
    An iteration starts at the state before the step. The states are exact for the discrete equations (sine
    transforms), so that a system does not depend on how those before it were solved. Features ``diffusion``,
    kappa in the middle of the step, in [3e-4, 10] for the default step, and ``log_diffusion``, its decimal
    logarithm. Nothing is random: the seed changes nothing.

    References
    ----------
    M. Khodak et al., Learning to Relax, ICLR 2024, arXiv:2310.02246, the experiment with the heat equation.
    """

    name: ClassVar[str] = "heat_sequence"
    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    nx: int
    dt: float = 1e-3
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if self.nx < 2:
            raise Invalid(f"nx={self.nx} must be at least 2")
        if not self.dt > 0 or not 0 < self.tolerance < 1:
            raise Invalid(f"dt={self.dt} must be positive and tolerance={self.tolerance} in (0, 1)")

    @classmethod
    def example(cls) -> Self:
        """A small one."""
        return cls(6)

    def diffusion(self, time: float) -> float:
        """The coefficient kappa at a time."""
        wave = math.sin(2 * math.pi * time)
        return max(0.1 * wave, -10 * wave)

    def draw(self, count: int, seed: int) -> Iterator[System]:
        """See `Systems.draw`."""
        import numpy as np
        from scipy.fft import dstn
        from scipy.sparse import csr_matrix

        inner, n = self.nx - 1, (self.nx - 1) ** 2
        base = square_laplacian(inner)
        diagonal = base.indices == np.repeat(np.arange(n), np.diff(base.indptr))
        points = np.arange(1, self.nx) / self.nx
        waves = 4 * np.sin(np.pi * points / 2) ** 2
        eigenvalues = np.add.outer(waves, waves)
        u = _bump(points, 0.5, 0.5, 0.25)
        for step in range(count):
            time = (step + 0.5) * self.dt
            kappa = self.diffusion(time)
            half = 0.5 * kappa * self.dt * self.nx**2
            angle = 16 * math.pi * time
            force = 32 * _bump(points, 0.5 + math.cos(angle) / 4, 0.5 + math.sin(angle) / 4, 0.125)
            matrix = csr_matrix((diagonal + half * base.data, base.indices, base.indptr), shape=(n, n))
            guess = u.ravel()
            rhs = 2 * guess - matrix @ guess + self.dt * force.ravel()
            features = {"diffusion": kappa, "log_diffusion": math.log10(kappa)}
            yield System(matrix, rhs, features, np.array([kappa]), guess)
            modes = dstn(rhs.reshape(inner, inner), type=1, norm="ortho") / (1 + half * eigenvalues)
            u = dstn(modes, type=1, norm="ortho")


def _bump(points: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """A smooth bump of height 1 at (x, y), 0 outside of its radius; shape (x, y)."""
    import numpy as np

    distance = np.minimum(np.add.outer((points - x) ** 2, (points - y) ** 2) / radius**2, 1.0)
    inside = distance < 1
    found: np.ndarray = np.where(inside, np.exp(1 - 1 / np.where(inside, 1 - distance, 1.0)), 0.0)
    return found
