"""Helmholtz's equation in random media."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow_control.systems.darcy import (
    Form,
    check_draw,
    check_medium,
    medium,
    published,
    source,
    spread,
)
from sciflow_control.systems.system import System, Systems


@dataclass(frozen=True)
class HelmholtzSystems(Systems):
    """``-div(c grad u) - k^2 u = 1`` in the unit square, u = 0 on its boundary, with random c and k.

    Attributes
    ----------
    size : int
        Unknowns along each side: n = size^2.
    wave_number : (float, float)
        Between which k is drawn. Below pi (times the root of the smallest c) no wave fits the square and
        the operator stays as definite as without k; the published range is far below that.
    form, alpha, tau, contrast, tolerance
        As in `DarcySystems`.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    With the published range, k^2 is at most 1/20 of the smallest eigenvalue of the diffusion: the
    difference from `DarcySystems` is small. To meet the difficulties that the name promises take larger k.

    References
    ----------
    H. Wang et al., ICLR 2024, arXiv 2401.09516, section 6 and the code of its authors.
    """

    name: ClassVar[str] = "helmholtz_systems"
    size: int = 50
    form: Form = "skr"
    wave_number: tuple[float, float] = (0.0, 1.0)
    alpha: float = 2.5
    tau: float = 7.0
    contrast: float = 1.0
    tolerance: float = 1e-7

    def __post_init__(self) -> None:
        check_choices(self)
        check_medium(self.size, self.alpha, self.tau, self.contrast, self.tolerance)
        low, high = self.wave_number
        if not 0 <= low < high:
            raise Invalid(f"wave numbers are drawn from 0 <= low < high, got {low} to {high}")

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        """Whether the operators are symmetric and, but for one field in a million, positive definite."""
        from math import exp, sqrt

        from sciflow_control.systems.fields import variance

        # The smallest eigenvalue of diffusion is 2 pi^2 times the smallest c, on the coarsest grids 18 times.
        least = 18 * exp(-6 * self.contrast * sqrt(variance(self.size + 2, self.alpha, self.tau)))
        return self.form == "symmetric" and self.wave_number[1] ** 2 < least

    def draw(self, count: int, seed: int) -> Iterator[System]:
        """Systems with contrast and wave number as features, coefficient and wave number as parameters."""
        import numpy as np
        from scipy import sparse

        from sciflow_control.systems.stencils import diffusion

        check_draw(count, seed)
        low, high = self.wave_number
        h2 = source(self.size, self.form)
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            c = medium(self.size, self.alpha, self.tau, self.contrast, rng)
            k = low + (high - low) * float(rng.random())
            matrix = diffusion(c) if self.form == "symmetric" else published(c, self.form)
            shifted = sparse.csr_matrix(matrix - h2 * k**2 * sparse.identity(len(c[1:-1]) ** 2, format="csr"))
            rhs = np.full(self.size**2, h2)
            yield System(shifted, rhs, {"log_contrast": spread(c), "wave_number": k}, np.append(c.ravel(), k))
