"""Samples: the one seam between storage and training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow.errors import NotFound, nearest
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Signature:
    """What a surrogate maps from and to.

    Attributes
    ----------
    inputs, outputs : mapping of str to Field
        By the name used in a batch; axes without ``member``, and without ``time`` where one time
        level was selected. A scalar parameter has no axes.
    coordinates : mapping of str to ndarray, shape (n_axis,)
        Of every axis that occurs.
    periodic : tuple of str
        Axes along which the domain is periodic.
    """

    inputs: Mapping[str, Field]
    outputs: Mapping[str, Field]
    coordinates: Mapping[str, np.ndarray]
    periodic: tuple[str, ...] = ()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample of an output or input; of the output where a name is both.

        Raises
        ------
        NotFound
            If there is none of this name.
        """
        field = self.outputs.get(name) or self.inputs.get(name)
        if field is None:
            raise NotFound(f"no input or output {name!r}. {nearest(name, [*self.inputs, *self.outputs])}")
        return self.shape_of(field)

    def shape_of(self, field: Field) -> tuple[int, ...]:
        """Shape of one sample of a field with axes that occur here."""
        return tuple(len(self.coordinates[axis]) for axis in field.axes)

    def to_json(self) -> dict[str, Any]:
        """The signature as plain JSON types."""
        return {
            # Lists: the order of the fields is that of a network's channels, and JSON objects have none.
            "inputs": [[k, f.to_json()] for k, f in self.inputs.items()],
            "outputs": [[k, f.to_json()] for k, f in self.outputs.items()],
            "coordinates": {k: [float(c) for c in v] for k, v in self.coordinates.items()},
            "periodic": list(self.periodic),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """Read what `to_json` wrote."""
        import numpy as np

        return cls(
            {k: Field.from_json(f) for k, f in document["inputs"]},
            {k: Field.from_json(f) for k, f in document["outputs"]},
            {k: np.asarray(v) for k, v in document["coordinates"].items()},
            tuple(document["periodic"]),
        )


@dataclass(frozen=True)
class Batch:
    """Some samples: named arrays with a leading ``batch`` axis, each in its field's unit.

    Attributes
    ----------
    x, y : mapping of str to ndarray, shape (batch, ...)
        Inputs and outputs, as in the `Signature`.
    members : ndarray of int64, shape (batch,), or None
        Where the samples come from, to be named in messages.
    levels : ndarray of int64, shape (batch, 2), or None
        First time level of the inputs and of the outputs.
    times : ndarray of float, shape (batch, level out), or None
        Of every output level, in the unit of ``"time"``; where that is an input.
    """

    x: Mapping[str, np.ndarray]
    y: Mapping[str, np.ndarray]
    members: np.ndarray | None = None
    levels: np.ndarray | None = None
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.y.values())))


class Samples(ABC):
    """Where training batches come from: a stored ensemble, or a reservoir fed by running solvers.

    A live source draws its batches from what has come so far: ``batches(size, seed=None)`` yields each
    sample that is there now, once and without waiting, which is how scales are computed;
    ``batches(size, seed=...)`` waits for more.

    Where several ranks train together (``ctx.comm``), each has samples of its own, and all of them
    have equally many batches in every epoch and equal lengths; a batch may be smaller on one rank, or
    empty. The ranks meet after each batch, so one that had fewer would leave the others waiting.

    Attributes
    ----------
    signature : Signature
        What the samples map from and to.
    resumable : bool
        Whether an epoch can begin amid its batches and give the same ones as before; a live source
        cannot.
    """

    signature: Signature
    resumable: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """How many samples one epoch holds."""

    @abstractmethod
    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """One epoch of batches.

        Parameters
        ----------
        size : int
            Samples per batch; the last one may be smaller.
        seed : int or None
            Shuffles the samples as a function of seed and epoch; ``None`` keeps their order.
        epoch : int
            Number of the epoch.
        start : int
            Skip so many batches, to go on amid an epoch; only where the samples are `resumable`.
        """

    def feedback(self, losses: np.ndarray) -> None:  # noqa: B027  most sources need not know
        """Told after each training step the loss of each sample of the batch that was given last.

        A reservoir keeps what is still hard to predict; nothing happens unless a subclass wants it.

        Parameters
        ----------
        losses : ndarray, shape (batch,)
            As the surrogate minimises it, in the order of the batch.
        """
