"""What the tuners with one feature share."""

from __future__ import annotations

import math

from sciflow.errors import Invalid

SMALLEST, LARGEST = 1e-30, 1e30
"""Costs beyond count as these where their logarithm is taken."""


def check_range(name: str, feature: str, low: float, high: float, *, positive: bool = False) -> None:
    """Refuse a range of a feature that is none.

    Raises
    ------
    Invalid
        If an end or the width is not finite, they are not in order, or must be positive and are not.
    """
    if not (-math.inf < low < high < math.inf and high - low < math.inf):
        raise Invalid(f"{name}: the range of {feature!r} must be finite with low < high, got {low} to {high}")
    if positive and low <= 0:
        raise Invalid(f"{name}: the range of {feature!r} must be positive, got {low} to {high}")


def position(value: float, low: float, high: float) -> float:
    """Where a value lies in a range, from -1 at the lower end to 1 at the upper one."""
    return (2 * value - low - high) / (high - low)


def logarithm(cost: float) -> float:
    """Of a cost."""
    return math.log(min(max(cost, SMALLEST), LARGEST))


def due(count: int) -> bool:
    """Whether a belief is made anew after so many outcomes.

    That is after every one up to 31, every second up to 63, then every fourth, eighth and sixteenth.
    """
    return count % min(1 << max(0, count.bit_length() - 5), 16) == 0
