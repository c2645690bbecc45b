"""Stored: members of an ensemble on disk as training samples, in shuffled batches."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow.ahead import ahead as run_ahead
from sciflow.artifact.gather import Gather, Verify
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.samples import Batch, Samples, Signature
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

AHEAD = 2
"""Batches that the system is asked to read in advance."""
CACHED = 1.5e9
"""Bytes per second above which data come from memory, so that asking in advance only costs."""

_SELECT = re.compile(r"([a-z][a-z0-9_]*)(?:\[(-?\d+)\])?\Z")


@dataclass
class _Source:
    """Where the values of one input or output come from.

    Attributes
    ----------
    field : Field
        As it stands in a batch.
    values : ndarray, shape (member,), or None
        Of a parameter.
    times : ndarray, shape (time,) or (member, step), or None
        Of the time coordinate.
    gather : Gather or None
        Of a field.
    shift : int or ndarray, shape (member,)
        First time level relative to the sample's.
    late : bool
        Whether it counts from the sample's first output level, else from its first input level.
    since : bool
        Of the time coordinate: the time since the first input level.
    count : int
        How many time levels.
    """

    field: Field
    values: np.ndarray | None = None
    times: np.ndarray | None = None
    gather: Gather | None = None
    shift: int | np.ndarray = 0
    late: bool = False
    since: bool = False
    count: int = 1

    def levels(self, members: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """First time level to read for samples that begin at `levels`, shape (batch, 2)."""
        assert self.gather is not None
        if not self.gather.layout.timed:
            return levels[:, 0] * 0
        begin = levels[:, int(self.late)]
        return begin + (self.shift if isinstance(self.shift, int) else self.shift[members])

    def clock(self, members: np.ndarray, levels: np.ndarray, count: int) -> np.ndarray:
        """Times of the output levels, shape (batch, count)."""
        import numpy as np

        assert self.times is not None
        at = levels[:, 1:] + np.arange(count)
        found = self.times[at] if self.times.ndim == 1 else self.times[members[:, None], at]
        return found.astype(self.field.dtype)  # type: ignore[no-any-return]

    def read(self, members: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Values of some samples, shape (batch, ...)."""
        if self.times is not None:
            first, last = (
                self.times[at if self.times.ndim == 1 else (members, at)]
                for at in (levels[:, 0], levels[:, 1])
            )
            return (last - first if self.since else last).astype(self.field.dtype)  # type: ignore[no-any-return]
        if self.gather is None:
            assert self.values is not None
            return self.values[members]  # type: ignore[no-any-return]
        found = self.gather.read(members, self.levels(members, levels), self.count)
        kept = any(a in ("time", "step", "lead") for a in self.field.axes)
        return found if kept else found[:, 0]


class Stored(Samples):
    """Members of an ensemble artifact as samples, read when they are asked for.

    It holds no data, no locks and no threads (one runs while `batches` is iterated, where that is asked
    for); a data loader's processes may be forked from it, and it can be sent to others.

    Parameters
    ----------
    ensemble : Artifact
        Of kind ``ensemble``, or a `Snapshot` of one that is still being written.
    inputs, outputs : sequence of str
        Names of fields or parameters. ``"u"`` takes all time levels as they are, ``"u[0]"`` the
        first, ``"u[-1]"`` the last. With a window plain names alone; the input ``"time"`` is then the
        time of the first level of the outputs, one number for each sample.
    members : sequence of int or None
        Which members, in this order; ``None`` takes all that ended well.
    window : tuple of int or None
        ``(k, l)``: a sample is ``k`` consecutive time levels of the inputs (axis ``time``; none
        for one) and the ``l`` that follow of the outputs (axis ``lead``; none for one), at every
        level where they fit. With ``k = 0`` the inputs are parameters, fields without a time axis and
        ``"time"``: the outputs are a function of them.
    pairs : tuple of int or None
        ``(stride, count)``, in place of a window: of each member the time levels 0, stride, ...,
        stride * (count - 1), and every pair i <= j of them is a sample: the inputs at level i, the
        outputs at level j. The input ``"lead_time"`` is the time between the two, one number for each
        sample.
    block : int or None
        Shuffle among so many members at a time, so that a disk reads them together; ``None``
        shuffles everything.
    shard : tuple of int
        Rank and number of data-parallel ranks. All get equally many samples; the first ones are
        given twice where the number does not divide.
    verify : {"off", "first", "always"}
        When checksums are compared.
    ahead : int
        Batches that a thread reads in advance while `batches` is iterated; 0 for none, and no thread.

    Raises
    ------
    NotFound
        If a name or member does not exist.
    Invalid
        If a member failed, a time level is selected from a field without a time axis, the window or the
        pairs are longer than the trajectories, there are both, or an input has time levels of which the
        window takes none.
    """

    resumable = True

    def __init__(
        self,
        ensemble: Artifact,
        inputs: Sequence[str],
        outputs: Sequence[str],
        members: Sequence[int] | np.ndarray | None = None,
        *,
        window: tuple[int, int] | None = None,
        pairs: tuple[int, int] | None = None,
        block: int | None = None,
        shard: tuple[int, int] = (0, 1),
        verify: Verify = "first",
        ahead: int = 0,
    ) -> None:
        import numpy as np

        if not 0 <= shard[0] < shard[1]:
            raise Invalid(f"shard {shard}: the rank must be below the number of ranks")
        if block is not None and block < 1:
            raise Invalid(f"a block holds at least one member, got {block}")
        if ahead < 0:
            raise Invalid(f"a number of batches is read ahead, got {ahead}")
        good = ensemble.members()
        chosen = good if members is None else np.asarray(members, dtype=np.int64)
        bad = sorted(set(chosen.tolist()) - set(good.tolist()))
        if bad:
            raise Invalid(f"{ensemble.path}: members {bad[:10]} have no result (they failed or do not exist)")
        self.members = chosen
        self._block, self._shard, self._ahead = block, shard, ahead
        choose = _Chooser(ensemble, window, pairs, verify)
        self._inputs = {n: choose(n, "in") for n in inputs}
        self._outputs = {n: choose(n, "out") for n in outputs}
        self._member, self._level = choose.places(chosen)
        self._clock = self._inputs.get("time") if window is not None else None
        self._leads = 0 if window is None else window[1]
        fields = [s.field for s in (*self._inputs.values(), *self._outputs.values())]
        self.signature = Signature(
            {n: s.field for n, s in self._inputs.items()},
            {n: s.field for n, s in self._outputs.items()},
            {axis: choose.coordinate(axis) for axis in sorted({a for f in fields for a in f.axes})},
            tuple(ensemble.attributes.get("periodic", ())),
        )

    def __len__(self) -> int:
        return (len(self._member) + self._shard[1] - 1) // self._shard[1]

    @property
    def sample_members(self) -> np.ndarray:
        """Member of every sample of all shards, in the order of `take`: int64, shape (sample,)."""
        return self._member

    @property
    def sample_levels(self) -> np.ndarray:
        """First time level of the inputs and of the outputs of every sample: int64, shape (sample, 2)."""
        return self._level

    def order(self, seed: int | None, epoch: int = 0) -> np.ndarray:
        """This rank's samples of one epoch in the order of the batches; a function of its arguments.

        Returns
        -------
        ndarray of int64, shape (len(self),)
            Positions for `take`.
        """
        import numpy as np

        count = len(self._member)
        order = np.arange(count)
        if seed is not None:
            rng = np.random.default_rng([seed, epoch])
            if self._block is None:
                order = rng.permutation(count)
            else:
                _, number = np.unique(self._member, return_inverse=True)
                blocks = number // self._block
                shuffled = [
                    rng.permutation(np.flatnonzero(blocks == b)) for b in rng.permutation(blocks.max() + 1)
                ]
                order = np.concatenate(shuffled)
        rank, ranks = self._shard
        return np.resize(order, len(self) * ranks)[rank::ranks] if count else order

    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """One epoch of batches; see `Samples.batches`.

        Parameters
        ----------
        size, seed, epoch
            See `Samples.batches`.
        start : int
            Skip so many batches, to go on in the middle of an epoch.
        """
        yield from run_ahead(self._batches(size, seed, epoch, start), self._ahead)

    def _batches(self, size: int, seed: int | None, epoch: int, start: int) -> Iterator[Batch]:
        order = self.order(seed, epoch)
        picks = [order[i : i + size] for i in range(start * size, len(order), size)]
        cold = True
        for number, pick in enumerate(picks):
            if cold:
                for coming in picks[number + 1 : number + 1 + AHEAD]:
                    self.prefetch(coming)
            begin = time.perf_counter()
            batch = self.take(pick)
            read = sum(a.nbytes for part in (batch.x, batch.y) for a in part.values())
            cold = read < CACHED * (time.perf_counter() - begin)
            yield batch

    def take(self, samples: np.ndarray | Sequence[int]) -> Batch:
        """Some samples by their positions in member order."""
        import numpy as np

        pick = np.asarray(samples, dtype=np.int64)
        members, levels = self._member[pick], self._level[pick]
        return Batch(
            {n: s.read(members, levels) for n, s in self._inputs.items()},
            {n: s.read(members, levels) for n, s in self._outputs.items()},
            members,
            levels,
            None if self._clock is None else self._clock.clock(members, levels, self._leads),
        )

    def prefetch(self, samples: np.ndarray) -> None:
        """Ask the system to begin reading samples, shape (n,), that `take` will want soon."""
        members, levels = self._member[samples], self._level[samples]
        for source in (*self._inputs.values(), *self._outputs.values()):
            if source.gather is not None:
                source.gather.prefetch(members, source.levels(members, levels), source.count)

    def all(self) -> Batch:
        """Every sample in member order."""
        import numpy as np

        return self.take(np.arange(len(self._member)))

    def __getitem__(self, sample: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """One sample as inputs and outputs; with ``len`` what a torch ``DataLoader`` asks for."""
        return self.__getitems__([sample])[0]

    def __getitems__(self, samples: Sequence[int]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Several samples in one go, as a ``DataLoader`` asks for them since torch 2.0."""
        batch = self.take(samples)
        return [
            ({n: a[i] for n, a in batch.x.items()}, {n: a[i] for n, a in batch.y.items()})
            for i in range(len(samples))
        ]


class _Chooser:
    """Finds the sources of named inputs and outputs in an ensemble."""

    def __init__(
        self,
        ensemble: Artifact,
        window: tuple[int, int] | None,
        pairs: tuple[int, int] | None,
        verify: Verify,
    ) -> None:
        check_levels(window, pairs)
        # One level in and one out, as a window (1, 1), whose two levels need not follow each other.
        self._window = (1, 1) if pairs is not None else window
        self._ensemble, self._pairs, self._verify = ensemble, pairs, verify
        self._gathers: dict[str, Gather] = {}
        self._parameters: list[str] = list(ensemble.attributes.get("parameters", ()))
        self._fields = {
            k: f
            for k, f in ensemble.schema.fields.items()
            if f.axes[:1] == ("member",) and len(f.axes) > 1 and k != "parameters"
        }

    def __call__(self, text: str, side: str) -> _Source:
        match = _SELECT.match(text)
        if match is None:
            raise Invalid(f"{text!r} is not a field: write 'name', or 'name[i]' for one time level")
        name, level = match.group(1), match.group(2)
        ensemble = self._ensemble
        if name in self._parameters:
            column = self._parameters.index(name)
            unit = ensemble.attributes["parameter_units"][column]
            return _Source(Field((), unit), ensemble.read("parameters")[:, column].astype("float32"))
        if name in ("time", "lead_time") and level is None and side == "in":
            return self._of_time(name)
        if name not in self._fields:
            known = [*self._fields, *self._parameters]
            raise NotFound(f"{ensemble.path}: no field or parameter {name!r}. {nearest(name, known)}")
        if name not in self._gathers:
            self._gathers[name] = ensemble.gather(name, verify=self._verify)
        return self._of_field(text, self._gathers[name], None if level is None else int(level), side)

    def _of_time(self, name: str) -> _Source:
        """The time of the first level of the outputs, or the time since that of the inputs."""
        ensemble = self._ensemble
        if name == "time" and (self._window is None or self._pairs is not None):
            raise Invalid("'time' is an input with a window alone: it is the time of the level that follows")
        if name == "lead_time" and self._pairs is None:
            raise Invalid(
                "'lead_time' is an input with pairs alone: it is the time from the inputs to the outputs; "
                "give pairs=(stride, count)"
            )
        if "time" not in ensemble.schema.fields:
            raise Invalid(f"{ensemble.path}: {name!r} is no input, the ensemble has no time levels")
        unit = ensemble.schema["time"].unit
        what = "time of the first level that is predicted"
        if name == "lead_time":
            what = "time from the inputs to the outputs"
        return _Source(
            Field((), unit, "float32", what),
            times=ensemble.read("time"),
            late=True,
            since=name == "lead_time",
        )

    def _of_field(self, text: str, gather: Gather, level: int | None, side: str) -> _Source:
        layout = gather.layout
        axes, steps = layout.field.axes[1:], layout.levels
        old = layout.field
        if level is not None:
            if not layout.timed:
                raise Invalid(f"{text!r}: the field {layout.name!r} has no time axis (axes {axes})")
            if self._window is not None:
                raise Invalid(f"{text!r}: a window chooses the time levels; name the field alone")
            if not -steps <= level < steps:
                raise Invalid(f"{text!r}: there are {steps} time levels")
            field = Field(axes[1:], old.unit, old.dtype, old.description)
            if axes[0] == "step" and level < 0:
                return _Source(field, gather=gather, shift=self._ensemble.read("n_steps") + level)
            return _Source(field, gather=gather, shift=level % steps)
        if not layout.timed:
            return _Source(Field(axes, old.unit, old.dtype, old.description), gather=gather)
        if self._window is None:
            if axes[0] == "step":
                raise Invalid(f"{text!r}: members have steps of their own; select a level or give a window")
            return _Source(Field(axes, old.unit, old.dtype, old.description), gather=gather, count=steps)
        before, after = self._window
        count, axis = (before, "time") if side == "in" else (after, "lead")
        if not count:
            raise Invalid(
                f"{text!r} has time levels and the window {self._window} takes none of the inputs; leave it "
                "out of the inputs, or take k >= 1"
            )
        field = Field((*((axis,) if count > 1 else ()), *axes[1:]), old.unit, old.dtype, old.description)
        return _Source(field, gather=gather, late=side == "out", count=count)

    def places(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Member of every sample, and its first levels of the inputs and outputs, shape (sample, 2)."""
        import numpy as np

        if self._window is None:
            return members, np.zeros((len(members), 2), dtype=np.int64)
        timed = [g.layout.levels for g in self._gathers.values() if g.layout.timed]
        if not timed:
            raise Invalid("a window or pairs need a field with a time axis")
        steps = np.full(len(members), min(timed))
        if "n_steps" in self._ensemble.schema.fields:
            steps = self._ensemble.read("n_steps")[members]
        if self._pairs is not None:
            return _all_pairs(members, steps, *self._pairs)
        counts = np.maximum(steps - sum(self._window) + 1, 0)
        if len(members) and not counts.any():
            raise Invalid(
                f"a window of {self._window} levels is longer than the trajectories ({steps.max()})"
            )
        first = np.repeat(np.cumsum(counts) - counts, counts)
        level = np.arange(counts.sum()) - first
        return np.repeat(members, counts), np.stack([level, level + self._window[0]], axis=1)

    def coordinate(self, axis: str) -> np.ndarray:
        """Coordinates of an axis of the signature."""
        import numpy as np

        if self._window is not None and axis in ("time", "lead"):
            before, after = self._window
            return np.arange(1.0 - before, 1.0) if axis == "time" else np.arange(1.0, after + 1.0)
        return self._ensemble.read(axis)


def check_levels(window: tuple[int, int] | None, pairs: tuple[int, int] | None) -> None:
    """Refuse a window or pairs that choose no time levels, and both at once.

    Parameters
    ----------
    window, pairs : tuple of int or None
        As `Stored` takes them.

    Raises
    ------
    Invalid
        If it cannot be.
    """
    if window is not None and pairs is not None:
        raise Invalid(f"a sample is a window or a pair of levels; give window={window} or pairs={pairs}")
    if window is not None and (len(window) != 2 or window[0] < 0 or window[1] < 1):
        raise Invalid(f"a window has no negative number of levels in and at least one out, got {window}")
    if pairs is not None and (len(pairs) != 2 or pairs[0] < 1 or pairs[1] < 2):
        raise Invalid(f"pairs are (stride, count) with a stride of at least 1 and 2 levels, got {pairs}")


def _all_pairs(
    members: np.ndarray, steps: np.ndarray, stride: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every pair i <= j of `count` levels of each member, `stride` apart, that the member has."""
    import numpy as np

    last = stride * (count - 1)
    if len(members) and last >= steps.max():
        raise Invalid(
            f"pairs of {count} levels, {stride} apart, need {last + 1} time levels; the trajectories have "
            f"{steps.max()}"
        )
    pairs = stride * np.stack(np.triu_indices(count), axis=1)
    levels = np.tile(pairs, (len(members), 1))
    owner = np.repeat(np.arange(len(members)), len(pairs))
    there = levels[:, 1] < steps[owner]
    return members[owner[there]], levels[there]
