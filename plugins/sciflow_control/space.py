"""Spaces: what a tuner chooses from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, product
from typing import ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid, NotFound, nearest

Values = Mapping[str, float | str]

METHODS = ("cg", "gmres", "bcgs", "minres", "richardson", "fcg", "preonly")
"""Krylov methods, by their names in PETSc."""
PRECONDITIONERS = (
    *("none", "jacobi", "bjacobi", "sor", "ssor", "eisenstat", "icc", "ilu", "asm", "gamg", "hypre"),
)
"""By their names in PETSc; ``ssor`` sweeps forwards and backwards, ``sor`` forwards."""
DIRECT = ("cholesky", "lu")
GIVEN = "given"
"""The problem's own solver, as it was set up."""
RELAXED = ("sor", "ssor", "eisenstat")
"""Preconditioners with a relaxation parameter."""
_SYMMETRIC = ("cg", "fcg", "minres")


class Space(Component):
    """A finite set of settings in a fixed order; an arm is an index into it."""

    kind: ClassVar[str] = "space"

    @property
    @abstractmethod
    def arms(self) -> tuple[Values, ...]:
        """The settings of every arm."""

    @cached_property
    def families(self) -> tuple[tuple[int, ...], ...]:
        """Arms that differ in one number alone, in the order of that number: near ones cost about as much.

        Every arm is in one family; the families are in the order of their first arms.
        """
        return _families(self.arms)

    def index(self, values: Values) -> int:
        """The arm with these settings.

        Raises
        ------
        NotFound
            If there is none.
        """
        try:
            return self.arms.index(values)
        except ValueError:
            listed = [str(dict(a)) for a in self.arms]
            raise NotFound(
                f"{self.name}: no arm {dict(values)}. {nearest(str(dict(values)), listed)}"
            ) from None


@dataclass(frozen=True)
class Relaxation(Space):
    """Evenly spaced relaxation parameters of SOR or SSOR.

    Attributes
    ----------
    low, high : float
        Smallest and largest omega, in (0, 2).
    count : int
        How many.

    Raises
    ------
    Invalid
        If `low`, `high` or `count` has a value that it cannot have.
    """

    name: ClassVar[str] = "relaxation"
    low: float = 1.0
    high: float = 1.95
    count: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 2:
            raise Invalid(f"omega must lie in (0, 2) with low < high, got {self.low} to {self.high}")
        if self.count < 2:
            raise Invalid(f"a choice needs at least two values, got count={self.count}")

    @cached_property
    def arms(self) -> tuple[Values, ...]:
        """``{"omega": w}`` for every w, both ends among them."""
        shares = [i / (self.count - 1) for i in range(self.count)]
        return tuple({"omega": (1 - s) * self.low + s * self.high} for s in shares)


@dataclass(frozen=True)
class Solvers(Space):
    """Krylov methods with preconditioners, and direct solvers.

    Attributes
    ----------
    methods : tuple of str
        ``"cg+icc"`` and the like: a method, a plus sign, a preconditioner (``none`` for none);
        ``"cholesky"`` and ``"lu"`` are direct, ``"given"`` is the solver that the problem brings along.
        With ``sor``, ``ssor`` and ``eisenstat`` there is one arm for each omega.
    omegas : tuple of float
        In (0, 2).

    Raises
    ------
    Invalid
        If `methods` or `omegas` has a value that it cannot have.
    """

    name: ClassVar[str] = "solvers"
    methods: tuple[str, ...] = ("given", "cg+icc", "cg+ssor", "cg+eisenstat", "cg+jacobi", "cholesky")
    omegas: tuple[float, ...] = (1.0, 1.2, 1.4, 1.6, 1.7, 1.8, 1.9)

    def __post_init__(self) -> None:
        if not self.methods:
            raise Invalid("solvers: no methods to choose from, name some such as 'cg+icc'")
        for method in self.methods:
            _check_method(method)
        if not all(0 < w < 2 for w in self.omegas):
            raise Invalid(f"solvers: omegas must lie in (0, 2), got {self.omegas}")
        if not self.omegas and any(_relaxed(m) for m in self.methods):
            raise Invalid(f"solvers: {[m for m in self.methods if _relaxed(m)]} need omegas, none are given")
        _refuse_twins(self.name, self.arms)

    @cached_property
    def arms(self) -> tuple[Values, ...]:
        """``{"method": m}`` or ``{"method": m, "omega": w}``."""
        found: list[Values] = []
        for method in self.methods:
            if _relaxed(method):
                found += [{"method": method, "omega": w} for w in self.omegas]
            else:
                found.append({"method": method})
        return tuple(found)


@dataclass(frozen=True)
class Options(Space):
    """Every combination of some values of each of several options.

    Attributes
    ----------
    values : mapping of str to tuple of float or str
        The values of each option. The arms go through the options in the order of the alphabet, the last
        one fastest; the values keep their order.

    Raises
    ------
    Invalid
        If `values` has a value that it cannot have.
    """

    name: ClassVar[str] = "options"
    values: Mapping[str, tuple[float | str, ...]] = field(hash=False)

    def __post_init__(self) -> None:
        if not self.values or not all(len(v) for v in self.values.values()):
            raise Invalid(f"options: every option needs a value at least, got {dict(self.values)}")
        _refuse_twins(self.name, self.arms)

    @classmethod
    def example(cls) -> Options:
        """A smoother and a threshold of an algebraic multigrid."""
        return cls({"smoother": ("jacobi", "sor"), "threshold": (0.0, 0.02, 0.08)})

    @cached_property
    def arms(self) -> tuple[Values, ...]:
        """One value of each option."""
        names = sorted(self.values)
        return tuple(
            dict(zip(names, c, strict=True)) for c in product(*(tuple(self.values[n]) for n in names))
        )


@dataclass(frozen=True)
class Joined(Space):
    """The arms of several spaces, one space after the other.

    Attributes
    ----------
    spaces : tuple of Space
        No two of their arms may be equal.

    Raises
    ------
    Invalid
        If `spaces` has a value that it cannot have.
    """

    name: ClassVar[str] = "joined"
    spaces: tuple[Space, ...]

    def __post_init__(self) -> None:
        if not self.spaces:
            raise Invalid("joined: no spaces to choose from")
        _refuse_twins(self.name, self.arms)

    @classmethod
    def example(cls) -> Joined:
        """Solvers, and a multigrid with options."""
        amg: Mapping[str, tuple[float | str, ...]] = {"method": ("cg+gamg",), "threshold": (0.0, 0.05)}
        return cls((Solvers(("cg+icc", "cholesky")), Options(amg)))

    @cached_property
    def arms(self) -> tuple[Values, ...]:
        """Those of the spaces."""
        return tuple(chain.from_iterable(s.arms for s in self.spaces))


def _families(arms: tuple[Values, ...]) -> tuple[tuple[int, ...], ...]:
    kin: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i, arm in enumerate(arms):
        key = tuple(sorted((k, v if isinstance(v, str) else "") for k, v in arm.items()))
        kin.setdefault(key, []).append(i)
    found: list[tuple[int, ...]] = []
    for key, group in kin.items():
        numbers = [k for k, word in key if not word]
        various = {k: len({arms[i][k] for i in group}) for k in numbers}
        along = max(numbers, key=various.__getitem__, default="")
        lines: dict[tuple[float | str, ...], list[int]] = {}
        for i in group:
            lines.setdefault(tuple(arms[i][k] for k in numbers if k != along), []).append(i)
        found += [tuple(sorted(line, key=lambda i: float(arms[i].get(along, 0)))) for line in lines.values()]
    return tuple(sorted(found, key=min))


def _relaxed(method: str) -> bool:
    return method.partition("+")[2] in RELAXED


def _check_method(method: str) -> None:
    if method in (*DIRECT, GIVEN):
        return
    krylov, plus, preconditioner = method.partition("+")
    if not plus:
        close = nearest(method, (*DIRECT, GIVEN, *(f"{m}+icc" for m in METHODS)))
        raise Invalid(
            f"solvers: {method!r} is no direct solver ({', '.join(DIRECT)}), not 'given', "
            f"and names no preconditioner as in '{method}+none'. {close}"
        )
    if krylov not in METHODS:
        raise Invalid(f"solvers: {method!r}: no method {krylov!r}. {nearest(krylov, METHODS)}")
    if preconditioner not in PRECONDITIONERS:
        close = nearest(preconditioner, PRECONDITIONERS)
        raise Invalid(f"solvers: {method!r}: no preconditioner {preconditioner!r}. {close}")
    if krylov in _SYMMETRIC and preconditioner == "sor":
        raise Invalid(f"solvers: {method!r}: {krylov} needs a symmetric preconditioner, use '{krylov}+ssor'")


def _refuse_twins(name: str, arms: tuple[Values, ...]) -> None:
    seen: set[tuple[tuple[str, float | str], ...]] = set()
    for arm in arms:
        key = tuple(sorted(arm.items()))
        if key in seen:
            raise Invalid(f"{name}: the arm {dict(arm)} is there twice")
        seen.add(key)
