"""A set of rows of an array that any of them can be drawn from and taken out of at once."""

from __future__ import annotations

import numpy as np


class RowSet:
    """Some of the rows 0..capacity-1, in an arbitrary order, with every change in constant time.

    A removed row is replaced by the last one.

    Parameters
    ----------
    capacity : int
        Rows there are.
    """

    def __init__(self, capacity: int) -> None:
        self._items = np.zeros(capacity, np.int64)
        self._place = np.full(capacity, -1, np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def items(self) -> np.ndarray:
        """The rows, shape (n,); a view."""
        return self._items[: self._size]

    def add(self, row: int) -> None:
        """Add a row that is not there."""
        self._items[self._size] = row
        self._place[row] = self._size
        self._size += 1

    def discard(self, row: int) -> None:
        """Remove a row that is there."""
        self._size -= 1
        place, last = self._place[row], self._items[self._size]
        self._items[place] = last
        self._place[last] = place
        self._place[row] = -1

    def extend(self, rows: np.ndarray) -> None:
        """Add distinct rows that are not there, shape (n,)."""
        end = self._size + len(rows)
        self._items[self._size : end] = rows
        self._place[rows] = np.arange(self._size, end)
        self._size = end

    def remove(self, rows: np.ndarray) -> None:
        """Remove distinct rows that are there, shape (n,)."""
        holes = self._place[rows]
        self._place[rows] = -1
        size = self._size - len(rows)
        holes = holes[holes < size]
        tail = self._items[size : self._size]
        kept = tail[self._place[tail] >= 0]
        self._items[holes] = kept
        self._place[kept] = holes
        self._size = size

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Whether each row is there, shape (n,)."""
        return np.asarray(self._place[rows] >= 0)

    def clear(self) -> None:
        """Remove all rows."""
        self._place[self.items] = -1
        self._size = 0
