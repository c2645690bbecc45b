"""Configurations of the buffer between running solvers and a trainer; the numerics are in `buffers`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow_online.buffers import Buffer


@dataclass(frozen=True)
class ReservoirPolicy(Component):
    """Which samples a bounded buffer keeps, and which ones a batch is made of.

    Attributes
    ----------
    capacity : int
        Largest number of samples; hold several members, because the time levels of one member are
        alike.
    threshold : int
        Samples that must be there before the first batch is drawn, at most `capacity`; 0 takes a
        tenth of the capacity (FIFO: 1). A batch that is larger counts instead.
    reuse : bool
        Whether a sample is drawn more than once.

    Raises
    ------
    Invalid
        If `capacity` or `threshold` has a value that it cannot have.
    """

    kind: ClassVar[str] = "reservoir"
    reuse: ClassVar[bool] = True
    capacity: int = 6000
    threshold: int = 0

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise Invalid(f"capacity must be at least 1, got {self.capacity}")
        if not 0 <= self.threshold <= self.capacity:
            raise Invalid(
                f"threshold must be between 0 and the capacity {self.capacity}, got {self.threshold}"
            )

    def open(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        rng: np.random.Generator,
        capacity: int | None = None,
    ) -> Buffer:
        """An empty buffer of this policy.

        Parameters
        ----------
        shapes : mapping of str to (tuple of int, str)
            Shape and dtype of one sample of each array.
        rng : Generator
            Decides every random choice of the buffer, which has a generator of its own.
        capacity : int, optional
            Instead of the configured one, for example the share of a rank; the threshold changes in
            proportion.

        Returns
        -------
        Buffer
            With its memory taken.

        Raises
        ------
        Invalid
            If `capacity` is below 1 or there is no array.
        """
        rows = self.capacity if capacity is None else capacity
        if rows < 1:
            raise Invalid(f"capacity must be at least 1, got {rows}")
        threshold = self.threshold or self._usual_threshold()
        return self._buffer(shapes, rng, rows, max(1, min(rows, threshold * rows // self.capacity)))

    def _usual_threshold(self) -> int:
        return self.capacity // 10

    @abstractmethod
    def _buffer(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        rng: np.random.Generator,
        capacity: int,
        threshold: int,
    ) -> Buffer:
        """The buffer, with everything resolved."""


@dataclass(frozen=True)
class FIFO(ReservoirPolicy):
    """First in, first out: each sample is used once, in the order of arrival.

    Batches then follow the time of the running simulations, which biases training: the baseline
    for comparisons.

    Attributes
    ----------
    capacity : int
        Largest number of samples.
    threshold : int
        Samples that must be there before a batch is drawn; 0 waits for a batch only.
    """

    name: ClassVar[str] = "fifo"
    reuse: ClassVar[bool] = False

    def _usual_threshold(self) -> int:
        return 1

    def _buffer(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        rng: np.random.Generator,
        capacity: int,
        threshold: int,
    ) -> Buffer:
        from sciflow_online.buffers import FIFOBuffer

        return FIFOBuffer(shapes, rng, capacity, threshold)


@dataclass(frozen=True)
class FIRO(ReservoirPolicy):
    """First in, random out: each sample is used once, chosen at random from those that wait.

    Attributes
    ----------
    capacity : int
        Largest number of samples.
    threshold : int
        Samples that must wait before a batch is drawn, so that there is something to mix; 0 takes a
        tenth of the capacity.
    """

    name: ClassVar[str] = "firo"
    reuse: ClassVar[bool] = False

    def _buffer(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        rng: np.random.Generator,
        capacity: int,
        threshold: int,
    ) -> Buffer:
        from sciflow_online.buffers import FIROBuffer

        return FIROBuffer(shapes, rng, capacity, threshold)


@dataclass(frozen=True)
class Reservoir(ReservoirPolicy):
    """Samples are drawn with replacement; a new one overwrites any that was used.

    Attributes
    ----------
    capacity : int
        Largest number of samples.
    threshold : int
        Samples that must be there before a batch is drawn; 0 takes a tenth of the capacity.

    References
    ----------
    L. Meyer, M. Schouler, R. A. Caulk, A. Ribes and B. Raffin, "High throughput training of deep
    surrogates from large ensemble runs", SC 2023 (the buffer named Reservoir).
    """

    name: ClassVar[str] = "reservoir"

    def _buffer(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        rng: np.random.Generator,
        capacity: int,
        threshold: int,
    ) -> Buffer:
        from sciflow_online.buffers import ReservoirBuffer

        return ReservoirBuffer(shapes, rng, capacity, threshold)


@dataclass(frozen=True)
class KeepHard(ReservoirPolicy):
    """As `Reservoir`, but a new sample overwrites the one that is learned best among a few.

    Batches stay uniform draws from what is there; what is hard stays longer.

    Attributes
    ----------
    capacity : int
        Largest number of samples.
    threshold : int
        Samples that must be there before a batch is drawn; 0 takes a tenth of the capacity.
    candidates : int
        Used samples, chosen at random, of which the one with the least loss when it was drawn last
        is overwritten; 1 is `Reservoir`.

    Raises
    ------
    Invalid
        If `candidates` has a value that it cannot have.
    """

    name: ClassVar[str] = "keep_hard"
    candidates: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise Invalid(f"candidates must be at least 1, got {self.candidates}")

    def _buffer(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        rng: np.random.Generator,
        capacity: int,
        threshold: int,
    ) -> Buffer:
        from sciflow_online.buffers import KeepHardBuffer

        return KeepHardBuffer(shapes, rng, capacity, threshold, self.candidates)
