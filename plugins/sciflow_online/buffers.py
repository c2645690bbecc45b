"""Bounded stores of training samples between running solvers and a trainer; see `reservoirs`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from sciflow.errors import Failed, Invalid, nearest
from sciflow_online.rowset import RowSet

BINS = 65
"""Length of `Buffer.uses_histogram`: 0 to 63 uses, then "64 or more"."""
_BLOCK = 1024
"""Random numbers drawn at once: a call of the generator costs as much as the rest of a put."""

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of one sample of each array, by name."""


class Buffer(ABC):
    """Samples in preallocated arrays, one row each; which row comes and goes is the policy.

    The cost of a call does not grow with the capacity, except that of the reports (`statistics`,
    `uses_histogram`, `state`).

    Parameters
    ----------
    shapes : mapping of str to (tuple of int, str)
        Shape and dtype of one sample of each array.
    rng : Generator
        Seeds the buffer's own generator.
    capacity : int
        Largest number of samples, and the memory that is taken.
    threshold : int
        Samples that must be there before the first draw, at most `capacity`.

    Raises
    ------
    Invalid
        If not 0 < threshold <= capacity, or there is no array.
    """

    def __init__(self, shapes: Shapes, rng: np.random.Generator, capacity: int, threshold: int) -> None:
        if not 0 < threshold <= capacity:
            raise Invalid(f"a threshold of {threshold} is not between 1 and the capacity, {capacity}")
        if not shapes:
            raise Invalid("a buffer needs at least one array per sample")
        self.capacity = capacity
        self.threshold = threshold
        self._rng = np.random.Generator(np.random.PCG64(rng.integers(2**32, size=4).tolist()))
        self._chance = self._rng.random(_BLOCK)
        self._next = 0
        # One row more than samples, for a sample that is on its way in; where each row lies.
        self._slabs = {k: np.zeros((capacity + 1, *shape), dtype) for k, (shape, dtype) in shapes.items()}
        self._place, self._spare, self._lent = np.arange(capacity), capacity, ""
        # Of the sample in each row: where it comes from, its number among all puts, its number when
        # the row was drawn last, how often it was drawn, and its last loss.
        self._member, self._sample, self._stamp, self._drawn, self._uses = (
            np.zeros(capacity, np.int64) for _ in range(5)
        )
        self._stamp -= 1
        self._drawn -= 2
        self._loss = np.full(capacity, np.inf)
        self._puts = 0
        self._closed = False
        self._gone = np.zeros(BINS, np.int64)

    # ------------------------------------------------------------------ what a policy decides

    @abstractmethod
    def room(self) -> bool:
        """Whether `put` would take a sample now; if not, the receiver waits."""

    @abstractmethod
    def _claim(self) -> int:
        """A row for a new sample, which then counts as unseen; only called where there is room."""

    @abstractmethod
    def _pick(self, size: int) -> np.ndarray:
        """Rows of a batch, shape (n,) with n <= size; they count as seen from now on."""

    @abstractmethod
    def present(self) -> np.ndarray:
        """Rows that hold a sample, shape (n,)."""

    @abstractmethod
    def available(self) -> int:
        """Samples that a draw chooses from."""

    @abstractmethod
    def _order(self) -> dict[str, np.ndarray]:
        """What the policy remembers, as arrays of int64."""

    @abstractmethod
    def _reorder(self, order: Mapping[str, np.ndarray]) -> None:
        """Take what `_order` gave, in an empty buffer."""

    # ------------------------------------------------------------------ what all have in common

    def __len__(self) -> int:
        return len(self.present())

    @property
    def closed(self) -> bool:
        """Whether reception has ended."""
        return self._closed

    def put(self, arrays: Mapping[str, np.ndarray], member: int, sample: int) -> None:
        """Copy a sample into a row.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            All arrays of the sample, in the shapes given at the start.
        member, sample : int
            Where it comes from.

        Raises
        ------
        Failed
            If there is no room, or reception has ended.
        Invalid
            If an array is missing, unknown or has another shape.
        """
        self._check(arrays)
        if not self.room():
            why = "reception has ended" if self._closed else "every row holds a sample that was not used yet"
            raise Failed(f"the buffer takes no sample: {why}")
        row = self._claim()
        landed, self._lent = self._lent, ""
        if landed and arrays[landed].ctypes.data == self._slabs[landed][self._spare].ctypes.data:
            self._place[row], self._spare = self._spare, int(self._place[row])
        else:
            landed = ""
        place = self._place[row]
        for name, slab in self._slabs.items():
            if name != landed:
                slab[place] = arrays[name]
        self._member[row] = member
        self._sample[row] = sample
        self._stamp[row] = self._puts
        self._uses[row] = 0
        self._loss[row] = np.inf
        self._puts += 1

    def landing(self, name: str) -> np.ndarray:
        """Where an array of the next sample may be received; given to `put`, it is not copied any more.

        Parameters
        ----------
        name : str
            Of the array.

        Returns
        -------
        ndarray
            One sample's array, to be written before the next call of this or of `put`; it belongs to no
            sample until then.
        """
        self._lent = name
        spare: np.ndarray = self._slabs[name][self._spare]
        return spare

    def _check(self, arrays: Mapping[str, np.ndarray]) -> None:
        if len(arrays) != len(self._slabs):
            raise Invalid(f"a sample has {', '.join(self._slabs)}, got {', '.join(arrays) or 'nothing'}")
        for name, value in arrays.items():
            slab = self._slabs.get(name)
            if slab is None:
                raise Invalid(f"a sample has no array {name!r}. {nearest(name, self._slabs)}")
            if value.shape != slab.shape[1:]:
                raise Invalid(f"{name} of a sample has the shape {slab.shape[1:]}, got {value.shape}")

    def ready(self, batch: int) -> bool:
        """Whether a batch should be drawn now.

        Parameters
        ----------
        batch : int
            Samples of a batch.

        Returns
        -------
        bool
            While samples arrive: the threshold and a batch are there (or as much as fits). After
            `close`: anything is there.
        """
        wanted = 1 if self._closed else min(max(self.threshold, batch), self.capacity)
        return self.available() >= wanted

    def draw(self, size: int) -> np.ndarray:
        """Choose the rows of a batch and count them as used; `take` then copies them.

        Parameters
        ----------
        size : int
            Samples of the batch.

        Returns
        -------
        ndarray of int64, shape (n,)
            n <= size; fewer only where fewer are there. A row may occur twice where the policy
            draws with replacement.
        """
        rows = self._pick(size)
        self._drawn[rows] = self._stamp[rows]
        return rows

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copy samples.

        Parameters
        ----------
        rows : ndarray of int64, shape (batch,)
            From `draw`.

        Returns
        -------
        dict of str to ndarray, shape (batch, ...)
            In the units they were put in.
        """
        places = self._place[rows]
        return {name: slab.take(places, axis=0) for name, slab in self._slabs.items()}

    def members_of(self, rows: np.ndarray) -> np.ndarray:
        """Members that the samples come from, shape (batch,)."""
        return np.asarray(self._member[rows])

    def feedback(self, rows: np.ndarray, losses: np.ndarray) -> None:
        """Remember the last loss of samples; those replaced since their row was drawn are passed over.

        Parameters
        ----------
        rows : ndarray of int64, shape (batch,)
            From the latest `draw` that had them.
        losses : ndarray, shape (batch,)
            Of these samples; any unit. NaN counts as infinite.
        """
        same = self._drawn[rows] == self._stamp[rows]
        told = np.asarray(losses, np.float64)[same]
        self._loss[rows[same]] = np.where(np.isnan(told), np.inf, told)

    def losses_of(self, rows: np.ndarray) -> np.ndarray:
        """Last loss of samples, infinite where none was told, shape (batch,)."""
        return np.asarray(self._loss[rows])

    def close(self) -> None:
        """End reception: the threshold falls to zero and samples never used are drawn first."""
        self._closed = True

    def _random_index(self, size: int) -> int:
        """Uniform in 0..size-1, from a block of random numbers."""
        if self._next == _BLOCK:
            self._chance = self._rng.random(_BLOCK)
            self._next = 0
        self._next += 1
        return int(self._chance[self._next - 1] * size)

    def _retire(self, row: int) -> None:
        """Count the uses of a sample whose life ends."""
        self._gone[min(int(self._uses[row]), BINS - 1)] += 1

    # ------------------------------------------------------------------ reports

    def statistics(self) -> dict[str, float]:
        """What is in the buffer.

        Returns
        -------
        dict of str to float
            ``fill`` (share of the capacity), ``unseen`` (samples never drawn), ``age_mean`` (puts
            since arrival), ``uses_mean`` and ``uses_max`` (draws so far), over the samples present.
        """
        rows = self.present()
        if not len(rows):
            return dict.fromkeys(("fill", "unseen", "age_mean", "uses_mean", "uses_max"), 0.0)
        uses = self._uses[rows]
        return {
            "fill": len(rows) / self.capacity,
            "unseen": float(np.count_nonzero(uses == 0)),
            "age_mean": float(np.mean(self._puts - self._stamp[rows])),
            "uses_mean": float(np.mean(uses)),
            "uses_max": float(np.max(uses)),
        }

    def uses_histogram(self) -> np.ndarray:
        """How often each sample was drawn in its life, over all samples ever put.

        Returns
        -------
        ndarray of int64, shape (BINS,)
            Samples drawn 0, 1, 2, ... times; the last bin also counts those drawn more often.
        """
        uses = np.minimum(self._uses[self.present()], BINS - 1)
        return np.asarray(self._gone + np.bincount(uses, minlength=BINS))

    # ------------------------------------------------------------------ to go on after a pause

    def state(self) -> dict[str, np.ndarray]:
        """Everything a new buffer needs to go on with the same draws; only rows that hold a sample.

        Returns
        -------
        dict of str to ndarray
            Numbers only, ready for a zarr group or an ``npz`` file.
        """
        rows = np.sort(self.present())
        bits = self._rng.bit_generator.state
        words = [bits["state"][k] >> shift & (2**64 - 1) for k in ("state", "inc") for shift in (0, 64)]
        return {
            "rng": np.array([*words, bits["has_uint32"], bits["uinteger"]], np.uint64),
            "chance": self._chance[self._next :].copy(),
            "counters": np.array([self.capacity, self._puts, self._closed], np.int64),
            "gone": self._gone.copy(),
            "rows": rows,
            **{name: column[rows] for name, column in self._columns().items()},
            **{f"order/{k}": v for k, v in self._order().items()},
            **{f"array/{k}": slab[self._place[rows]] for k, slab in self._slabs.items()},
        }

    def _columns(self) -> dict[str, np.ndarray]:
        names = ("member", "sample", "stamp", "drawn", "uses", "loss")
        return {name: getattr(self, f"_{name}") for name in names}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on where another buffer of the same policy, capacity and arrays was.

        Parameters
        ----------
        state : mapping of str to ndarray
            From `state`.

        Raises
        ------
        Invalid
            If this buffer is not new, or the state is that of a buffer with other arrays, another
            policy or another capacity.
        """
        self._check_state(state)
        words = [int(w) for w in state["rng"]]
        self._rng.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": words[0] | words[1] << 64, "inc": words[2] | words[3] << 64},
            "has_uint32": words[4],
            "uinteger": words[5],
        }
        self._next = _BLOCK - len(state["chance"])
        self._chance[self._next :] = state["chance"]
        self._puts, self._closed = int(state["counters"][1]), bool(state["counters"][2])
        self._gone[:] = state["gone"]
        rows = np.asarray(state["rows"])
        for name, column in self._columns().items():
            column[rows] = state[name]
        for name, slab in self._slabs.items():
            slab[self._place[rows]] = state[f"array/{name}"]
        self._reorder({k.removeprefix("order/"): v for k, v in state.items() if k.startswith("order/")})

    def _check_state(self, state: Mapping[str, np.ndarray]) -> None:
        if self._puts:
            raise Invalid("only a new buffer can be restored")
        mine, theirs = sorted(self.state()), sorted(state)
        if mine != theirs:
            raise Invalid(f"not the state of this buffer: it has {', '.join(mine)}, got {', '.join(theirs)}")
        if int(state["counters"][0]) != self.capacity:
            raise Invalid(
                f"the state is that of {state['counters'][0]} rows, this buffer has {self.capacity}"
            )
        for name, slab in self._slabs.items():
            saved = state[f"array/{name}"]
            if saved.shape[1:] != slab.shape[1:] or saved.dtype != slab.dtype:
                raise Invalid(
                    f"{name} is {slab.dtype} of shape {slab.shape[1:]} per sample, the state holds "
                    f"{saved.dtype} of shape {saved.shape[1:]}"
                )


class _Once(Buffer):
    """Each sample is used exactly once.

    The rows of a batch are held from `draw` until `take` has copied them, or until the next draw.
    """

    def __init__(self, shapes: Shapes, rng: np.random.Generator, capacity: int, threshold: int) -> None:
        super().__init__(shapes, rng, capacity, threshold)
        self._free = RowSet(capacity)
        self._free.extend(np.arange(capacity)[::-1])
        self._held = RowSet(capacity)

    def room(self) -> bool:
        """See `Buffer.room`."""
        return not self._closed and len(self._free) > 0

    def _claim(self) -> int:
        row = int(self._free.items[-1])
        self._free.discard(row)
        self._queue(row)
        return row

    def _pick(self, size: int) -> np.ndarray:
        self._release(self._held.items.copy())
        rows = self._unqueue(min(size, self.available()))
        self._uses[rows] = 1
        self._held.extend(rows)
        return rows

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """See `Buffer.take`; the rows are then free for new samples."""
        arrays = super().take(rows)
        self._release(rows[self._held.holds(rows)])
        return arrays

    def _release(self, rows: np.ndarray) -> None:
        self._held.remove(rows)
        self._free.extend(rows)
        self._gone[1] += len(rows)

    @abstractmethod
    def _queue(self, row: int) -> None:
        """A row has a new sample."""

    @abstractmethod
    def _unqueue(self, size: int) -> np.ndarray:
        """The next rows, shape (size,)."""


class FIFOBuffer(_Once):
    """First in, first out."""

    def __init__(self, shapes: Shapes, rng: np.random.Generator, capacity: int, threshold: int) -> None:
        super().__init__(shapes, rng, capacity, threshold)
        self._ring = np.zeros(capacity, np.int64)
        self._first = 0
        self._count = 0

    def available(self) -> int:
        """See `Buffer.available`."""
        return self._count

    def _queue(self, row: int) -> None:
        self._ring[(self._first + self._count) % self.capacity] = row
        self._count += 1

    def _waiting(self, size: int) -> np.ndarray:
        return self._ring.take(np.arange(self._first, self._first + size), mode="wrap")

    def _unqueue(self, size: int) -> np.ndarray:
        rows = self._waiting(size)
        self._first = (self._first + size) % self.capacity
        self._count -= size
        return rows

    def present(self) -> np.ndarray:
        """See `Buffer.present`."""
        return np.concatenate([self._waiting(self._count), self._held.items])

    def _order(self) -> dict[str, np.ndarray]:
        waiting = self._waiting(self._count)
        return {"waiting": waiting, "held": self._held.items.copy(), "free": self._free.items.copy()}

    def _reorder(self, order: Mapping[str, np.ndarray]) -> None:
        self._free.clear()
        self._free.extend(order["free"])
        self._held.extend(order["held"])
        self._count = len(order["waiting"])
        self._ring[: self._count] = order["waiting"]


class FIROBuffer(_Once):
    """First in, random out."""

    def __init__(self, shapes: Shapes, rng: np.random.Generator, capacity: int, threshold: int) -> None:
        super().__init__(shapes, rng, capacity, threshold)
        self._waiting = RowSet(capacity)

    def available(self) -> int:
        """See `Buffer.available`."""
        return len(self._waiting)

    def _queue(self, row: int) -> None:
        self._waiting.add(row)

    def _unqueue(self, size: int) -> np.ndarray:
        rows = some_of(self._waiting.items, size, self._rng)
        self._waiting.remove(rows)
        return rows

    def present(self) -> np.ndarray:
        """See `Buffer.present`."""
        return np.concatenate([self._waiting.items, self._held.items])

    def _order(self) -> dict[str, np.ndarray]:
        return {k: getattr(self, f"_{k}").items.copy() for k in ("waiting", "held", "free")}

    def _reorder(self, order: Mapping[str, np.ndarray]) -> None:
        self._free.clear()
        for name, rows in order.items():
            getattr(self, f"_{name}").extend(rows)


class ReservoirBuffer(Buffer):
    """Samples stay, are drawn again and again, and make room once they were used.

    Rows are filled from the first to the last and never emptied, so the rows below the number of
    samples are those that hold one.
    """

    def __init__(self, shapes: Shapes, rng: np.random.Generator, capacity: int, threshold: int) -> None:
        super().__init__(shapes, rng, capacity, threshold)
        self._unseen = RowSet(capacity)
        self._seen = RowSet(capacity)

    def room(self) -> bool:
        """See `Buffer.room`."""
        return not self._closed and len(self._unseen) < self.capacity

    def available(self) -> int:
        """See `Buffer.available`."""
        return len(self._unseen) + len(self._seen)

    def _claim(self) -> int:
        row = self.available()
        if row == self.capacity:
            row = self._victim()
            self._retire(row)
            self._seen.discard(row)
        self._unseen.add(row)
        return row

    def _victim(self) -> int:
        """A row to overwrite: any that was seen, each as likely."""
        return int(self._seen.items[self._random_index(len(self._seen))])

    def _pick(self, size: int) -> np.ndarray:
        rows = self._last_unseen(size)
        rest = size - len(rows) if self.available() else 0
        if rest:
            rows = np.concatenate([rows, self._rng.integers(self.available(), size=rest)])
        self._use(rows)
        return rows

    def _last_unseen(self, size: int) -> np.ndarray:
        """After reception has ended: samples never used, shape (n,) with n <= size."""
        if not self._closed:
            return np.zeros(0, np.int64)
        return some_of(self._unseen.items, min(size, len(self._unseen)), self._rng)

    def _use(self, rows: np.ndarray) -> None:
        new = np.unique(rows[self._uses[rows] == 0])
        if len(new):
            self._unseen.remove(new)
            self._seen.extend(new)
        np.add.at(self._uses, rows, 1)

    def present(self) -> np.ndarray:
        """See `Buffer.present`."""
        return np.arange(self.available())

    def _order(self) -> dict[str, np.ndarray]:
        return {"unseen": self._unseen.items.copy(), "seen": self._seen.items.copy()}

    def _reorder(self, order: Mapping[str, np.ndarray]) -> None:
        for name, rows in order.items():
            getattr(self, f"_{name}").extend(rows)


class KeepHardBuffer(ReservoirBuffer):
    """A reservoir where, of a few used samples, that with the least loss makes room.

    Parameters
    ----------
    shapes, rng, capacity, threshold
        See `Buffer`.
    candidates : int
        Used samples to choose from, drawn with replacement.
    """

    def __init__(
        self, shapes: Shapes, rng: np.random.Generator, capacity: int, threshold: int, candidates: int
    ) -> None:
        super().__init__(shapes, rng, capacity, threshold)
        self._candidates = candidates

    def _victim(self) -> int:
        rows = [super(KeepHardBuffer, self)._victim() for _ in range(self._candidates)]
        return min(rows, key=self._loss.item)


def some_of(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct rows in random order, each choice and order as likely, shape (size,).

    Notes
    -----
    Draws with replacement and draws again what occurs twice. Nothing in that depends on which
    row is which, so all ordered choices stay equally likely; the cost does not grow with `rows`.
    """
    if 2 * size >= len(rows):
        return rng.permutation(rows)[:size]
    chosen = rng.integers(len(rows), size=size)
    while True:
        order = np.argsort(chosen, kind="stable")
        ranked = chosen[order]
        again = order[1:][ranked[1:] == ranked[:-1]]
        if not len(again):
            return np.asarray(rows[chosen])
        chosen[again] = rng.integers(len(rows), size=len(again))
