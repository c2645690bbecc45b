"""Selectors: which local model answers a query, learned from the errors of all of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow_rom.regress.regressors import Perceptrons, Regressor

if TYPE_CHECKING:
    import numpy as np

    from sciflow.surrogate import Arrays
    from sciflow_rom.regress.ranking import Ranker

_NETWORKS = Perceptrons()


class Selector(Component):
    """Learns to rank the clusters for a query, with numpy alone when it is asked."""

    kind: ClassVar[str] = "selector"

    @abstractmethod
    def train(self, features: np.ndarray, errors: np.ndarray, rng: np.random.Generator) -> Ranker:
        """Learn from training members.

        Parameters
        ----------
        features : ndarray, shape (member, feature)
            What a query consists of: parameters, or a few numbers of an input field, each in any unit.
        errors : ndarray, shape (member, cluster)
            Relative error of each local model for each member, not negative; infinite where it gives
            none. Members that a model was made of count with the error that they have.
        rng : numpy.random.Generator
            Decides every random choice.

        Returns
        -------
        Ranker
            Equal arguments give equal bits.

        Raises
        ------
        Invalid
            If shapes do not fit, or a feature is not finite, or an error negative or NaN.
        """

    @abstractmethod
    def load(self, state: Arrays) -> Ranker:
        """Build a ranker from `Ranker.state`, bit for bit.

        Raises
        ------
        Invalid
            If arrays are missing.
        """


@dataclass(frozen=True)
class ErrorRegression(Selector):
    """Predicts the logarithm of each local model's error; the one with the least comes first.

    What a wrong choice costs is learned with it: two models that are equally good need not be told apart.

    Attributes
    ----------
    regressor : Regressor
        How the logarithms follow from the features. A Gaussian process should share its lengths here: it
        is then evaluated once, not for each cluster.
    """

    name: ClassVar[str] = "error_regression"
    regressor: Regressor = _NETWORKS

    def train(self, features: np.ndarray, errors: np.ndarray, rng: np.random.Generator) -> Ranker:
        """See `Selector.train`."""
        from sciflow_rom.regress.ranking import ErrorRanker, log_errors

        return ErrorRanker(self.regressor.train(features, log_errors(errors), rng))

    def load(self, state: Arrays) -> Ranker:
        """See `Selector.load`."""
        from sciflow_rom.regress.ranking import ErrorRanker

        return ErrorRanker(self.regressor.load(state))


@dataclass(frozen=True)
class Logistic(Selector):
    """Multinomial logistic regression on the best model of each member: a baseline.

    Attributes
    ----------
    degree : int
        Of the polynomial in the features.
    sharpness : float
        A member votes for model k with a weight in proportion to ``error_k ** -sharpness``; a large one
        leaves only the best.
    penalty : float
        On the squared coefficients.

    Raises
    ------
    Invalid
        If `degree`, `sharpness` or `penalty` has a value that it cannot have.
    """

    name: ClassVar[str] = "logistic"
    degree: int = 2
    sharpness: float = 4.0
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        if self.degree < 1 or self.sharpness <= 0 or self.penalty <= 0:
            raise Invalid("degree is at least 1; sharpness and penalty are positive")

    def train(self, features: np.ndarray, errors: np.ndarray, rng: np.random.Generator) -> Ranker:
        """See `Selector.train`."""
        from sciflow_rom.regress.ranking import fit_logistic

        return fit_logistic(features, errors, self.degree, self.sharpness, self.penalty)

    def load(self, state: Arrays) -> Ranker:
        """See `Selector.load`."""
        from sciflow_rom.regress.ranking import LogisticRanker

        return LogisticRanker(state)


@dataclass(frozen=True)
class Neighbours(Selector):
    """The mean logarithm of the errors of the nearest members.

    Attributes
    ----------
    count : int
        How many neighbours; nearer ones count more.

    Raises
    ------
    Invalid
        If `count` has a value that it cannot have.
    """

    name: ClassVar[str] = "neighbours"
    count: int = 5

    def __post_init__(self) -> None:
        if self.count < 1:
            raise Invalid(f"a selector needs at least one neighbour, got {self.count}")

    def train(self, features: np.ndarray, errors: np.ndarray, rng: np.random.Generator) -> Ranker:
        """See `Selector.train`."""
        from sciflow_rom.regress.ranking import fit_neighbours

        return fit_neighbours(features, errors, self.count)

    def load(self, state: Arrays) -> Ranker:
        """See `Selector.load`."""
        from sciflow_rom.regress.ranking import NeighbourRanker

        return NeighbourRanker(state)
