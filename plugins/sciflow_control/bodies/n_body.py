"""NBody: an integrator of bodies that attract each other, with one knob."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import Component, check_choices
from sciflow.errors import Invalid
from sciflow.step_controller import Knob

if TYPE_CHECKING:
    import numpy as np

    from sciflow_control.bodies.held import Held
    from sciflow_control.bodies.state import Bodies

Features = Literal["physics", "paper"]
"""What a controller is told of bodies: numbers without unit, or the coordinates of the published set-up."""


class NBody(Component):
    """An integrator of bodies that attract each other, with one knob that is held for an interval.

    Attributes
    ----------
    most : int
        An interval that would take more evaluations of the forces has not converged.

    Raises
    ------
    Invalid
        If `most` has a value that it cannot have.
    """

    kind: ClassVar[str] = "n_body"
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    most: int

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.most > 0:
            raise Invalid(f"{self.name} needs at least one evaluation for an interval, got most={self.most}")
        self.knob(1.0)

    @abstractmethod
    def knob(self, held: float) -> Knob:
        """What is set, kept for a time.

        Parameters
        ----------
        held : float
            In the unit of time of the bodies.
        """

    @abstractmethod
    def stepper(
        self,
        bodies: Bodies,
        held: float,
        features: Features = "physics",
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> Held:
        """Bodies at their start, or where `restart` was saved.

        Parameters
        ----------
        bodies : Bodies
            At time 0.
        held : float
            The interval, in their unit of time, for which a value of the knob is kept.
        features : {"physics", "paper"}
            See `features.Physics` and `features.Paper`.
        restart : mapping of str to ndarray or None
            What `Stepper.restart` gave for the same bodies.

        Raises
        ------
        Invalid
            If the interval is not positive, or what was saved is of other bodies or of another integrator.
        Missing
            If the library is not installed.
        """
