"""Residuals of differential equations: configurations only, torch is imported where it is used."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from sciflow_operators.training.target import Target


class Residual(Component):
    """What is left of an equation when fields are put into it.

    An equation is written as a sum of terms that is zero. Coefficients, sources and time steps are inputs
    of the surrogate, taken by name, or numbers.
    """

    kind: ClassVar[str] = "residual"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    @abstractmethod
    def terms(self, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
        """The terms of the equation, whose sum is the residual.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
            Inputs in their units.
        y : Tensor, shape (batch, *points, channel out)
            Outputs in their units: predicted, or true.
        target : Target
            Names, grid, periodic axes.

        Returns
        -------
        list of Tensor, shape (batch, ...)
            All of one shape and unit.

        Raises
        ------
        NotFound
            If an input or output that it needs is not among those of the surrogate.
        Invalid
            If it cannot be evaluated on this grid.
        """

    def __call__(self, x: Tensor, y: Tensor, target: Target) -> Tensor:
        """The residual, shape (batch, ...); see `terms`."""
        first, *others = self.terms(x, y, target)
        return sum(others, start=first)


@dataclass(frozen=True)
class DarcyFlow(Residual):
    """``-div(a grad u) = f`` at the inner points of a grid in one to three dimensions.

    Attributes
    ----------
    field : str
        Output that is ``u``.
    coefficient : str
        Input that is ``a``, on the same grid.
    source : str or float
        Input that is ``f``, or its value.

    Notes
    -----
    Differences of the fluxes between neighbours, with the mean of ``a`` of the two points: conservative,
    second order where ``a`` is smooth. Conditions on the boundary are not part of it; the points there
    enter through the fluxes.
    """

    name: ClassVar[str] = "darcy_flow"
    field: str = "pressure"
    coefficient: str = "permeability"
    source: str | float = 1.0

    def terms(self, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
        """See `Residual.terms`; shape (batch, *inner points, level), unit of the source."""
        from sciflow_operators.training.equations import darcy

        return darcy(self, x, y, target)


@dataclass(frozen=True)
class BurgersStep(Residual):
    """Burgers' equation ``u_t + u u_x = nu u_xx`` in one dimension, over each time step.

    Attributes
    ----------
    field : str
        Input and output that is ``u``: the last level of the input and all levels of the output, equally
        far apart.
    viscosity : str or float
        Input that is ``nu``, or its value in the units of the grid and of time.
    step : str or float
        Input that is the time between levels, or its value in the unit of time.

    Notes
    -----
    The integral over a step by the trapezoidal rule, in the unit of the field: ::

        u_1 - u_0 + step / 2 (u_0 u_0' + u_1 u_1') - step / 2 nu (u_0'' + u_1'') = O(step^3)

    Fourier derivatives along a periodic axis, otherwise second-order differences. The true solution has a
    residual of the rule's own error, so that the step must resolve the changes of the solution.
    """

    name: ClassVar[str] = "burgers_step"
    field: str = "u"
    viscosity: str | float = "viscosity"
    step: str | float = "lead_time"

    def terms(self, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
        """See `Residual.terms`; shape (batch, x, level), unit of the field."""
        from sciflow_operators.training.equations import burgers

        return burgers(self, x, y, target)


@dataclass(frozen=True)
class VorticityStep(Residual):
    """Vorticity of a plane periodic flow, ``w_t + u . grad w = nu lap w + f``, over each time step.

    Attributes
    ----------
    field : str
        Input and output that is ``w``: the last level of the input and all levels of the output, equally
        far apart.
    viscosity : str or float
        Input that is ``nu``, or its value in the units of the grid and of time.
    force : str or float
        Amplitude ``a`` of ``f = a (sin + cos)(2 pi (x + y))``, for coordinates over the lengths of the
        domain: an input, or its value.
    step : str or float
        Input that is the time between levels, or its value in the unit of time.

    Notes
    -----
    As `BurgersStep`. The velocity is ``(psi_y, -psi_x)`` with ``-lap psi = w``; all derivatives are
    Fourier's, products are taken on the grid without dealiasing.
    """

    name: ClassVar[str] = "vorticity_step"
    field: str = "vorticity"
    viscosity: str | float = "viscosity"
    force: str | float = "force"
    step: str | float = "lead_time"

    def terms(self, x: Tensor, y: Tensor, target: Target) -> list[Tensor]:
        """See `Residual.terms`; shape (batch, y, x, level), unit of the field."""
        from sciflow_operators.training.equations import vorticity

        return vorticity(self, x, y, target)
