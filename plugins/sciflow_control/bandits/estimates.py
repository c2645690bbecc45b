"""Sums of Tsallis-INF: importance-weighted costs, exact, and what every decision needs of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.bandits import exact

OK, CENSORED, FAILED, SHIFTED = 0, 2, 4, 6
"""Rows of the exact sums: cost over probability and (in the next row) one over probability of outcomes that
were complete, censored and failed; one over probability of outcomes of arms that had a baseline."""
RAREST = 2.0**-64
"""Smaller probabilities count as this."""
WORD = 32
"""Arms whose baselines are noted in one number."""

Sums = Mapping[str, Any]


def empty(arms: int) -> Sums:
    """No outcome yet.

    ``exact`` and ``weighted`` hold the rows above by arm, exactly and as floating-point numbers; ``pulls``
    complete, censored and failed outcomes by arm and ``outcomes`` over all arms; ``shifted`` in how many
    outcomes an arm had a baseline; ``total`` and ``least`` the sum and the smallest of complete costs.
    """
    return {
        "exact": np.zeros((7, arms, exact.LIMBS), dtype=np.int64),
        "weighted": np.zeros((7, arms)),
        "pulls": np.zeros((3, arms), dtype=np.int64),
        "outcomes": [0, 0, 0],
        "shifted": np.zeros(arms, dtype=np.int64),
        "total": np.zeros(exact.LIMBS, dtype=np.int64),
        "least": np.array([np.inf]),
    }


def combined(first: Sums, second: Sums) -> Sums:
    """Two pieces of knowledge as one."""
    found = {k: first[k] + second[k] for k in ("exact", "pulls", "shifted", "total")}
    found["weighted"] = exact.values(found["exact"])
    found["outcomes"] = [a + b for a, b in zip(first["outcomes"], second["outcomes"], strict=True)]
    found["least"] = np.minimum(first["least"], second["least"])
    return found


def loss(cost: float, log: bool) -> float:
    """A cost as it is added up, or its logarithm, above that of the smallest one."""
    inside = min(max(cost, exact.SMALLEST), exact.LARGEST)
    return math.log(inside / exact.SMALLEST) if log else inside


def noted(
    sums: Sums, arm: int, probability: float, price: float, status: str, features: Mapping[str, float]
) -> Sums:
    """The sums with one more outcome; the given ones stay as they are.

    Parameters
    ----------
    sums : mapping
        See `empty`.
    arm, probability : int, float
        Of the decision.
    price : float
        See `loss`.
    status : str
        See `sciflow_control.bandits.tuner.STATUSES`.
    features : mapping of str to float
        With the baselines, if there were any.
    """
    row = OK if status == "ok" else CENSORED if status == "censored" else FAILED
    weight = 1 / max(probability, RAREST)
    after = {**sums, "exact": sums["exact"].copy(), "weighted": sums["weighted"].copy()}
    pieces = [(row, price * weight), (row + 1, weight)]
    after["pulls"] = sums["pulls"].copy()
    after["pulls"][row // 2, arm] += 1
    after["outcomes"] = [n + (k == row // 2) for k, n in enumerate(sums["outcomes"])]
    if row == OK:
        after["total"] = sums["total"].copy()
        exact.add(after["total"], price)
        if price < sums["least"][0]:
            after["least"] = np.array([price])
    # Where a table of several logs has no value there is NaN.
    if not math.isnan(features.get("shifted_0", math.nan)):
        mask = unpacked(features, len(sums["shifted"]))
        after["shifted"] = sums["shifted"] + mask
        if mask[arm]:
            pieces.append((SHIFTED, weight))
    for at, piece in pieces:
        line = after["exact"][at, arm]
        exact.add(line, piece)
        after["weighted"][at, arm] = exact.value(line)
    return after


def estimates(sums: Sums, log: bool) -> np.ndarray:
    """Estimated total loss of every arm, shape (arm,), up to a common shift."""
    (complete, censored, failed), weighted = sums["outcomes"], sums["weighted"]
    least = float(sums["least"][0]) if complete else 0.0
    found = weighted[OK] - least * weighted[OK + 1]
    spent = exact.value(sums["total"]) - complete * least
    if censored or failed:
        cut, lost = _bounds(weighted, least, log)
        found = found + weighted[CENSORED + 1] * cut + weighted[FAILED + 1] * lost
        spent += float((sums["pulls"][1] * cut + sums["pulls"][2] * lost).sum())
    scale = spent / max(complete + censored + failed, 1)
    if scale <= 1e-12 * (scale + least):
        return np.zeros(len(found))
    estimated: np.ndarray = found / scale + (sums["shifted"] - weighted[SHIFTED])
    return estimated


def _bounds(weighted: np.ndarray, least: float, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Losses that a censored and a failed outcome of every arm count as, each of shape (arm,)."""
    # A weight is at least one, or there was no outcome.
    own, cut, lost = (weighted[r] / np.maximum(weighted[r + 1], 1) for r in (OK, CENSORED, FAILED))
    cut, lost = np.maximum(cut, own), np.maximum(lost, own.max())
    if log:
        return cut + 1 - least, lost + 1 - least
    return 2 * cut - least, 2 * lost - least


def packed(mask: np.ndarray) -> dict[str, float]:
    """Bits, shape (n,), as numbers of `WORD` bits each, ``shifted_0`` and so on."""
    raw = np.packbits(mask, bitorder="little").tobytes()
    size = WORD // 8
    return {
        f"shifted_{k // size}": float(int.from_bytes(raw[k : k + size], "little"))
        for k in range(0, len(raw), size)
    }


def unpacked(features: Mapping[str, float], count: int) -> np.ndarray:
    """The bits that `packed` noted, shape (count,).

    Raises
    ------
    Invalid
        If a number is missing or has none of `WORD` bits.
    """
    words = [features.get(f"shifted_{k}", math.nan) for k in range(-(-count // WORD))]
    wrong = [word for word in words if not (0 <= word < 2**WORD and word == int(word))]
    if wrong:
        raise Invalid(f"the baselines of {count} arms are {-(-count // WORD)} whole numbers, got {wrong[0]}")
    raw = b"".join(int(word).to_bytes(WORD // 8, "little") for word in words)
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count, bitorder="little")
