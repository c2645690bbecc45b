"""The same batch again and again, to time a training step without a source of data."""

from __future__ import annotations

from collections.abc import Iterator

from sciflow import Batch, Samples, Signature


class Endless(Samples):
    """One batch, so many times an epoch."""

    def __init__(self, signature: Signature, batch: Batch, times: int) -> None:
        self.signature, self._batch, self._times = signature, batch, times

    def __len__(self) -> int:
        return self._times * len(self._batch)

    def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        for _ in range(self._times if seed is not None else 1):
            yield self._batch
