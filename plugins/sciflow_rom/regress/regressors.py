"""Regressors: how reduced coefficients, or errors, follow from a few numbers such as the parameters."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow.surrogate import Arrays
    from sciflow_rom.regress.regression import Regression


class Regressor(Component):
    """Learns several numbers as functions of a few features, for inference with numpy alone."""

    kind: ClassVar[str] = "regressor"

    @abstractmethod
    def train(self, features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Regression:
        """Fit.

        Parameters
        ----------
        features : ndarray, shape (member, feature)
            Parameters or features of fields, each in any unit.
        values : ndarray, shape (member, n)
            What to learn, each column in any unit.
        rng : numpy.random.Generator
            Decides every random choice.

        Returns
        -------
        Regression
            Equal arguments give equal bits.

        Raises
        ------
        Invalid
            If shapes do not fit, or a number is not finite.
        """

    @abstractmethod
    def load(self, state: Arrays) -> Regression:
        """Build a regression from `Regression.state`, bit for bit.

        Raises
        ------
        Invalid
            If arrays are missing.
        """


@dataclass(frozen=True)
class GaussianProcess(Regressor):
    """The mean of a Gaussian process, one length for each feature; see `sciflow_rom.regress.gaussian`.

    Attributes
    ----------
    kernel : {"matern", "squared_exponential"}
        ``matern``: twice differentiable functions (Matern 5/2). ``squared_exponential``: analytic ones.
    shared : bool
        One set of lengths for all columns, which is learned from all of them and evaluated once.
    """

    name: ClassVar[str] = "gaussian_process"
    kernel: Literal["matern", "squared_exponential"] = "matern"
    shared: bool = False

    def train(self, features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Regression:
        """See `Regressor.train`."""
        from sciflow_rom.regress.gaussian import fit_gaussian

        return fit_gaussian(features, values, rng, self.kernel, self.shared)

    def load(self, state: Arrays) -> Regression:
        """See `Regressor.load`."""
        from sciflow_rom.regress.gaussian import Gaussian

        return Gaussian.of(state)


@dataclass(frozen=True)
class RadialBasis(Regressor):
    """Interpolation by cubic radial functions and a polynomial of first degree.

    Attributes
    ----------
    smoothing : float
        0 interpolates; more lets the values be missed, as in a smoothing spline.

    Raises
    ------
    Invalid
        If `smoothing` has a value that it cannot have.
    """

    name: ClassVar[str] = "radial_basis"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.smoothing < 0:
            raise Invalid(f"smoothing is not negative, got {self.smoothing}")

    def train(self, features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Regression:
        """See `Regressor.train`."""
        from sciflow_rom.regress.regression import fit_radial

        return fit_radial(features, values, self.smoothing)

    def load(self, state: Arrays) -> Regression:
        """See `Regressor.load`."""
        from sciflow_rom.regress.regression import Radial

        return Radial.of(state)


@dataclass(frozen=True)
class Polynomial(Regressor):
    """A polynomial by ridge regression, its penalty chosen by leaving one member out.

    Attributes
    ----------
    degree : int
        Total degree; lowered until there are at least as many members as monomials.

    Raises
    ------
    Invalid
        If `degree` has a value that it cannot have.
    """

    name: ClassVar[str] = "polynomial"
    degree: int = 2

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise Invalid(f"a degree is not negative, got {self.degree}")

    def train(self, features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Regression:
        """See `Regressor.train`."""
        from sciflow_rom.regress.regression import fit_polynomial

        return fit_polynomial(features, values, self.degree)

    def load(self, state: Arrays) -> Regression:
        """See `Regressor.load`."""
        from sciflow_rom.regress.regression import Monomials

        return Monomials.of(state)


@dataclass(frozen=True)
class Perceptrons(Regressor):
    """The mean of a few small fully connected networks that start from other random weights.

    Attributes
    ----------
    width : int
        Neurons in each of the two hidden layers.
    networks : int
        How many are averaged.
    penalty : float
        On the squared weights, for features and values of unit spread.
    steps : int
        Largest number of iterations of L-BFGS.

    Raises
    ------
    Invalid
        If `width`, `networks`, `steps` or `penalty` has a value that it cannot have.
    """

    name: ClassVar[str] = "perceptrons"
    requires: ClassVar[tuple[str, ...]] = ("sklearn",)
    width: int = 32
    networks: int = 8
    penalty: float = 1e-2
    steps: int = 300

    def __post_init__(self) -> None:
        if min(self.width, self.networks, self.steps) < 1 or self.penalty < 0:
            raise Invalid("width, networks and steps are at least 1, and the penalty is not negative")

    def train(self, features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Regression:
        """See `Regressor.train`."""
        from sciflow_rom.regress.regression import fit_networks

        return fit_networks(features, values, rng, self.width, self.networks, self.penalty, self.steps)

    def load(self, state: Arrays) -> Regression:
        """See `Regressor.load`."""
        from sciflow_rom.regress.regression import Networks

        return Networks.of(state)
