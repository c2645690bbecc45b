"""Reducible: a problem whose weak form can be projected on a reduced basis and hyper-reduced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from sciflow.problem import Problem

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Comm, Context


class Law(Protocol):
    """What happens at one integration point; plain numpy, for any set of points at once.

    It knows the points and the parameters that `Reducible.law` was given.
    """

    def __call__(
        self, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Respond to a generalised strain at the end of a step.

        Parameters
        ----------
        strain : ndarray, shape (point, component)
            Such as (value, gradient) of a temperature or the strain of a displacement.
        history : ndarray, shape (point, variable)
            At the end of the last step; not changed.
        step : int
            Counted from 0: the step that ends at ``Reducible.steps()[step]``.

        Returns
        -------
        stress : ndarray, shape (point, component)
            Power-conjugate to `strain`.
        tangent : ndarray, shape (point, component, component)
            Its derivative with respect to `strain`.
        history : ndarray, shape (point, variable)
            At the end of this step.
        """


class Integrals(ABC):
    """The weak form of a problem as a sum over integration points, on this rank's part of the mesh.

    The residual of the unknown ``u``, tested with ``v``, is

        r(u; v) = sum_q w_q B_q(v) . s(B_q(u), z_q) - sum_j g_j f_j . v

    with points ``q`` and weights ``w_q``, a linear ``B`` that gives generalised strains, a `Law` that
    gives stresses ``s`` and history ``z``, and load vectors ``f_j`` with factors ``g_j``
    (`Reducible.load`). The unknown vanishes where it is prescribed.

    Attributes
    ----------
    comm : Comm
        Ranks that share the mesh.
    rows : ndarray of int64, shape (row,)
        Positions of this rank's unknowns in one flattened time level of the stored field.
    places : ndarray of int64, shape (point,)
        Positions of this rank's integration points in an order that does not depend on the ranks.
    points : ndarray, shape (point, dimension)
        Their coordinates.
    weights : ndarray, shape (point,)
        Their weights, with the measure: the sum over all ranks is that of the domain.
    loads : ndarray, shape (row, load)
        Load vectors in the order of `rows`; without columns where there are none.
    mesh : str
        A fingerprint of mesh and elements that does not depend on the ranks: equal for problems whose
        bases fit each other.
    """

    comm: Comm
    rows: np.ndarray
    places: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    loads: np.ndarray
    mesh: str

    @abstractmethod
    def strains(self, vectors: np.ndarray) -> np.ndarray:
        """Generalised strains of vectors of unknowns; collective over `comm`.

        Parameters
        ----------
        vectors : ndarray, shape (row, n)
            In the order of `rows`.

        Returns
        -------
        ndarray, shape (point, component, n)
        """


class Reducible(Problem):
    """A problem that offers its weak form, so that a reduced model can be made of its solutions.

    Attributes
    ----------
    unknown : str
        The stored field that holds the unknowns of the weak form, all of them: axes ``time`` (unless
        it is steady) and those of space. It is zero where values are prescribed.
    dual : tuple of str
        Stored fields at the integration points, with the axis ``point`` (of `Integrals.places`) behind
        ``time`` and perhaps one of components behind that: stress, flux, cumulated plastic strain.
    """

    unknown: ClassVar[str]
    dual: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def integrals(self, ctx: Context) -> Integrals:
        """The weak form on the ranks of ``ctx.comm``; collective."""

    @abstractmethod
    def law(self, points: np.ndarray, mu: Mapping[str, float]) -> Law:
        """The law at some points for one parameter point; needs nothing but numpy.

        Parameters
        ----------
        points : ndarray, shape (point, dimension)
            Coordinates of integration points, all or a few.
        mu : mapping of str to float
            A complete point of `parameters`.
        """

    def check_reducible(self, mu: Mapping[str, float] | None = None) -> None:
        """Refuse a configuration, or a parameter point, that the weak form does not serve; none by default.

        Parameters
        ----------
        mu : mapping of str to float or None
            A complete point of `parameters`; None asks for the configuration alone.

        Raises
        ------
        Invalid
            With what to set.
        """

    def steps(self) -> np.ndarray:
        """Times at the ends of the solver's steps; the stored levels are all of them.

        Returns
        -------
        ndarray, shape (step,)
            One zero for a steady problem, which is the default.
        """
        import numpy as np

        times = self.coordinates().get("time")
        return np.zeros(1) if times is None else np.asarray(times, dtype=np.float64)

    def start(self, count: int) -> np.ndarray:
        """History variables before the first step, shape (count, variable); none by default."""
        import numpy as np

        return np.zeros((count, 0))

    def load(self, mu: Mapping[str, float], step: int) -> np.ndarray:
        """Factors of `Integrals.loads` at the end of a step, shape (load,); none by default."""
        import numpy as np

        return np.zeros(0)

    def observe(self, name: str, stress: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Values of a `dual` field at some points from what the law gave there.

        Parameters
        ----------
        name : str
            One of `dual`.
        stress : ndarray, shape (point, component)
        history : ndarray, shape (point, variable)

        Returns
        -------
        ndarray, shape (point,) or (point, component of the field)
        """
        raise NotImplementedError(f"{self.name} names dual fields and must define observe")
