"""Sums of positive floating-point numbers that do not depend on the order, whatever their size.

A number is cut into integers at fixed places of the binary scale, and these are added: no rounding, so the
sum is associative and commutative to the bit. An int64 takes two thousand million such pieces.
"""

from __future__ import annotations

import math

import numpy as np

LIMBS, BITS, LOWEST = 11, 32, -160
"""Pieces of a sum, bits of each, and the power of two that the lowest bit is worth."""
SMALLEST, LARGEST = 1e-30, 1e30
"""Factors of the numbers that are added should lie between; smaller ones lose digits."""
_MASK = 2**BITS - 1
_WORTH = [2.0 ** (LOWEST + BITS * k) for k in range(LIMBS)]


def add(row: np.ndarray, value: float) -> None:
    """Add a number to a sum, in place.

    Parameters
    ----------
    row : ndarray, shape (LIMBS,)
        int64.
    value : float
        In [0, 2**180]; digits below 2**-160 are cut off.
    """
    fraction, exponent = math.frexp(value)
    digits, place = int(fraction * 2**53), exponent - 53 - LOWEST
    if place < 0:
        digits, place = digits >> -place, 0
    limb, shift = divmod(place, BITS)
    digits <<= shift
    while digits:
        row[limb] += digits & _MASK
        digits >>= BITS
        limb += 1


def values(rows: np.ndarray) -> np.ndarray:
    """The sums as floating-point numbers.

    Parameters
    ----------
    rows : ndarray, shape (..., LIMBS)
        int64.

    Returns
    -------
    ndarray, shape (...)
        Within a few units in the last place.
    """
    # One place after the other: the same bits as `value`.
    found: np.ndarray = np.zeros(rows.shape[:-1])
    for k, worth in enumerate(_WORTH):
        found = found + rows[..., k] * worth
    return found


def value(row: np.ndarray) -> float:
    """`values` of a single sum, shape (LIMBS,)."""
    found = 0.0
    for limb, worth in zip(row.tolist(), _WORTH, strict=True):
        found += limb * worth
    return found
