"""What training minimises: configurations only, torch is imported where it is used."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component

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
