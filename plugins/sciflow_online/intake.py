"""From parts of time levels to training samples: what `sciflow.stored.Stored` reads, as it arrives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.samples import Signature
from sciflow.schema import Field
from sciflow_online.pool import Pool
from sciflow_online.wire import DTYPES, Header, dtype_code, values_of

if TYPE_CHECKING:
    from sciflow.problem import Problem

_SELECT = re.compile(r"([a-z][a-z0-9_]*)(?:\[(-?\d+)\])?\Z")
TIME = "time"


def all_finite(values: np.ndarray) -> bool:
    """Whether no value, shape (n,), is NaN or infinite."""
    if values.dtype.kind != "f":
        return True
    # The dot product is the fastest pass over an array; an overflow only costs a second look.
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(values, values)) or bool(np.isfinite(values).all())


@dataclass(frozen=True)
class Travelling:
    """A field as it travels.

    Attributes
    ----------
    name : str
        Of the problem's field.
    dtype : numpy.dtype
        Of its values.
    timed : bool
        Whether it comes with every level.
    shape : tuple of int
        Of one level.
    size : int
        Values of one level.
    code : int
        Of the dtype, as headers have it.
    """

    name: str
    dtype: np.dtype
    timed: bool
    shape: tuple[int, ...]
    size: int
    code: int


@dataclass(frozen=True)
class _Source:
    """Where one input or output of a sample comes from: a parameter, the time, or levels of a field."""

    field: Field
    parameter: int = -1
    name: str = ""
    static: bool = False
    first: int = 0
    count: int = 1
    squeezed: bool = True


class Recipe:
    """How a sample is made of the levels of a member; the same selection as that of `Stored`.

    Parameters
    ----------
    problem : Problem
        Whose fields and parameters.
    inputs, outputs : sequence of str
        Names of fields or parameters, ``"u[0]"`` for one time level (not with a window); ``"time"``, with
        a window, for the time of the first output level.
    window : tuple of int or None
        ``(k, l)``: `k` levels in, the `l` that follow out, at every level where they fit; ``None`` takes a
        whole member as one sample.

    Attributes
    ----------
    signature : Signature
        Of the samples.
    fields : list of Travelling
        Those fields of the problem that are needed.
    samples : int
        Of one member; the most that it can have where the problem chooses its steps.

    Raises
    ------
    NotFound
        If a name does not exist.
    Invalid
        If names and window do not fit.
    """

    def __init__(
        self,
        problem: Problem,
        inputs: Sequence[str],
        outputs: Sequence[str],
        window: tuple[int, int] | None,
    ) -> None:
        self.problem, self.window = problem, window
        self._sizes = problem.coordinates()
        self.adaptive = "step" in self._sizes
        times = self._sizes.get("step" if self.adaptive else TIME)
        self.levels = 1 if times is None else len(times)
        if window is not None:
            self._check_window(window)
        elif self.adaptive:
            raise Invalid(f"{problem.name} chooses its steps itself: give a window")
        self.reach = 1 if window is None else sum(window)
        self.inputs = {n: self._source(n, "in") for n in inputs}
        self.outputs = {n: self._source(n, "out") for n in outputs}
        self.samples = 1 if window is None else self.levels - self.reach + 1
        sources = (*self.inputs.values(), *self.outputs.values())
        needed = list(dict.fromkeys(s.name for s in sources if s.name))
        self.fields = [self._travelling(n) for n in needed]
        if not any(f.timed for f in self.fields) and window is not None:
            raise Invalid("a window needs a field with a time axis")
        used = [s.field for s in sources]
        self.signature = Signature(
            {n: s.field for n, s in self.inputs.items()},
            {n: s.field for n, s in self.outputs.items()},
            {axis: self._coordinate(axis) for axis in sorted({a for f in used for a in f.axes})},
            tuple(problem.periodic),
        )

    def _check_window(self, window: tuple[int, int]) -> None:
        if len(window) != 2 or window[0] < 0 or window[1] < 1:
            raise Invalid(f"a window has no or more levels in and one or more out, got {window}")
        if sum(window) > self.levels:
            raise Invalid(f"a window of {window} levels is longer than the trajectories ({self.levels})")

    def _source(self, text: str, side: str) -> _Source:
        match = _SELECT.match(text)
        if match is None:
            raise Invalid(f"{text!r} is not a field: write 'name', or 'name[i]' for one time level")
        name, level = match.group(1), match.group(2)
        problem = self.problem
        if name in problem.parameters:
            position = list(problem.parameters).index(name)
            return _Source(Field((), problem.parameters[name].unit), parameter=position)
        if name == TIME and self.window is not None and side == "in":
            unit = problem.axis_units().get(TIME, "s")
            about = "time of the first level that is predicted"
            return _Source(Field((), unit, description=about), parameter=len(problem.parameters))
        if name not in problem.fields:
            known = [*problem.fields, *problem.parameters]
            raise NotFound(f"{problem.name}: no field or parameter {name!r}. {nearest(name, known)}")
        return self._of_field(text, problem.fields[name], None if level is None else int(level), side)

    def _of_field(self, text: str, old: Field, level: int | None, side: str) -> _Source:
        name = text.partition("[")[0]
        about = old.description or name
        timed = old.axes[:1] in ((TIME,), ("step",))
        if level is not None:
            if not timed:
                raise Invalid(f"{text!r}: the field {name!r} has no time axis (axes {old.axes})")
            if self.window is not None:
                raise Invalid(f"{text!r}: a window chooses the time levels; name the field alone")
            if not -self.levels <= level < self.levels:
                raise Invalid(f"{text!r}: there are {self.levels} time levels")
            chosen = Field(old.axes[1:], old.unit, old.dtype, about)
            return _Source(chosen, name=name, first=level % self.levels)
        plain = Field(old.axes, old.unit, old.dtype, about)
        if not timed:
            return _Source(plain, name=name, static=True)
        if self.window is None:
            return _Source(plain, name=name, count=self.levels, squeezed=False)
        before, after = self.window
        count, axis = (before, TIME) if side == "in" else (after, "lead")
        if count == 0:
            raise Invalid(f"{text!r} has a time axis; the window {self.window} has no level for inputs")
        axes = (*((axis,) if count > 1 else ()), *old.axes[1:])
        found = Field(axes, old.unit, old.dtype, about)
        first = 0 if side == "in" else before
        return _Source(found, name=name, first=first, count=count, squeezed=count == 1)

    def _travelling(self, name: str) -> Travelling:
        field_ = self.problem.fields[name]
        timed = field_.axes[:1] in ((TIME,), ("step",))
        shape, dtype = self.problem.shape(name), np.dtype(field_.dtype)
        return Travelling(name, dtype, timed, shape, math.prod(shape), dtype_code(dtype))

    def _coordinate(self, axis: str) -> np.ndarray:
        if self.window is not None and axis in (TIME, "lead"):
            before, after = self.window
            return np.arange(1.0 - before, 1.0) if axis == TIME else np.arange(1.0, after + 1.0)
        return np.asarray(self._sizes[axis], dtype=np.float64)

    @cached_property
    def direct(self) -> str:
        """The array of a sample that is nothing but one level of one field, if there is one such."""
        timed = [f for f in self.fields if f.timed]
        names = [n for n, s in self.outputs.items() if s.name and not s.static]
        return f"y:{names[0]}" if self.spread == "level" and len(timed) == len(names) == 1 else ""

    @cached_property
    def direct_field(self) -> int:
        """Number of the field that `direct` is a level of."""
        return next((i for i, f in enumerate(self.fields) if f.timed), 0)

    @cached_property
    def spread(self) -> str:
        """Whether the levels of one member may go to different trainer ranks."""
        return "level" if self.window is not None and self.reach == 1 else "member"

    def owner(self, member: int, level: int, trainers: int) -> int:
        """The trainer rank that gets a level."""
        return (member + level if self.spread == "level" else member) % trainers

    def slabs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array of a sample; inputs as ``x:name``, outputs as ``y:name``."""
        found = {}
        for side, sources in (("x", self.inputs), ("y", self.outputs)):
            for name, source in sources.items():
                found[f"{side}:{name}"] = (self.signature.shape_of(source.field), source.field.dtype)
        return found

    def sample(
        self,
        parameters: np.ndarray,
        statics: Mapping[str, np.ndarray],
        levels: Sequence[Mapping[str, np.ndarray]],
        times: Sequence[float],
    ) -> dict[str, np.ndarray]:
        """The arrays of one sample.

        Parameters
        ----------
        parameters : ndarray, shape (parameter,)
            Of the member.
        statics : mapping of str to ndarray
            Fields without time.
        levels : sequence of mappings
            The levels that it reaches over, in order.
        times : sequence of float
            Of these levels.
        """
        made = {}
        before = 0 if self.window is None else self.window[0]
        moment = times[min(before, len(times) - 1)]
        for side, sources in (("x", self.inputs), ("y", self.outputs)):
            for name, s in sources.items():
                value: Any
                if s.parameter >= 0:
                    value = np.float32(parameters[s.parameter] if s.parameter < len(parameters) else moment)
                elif s.static:
                    value = statics[s.name]
                elif s.squeezed:
                    value = levels[s.first][s.name]
                else:
                    value = np.stack([levels[s.first + i][s.name] for i in range(s.count)])
                made[f"{side}:{name}"] = value
        return made


@dataclass
class _Level:
    """One level that is being put together, or is complete when nothing is missing."""

    time: float
    missing: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    parts: dict[str, dict[tuple[int, int], np.ndarray | slice]] = field(default_factory=dict)


@dataclass
class _Course:
    """The member that one group is computing: what came of it, as long as a sample may need it."""

    attempt: int
    parameters: np.ndarray
    statics: _Level
    levels: dict[int, _Level] = field(default_factory=dict)
    emitted: int = 0


@dataclass(frozen=True)
class Sample:
    """A finished sample.

    Attributes
    ----------
    member, number : int
        Which; `number` counts the samples of a member.
    arrays : mapping of str to ndarray
        As in `Recipe.slabs`.
    """

    member: int
    number: int
    arrays: Mapping[str, np.ndarray]


class Intake:
    """Puts the parts that come from solvers together, and gives every sample exactly once.

    Parameters
    ----------
    recipe : Recipe
        What samples are made of.
    members : int
        How many there are.
    rank, ranks : int
        Of this trainer rank.

    Attributes
    ----------
    known : ndarray of bool, shape (member, sample)
        Samples that were given.
    duplicates : int
        Samples that came again and were dropped.
    """

    def __init__(self, recipe: Recipe, members: int, rank: int = 0, ranks: int = 1) -> None:
        self.recipe = recipe
        self._rank, self._ranks = rank, ranks
        self.known = np.zeros((members, recipe.samples), dtype=bool)
        self.duplicates = 0
        self._courses: dict[int, _Course] = {}
        self._attempts = np.full(members, -1, dtype=np.int64)
        self._whole: set[tuple[Any, ...]] = set()
        self._pool = Pool()
        self._places: dict[tuple[Any, int, int, int], np.ndarray | None] = {}
        self._index = {f.name: i for i, f in enumerate(recipe.fields)}
        self._timed = [f.name for f in recipe.fields if f.timed]
        self._static = [f.name for f in recipe.fields if not f.timed]

    def lands(self, header: Header) -> str:
        """The array that a whole level is, as it is, if it completes a sample by itself; else nothing."""
        direct, course = self.recipe.direct, self._courses.get(header.member)
        if not direct or course is None or course.attempt != header.attempt or course.statics.missing:
            return ""
        kind = self.recipe.fields[self.recipe.direct_field]
        whole = header.start == 0 and header.count == kind.size and header.dtype == kind.code
        fresh = 0 <= header.level < self.recipe.levels and not self.known[header.member, header.level]
        right = header.field == self.recipe.direct_field and header.level not in course.levels
        return direct if whole and fresh and right else ""

    def begin(self, member: int, attempt: int, parameters: np.ndarray) -> None:
        """An attempt at a member begins, parameters of shape (n,); what an earlier one left is forgotten."""
        statics = _Level(0.0, len(self._static))
        self._courses[member] = _Course(attempt, np.asarray(parameters, dtype=np.float64), statics)
        self._attempts[member] = attempt

    def expects(self, header: Header) -> bool:
        """Whether the attempt that a part belongs to, or a later one, has begun here."""
        return not 0 <= header.member < len(self._attempts) or (
            header.attempt <= int(self._attempts[header.member])
        )

    def end(self, member: int) -> None:
        """Nothing more will come of a member."""
        self._courses.pop(member, None)

    def place(self, peer: Any, header: Header, payload: Any) -> None:
        """Note the positions of the values that a rank will send; see INDEX.

        Raises
        ------
        Invalid
            If they do not lie in the field.
        """
        if not 0 <= header.field < len(self.recipe.fields):
            raise Invalid(f"positions for field number {header.field}; there are {len(self.recipe.fields)}")
        # Until it is known to be right: values that were sent for it must not go anywhere else.
        self._places[peer, header.field, header.start, header.count] = None
        positions = values_of(header, payload).astype(np.int64)
        size = self.recipe.fields[header.field].size
        if len(positions) and not (positions.min() >= 0 and positions.max() < size):
            raise Invalid(
                f"field {self.recipe.fields[header.field].name!r}: positions outside 0 to {size - 1}"
            )
        self._places[peer, header.field, header.start, header.count] = positions
        self._whole.clear()

    def forget(self, peer: Any) -> None:
        """A connection is gone, with the positions that it announced."""
        for key in [k for k in self._places if k[0] == peer]:
            del self._places[key]
            # Their identities may be those of other arrays from now on.
            self._whole.clear()

    def add(self, peer: Any, header: Header, payload: Any, *, finite: bool = False) -> list[Sample]:
        """Take one part of one level; the samples that it completes.

        Parameters
        ----------
        peer : hashable
            Who sent it.
        header, payload
            What came.
        finite : bool
            Whether the sender has looked at every value already.

        Raises
        ------
        Invalid
            If field, type, size, level or a value cannot be right; the message names the field.
        """
        course = self._courses.get(header.member)
        if course is None or course.attempt != header.attempt:
            return []  # of an attempt that was given up
        kind, values = self._checked(header, payload, finite=finite)
        level = course.statics if not kind.timed else self._level(course, header)
        if level is None or self._fill(level, kind, header, values, self._positions(peer, header, kind)):
            return []
        if level.missing:
            return []
        return self._complete(header.member, course)

    def _checked(self, header: Header, payload: Any, *, finite: bool) -> tuple[Travelling, np.ndarray]:
        fields = self.recipe.fields
        if not 0 <= header.field < len(fields):
            raise Invalid(
                f"there is no field number {header.field}; this run takes "
                f"{', '.join(f'{i} {f.name}' for i, f in enumerate(fields))}"
            )
        kind = fields[header.field]
        if header.dtype != kind.code:
            code = header.dtype
            sent = DTYPES[code] if 0 < code < len(DTYPES) else f"number {code}"
            raise Invalid(f"field {kind.name!r}: values of type {sent}, this run takes {kind.dtype.name}")
        values = values_of(header, payload)
        if header.start + header.count > kind.size and header.count > kind.size:
            raise Invalid(f"field {kind.name!r}: {header.count} values, a level has {kind.size}")
        if not finite and not all_finite(values):
            raise Invalid(f"field {kind.name!r} is not finite at time level {header.level}")
        if kind.timed and not 0 <= header.level < self.recipe.levels:
            raise Invalid(
                f"field {kind.name!r}: time level {header.level}, a member has {self.recipe.levels}"
            )
        return kind, values

    def _positions(self, peer: Any, header: Header, kind: Travelling) -> np.ndarray | slice:
        key = (peer, header.field, header.start, header.count)
        if self._places and key in self._places:
            found = self._places[key]
            if found is None:
                raise Invalid(f"field {kind.name!r}: its positions were refused, so its values are, too")
            return found
        if header.start + header.count > kind.size:
            raise Invalid(
                f"field {kind.name!r}: values {header.start} to {header.start + header.count - 1}, a level "
                f"has {kind.size}"
            )
        return slice(header.start, header.start + header.count)

    def _level(self, course: _Course, header: Header) -> _Level | None:
        if course.emitted and (self.recipe.window is None or header.level < course.emitted):
            return None
        level = course.levels.get(header.level)
        if level is None:
            level = course.levels[header.level] = _Level(header.time, len(self._timed))
        return level

    def _fill(
        self, level: _Level, kind: Travelling, header: Header, values: np.ndarray, where: np.ndarray | slice
    ) -> bool:
        """Write values into a level; True if the level did not become more complete by it."""
        if isinstance(where, slice) and header.count == kind.size:
            if kind.name in level.arrays and level.left[kind.name] == 0:
                return True  # sent twice
            level.arrays[kind.name] = values.reshape(kind.shape)
            level.left[kind.name] = 0
            level.missing -= 1
            return False
        if kind.name not in level.arrays:
            level.arrays[kind.name] = self._pool.array(kind.shape, kind.dtype)
            level.left[kind.name] = kind.size
        parts = level.parts.setdefault(kind.name, {})
        key = header.start, header.count
        if level.left[kind.name] == 0 or key in parts:
            return True  # sent twice
        parts[key] = where
        level.arrays[kind.name].reshape(-1)[where] = values
        level.left[kind.name] -= header.count
        if level.left[kind.name] > 0:
            return True
        self._tiled(kind, parts)
        level.missing -= 1
        return False

    def _tiled(self, kind: Travelling, parts: Mapping[tuple[int, int], np.ndarray | slice]) -> None:
        """Refuse parts that hold a value twice; looked at once for each way of cutting a field."""
        key = (kind.name, *sorted((*k, 0 if isinstance(w, slice) else id(w)) for k, w in parts.items()))
        if key in self._whole:
            return
        every = np.arange(kind.size)
        found = np.concatenate([every[w] for w in parts.values()])
        if len(found) != kind.size or not np.array_equal(np.sort(found), every):
            raise Invalid(f"field {kind.name!r}: the parts of a level hold some values twice")
        self._whole.add(key)

    def _complete(self, member: int, course: _Course) -> list[Sample]:
        """Samples whose levels are all there now, in order."""
        if course.statics.missing:
            return []
        if self.recipe.spread == "level":
            return self._each(member, course)
        made, recipe = [], self.recipe
        if recipe.window is None:
            whole = [course.levels.get(i) for i in range(recipe.levels if self._timed else 0)]
            if all(x is not None and not x.missing for x in whole) and course.emitted == 0:
                course.emitted = 1
                made += self._sample(member, 0, course, [x for x in whole if x is not None])
                course.levels.clear()
            return made
        while True:
            first = course.emitted
            reach = [course.levels.get(first + i) for i in range(recipe.reach)]
            if any(x is None or x.missing for x in reach):
                return made
            made += self._sample(member, first, course, [x for x in reach if x is not None])
            course.levels.pop(first)
            course.emitted += 1

    def _each(self, member: int, course: _Course) -> list[Sample]:
        """Every level is a sample of its own, in whatever order they are complete."""
        done = sorted(n for n, x in course.levels.items() if not x.missing)
        made = []
        for number in done:
            made += self._sample(member, number, course, [course.levels.pop(number)])
        return made

    def _sample(self, member: int, number: int, course: _Course, levels: list[_Level]) -> list[Sample]:
        if self.known[member, number]:
            self.duplicates += 1
            return []
        self.known[member, number] = True
        times = [x.time for x in levels] or [0.0]
        arrays = self.recipe.sample(
            course.parameters, course.statics.arrays, [x.arrays for x in levels], times
        )
        return [Sample(member, number, arrays)]
