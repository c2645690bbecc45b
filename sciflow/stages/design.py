"""The ``design`` stage: points of a parameter space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.errors import Invalid
from sciflow.problem import Parameter, ParameterSpace, Problem
from sciflow.schema import Field, Schema
from sciflow.stage import Stage

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

Method = Literal["sobol", "lhs", "random", "grid"]
DESIGN = Schema("design", {"parameters": Field(("member", "parameter"), "any", "float64")})


@dataclass(frozen=True)
class Design(Stage):
    """Points of a parameter space: Sobol, Latin hypercube, random or a full grid.

    Attributes
    ----------
    problem : Problem or None
        Takes the parameters, bounds and units of this problem.
    parameters : mapping of str to Parameter
        Named parameters instead of a problem's.
    bounds : mapping of str to (float, float)
        Replaces some bounds, in the parameter's unit.
    fixed : mapping of str to float
        Parameters that have one value in all points, in the parameter's unit.
    method : {"sobol", "lhs", "random", "grid"}
        ``sobol`` is scrambled and even for any count; ``lhs`` is even in each parameter alone;
        ``grid`` takes ``count`` as the number of levels per parameter.
    count : int
        Number of points.
    more : tuple of int
        Further points appended after the first `count`, group by group; what was drawn before
        stays as it is.
    seed : int
        Decides every draw.
    normal : mapping of str to (float, float)
        Parameters that are not spread evenly but normally, as mean and standard deviation, cut off at the
        bounds; of one on a log scale the median, in its unit, and the standard deviation of the logarithm.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.
    """

    name: ClassVar[str] = "design"
    output: ClassVar[Schema] = DESIGN
    light: ClassVar[bool] = True
    problem: Problem | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    method: Method = "sobol"
    count: int = 100
    more: tuple[int, ...] = ()
    seed: int = 0
    normal: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.problem is None) == (not self.parameters):
            raise Invalid("a design needs either a problem or parameters")
        if min((self.count, *self.more)) < 1:
            raise Invalid(f"a design needs at least one point, asked for {self.count} and {list(self.more)}")
        if self.seed < 0:
            raise Invalid(f"the seed cannot be negative, got {self.seed}")
        if self.more and self.method == "grid":
            raise Invalid("a grid cannot be extended without moving its points; use sobol, lhs or random")
        space = self.space  # unknown names and reversed bounds are refused here
        for name, value in self.fixed.items():
            if name in self.bounds:
                raise Invalid(f"parameter {name!r} has bounds and is fixed at {value}; give one of the two")
            if not math.isfinite(value) or (space[name].log and value <= 0):
                raise Invalid(f"parameter {name!r} cannot be fixed at {value}")
        self._check_normal(space)

    def _check_normal(self, space: ParameterSpace) -> None:
        for name, law in self.normal.items():
            if name in self.fixed:
                raise Invalid(f"parameter {name!r} is fixed and normally distributed; give one of the two")
            check_normal(name, space[name], *law)
        if self.normal and self.method == "grid":
            raise Invalid("a grid has no distribution; draw normal points by sobol, lhs or random")

    @property
    def space(self) -> ParameterSpace:
        """The parameters with their final bounds."""
        base = (
            self.problem.parameters if self.problem is not None else ParameterSpace(**dict(self.parameters))
        )
        return base.narrowed(self.bounds)

    def identity(self) -> dict[str, object]:
        """The parameters decide the points; the rest of the problem does not."""
        space = {name: [p.low, p.high, p.unit, p.log] for name, p in self.space.items()}
        fixed = {"fixed": dict(self.fixed)} if self.fixed else {}
        normal = {"normal": {k: list(v) for k, v in self.normal.items()}} if self.normal else {}
        return {
            **fixed,
            **normal,
            "component": self.name,
            "space": [[name, *values] for name, values in space.items()],
            "method": self.method,
            "count": self.count,
            "more": list(self.more),
            "seed": self.seed,
        }

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Draw the points."""
        import numpy as np

        space = self.space
        free = ParameterSpace(**{name: p for name, p in space.items() if name not in self.fixed})
        if free:
            unit = unit_points(self.method, len(free), self.count, self.more, self.seed)
            drawn = scale(unit, free, self.normal)
        else:
            drawn = np.zeros((self.count + sum(self.more), 0))
        columns = dict(zip(free, drawn.T, strict=True))
        points = [columns.get(name, np.full(len(drawn), self.fixed.get(name))) for name in space]
        out.write("parameters", np.stack(points, axis=1).astype(np.float64), DESIGN["parameters"])
        out.describe(
            parameters=list(space),
            parameter_units=[p.unit for p in space.values()],
            bounds=[[self.fixed.get(n, p.low), self.fixed.get(n, p.high)] for n, p in space.items()],
            log=[p.log for p in space.values()],
            method=self.method,
            normal={name: list(law) for name, law in self.normal.items()},
        )


def unit_points(method: Method, dimension: int, count: int, more: tuple[int, ...], seed: int) -> np.ndarray:
    """Points of the unit cube.

    Parameters
    ----------
    method : str
        See `Design`.
    dimension : int
        Number of parameters.
    count : int
        Points of the first group; levels per parameter for ``grid``.
    more : tuple of int
        Sizes of further groups.
    seed : int
        Decides every draw.

    Returns
    -------
    ndarray, shape (point, parameter)
        In [0, 1]. The first `count` rows do not depend on `more`.

    Notes
    -----
    Sobol points are a prefix of one Owen-scrambled sequence, random points of one stream. A Latin
    hypercube cannot be nested, so each further group is a hypercube of its own.

    References
    ----------
    A. B. Owen, "Scrambling Sobol' and Niederreiter-Xing points", J. Complexity 14 (1998).
    """
    import numpy as np
    from scipy.stats import qmc

    total = count + sum(more)
    if method == "grid":
        levels = np.linspace(0.0, 1.0, count) if count > 1 else np.array([0.5])
        mesh = np.meshgrid(*[levels] * dimension, indexing="ij")
        return np.asarray(np.stack(mesh, axis=-1).reshape(-1, dimension))
    if method == "random":
        return np.asarray(np.random.default_rng(seed).random((total, dimension)))
    if method == "sobol":
        power = max(0, (total - 1).bit_length())
        points = qmc.Sobol(dimension, scramble=True, seed=np.random.default_rng(seed)).random_base2(power)
        return np.asarray(points[:total])
    groups = [
        qmc.LatinHypercube(dimension, seed=np.random.default_rng([seed, group])).random(size)
        for group, size in enumerate((count, *more))
    ]
    return np.concatenate(groups)


def check_normal(name: str, parameter: Parameter, mean: float, spread: float) -> None:
    """Refuse a normal distribution that has nothing within the bounds of a parameter.

    Raises
    ------
    Invalid
        Naming the parameter.
    """
    if not math.isfinite(mean) or not 0 < spread < math.inf or (parameter.log and mean <= 0):
        raise Invalid(f"parameter {name!r} cannot be normal with ({mean}, {spread})")
    ends, centre = [parameter.low, parameter.high], mean
    if parameter.log:
        ends, centre = [math.log(e) for e in ends], math.log(mean)
    if not ends[0] - 6 * spread < centre < ends[1] + 6 * spread:
        raise Invalid(
            f"parameter {name!r}: a normal distribution with ({mean:g}, {spread:g}) has next to nothing in "
            f"[{parameter.low:g}, {parameter.high:g}]"
        )


def scale(
    unit: np.ndarray, space: ParameterSpace, normal: Mapping[str, tuple[float, float]] | None = None
) -> np.ndarray:
    """Unit-cube points in the bounds and scales of a space.

    Parameters
    ----------
    unit : ndarray, shape (point, parameter)
        In [0, 1].
    space : ParameterSpace
        Bounds, linear or logarithmic.
    normal : mapping of str to (float, float) or None
        Parameters that are normally distributed within their bounds; see `Design`.

    Returns
    -------
    ndarray, shape (point, parameter)
        In each parameter's unit, never outside its bounds.

    Notes
    -----
    Normal ones by the inverse of the distribution, so that a low-discrepancy design stays one.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    columns = []
    for column, (name, p) in zip(unit.T, space.items(), strict=True):
        low, high = (np.log(p.low), np.log(p.high)) if p.log else (p.low, p.high)
        if normal and name in normal:
            mean, spread = normal[name]
            mean = np.log(mean) if p.log else mean
            # On the side where the tail is short, so that nothing is lost to rounding.
            side = 1.0 if mean >= (low + high) / 2 else -1.0
            ends = sorted(side * (e - mean) / spread for e in (low, high))
            share = column if side > 0 else 1 - column
            first, last = ndtr(ends[0]), ndtr(ends[1])
            values = mean + side * spread * ndtri(first + share * (last - first))
        else:
            values = low + column * (high - low)
        values = np.exp(values) if p.log else values
        columns.append(np.clip(values, p.low, p.high))
    return np.stack(columns, axis=1) if columns else unit
