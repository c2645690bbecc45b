"""Problem: a full-order model that streams its solution for one parameter point."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact.share import Share
    from sciflow.context import Context


@dataclass(frozen=True)
class Parameter:
    """One input of a full-order model.

    Attributes
    ----------
    low, high : float
        Bounds of the design space, ``low < high``, in `unit`.
    unit : str
        ``"1"`` for a dimensionless parameter.
    log : bool
        Spread points evenly in the logarithm; needs ``low > 0``.
    description : str
        One line.

    Raises
    ------
    Invalid
        If `low`, `high` or `log` has a value that it cannot have.
    """

    low: float
    high: float
    unit: str
    log: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        import math

        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise Invalid(f"bounds must be finite, got {self.low} and {self.high}")
        if not self.low < self.high:
            raise Invalid(f"the lower bound {self.low} must be below the upper bound {self.high}")
        if self.log and self.low <= 0:
            raise Invalid(f"a parameter on a log scale needs a positive lower bound, got {self.low}")


class ParameterSpace(Mapping[str, Parameter]):
    """Named parameters in a fixed order.

    Parameters
    ----------
    **parameters : Parameter
        By name; the order is that of the columns of a design.
    """

    def __init__(self, **parameters: Parameter) -> None:
        self._parameters = dict(parameters)

    def __getitem__(self, name: str) -> Parameter:
        try:
            return self._parameters[name]
        except KeyError:
            raise NotFound(f"no parameter {name!r}. {nearest(name, self._parameters)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def narrowed(self, bounds: Mapping[str, tuple[float, float]]) -> ParameterSpace:
        """The same parameters with some bounds replaced.

        Raises
        ------
        NotFound
            If a name is not a parameter.
        Invalid
            If bounds are reversed or not finite; the message names the parameter.
        """
        changed = dict(self._parameters)
        for name, (low, high) in bounds.items():
            old = self[name]
            try:
                changed[name] = Parameter(low, high, old.unit, old.log, old.description)
            except Invalid as error:
                raise Invalid(f"parameter {name!r}: {error}") from None
        return ParameterSpace(**changed)

    def checked(self, mu: Mapping[str, float]) -> dict[str, float]:
        """A complete, finite parameter point, or the reason why `mu` is not one.

        Raises
        ------
        Invalid
            If a parameter is missing, unknown or not finite. Bounds are not enforced: they
            describe the design, not the model.
        """
        import math

        for name in mu:
            if name not in self._parameters:
                raise Invalid(f"no parameter {name!r}. {nearest(name, self._parameters)}")
        point = {}
        for name in self._parameters:
            if name not in mu:
                raise Invalid(f"parameter {name!r} has no value")
            value = float(mu[name])
            if not math.isfinite(value):
                raise Invalid(f"parameter {name!r} is {value}")
            point[name] = value
        return point


@dataclass(frozen=True)
class Part:
    """This rank's share of a field that is spread over the ranks.

    Attributes
    ----------
    index : ndarray of int64, shape (n,)
        Positions in the flattened (C order) spatial array of the whole field. Over all ranks
        every position occurs exactly once.
    values : ndarray, shape (n,)
        The values there, in the field's unit.
    """

    index: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class State:
    """One time level of a solution.

    Attributes
    ----------
    time : float
        Time, s (or the problem's unit of time); ``0.0`` for a steady problem.
    fields : mapping of str to ndarray or Part
        Arrays without the ``time`` axis, in the shape of `Problem.shape`. A whole array may be
        given by rank 0 alone (other ranks give an empty mapping or the same names with ``None``);
        a `Part` (gathered) or a `Share` (written by each rank itself) is given by every rank. A
        field without a ``time`` axis comes with the first state only.
    metrics : mapping of str to float
        Solver figures of this step (iterations, residual); kept per member.
    restart : callable or None
        Gives the arrays that this rank needs to go on after this state, for `Problem.resume`; with
        it an interrupted member loses at most one step. Called before the next state is asked for.
    """

    time: float
    fields: Mapping[str, np.ndarray | Part | Share | None]
    metrics: Mapping[str, float] | None = None
    restart: Callable[[], Mapping[str, np.ndarray]] | None = None


def member_seed(seed: int, member: int) -> int:
    """The seed of one member of an ensemble, independent of how many there are.

    Parameters
    ----------
    seed : int
        Of the ensemble, not negative.
    member : int
        Its index.

    Returns
    -------
    int
        In [0, 2**63).
    """
    import numpy as np

    return int(np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Problem(Component):
    """A full-order model: parameters in, fields out, one time level after the other.

    Attributes
    ----------
    parameters : ParameterSpace
        Inputs with bounds and units.
    fields : mapping of str to Field
        Outputs with axes and units. The axis ``time`` comes first where there is one.
    batch : int
        How many members `solve_batch` takes at once; 1 where there is only `solve`.
    periodic : tuple of str
        Axes along which the domain is periodic.
    """

    kind: ClassVar[str] = "problem"
    parameters: ClassVar[ParameterSpace]
    fields: ClassVar[Mapping[str, Field]]
    batch: ClassVar[int] = 1
    periodic: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def coordinates(self) -> Mapping[str, np.ndarray]:
        """One-dimensional coordinates of every axis of `fields` in this configuration.

        Returns
        -------
        mapping of str to ndarray, shape (n_axis,)
            Also fixes the size of each axis; ``time`` holds the times of the states that `solve`
            yields, in order. A problem that chooses its steps itself has an axis ``step`` instead,
            as long as the most states that it may yield. Cheap: it is called before any job starts.
        """

    @abstractmethod
    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """Stream the solution for one parameter point; collective over ``ctx.comm``.

        Parameters
        ----------
        mu : mapping of str to float
            A complete point of `parameters`.
        ctx : Context
            ``ctx.rng`` is seeded per member.

        Yields
        ------
        State
            One for every entry of ``coordinates()["time"]``; at most one for every entry of
            ``coordinates()["step"]``, with increasing times; or exactly one where there is neither.

        Raises
        ------
        Diverged
            If the solver fails; it ends this member and no other.
        """

    def resume(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray]
    ) -> Iterator[State]:
        """Stream what follows a state that `solve` has yielded, with the same bits.

        Parameters
        ----------
        mu, ctx
            As in `solve`; the number of ranks is the same.
        restart : mapping of str to ndarray
            What ``State.restart`` gave on this rank.

        Raises
        ------
        Diverged
            As in `solve`.
        """
        raise NotImplementedError(f"{self.name} yields states with a restart point and must define resume")

    def constants(self, ctx: Context) -> Mapping[str, tuple[Field, np.ndarray]]:
        """Arrays shared by all members (a mesh, a mask), stored once; none by default."""
        return {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one time level of the field `name`.

        Raises
        ------
        NotFound
            If there is no such field.
        """
        if name not in self.fields:
            raise NotFound(f"{self.name} has no field {name!r}. {nearest(name, self.fields)}")
        sizes = self.coordinates()
        return tuple(len(sizes[a]) for a in self.fields[name].axes if a not in ("time", "step"))

    def axis_units(self) -> Mapping[str, str]:
        """Units of the coordinates; ``s`` for time and ``m`` for space unless overridden.

        That of an adaptive problem's times is the one of ``time``, though its axis is ``step``.
        """
        known = {"time": "s", "step": "1", "dof": "1"}
        return {"time": "s", **{a: known.get(a, "m") for f in self.fields.values() for a in f.axes}}

    def solve_batch(self, mu: Mapping[str, np.ndarray], ctx: Context) -> Iterator[State]:
        """Stream the solutions of several members at once; used where `batch` is above one.

        Members are batched by position in the ensemble, never by what is missing, so that a
        resumed ensemble gives the same bits. A member that diverges is filled with NaN.

        Parameters
        ----------
        mu : mapping of str to ndarray, shape (member,)
            Parameter points, and under ``"member"`` the members' indices (int64).
        ctx : Context
            Serial: a batched problem uses threads or a GPU, not ranks. ``ctx.seed`` is the
            ensemble's; a member's own is ``member_seed(ctx.seed, member)``.

        Yields
        ------
        State
            As `solve`, each array with a leading ``member`` axis.
        """
        raise NotImplementedError(f"{self.name} sets batch > 1 and must define solve_batch")
