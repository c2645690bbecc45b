"""Kernel greedy regression of reduced coefficients, fitted by pyMOR and evaluated without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.errors import Invalid
from sciflow_rom.regress.regressors import Regressor

if TYPE_CHECKING:
    import numpy as np

    from sciflow.surrogate import Arrays
    from sciflow_rom.regress.regression import Regression


@dataclass(frozen=True)
class PymorVKOGA(Regressor):
    """Interpolation by Gaussian functions around points that are taken one by one; see `fit_greedy`.

    Attributes
    ----------
    centers : int
        Most training points that functions are put around.
    tolerance : float
        Of the greedy criterion, for values of unit size.
    length : float or None
        Of the kernel, in units of the features' spreads; None chooses by cross-validation.
    criterion : {"fp", "f", "p"}
        The next point has the largest residual times power function, residual, or power function.
    """

    name: ClassVar[str] = "pymor_vkoga"
    requires: ClassVar[tuple[str, ...]] = ("pymor",)
    centers: int = 100
    tolerance: float = 1e-6
    length: float | None = None
    criterion: Literal["fp", "f", "p"] = "fp"

    def __post_init__(self) -> None:
        if self.centers < 1 or self.tolerance < 0:
            raise Invalid(
                f"at least one center and no negative tolerance, got {self.centers}, {self.tolerance}"
            )
        if self.length is not None and self.length <= 0:
            raise Invalid(f"the length of a kernel is positive, got {self.length}")

    def train(self, features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Regression:
        """See `Regressor.train`."""
        from sciflow_rom.regress.pymor_adapter import fit_greedy

        return fit_greedy(features, values, rng, self.centers, self.tolerance, self.length, self.criterion)

    def load(self, state: Arrays) -> Regression:
        """See `Regressor.load`; pyMOR is not needed."""
        from sciflow_rom.regress.pymor_adapter import Greedy

        return Greedy.of(state)
