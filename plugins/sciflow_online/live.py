"""Samples of running solvers, as a training loop sees them; and those that are held for validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Failed
from sciflow.samples import Batch, Samples, Signature
from sciflow_online.moments import Moments
from sciflow_online.reception import Reception
from sciflow_online.roster import Standing
from sciflow_online.terms import TRAIN, VALID

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_online.buffers import Buffer

NAP = 0.002
"""Seconds that a trainer waits for news at a time."""
SHOWN = 1.0
"""Seconds between two lines of progress while it waits."""
SCALES = 256
"""Samples in a batch that only scales are computed of."""


def batch_of(arrays: Mapping[str, np.ndarray]) -> Batch:
    """A batch from arrays named ``x:name`` and ``y:name``."""
    return Batch(
        {k[2:]: v for k, v in arrays.items() if k.startswith("x:")},
        {k[2:]: v for k, v in arrays.items() if k.startswith("y:")},
    )


class Held(Samples):
    """Validation samples: kept whole, in the order of members, whoever computed them when.

    Parameters
    ----------
    reception : Reception
        Which received them.
    """

    resumable = True

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self.signature: Signature = reception.recipe.signature
        self._arrays: dict[str, np.ndarray] = {}

    def freeze(self, failed: Collection[int] = ()) -> None:
        """All of them have come; what was sent of members that failed in the end is left out."""
        whole = [s for s in self._reception.held if s.member not in failed]
        held = sorted(whole, key=lambda s: (s.member, s.number))
        if held:
            self._arrays = {k: np.stack([s.arrays[k] for s in held]) for k in self._reception.recipe.slabs()}

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values()))) if self._arrays else 0

    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`."""
        order = np.arange(len(self))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for first in range(start * size, len(order), size):
            pick = order[first : first + size]
            yield batch_of({k: v[pick] for k, v in self._arrays.items()})


class Live(Samples):
    """A reservoir that running solvers fill, as a source of batches; collective over the trainer ranks.

    Every member gives ``recipe.samples`` samples. All in all, each is drawn `repeats` times on average
    (once, where the reservoir uses samples once), and these draws are cut into `epochs` parts of equal
    length, so that a training loop that runs over its epochs makes as many steps as it would with
    stored samples. The trainer waits where it would otherwise use what is there more often than that.

    Parameters
    ----------
    reception : Reception
        Which fills the buffer.
    buffer : Buffer
        The reservoir.
    held : Held
        Validation samples; they also tell the scales.
    repeats : float
        Uses of a sample on average.
    epochs : int
        Parts that the draws are cut into.
    ctx : Context
        Communicator and events.
    reuse : bool
        Whether the reservoir gives a sample more than once.
    fixed : bool
        Take in just what the next batch is due, so that what is learned does not depend on who is
        quicker.
    """

    def __init__(
        self, reception: Reception, buffer: Buffer, held: Held, repeats: float, epochs: int, ctx: Context,
        *, reuse: bool = True, fixed: bool = False,
    ) -> None:  # fmt: skip
        self._reuse = reuse
        self.signature = reception.recipe.signature
        self._reception, self._buffer, self._held, self._ctx = reception, buffer, held, ctx
        self._comm: Any = ctx.comm
        self.repeats, self._fixed = repeats, fixed
        # So that every sample is drawn at least once: as many draws as there are samples are left when the
        # last one has come.
        self._pace = max(repeats - 1.0, repeats / 2.0) if reuse else 1.0
        members = len(reception.plan.of(TRAIN))
        self.expected = members * reception.recipe.samples
        self._length = max(1, math.ceil(self.expected * repeats / (epochs * ctx.comm.size)))
        self.drawn = 0
        self._closed = False
        self._rows = np.empty(0, dtype=np.int64)
        self.idle = 0.0
        self.begun = time.monotonic()
        self._before = (0, 0)
        self._shown = 0.0
        count = len(reception.plan.points)
        self.losses = np.zeros((count, 2))
        self._fresh = np.zeros((count, 2))
        self.first = Moments()
        self.note: Callable[[str], None] = lambda what: None

    def __len__(self) -> int:
        return self._length

    # -- waiting -----------------------------------------------------------------------------

    def _agree(self, *counts: float) -> np.ndarray:
        """Sums over the trainer ranks."""
        mine = np.array(counts, dtype=np.float64)
        if self._comm.size == 1:
            return mine
        total = np.empty_like(mine)
        self._comm.Allreduce(mine, total)
        return total

    def _over(self) -> bool:
        """On rank 0: whether every sample that will ever come is in the buffer."""
        reception = self._reception
        return reception.roster is not None and reception.settled(TRAIN)

    def _until(self, ready: Callable[[np.ndarray], bool], what: str) -> None:
        """Poll until all ranks are ready; time that is spent here is idle time.

        Parameters
        ----------
        ready : callable
            Takes the sums over the ranks of: samples in, samples that wait for room, whether the
            stream is over.
        what : str
            What is waited for, in words.
        """
        self._reception.poll()
        begin = time.monotonic()
        while True:
            over, waiting = self._over(), self._reception.waiting()
            stopping = self._ctx.stopping.is_set()
            sums = self._agree(self._reception.tally.samples, waiting, over, stopping)
            if sums[3]:
                self._ctx.stopping.set()
                self._ctx.cancelled.set()
                self._ctx.check()
            if sums[2] and not sums[1] and not self._closed:
                self._closed = True
                self._buffer.close()
            told = self._agree(ready(sums))
            if told[0] == self._comm.size:
                break
            self._show(what)
            self._reception.poll(NAP)
        self.idle += time.monotonic() - begin

    def _show(self, what: str) -> None:
        now = time.monotonic()
        if now - self._shown > SHOWN and self._comm.rank == 0:
            self._shown = now
            self.note(what)

    def begin(self, batch: int) -> None:
        """Wait for the validation members, and for enough samples to begin with.

        Raises
        ------
        Failed
            If no validation member succeeded, or no sample ever came.
        """
        reception = self._reception

        def valid(sums: np.ndarray) -> bool:
            return reception.roster is None or reception.settled(VALID)

        self._until(valid, "validation members")
        self._held.freeze(self._failed(VALID))
        if not self._agree(len(self._held))[0]:
            raise Failed(f"no validation member succeeded: {_why(reception, VALID)}")
        if self._fixed:
            reception.limit = self._due(self._at_once(batch))
        self._until(lambda sums: self._startable(batch), "the first samples")
        if not self._agree(len(self._buffer))[0] and self._closed:
            raise Failed(f"no training member succeeded: {_why(reception, TRAIN)}")
        if not self.first.count:
            for start in self.batches(SCALES, seed=None):
                self.first.update({f"x:{k}": v for k, v in start.x.items()})
                self.first.update({f"y:{k}": v for k, v in start.y.items()})
        self.idle = 0.0
        self.begun = time.monotonic()
        self._before = (reception.tally.samples, self.drawn)

    def _failed(self, purpose: int) -> set[int]:
        """Members with a purpose that came to nothing, as rank 0 knows them; collective."""
        members, roster = self._reception.plan.of(purpose), self._reception.roster
        flags = [roster is not None and roster.standing[m] == Standing.FAILED for m in members]
        return {m for m, flag in zip(members, self._agree(*flags), strict=True) if flag}

    def _startable(self, batch: int) -> bool:
        return self._closed or self._buffer.ready(batch)

    def _at_once(self, size: int) -> int:
        """How many of a batch can be drawn together: what is used once must be there all at once."""
        return size if self._reuse else min(size, self._buffer.capacity)

    def _due(self, size: int) -> float:
        """Samples that must be in before the next `size` are drawn (fixed order)."""
        least = max(self._buffer.threshold, size)
        ahead = min(self.expected, math.ceil((self.drawn + size) / self._pace))
        return float(min(self._buffer.capacity, least) if ahead < least else ahead)

    # -- batches -----------------------------------------------------------------------------

    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`; with ``seed=None`` what is there now, for scales.

        The draws depend on the reservoir's own generator and on what has come, not on `seed`.
        """
        if seed is None:
            yield from self._held.batches(SCALES, seed=None)
            rows = self._buffer.present()
            for first in range(0, len(rows), SCALES):
                yield batch_of(self._buffer.take(rows[first : first + SCALES]))
            return
        left = self._length
        while left > 0:
            wanted = self._at_once(min(size, left))
            if self._fixed:
                self._reception.limit = max(self._reception.limit, self._due(wanted))
            self._until(lambda sums, wanted=wanted: self._may_draw(sums, wanted), "samples")  # type: ignore[misc]
            rows = self._buffer.draw(wanted)
            # All ranks step together; where one of them has nothing left, the stream is over.
            if self._agree(len(rows) > 0)[0] != self._comm.size:
                return
            self._rows = rows
            self.drawn += len(rows)
            left -= wanted
            yield batch_of(self._buffer.take(rows))

    def _may_draw(self, sums: np.ndarray, wanted: int) -> bool:
        if self._closed:
            return True
        if not self._buffer.ready(wanted):
            return False
        if self._fixed:
            # Whether this is the end decides how is drawn, so it must be known: there is one more sample,
            # or the buffer is closed.
            due = self._reception.tally.samples >= self._reception.limit or not self._buffer.room()
            return due and sums[1] > 0
        if sums[0] >= self.expected:
            return False  # the end is near; closed, the buffer gives what was never used first
        # Where samples are used once the buffer itself keeps count.
        return (self.drawn + wanted) * self._comm.size <= self._pace * sums[0] or not self._reuse

    def feedback(self, losses: np.ndarray) -> None:
        """See `Samples.feedback`."""
        rows = self._rows[: len(losses)]
        losses = np.asarray(losses, dtype=np.float64)[: len(rows)]
        self._buffer.feedback(rows, losses)
        mean = float(losses.mean()) if len(losses) else 0.0
        if mean > 0 and math.isfinite(mean):
            members = self._buffer.members_of(rows)
            np.add.at(self._fresh[:, 0], members, losses / mean)
            np.add.at(self._fresh[:, 1], members, 1.0)

    def share_losses(self) -> None:
        """Sum what was learned of the members' losses over the ranks; collective."""
        fresh = self._agree(*self._fresh.ravel()).reshape(-1, 2)
        self.losses = self.losses + fresh
        self._fresh[:] = 0.0

    def serve(self) -> None:
        """Stay until every member is settled, be it only stored; collective.

        Raises
        ------
        Failed
            If no training member succeeded.
        """
        reception = self._reception
        reception.limit = float("inf")

        def done(sums: np.ndarray) -> bool:
            # Samples that nobody will draw any more must not hold their solvers up.
            reception.discard()
            return reception.roster is None or reception.settled()

        self._until(done, "the last members")
        if len(self._failed(TRAIN)) == len(reception.plan.of(TRAIN)):
            raise Failed(f"no training member succeeded: {_why(reception, TRAIN)}")

    def totals(self) -> dict[str, int]:
        """Samples taken in, dropped as duplicates, and refusals, over all trainer ranks; collective."""
        reception = self._reception
        counts = {
            "samples": reception.tally.samples,
            "duplicates": reception.intake.duplicates,
            "refused": reception.tally.refused,
        }
        return {k: int(v) for k, v in zip(counts, self._agree(*counts.values()), strict=True)}

    def drift(self) -> dict[str, tuple[float, float]]:
        """How the stream differs from the samples that scales were taken of, on this rank.

        Returns
        -------
        dict of str to (float, float)
            For each array, how far its mean is from the first one, in first spreads; and its spread
            over the first one. Near (0, 1) the scales fit.
        """
        stream, first = self._reception.moments, self.first
        return {
            name: (abs(stream.mean[name] - first.mean[name]) / spread, stream.std[name] / spread)
            for name, spread in first.std.items()
            if spread > 0 and name in stream.count
        }

    # -- telling -----------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Throughput, idle times and the state of the reservoir, for curves; on each rank its own."""
        reception, passed = self._reception, max(time.monotonic() - self.begun, 1e-9)
        tally, roster = reception.tally, reception.roster
        found = {f"reservoir_{k}": v for k, v in self._buffer.statistics().items()}
        found |= {
            "received": float(tally.samples),
            "drawn": float(self.drawn * self._comm.size),
            "received_per_second": (tally.samples - self._before[0]) / passed,
            "drawn_per_second": (self.drawn - self._before[1]) * self._comm.size / passed,
            "trainer_idle": min(1.0, self.idle / passed),
            "solvers_blocked": tally.blocked_seconds / tally.solver_seconds if tally.solver_seconds else 0.0,
        }
        if roster is not None:
            found |= {
                "members_done": float(roster.count(Standing.DONE)),
                "members_failed": float(roster.count(Standing.FAILED)),
                "members_running": float(roster.count(Standing.RUNNING)),
                "resubmitted": float(roster.resubmitted),
            }
        return found

    # -- keeping -----------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """How far the draws are."""
        return {
            "drawn": np.array(self.drawn),
            "losses": self.losses,
            "limit": np.array(self._reception.limit),
            **{f"first:{k}": v for k, v in self.first.state().items()},
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` gave."""
        self.drawn, self.losses = int(state["drawn"]), np.array(state["losses"])
        self._reception.limit = float(state["limit"])
        self.first.restore({k.removeprefix("first:"): v for k, v in state.items() if k.startswith("first:")})


def _why(reception: Reception, purpose: int) -> str:
    roster = reception.roster
    if roster is None:
        return "see the log of trainer rank 0"
    reasons = [f"member {m}: {roster.reasons[m]}" for m in reception.plan.of(purpose) if m in roster.reasons]
    return "; ".join(reasons[:3]) or "none was computed"
