"""Transient heat conduction in equal steps, and what its problems have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.artifact.share import Share
from sciflow.errors import Diverged, Invalid
from sciflow.linear_solver import Solving, wrapped
from sciflow.problem import Part, State
from sciflow_fenics.conduction import Conduction, Values
from sciflow_fenics.kept import kept
from sciflow_fenics.lattice import DofOrder, Sampler, communicator
from sciflow_fenics.quadrature import Elements, nodal

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_fenics.components import Heat
    from sciflow_fenics.heated_plate import HeatedPlate


def built(heat: HeatedPlate, comm: Any) -> tuple[Conduction, Sampler, DofOrder]:
    """Mesh, forms and solver of a configuration."""
    made = Conduction(comm, heat.cells, heat.degree, heat.side, heat.conductivity, heat.capacity, 1.0)
    order = DofOrder(made.space, heat.cells * heat.degree + 1, heat.side)
    return made, Sampler(made.space, heat.grid, heat.side), order


def shared(heat: HeatedPlate, comm: Any) -> tuple[Conduction, Sampler, DofOrder]:
    """`built` once for all ways to solve the linear systems and to choose the steps."""
    return kept(comm, heat.replace(solver=None, stepping=None), lambda: built(heat, comm))


def checked(heat: HeatedPlate, mu: Mapping[str, float]) -> dict[str, float]:
    """A complete point whose source has a width.

    Raises
    ------
    Invalid
        If it is not one.
    """
    point = heat.parameters.checked(mu)
    if point["width"] <= 0:
        raise Invalid(f"the width of the source must be positive, got {point['width']} m")
    return point


def gaussian(height: float, x0: float, y0: float, width: float) -> Values:
    """A bump of a standard deviation `width` around a point."""

    def values(x: np.ndarray) -> np.ndarray:
        square_distance = (x[0] - x0) ** 2 + (x[1] - y0) ** 2
        return np.asarray(height * np.exp(-square_distance / (2 * width**2)))

    return values


def _steps(heat: Heat, level: int) -> list[tuple[float, float]]:
    """Length and weight of the time steps up to a stored level.

    The boundary jumps at the start and Crank-Nicolson does not damp a jump: its first two steps
    become four implicit Euler steps of half the length, which keeps the order (R. Rannacher,
    "Finite element solution of diffusion problems with irregular data", Numer. Math. 43 (1984)).
    """
    dt = heat.end / heat.levels / heat.substeps
    if heat.scheme == "euler":
        return [(dt, 1.0)] * heat.substeps
    damped = min(max(2 - level * heat.substeps, 0), heat.substeps)
    return [(dt / 2, 1.0)] * (2 * damped) + [(dt, 0.5)] * (heat.substeps - damped)


def solve(
    heat: Heat, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
) -> Iterator[State]:
    """Stream the stored time levels, all or those after a restart point; see `Problem.solve`."""
    mu = checked(heat, mu)
    system, sample, order = shared(heat, communicator(ctx))
    source = gaussian(mu["amplitude"], mu["x"], mu["y"], mu["width"])

    def boundary(x: np.ndarray) -> np.ndarray:
        return np.full(x.shape[1], mu["boundary"])

    rise, first = np.zeros(len(order.index)), 0
    if restart is not None:
        rise, first = order.values(restart["place"], restart["rise"]), int(restart["level"])
    solving = wrapped(heat.solver, system.ksp, ctx, restart)
    for level in range(first, heat.levels):
        # Set anew after every yield: the caller may have solved another member meanwhile.
        system.begin(mu["beta"], rise, source, solving)
        counts = _advance(system, heat, level, boundary)
        rise = system.rise.x.array[: len(rise)].copy()
        fields: dict[str, Part | Share] = {"temperature": sample(system.rise)}
        if level == 0:
            fields["source"] = sample(system.source)
        if heat.dofs:
            fields["temperature_dof"] = order(system.rise)
        if level + 1 == heat.levels:
            solving.close()
        saved = partial(_restart, rise, order.index, level + 1, solving)
        yield State(heat.end * (level + 1) / heat.levels, fields, counts, saved)


def _advance(system: Conduction, heat: Heat, level: int, boundary: Values) -> dict[str, int]:
    """Take the time steps up to the next stored level; returns iterations of Newton and linear solver."""
    newton = linear = 0
    for step, (dt, weight) in enumerate(_steps(heat, level)):
        system.weight.value = weight
        try:
            counts = system.step(dt, boundary)
        except Diverged as error:
            raise Diverged(f"time level {level}, step {step}: {error}") from None
        newton, linear = newton + counts[0], linear + counts[1]
    return {"newton": newton, "linear": linear}


def _restart(rise: np.ndarray, place: np.ndarray, level: int, solving: Solving) -> dict[str, np.ndarray]:
    return {"rise": rise, "place": place, "level": np.array(level), **solving.saved()}


def integrals(heat: Heat, ctx: Context) -> Elements:
    """The weak form on these ranks; see `Reducible.integrals`."""
    comm = communicator(ctx)
    name = f"square of {heat.side:g} m, {heat.cells} cells, Lagrange 1, 3 points"
    return kept(comm, (name, "integrals"), lambda: nodal(comm, heat.cells, heat.side, name))
