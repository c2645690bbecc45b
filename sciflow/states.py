"""States on their way from a solver to storage: checked, and put together from the ranks' parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sciflow.artifact.layout import LEVEL_AXES
from sciflow.artifact.share import Share
from sciflow.context import Comm, exchange
from sciflow.errors import Diverged, Invalid
from sciflow.problem import Part, Problem, State

if TYPE_CHECKING:
    import numpy as np


class Assembler:
    """Checks the states of one member (or a block of members) and puts the ranks' parts together.

    Parameters
    ----------
    problem : Problem
        Whose states these are.
    comm : Comm
        Its communicator; every method is collective.
    block : int or None
        Number of members that arrive at once, or None for one without a member axis.
    seen : int
        States that came in an earlier attempt.
    """

    def __init__(self, problem: Problem, comm: Comm, block: int | None = None, seen: int = 0) -> None:
        self.problem, self.comm = problem, comm
        self.lead = () if block is None else (block,)
        sizes = problem.coordinates()
        self.adaptive = "step" in sizes
        self._times = sizes.get("time")
        self.levels = len(sizes["step"]) if self.adaptive else 1 if self._times is None else len(self._times)
        self.seen = seen
        self._last = -math.inf
        self.shapes = {name: problem.shape(name) for name in problem.fields}
        self._arrived = {n: self.expected(n, seen) for n in problem.fields}

    def timed(self, name: str) -> bool:
        """Whether a field comes with every state."""
        return any(axis in self.problem.fields[name].axes for axis in LEVEL_AXES)

    def expected(self, name: str, seen: int) -> int:
        """How often a field has come after `seen` states."""
        return seen if self.timed(name) else min(seen, 1)

    def take(self, state: State) -> dict[str, np.ndarray | Share]:
        """The whole arrays of a state on rank 0, and on every rank its shares.

        Raises
        ------
        Invalid
            On every rank: an unknown field, a wrong shape or time, more states than declared.
        """
        problem: Invalid | None = None
        values: dict[str, np.ndarray | Share] = {}
        try:
            self._check_time(state.time)
            for name, value in state.fields.items():
                whole = self._whole(name, value)
                if whole is not None:
                    values[name] = whole
            if self.comm.rank == 0:
                for name, whole in values.items():
                    self._check(name, whole)
        except Invalid as error:
            problem = error
        # Only rank 0 sees whole arrays; the others must not go on solving without it.
        reasons = exchange(self.comm, str(problem or ""))
        if any(reasons):
            raise problem or Invalid(next(r for r in reasons if r))
        self.seen += 1
        return values

    def _check_time(self, time: float) -> None:
        name = self.problem.name
        if self.seen >= self.levels:
            raise Invalid(f"{name} yielded more than {self.levels} states")
        if self.adaptive:
            if not (math.isfinite(time) and time > self._last):
                raise Invalid(f"{name}: state {self.seen} has time {time}, not later than {self._last}")
            self._last = time
        elif self._times is not None:
            wanted = float(self._times[self.seen])
            if not math.isclose(time, wanted, rel_tol=1e-9, abs_tol=1e-12):
                raise Invalid(f"{name}: state {self.seen} has time {time}, not {wanted}")

    def _whole(self, name: str, value: np.ndarray | Part | Share | None) -> np.ndarray | Share | None:
        import numpy as np

        if name not in self.problem.fields:
            raise Invalid(f"{self.problem.name} yielded a field {name!r} that it does not declare")
        if not isinstance(value, Part):
            return value
        index, values = _gather(value, self.comm)
        if index is None or values is None:
            return None
        shape = self.shapes[name]
        size = math.prod(shape)
        if len(index) != size or not np.array_equal(np.sort(index), np.arange(size)):
            raise Invalid(
                f"field {name!r}: the ranks gave {len(index)} positions that are not each of {size} once"
            )
        whole = np.empty(size, values.dtype)
        whole[index] = values
        return whole.reshape(shape)

    def _check(self, name: str, whole: np.ndarray | Share) -> None:
        shape = (*self.lead, *self.shapes[name])
        if not isinstance(whole, Share) and tuple(whole.shape) != shape:
            raise Invalid(f"{self.problem.name}, field {name!r}: shape {whole.shape}, declared {shape}")
        if self.seen and not self.timed(name):
            raise Invalid(f"field {name!r} has no time axis but came with state {self.seen}")
        self._arrived[name] += 1

    def finish(self) -> None:
        """Check that everything arrived; all ranks agree.

        Raises
        ------
        Invalid
            If states or fields are missing.
        """
        problem = self.problem
        if self.seen != self.levels and not (self.adaptive and self.seen):
            raise Invalid(f"{problem.name} yielded {self.seen} of {self.levels} states")
        missing = ""
        if self.comm.rank == 0:
            for name, count in self._arrived.items():
                wanted = self.expected(name, self.seen)
                if count != wanted:
                    missing = f"{problem.name}: field {name!r} came {count} times, not {wanted}"
                    break
        missing = exchange(self.comm, missing)[0]
        if missing:
            raise Invalid(missing)


class Collector:
    """Holds all states of one member (or a block of members) in memory, on rank 0.

    Parameters
    ----------
    problem : Problem
        Whose states these are.
    comm : Comm
        Its communicator.
    block : int or None
        Number of members that arrive at once, or None for one without a member axis.

    Attributes
    ----------
    arrays : dict of str to ndarray
        By field, shape ``(member?, time?, ...)``; empty on other ranks. An adaptive problem adds
        ``time`` and leaves the tail of all of them NaN.
    metrics : dict of str to float
        Summed over the states.
    """

    def __init__(self, problem: Problem, comm: Comm, block: int | None = None) -> None:
        import numpy as np

        self._assembler = Assembler(problem, comm, block)
        self._problem, self._comm = problem, comm
        self.metrics: dict[str, float] = {}
        self.arrays: dict[str, np.ndarray] = {}
        if comm.rank == 0:
            made = self._assembler
            for name, field in problem.fields.items():
                shape = (*made.lead, *((made.levels,) if made.timed(name) else ()), *made.shapes[name])
                fill = np.nan if field.dtype.startswith("float") else 0
                self.arrays[name] = np.full(shape, fill, field.dtype)
            if made.adaptive:
                self.arrays["time"] = np.full(made.levels, np.nan)

    def add(self, state: State) -> None:
        """Take one state; collective.

        Raises
        ------
        Invalid
            If it has an unknown field, a wrong shape or time, or comes after the last time level.
        """
        made, level = self._assembler, self._assembler.seen
        for name, whole in made.take(as_parts(state, self._comm)).items():
            if self._comm.rank == 0:
                where = (*(slice(None) for _ in made.lead), *((level,) if made.timed(name) else ()))
                self.arrays[name][where or ...] = whole
        if made.adaptive and self._comm.rank == 0:
            self.arrays["time"][level] = state.time
        for key, number in (state.metrics or {}).items():
            self.metrics[key] = self.metrics.get(key, 0.0) + float(number)

    def finish(self) -> None:
        """Check that everything arrived and is finite; all ranks agree.

        Raises
        ------
        Invalid
            If states or fields are missing.
        Diverged
            If a value is not finite.
        """
        self._assembler.finish()
        if self._assembler.lead:
            return
        seen = self._assembler.seen
        there = {
            n: a[:seen] if n == "time" or self._assembler.timed(n) else a for n, a in self.arrays.items()
        }
        reason = exchange(self._comm, not_finite(there, self._problem))[0]
        if reason:
            raise Diverged(reason.removeprefix("Diverged: "))


def not_finite(arrays: Mapping[str, np.ndarray], problem: Problem) -> str:
    """Which field of a member first holds NaN or an infinity, as a sentence; empty if none does."""
    import numpy as np

    for name, values in arrays.items():
        if not np.all(np.isfinite(values)):
            where = ""
            if problem.fields[name].axes[:1] in [(a,) for a in LEVEL_AXES]:
                level = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
                where = f" at time level {level}"
            return f"Diverged: field {name!r} is not finite{where}"
    return ""


def as_parts(state: State, comm: Comm) -> State:
    """A state whose shares are gathered in the canonical order instead of written by each rank."""
    fields = {name: _as_part(value, comm) for name, value in state.fields.items()}
    return State(state.time, fields, state.metrics)


def _as_part(value: Any, comm: Comm) -> Any:
    """A share as a part, so that it is gathered in the canonical order."""
    import numpy as np

    if not isinstance(value, Share):
        return value
    if value.index is not None:
        return Part(value.index, value.values)
    counts = np.zeros(comm.size, dtype=np.int64)
    if comm.size == 1:
        counts[0] = len(value.values)
    else:
        mpi: Any = comm
        mpi.Allgather(np.array([len(value.values)], dtype=np.int64), counts)
    start = int(counts[: comm.rank].sum())
    return Part(np.arange(start, start + len(value.values)), value.values)


def _gather(part: Part, comm: Comm) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Concatenate the parts of all ranks on rank 0, as buffers."""
    import numpy as np

    index = np.ascontiguousarray(part.index, dtype=np.int64)
    values = np.ascontiguousarray(part.values, dtype=np.float64)
    if index.shape != values.shape or index.ndim != 1:
        raise Invalid(f"a Part needs equally long index and values, got {index.shape} and {values.shape}")
    if comm.size == 1:
        return index, values
    mpi: Any = comm
    counts = np.empty(comm.size, dtype=np.int64)
    mpi.Allgather(np.array([len(index)], dtype=np.int64), counts)
    if comm.rank != 0:
        mpi.Gatherv(index, None)
        mpi.Gatherv(values, None)
        return None, None
    all_index = np.empty(int(counts.sum()), dtype=np.int64)
    all_values = np.empty(int(counts.sum()), dtype=np.float64)
    mpi.Gatherv(index, [all_index, counts])
    mpi.Gatherv(values, [all_values, counts])
    return all_index, all_values
