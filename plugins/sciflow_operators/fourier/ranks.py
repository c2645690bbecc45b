"""Ranks of factorised weights, from a fraction of the dense parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sciflow.errors import Invalid

KINDS = ("tucker", "cp", "tt")
"""Factorisations that there are."""


def sizes(kind: str, shape: Sequence[int], ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of the arrays of a factorisation.

    Parameters
    ----------
    kind : {"tucker", "cp", "tt"}
        Which.
    shape : sequence of int
        Of the full array.
    ranks : sequence of int
        One for each axis (Tucker), one (CP), or one between each pair of neighbouring axes (TT).

    Returns
    -------
    list of tuple of int
        The core and a factor for each axis (Tucker), the weights of the terms and a factor for each axis
        (CP), or a core for each axis (TT).
    """
    if kind == "tucker":
        return [tuple(ranks), *zip(shape, ranks, strict=True)]
    if kind == "cp":
        return [(ranks[0],), *((n, ranks[0]) for n in shape)]
    bonds = [1, *ranks, 1]
    return [(a, n, b) for a, n, b in zip(bonds, shape, bonds[1:], strict=False)]


def parameters(kind: str, shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Numbers that a factorisation holds."""
    return sum(math.prod(s) for s in sizes(kind, shape, ranks))


def largest(kind: str, shape: Sequence[int]) -> list[int]:
    """Ranks beyond which more numbers represent nothing more; for CP all numbers of the array."""
    if kind == "tucker":
        return list(shape)
    if kind == "cp":
        return [math.prod(shape)]
    return [min(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]


def choose(kind: str, shape: Sequence[int], rank: float | Sequence[int]) -> list[int]:
    """Ranks for a fraction of the dense parameters, or the given ones, checked.

    Parameters
    ----------
    kind : {"tucker", "cp", "tt"}
        Factorisation.
    shape : sequence of int
        Of the full array.
    rank : float or sequence of int
        Largest fraction of the parameters of the full array; or the ranks themselves, see `sizes`.

    Returns
    -------
    list of int

    Raises
    ------
    Invalid
        If the factorisation is unknown, the fraction is not in (0, 1], or ranks do not fit the array.
    """
    if kind not in KINDS:
        raise Invalid(f"there is no factorisation {kind!r}; choose dense, {', '.join(KINDS)}")
    most = largest(kind, shape)
    if isinstance(rank, Sequence):
        if kind == "tt":  # of use or not, others make them: a bond as large as the largest
            most = [max(most)] * len(most)
        wrong = len(rank) != len(most) or any(not 1 <= r <= m for r, m in zip(rank, most, strict=False))
        if wrong:
            what = f"{len(most)} ranks of at most {tuple(most)}"
            raise Invalid(f"{kind} of a weight of shape {tuple(shape)} takes {what}, got {tuple(rank)}")
        return list(rank)
    if not 0 < rank <= 1:
        raise Invalid(f"rank must be a fraction of the dense parameters in (0, 1], got {rank}")
    return _within(kind, shape, rank * math.prod(shape), most)


def _within(kind: str, shape: Sequence[int], budget: float, most: Sequence[int]) -> list[int]:
    """The largest ranks in proportion to `most` whose parameters stay within the budget; at least 1."""
    if kind == "cp":
        return [max(1, int(budget // (1 + sum(shape))))]

    def ranks(part: float) -> list[int]:
        # All bonds of a train alike, up to what each can use; the axes of a core in proportion.
        whole = [max(most)] * len(most) if kind == "tt" else most
        return [min(m, max(1, round(part * w))) for m, w in zip(most, whole, strict=True)]

    low, high = 0.0, 1.0
    if parameters(kind, shape, ranks(high)) <= budget:
        return ranks(high)
    for _ in range(40):
        middle = (low + high) / 2
        fits = parameters(kind, shape, ranks(middle)) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return ranks(low)
