"""Flow through random media: a new operator for each system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow_control.systems.system import System, Systems

if TYPE_CHECKING:
    import numpy as np

Form = Literal["symmetric", "columns", "skr"]


@dataclass(frozen=True)
class DarcySystems(Systems):
    """``-div(c grad u) = 1`` in the unit square, u = 0 on its boundary, c = exp of a Gaussian field.

    Attributes
    ----------
    size : int
        Unknowns along each side: n = size^2.
    form : {"symmetric", "columns", "skr"}
        ``symmetric`` are finite volumes with harmonic means. ``skr`` is the stencil of the published code
        of SKR, which is not symmetric: the coefficient of each neighbour stands before that neighbour, and
        the southern one is taken two places too early. ``columns`` is the same without that slip: the
        Laplacian times diag(c).
    alpha : float
        Smoothness of the Gaussian field, above 1.
    tau : float
        Its inverse correlation length, over that of a side.
    contrast : float
        Multiplies the Gaussian field; its standard deviation is 0.18 for the default alpha and tau.
    tolerance : float
        Of the residual relative to the right-hand side.

    References
    ----------
    H. Wang et al., "Accelerating data generation for neural operators via Krylov subspace recycling",
    ICLR 2024, arXiv 2401.09516, section 6 and the code of its authors.
    """

    name: ClassVar[str] = "darcy_systems"
    size: int = 50
    form: Form = "symmetric"
    alpha: float = 2.5
    tau: float = 7.0
    contrast: float = 1.0
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        check_choices(self)
        check_medium(self.size, self.alpha, self.tau, self.contrast, self.tolerance)

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        """Whether the stencil is."""
        return self.form == "symmetric"

    def draw(self, count: int, seed: int) -> Iterator[System]:
        """Systems with the logarithm of their contrast as feature and the coefficient as parameters."""
        import numpy as np

        from sciflow_control.systems.stencils import diffusion

        check_draw(count, seed)
        for index in range(count):
            c = medium(self.size, self.alpha, self.tau, self.contrast, np.random.default_rng([seed, index]))
            matrix = diffusion(c) if self.form == "symmetric" else published(c, self.form)
            rhs = np.full(self.size**2, source(self.size, self.form))
            yield System(matrix, rhs, {"log_contrast": spread(c)}, c.ravel())


def medium(size: int, alpha: float, tau: float, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """The coefficient at ``size + 2`` points along each side."""
    import numpy as np

    from sciflow_control.systems.fields import gaussian_field

    return np.asarray(np.exp(contrast * gaussian_field(size + 2, alpha, tau, rng)))


def published(coefficient: np.ndarray, form: str) -> Any:
    """The published stencil for a coefficient (y, x): ``"skr"``, or ``"columns"`` without its slip."""
    from sciflow_control.systems.stencils import columns

    return columns(coefficient, 2 if form == "skr" else 0)


def source(size: int, form: str) -> float:
    """``h^2``; the published code takes h from the inner points alone."""
    return float(1 / (size - 1 if form == "skr" else size + 1) ** 2)


def spread(coefficient: np.ndarray) -> float:
    """Common logarithm of the largest coefficient over the smallest, of any shape."""
    import numpy as np

    return float(np.log10(coefficient.max() / coefficient.min()))


def check_medium(size: int, alpha: float, tau: float, contrast: float, tolerance: float) -> None:
    """Refuse what makes no random medium or no system.

    Raises
    ------
    Invalid
        Naming the setting.
    """
    if size < 2:
        raise Invalid(f"a grid needs at least two unknowns along each side, got size={size}")
    if not (alpha > 1 and tau > 0 and contrast >= 0):
        raise Invalid(
            f"a Gaussian field on a square needs alpha > 1 and tau > 0, its factor must not be negative; "
            f"got alpha={alpha}, tau={tau}, contrast={contrast}"
        )
    check_tolerance(tolerance)


def check_tolerance(tolerance: float) -> None:
    """Refuse a relative tolerance outside (0, 1).

    Raises
    ------
    Invalid
        If it lies there.
    """
    if not 0 < tolerance < 1:
        raise Invalid(f"a relative tolerance lies between 0 and 1, got {tolerance}")


def check_draw(count: int, seed: int) -> None:
    """Refuse a sequence without systems, and a negative seed.

    Raises
    ------
    Invalid
        For either.
    """
    if count < 1 or seed < 0:
        raise Invalid(f"a sequence needs at least one system and a seed from 0 on, got {count} and {seed}")
