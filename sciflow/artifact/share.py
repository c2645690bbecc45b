"""Share: a rank's own range of a field, written by the rank itself; checksums are combined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact.checksum import with_checksum
from sciflow.artifact.disk import Disk
from sciflow.artifact.layout import Layout, whole_document
from sciflow.context import Comm, exchange
from sciflow.errors import Diverged, Failed, Invalid
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

_KINDS = {"Invalid": Invalid, "Diverged": Diverged}


@dataclass(frozen=True)
class Share:
    """This rank's consecutive range of a field, of any length; rank after rank they make the whole.

    Attributes
    ----------
    values : ndarray, shape (n,)
        In the solver's order (that of the ranks, and of the degrees of freedom on each).
    index : ndarray of int64, shape (n,), or None
        The position of each value in an order that does not depend on the number of ranks. It is
        stored once for each distinct partition and applied by the reader. None says that the
        solver's order is already that one.
    """

    values: np.ndarray
    index: np.ndarray | None = None


class Shares:
    """What the ranks that write a member together know of each other.

    Parameters
    ----------
    comm : Comm
        The ranks.
    data : Path
        The zarr group, for numberings.
    disk : Disk
        Durability.
    """

    def __init__(self, comm: Comm, data: Path, disk: Disk) -> None:
        self._comm, self._data, self._disk = comm, data, disk
        self._counts: dict[str, list[int]] = {}
        self._names: dict[str, str] = {}
        self.expected: Mapping[str, str] = {}

    def numberings(self) -> dict[str, str]:
        """Name of the numbering by field, where there is one."""
        # A member that only lacked its commit is not appended to again: it has those it began with.
        return {**self.expected, **self._names}

    def start(self, name: str, share: Share, layout: Layout) -> int:
        """First position of this rank's range; collective on the first level.

        Raises
        ------
        Invalid
            If the ranges do not make the field, or the positions are no permutation.
        Failed
            If a member is continued on another partition of the mesh.
        """
        if name not in self._counts:
            self._counts[name] = self._gather_counts(share, layout, name)
            if share.index is not None:
                self._number(name, share.index, layout)
        counts = self._counts[name]
        if share.values.shape != (counts[self._comm.rank],):
            raise Invalid(f"field {name!r}: the length of a rank's share changed with time")
        return sum(counts[: self._comm.rank])

    def _gather_counts(self, share: Share, layout: Layout, name: str) -> list[int]:
        size = 1
        for n in layout.sample_shape:
            size *= n
        counts = [int(row[0]) for row in self._everyone([share.values.size])]
        if sum(counts) != size:
            self._counts[name] = counts
            raise Invalid(f"field {name!r}: the ranks share {sum(counts)} values, the field has {size}")
        return counts

    def _number(self, name: str, index: np.ndarray, layout: Layout) -> None:
        import numpy as np

        mine = np.ascontiguousarray(index, dtype=np.int64)
        counts = self._counts[name]
        whole = mine
        if self._comm.size > 1:
            mpi: Any = self._comm
            whole = np.empty(sum(counts), dtype=np.int64)
            mpi.Allgatherv(mine, [whole, counts])
        if not np.array_equal(np.sort(whole), np.arange(len(whole))):
            raise Invalid(f"field {name!r}: the positions of the ranks' values are not each of 0..n-1 once")
        digest = hashlib.sha256(whole.astype("<i8").tobytes()).hexdigest()
        self._names[name] = f"numbering_{digest[:12]}"
        wanted = self.expected.get(name)
        if wanted is not None and wanted != self._names[name]:
            raise Failed(f"field {name!r}: the mesh is split otherwise than when the member was begun")
        if self._comm.rank == 0:
            axis = layout.field.axes[-1]
            field = Field((axis,), "1", "int64", f"canonical position of each stored {axis}")
            write_whole(self._data, self._names[name], whole, field, self._disk)

    def _everyone(self, numbers: Sequence[int]) -> list[list[int]]:
        """Every rank's integers, on every rank; all give equally many."""
        import numpy as np

        if self._comm.size == 1:
            return [list(numbers)]
        mine = np.array(numbers, dtype=np.int64)
        everyone = np.empty((self._comm.size, len(mine)), dtype=np.int64)
        mpi: Any = self._comm
        mpi.Allgather(mine, everyone)
        rows: list[list[int]] = everyone.tolist()
        return rows

    def common_levels(self, levels: Sequence[int]) -> list[int]:
        """Levels (at most two) that all ranks have a restart point for."""
        rows = self._everyone(([*levels, -1, -1])[:2])
        shared = set(rows[0])
        for row in rows:
            shared &= set(row)
        return sorted(shared - {-1})

    def agree(
        self, problem: Exception | None, sums: Sequence[int], names: Sequence[str]
    ) -> list[list[tuple[int, int]]]:
        """Let all ranks know of a failure, and of each other's checksums; collective.

        Returns
        -------
        list of list of tuple of int
            For each of the fields `names`, for each rank, checksum and number of values.

        Raises
        ------
        Exception
            This rank's own problem, or that of the first rank that has one, in its words.
        """
        if self._comm.size == 1:
            if problem is not None:
                raise problem
            return [[(s, self._counts[n][0])] for s, n in zip(sums, names, strict=True)]
        padded = [*sums, *[0] * (len(names) - len(sums))]
        rows = self._everyone([problem is not None, *padded])
        if any(row[0] for row in rows):
            text = "" if problem is None else f"{type(problem).__name__}: {problem}"
            reasons = exchange(self._comm, text)
            if problem is not None:
                raise problem
            kind, _, words = next(r for r in reasons if r).partition(": ")
            raise _KINDS.get(kind, Failed)(words)
        return [[(row[1 + i], self._counts[n][r]) for r, row in enumerate(rows)] for i, n in enumerate(names)]


def write_whole(
    data: Path, name: str, values: np.ndarray, field: Field, disk: Disk, *, sync: bool = True
) -> None:
    """Write an array of any shape in one piece; writing it again from another process does no harm."""
    import numpy as np

    folder = data / name
    array = np.asarray(values, dtype=np.dtype(field.dtype).newbyteorder("<"), order="C")
    document = json.dumps(whole_document(name, field, array.shape), indent=1).encode()
    if array.size:
        disk.replace(folder / ".".join(["c", *["0"] * array.ndim]), with_checksum(array.tobytes()), sync=sync)
    disk.replace(folder / "zarr.json", document, sync=sync)
