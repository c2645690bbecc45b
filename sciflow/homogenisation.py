"""Two scales: the law of a macroscopic point, and the cell problem that it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.reduction import Law, Reducible

if TYPE_CHECKING:
    import numpy as np


class Homogenised(ABC):
    """The law of macroscopic points: what a cell problem, or a model of it, answers to mean strains.

    A `sciflow.surrogate.Model` that can stand in a two-scale computation is one as well.
    """

    @abstractmethod
    def respond(self, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean stress and its derivative at some macroscopic points, all at once.

        Parameters
        ----------
        strain : ndarray, shape (point, component)
            Mean strains in the order of `CellProblem.components`, 1.

        Returns
        -------
        stress : ndarray, shape (point, component)
            Mean stresses, power-conjugate to `strain`, in the cell problem's unit.
        tangent : ndarray, shape (point, component, component)
            The derivative of `stress`, exact, so that Newton's method converges quadratically.

        Raises
        ------
        Diverged
            If a point has no answer; the message names its strain.
        """

    def bounds(self) -> np.ndarray | None:
        """Strains that it was made for; outside of them its answers are extrapolations.

        Returns
        -------
        ndarray, shape (component, 2), or None
            Lowest and highest of each component; ``None`` where it has no such limits.
        """
        return None


class CellProblem(Reducible):
    """A representative volume element under a macroscopic strain.

    The parameters are the components of the macroscopic strain ``E`` and nothing else. With the cell
    ``Y``, coordinates ``y`` and a displacement ``u = E y + v``, find the periodic fluctuation ``v``

        int_Y s(E + e(v), y) : e(w) dy = 0    for all periodic w,

    and the mean of ``s`` is the stress of the macroscopic point.

    Attributes
    ----------
    components : tuple of str
        Of the macroscopic strain, in the order of the stored stresses; shears are engineering ones,
        so that ``sum(stress * strain)`` is a work per volume.

    Notes
    -----
    `fields` has, besides `unknown` (axes ``("dof",)``: all nodes' values, those of opposite sides equal)
    and `dual` (``"stress"``, axes ``("point", "component")``), the field ``"homogenised"`` (axes
    ``("component",)``): the mean stress.

    References
    ----------
    C. Miehe, "Computational micro-to-macro transitions for discretized micro-structures of heterogeneous
    materials at finite strains based on the minimization of averaged incremental energy", CMAME 192, 2003.
    """

    unknown: ClassVar[str] = "fluctuation"
    dual: ClassVar[tuple[str, ...]] = ("stress",)
    components: ClassVar[tuple[str, ...]] = ("exx", "eyy", "gxy")

    @abstractmethod
    def material(self, points: np.ndarray) -> Law:
        """The law in the total strain at some points of the cell; needs nothing but numpy.

        Parameters
        ----------
        points : ndarray, shape (point, dimension)
            Coordinates of integration points, any of them and as often as one likes.

        Returns
        -------
        Law
            Its strains are macroscopic strain plus that of the fluctuation.
        """

    def law(self, points: np.ndarray, mu: Mapping[str, float]) -> Law:
        """See `Reducible.law`: `material` in the strain of the fluctuation alone."""
        return Shifted(self.material(points), self.macroscopic(mu))

    def direct(self) -> Homogenised:
        """The cell itself, solved at every macroscopic point: the full computation on two scales (FE2)."""
        raise NotImplementedError(f"{self.name} is not solved inside another problem: it must define direct")

    def macroscopic(self, mu: Mapping[str, float]) -> np.ndarray:
        """The strain that a parameter point stands for, shape (component,).

        Raises
        ------
        Invalid
            If a component is missing, unknown or not finite.
        """
        import numpy as np

        if tuple(self.parameters) != self.components:
            raise Invalid(
                f"the parameters of a cell problem are its strain components {self.components}, "
                f"those of {self.name} are {tuple(self.parameters)}"
            )
        point = self.parameters.checked(mu)
        return np.array([point[name] for name in self.components])

    def observe(self, name: str, stress: np.ndarray, history: np.ndarray) -> np.ndarray:
        """See `Reducible.observe`: the stress as it is.

        Raises
        ------
        NotFound
            If there is no such dual field.
        """
        if name not in self.dual:
            raise NotFound(f"{self.name} has no dual field {name!r}. {nearest(name, self.dual)}")
        return stress


class Shifted:
    """A law in the strain beyond a given one.

    Parameters
    ----------
    law : Law
        In the total strain.
    strain : ndarray, shape (component,)
        What is added at every point.
    """

    def __init__(self, law: Law, strain: np.ndarray) -> None:
        self._law, self._strain = law, strain

    def __call__(
        self, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `sciflow.reduction.Law`."""
        return self._law(strain + self._strain, history, step)
