"""Memory that serves again when nobody looks at it any more."""

from __future__ import annotations

import sys

import numpy as np

KEPT = 64
"""Buffers of one size that are kept."""


class Pool:
    """Buffers of bytes that are taken back by themselves.

    A new large array costs more in page faults than the message that it is for.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, list[np.ndarray]] = {}

    def get(self, size: int) -> np.ndarray:
        """A buffer of `size` bytes that nothing else refers to, with any content, shape (size,)."""
        known = self._buffers.setdefault(size, [])
        for i in range(len(known)):
            # Of the list, and of the call itself; a view of it somewhere would be one more.
            if sys.getrefcount(known[i]) == 2:
                return known[i]
        made = np.empty(size, dtype=np.uint8)
        if len(known) < KEPT:
            known.append(made)
        return made

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with any content that nothing else refers to."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self.get(size).view(dtype).reshape(shape)
