"""What heats the members of heat problems, as the steps of any length need to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow_fenics.conduction import Values
from sciflow_fenics.heat import gaussian

if TYPE_CHECKING:
    from sciflow_fenics.components import Heat
    from sciflow_fenics.moving_heat import MovingHeat


@dataclass(frozen=True)
class Heating:
    """What one member is heated by, and how its solution is measured.

    Attributes
    ----------
    beta : float
        Relative change of the conductivity, K-1.
    boundary : float
        Rise at the boundary, K.
    source : callable
        Takes a time, s, and whether the one after it counts where the source jumps; gives the source,
        W m-3, as a function of the coordinates.
    switches : tuple of float
        Times at which the source jumps, s, in order.
    met : bool
        Whether no step crosses a switch.
    size : float
        Root mean square of a typical rise, K: errors are relative to the sum of it and of the solution's.
    pace : float
        Shortest time in which the solution changes, s.
    end : float
        s.
    """

    beta: float
    boundary: float
    source: Callable[[float, bool], Values]
    switches: tuple[float, ...]
    met: bool
    size: float
    pace: float
    end: float


def standing(heat: Heat, mu: Mapping[str, float]) -> Heating:
    """What heats a member of `Heat`.

    Notes
    -----
    A source of height A and width w warms its place by about ``A w**2 / k0``; its Gaussian has the root
    mean square ``sqrt(pi) w / side``. The plate answers it within ``w**2 rho c / k0``.
    """
    height, width = mu["amplitude"], mu["width"]
    bump = gaussian(height, mu["x"], mu["y"], width)

    def source(time: float, after: bool) -> Values:
        return bump

    size = abs(height) * width**2 / heat.conductivity * np.sqrt(np.pi) * width / heat.side
    pace = width**2 * heat.capacity / heat.conductivity
    return Heating(mu["beta"], mu["boundary"], source, (), True, size + abs(mu["boundary"]), pace, heat.end)


def moving(heat: MovingHeat, mu: Mapping[str, float]) -> Heating:
    """What heats a member of `MovingHeat`.

    Notes
    -----
    The size of the solution is the mean rise after the scan if no heat left the plate. The source passes a
    point within ``w / speed``, and the plate answers within ``w**2 rho c / k0``.

    Raises
    ------
    Invalid
        If the speed is not positive.
    """
    if mu["speed"] <= 0:
        raise Invalid(f"the speed of the source must be positive, got {mu['speed']} m/s")
    scan, width = heat.scan(mu), mu["width"]
    height = mu["power"] / (2 * np.pi * width**2)

    def source(time: float, after: bool) -> Values:
        place = scan.at(time, after)
        return _nothing if place is None else gaussian(height, *place, width)

    energy = abs(mu["power"]) * heat.lines * heat.length / mu["speed"]
    size = energy / (heat.capacity * heat.side**2)
    pace = min(width / mu["speed"], width**2 * heat.capacity / heat.conductivity)
    return Heating(mu["beta"], 0.0, source, heat.switches(mu), heat.events, size, pace, heat.end)


def _nothing(x: np.ndarray) -> np.ndarray:
    return np.zeros(x.shape[1])
