"""What training minimises: configurations only, torch is imported where it is used."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow_operators.training.residuals import DarcyFlow, Residual

if TYPE_CHECKING:
    from torch import Tensor

    from sciflow_operators.training.target import Target


class Loss(Component):
    """A measure of the difference between what a network gives and what it should give."""

    kind: ClassVar[str] = "loss"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    @abstractmethod
    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """Loss of every sample.

        Parameters
        ----------
        predicted, truth : Tensor, shape (batch, *points, channel out)
            In the fields' units.
        x : Tensor, shape (batch, *points, channel in)
            What the network was given, in the fields' units.
        target : Target
            What is known of the fields.

        Returns
        -------
        Tensor, shape (batch,)
        """


@dataclass(frozen=True)
class RelativeL2(Loss):
    """Error over the norm of each sample's field, averaged over the output fields."""

    name: ClassVar[str] = "relative_l2"

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        from sciflow_operators.training.target import relative_l2

        return relative_l2(predicted, truth, target.groups, target.typical)


@dataclass(frozen=True)
class Squared(Loss):
    """Mean square of the error over the spread of each channel of the field.

    The spread is that of the increments where those are learned.
    """

    name: ClassVar[str] = "squared"

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        from sciflow_operators.training.target import squared

        return squared(predicted, truth, target.groups, target.spread)


@dataclass(frozen=True)
class Sobolev(Loss):
    """Relative error of a field and its derivatives, averaged over the output fields.

    Attributes
    ----------
    order : int
        Of the highest derivatives: 1 is the H1 norm, 0 the L2 norm.
    length : float
        What a derivative is multiplied with for each order, in the unit of the coordinates; 0 takes the
        length of the domain over 2 pi along each axis: its longest wave then counts as much as its slope.
    floor : float
        A sample smaller than this part of the field's typical size is measured against this part.

    Raises
    ------
    Invalid
        If `order`, `length` or `floor` has a value that it cannot have.

    Notes
    -----
    ``|u|^2 = sum_j length^(2 j) |D^j u|^2`` with ``j = 0 .. order``, all mixed derivatives counted. Fourier
    derivatives along periodic axes, elsewhere second-order differences. Cost: ``axes + .. + axes^order``
    derivatives of the error and of the truth.
    """

    name: ClassVar[str] = "sobolev"
    order: int = 1
    length: float = 0.0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4:
            raise Invalid(f"order must be 0 to 4, got {self.order}")
        if self.length < 0 or self.floor < 0:
            raise Invalid(f"length and floor cannot be negative, got {self.length} and {self.floor}")

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        from sciflow_operators.training.sobolev import sobolev

        return sobolev(predicted, truth, target, self.order, self.length, self.floor)


@dataclass(frozen=True)
class Spectral(Loss):
    """Relative error in each octave of wavenumbers, averaged over octaves and output fields.

    Short waves of small amplitude count as much as long ones, down to the floor.

    Attributes
    ----------
    bands : int
        Octaves: the last one holds the waves from half the grid's largest wavenumber on, the first all
        that are longer than the second's. With one it is the relative L2 error.
    floor : float
        A band of the truth that is smaller than this part of the field's typical size is measured
        against this part: what is smaller is noise.

    Raises
    ------
    Invalid
        If `bands` or `floor` has a value that it cannot have.

    Notes
    -----
    Fourier waves along periodic axes, cosines along the others; the squares of the bands add up to the
    square of the field's norm (Parseval). Two transforms, ``O(n log n)``.
    """

    name: ClassVar[str] = "spectral"
    bands: int = 4
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if self.bands < 1:
            raise Invalid(f"bands must be at least 1, got {self.bands}")
        if self.floor < 0:
            raise Invalid(f"floor cannot be negative, got {self.floor}")

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        from sciflow_operators.training.sobolev import spectral

        return spectral(predicted, truth, target, self.bands, self.floor)


@dataclass(frozen=True)
class Physics(Loss):
    """Residual of an equation, over the size of its terms for the true fields.

    It uses the truth for that size only. A steady equation alone has many solutions; combine it with
    an error of the fields: ``Weighted(((RelativeL2(), 1.0), (Physics(...), 1.0)))``.

    Attributes
    ----------
    residual : Residual
        The equation.

    Notes
    -----
    ``|sum_i t_i(u)| / sqrt(sum_i |t_i(u_true)|^2)`` for each sample, with terms ``t_i``. A size below a
    thousandth of the batch's root mean square is replaced by that bound.
    """

    name: ClassVar[str] = "physics"
    residual: Residual

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(DarcyFlow())

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        from sciflow_operators.training.target import balance

        if not len(truth):
            # A rank may have no sample of its own in a batch; there is no transform of nothing.
            return predicted.flatten(1).sum(dim=1)
        terms = self.residual.terms(x, truth, target)
        return balance(self.residual(x, predicted, target), terms)


@dataclass(frozen=True)
class Weighted(Loss):
    """Weighted sum of losses.

    Attributes
    ----------
    losses : tuple of (Loss, float)
        Each with its weight, positive.

    Raises
    ------
    Invalid
        If `losses` has a value that it cannot have.
    """

    name: ClassVar[str] = "weighted"
    losses: tuple[tuple[Loss, float], ...]

    def __post_init__(self) -> None:
        if not self.losses:
            raise Invalid("name at least one loss with its weight, as ((RelativeL2(), 1.0),)")
        for loss, weight in self.losses:
            if not weight > 0:
                raise Invalid(f"the weight of {loss.name} must be positive, got {weight}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(((RelativeL2(), 1.0), (Squared(), 0.5)))

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        (first, scale), *others = self.losses
        total = scale * first(predicted, truth, x, target)
        for loss, weight in others:
            total = total + weight * loss(predicted, truth, x, target)
        return total
