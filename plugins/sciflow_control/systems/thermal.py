"""Heat conduction through a plate with a slot: one operator, random boundary values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.errors import Invalid
from sciflow_control.systems.darcy import check_draw, check_tolerance
from sciflow_control.systems.system import System, Systems

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ThermalSystems(Systems):
    """``-Laplace T = 0`` in a plate with a slot; temperature on the left, heat flux on the right.

    Attributes
    ----------
    squares : int
        Nodes are 0.05 m / squares apart; there are about ``620 squares^2`` unknowns (2507 for 2, 9879
        for 4).
    temperature : (float, float)
        Bounds of the temperature of the left side, K above that of the surroundings.
    flux : (float, float)
        Bounds of the temperature gradient on the right side, K/m; positive warms.
    mesh_seed : int
        Of the irregular triangulation.
    tolerance : float
        Of the residual relative to the right-hand side.

    Raises
    ------
    Invalid
        If `squares`, `mesh_seed`, `temperature` or `flux` has a value that it cannot have.

    Notes
    -----
    All right-hand sides are sums of two vectors: whoever solves the first two systems knows the solutions of
    all others. The published data have this property too. Here the elements are linear and the mesh is
    another one; the plate, its boundary conditions and their bounds are the published ones.

    References
    ----------
    H. Wang et al., ICLR 2024, arXiv 2401.09516, section 6 and the code of its authors.
    """

    name: ClassVar[str] = "thermal_systems"
    steady: ClassVar[bool] = True
    squares: int = 2
    temperature: tuple[float, float] = (0.0, 100.0)
    flux: tuple[float, float] = (-100.0, 0.0)
    mesh_seed: int = 0
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if self.squares < 1:
            raise Invalid(f"the slot needs at least one square, got squares={self.squares}")
        for what, (low, high) in (("temperature", self.temperature), ("flux", self.flux)):
            if not low < high:
                raise Invalid(f"the {what} is drawn between two bounds, got {low} to {high}")
        if self.mesh_seed < 0:
            raise Invalid(f"the seed of the mesh cannot be negative, got {self.mesh_seed}")
        check_tolerance(self.tolerance)

    def draw(self, count: int, seed: int) -> Iterator[System]:
        """Systems with temperature and flux as parameters; nothing that a tuner would have to know."""
        import numpy as np

        check_draw(count, seed)
        matrix, per_kelvin, per_flux = self.parts()
        for index in range(count):
            unit = np.random.default_rng([seed, index]).random(2)
            t, q = (a + u * (b - a) for u, (a, b) in zip(unit, (self.temperature, self.flux), strict=True))
            yield System(matrix, t * per_kelvin + q * per_flux, {}, np.array([t, q]))

    def parts(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """The operator, and the right-hand sides of one kelvin and of one kelvin per metre."""
        import numpy as np

        from sciflow_control.systems.triangles import WIDTH, flux_load, plate, stiffness

        mesh = plate(self.squares, self.mesh_seed)
        whole = stiffness(mesh)
        left, right = (np.isclose(mesh.points[:, 0], s * WIDTH / 2) for s in (-1, 1))
        matrix = whole[~left][:, ~left]
        matrix.sort_indices()
        per_kelvin = -np.asarray(whole[~left][:, left].sum(axis=1)).ravel()
        return matrix, per_kelvin, flux_load(mesh, right)[~left]
