"""Random numbers that are a function of a seed and a counter, so that a state holds two integers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK = 1024


@lru_cache(maxsize=64)
def _uniforms(seed: int, block: int) -> np.ndarray:
    return np.random.default_rng([seed, block, 0]).random(BLOCK)


@lru_cache(maxsize=64)
def _normals(seed: int, block: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, block, 1]).standard_normal((BLOCK, count))


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1); equal arguments, equal number."""
    return float(_uniforms(seed, index // BLOCK)[index % BLOCK])


def normals(seed: int, index: int, count: int) -> np.ndarray:
    """Independent standard normal numbers, shape (count,); not to be written into."""
    row: np.ndarray = _normals(seed, index // BLOCK, count)[index % BLOCK]
    return row
