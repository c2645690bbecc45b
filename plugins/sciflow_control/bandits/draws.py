"""Random numbers that are a function of a seed and a counter, so that a state holds two integers.

They are drawn in blocks that are kept for a while: a number costs well below a microsecond, and the blocks
of some hundred tuners at work at once take a few megabytes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK = 128
"""Numbers drawn at once; another value, other numbers."""


@lru_cache(maxsize=256)
def _uniforms(seed: int, block: int) -> list[float]:
    values: list[float] = np.random.default_rng([seed, block, 0]).random(BLOCK).tolist()
    return values


@lru_cache(maxsize=256)
def _normals(seed: int, block: int, count: int) -> tuple[np.ndarray, ...]:
    values = np.random.default_rng([seed, block, 1]).standard_normal((BLOCK, count))
    values.flags.writeable = False
    return tuple(values)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1); equal arguments, equal number."""
    return _uniforms(seed, index // BLOCK)[index % BLOCK]


def normals(seed: int, index: int, count: int) -> np.ndarray:
    """Independent standard normal numbers, shape (count,); cannot be written into."""
    return _normals(seed, index // BLOCK, count)[index % BLOCK]
