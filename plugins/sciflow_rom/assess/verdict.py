"""The verdict: a dictionary of local reduced models, a single one, or none, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sciflow_rom.assess.efficiency import Errors
from sciflow_rom.assess.rates import Rates

RATIO = 0.8
"""A dictionary whose error is more than this part of that of a global basis of equal size is not worth it."""


@dataclass(frozen=True)
class Row:
    """One dictionary in the table.

    Attributes
    ----------
    clusters, modes : int
        K and n.
    error, ratio : float
        Predicted error, and its ratio to that of a global basis with n modes.
    equal : int
        Modes that a global basis needs for this error; -1 if it has none such.
    gain : float
        Cost of that global basis over that of the dictionary, building and all queries; a lower bound where
        `equal` is -1.
    break_even : float
        Queries from which on the dictionary is cheaper than that global basis: 0 at once, NaN never.
    against_full : float
        Queries from which on it is cheaper than the full model, the snapshots being there; NaN never or
        not known.
    """

    clusters: int
    modes: int
    error: float
    ratio: float
    equal: int
    gain: float
    break_even: float
    against_full: float


def assess(errors: Errors, rates: Rates, clusters: int, modes: int, queries: float) -> Row:
    """What one dictionary would reach and cost beside a global basis of equal error.

    Notes
    -----
    ``gain = T_1(n_1) / T_K(n)`` with ``T_K(n) = t_build(n) + queries (t_selector + t(n))`` and n_1 the
    fewest modes with which a global basis has the error that the dictionary has with n;
    ``break_even = (t_build(n) - t_build(n_1)) / (t(n_1) - t_selector - t(n))``. Building a dictionary
    includes training its selector.
    """
    candidate = int(np.flatnonzero(errors.clusters == clusters)[0])
    error, single = float(errors.error[candidate, modes]), float(errors.error[0, modes])
    equal = errors.fewest(error)
    other = len(errors.beyond) - 1 if equal is None else equal
    gain = rates.total(1, other, queries) / rates.total(clusters, modes, queries)
    more = rates.build(clusters, modes) - rates.build(1, other)
    saved = rates.query(1, other) - rates.query(clusters, modes)
    against = rates.full - rates.query(clusters, modes)
    return Row(
        clusters,
        modes,
        error,
        error / single if single > 0 else 1.0,
        -1 if equal is None else equal,
        gain,
        _break_even(more, saved),
        _break_even(rates.build(clusters, modes), against),
    )


def _break_even(more: float, saved: float) -> float:
    """Queries after which what is saved by each pays for what was spent more; NaN for never."""
    if more <= 0 and saved >= 0:
        return 0.0
    return more / saved if saved > 0 and more > 0 else float("nan")


@dataclass(frozen=True)
class Verdict:
    """What to build.

    Attributes
    ----------
    choice : {"rom_net", "global", "none"}
        A dictionary of local models, one reduced model, or no reduced model.
    clusters, modes : int
        Of what is to be built; 0 for nothing.
    gain : float
        Of the best dictionary over a global basis, both within the tolerance; NaN if there is none.
    words : str
        The verdict and its reasons.
    """

    choice: Literal["rom_net", "global", "none"]
    clusters: int
    modes: int
    gain: float
    words: str


def decide(errors: Errors, rates: Rates, tolerance: float, queries: float) -> Verdict:
    """Whether to build a dictionary of local models, a single reduced model, or none.

    Parameters
    ----------
    errors : Errors
        Predicted.
    rates : Rates
        Costs.
    tolerance : float
        Mean relative error that is wanted.
    queries : float
        How often the model will be asked.

    Notes
    -----
    The criterion is ours. A dictionary is proposed if its predicted error is within the tolerance, at most
    `RATIO` of that of a global basis with as many modes, its clusters (half of them) have at least twice as
    many snapshots as modes, and it is cheaper than the global basis within the tolerance, selector and
    building included. Whatever is proposed must be cheaper than the full model, where its cost is known.
    """
    single = errors.fewest(tolerance)
    local = _best_dictionary(errors, rates, tolerance, queries)
    if local is None and single is None:
        return Verdict("none", 0, 0, float("nan"), _too_inaccurate(errors, tolerance))
    gain = float("nan")
    if local is not None:
        other = len(errors.beyond) - 1 if single is None else single
        gain = rates.total(1, other, queries) / rates.total(*local, queries)
    if local is not None and (gain > 1 or single is None):
        choice: Literal["rom_net", "global"] = "rom_net"
        clusters, modes = local
    else:
        choice, clusters, modes = "global", 1, single or 0
    costly = _too_costly(rates, clusters, modes, queries)
    if costly:
        return Verdict("none", 0, 0, gain, costly)
    if choice == "rom_net":
        words = _local_words(errors, rates, clusters, modes, single, gain, tolerance, queries)
    else:
        words = _global_words(errors, modes, local, gain, tolerance, queries)
    return Verdict(choice, clusters, modes, gain, words)


def _best_dictionary(
    errors: Errors, rates: Rates, tolerance: float, queries: float
) -> tuple[int, int] | None:
    """The cheapest dictionary of several clusters that is within the tolerance and worth its name."""
    found: list[tuple[float, int, int]] = []
    for row, k in enumerate(errors.clusters.tolist()):
        good = np.flatnonzero(errors.error[row] <= tolerance)
        if k == 1 or not len(good):
            continue
        n = max(1, int(good[0]))
        if n <= errors.supported(row) and errors.error[row, n] <= RATIO * errors.error[0, n]:
            found.append((rates.total(k, n, queries), k, n))
    return min(found)[1:] if found else None


def _nearest(errors: Errors, tolerance: float) -> str:
    """The dictionary that comes nearest to the tolerance with enough members, in words; may be empty."""
    found = []
    for row, k in enumerate(errors.clusters.tolist()):
        if k > 1:
            n = errors.supported(row)
            found.append((float(errors.error[row, n]), k, n, row))
    if not found:
        return ""
    error, k, n, row = min(found)
    ratio = error / errors.error[0, n] if errors.error[0, n] > 0 else 1.0
    return (
        f"the best with two snapshots for each mode, K = {k} with n = {n}, has {_percent(error)}, "
        f"{ratio:.2g} times that of a global basis with as many modes"
    )


def _too_inaccurate(errors: Errors, tolerance: float) -> str:
    last = len(errors.beyond) - 1
    text = (
        f"Do not build a reduced model. A mean error of {_percent(tolerance)} is not in reach: a global "
        f"basis has {_percent(errors.beyond[-1])} with {last} modes"
    )
    nearest = _nearest(errors, tolerance)
    if nearest:
        text += f"; of the dictionaries, {nearest}"
    return text + "."


def _too_costly(rates: Rates, clusters: int, modes: int, queries: float) -> str:
    """Why the full model is cheaper; empty if it is not, or nobody knows."""
    if not np.isfinite(rates.full):
        return ""
    total, query = rates.total(clusters, modes, queries), rates.query(clusters, modes)
    if queries * rates.full > total:
        return ""
    text = (
        f"Do not build a reduced model. The full model answers {queries:g} queries in "
        f"{_seconds(queries * rates.full)}, building and asking one with K = {clusters} and n = {modes} "
        f"takes {_seconds(total)}"
    )
    if query >= rates.full:
        return f"{text}: a query takes {_seconds(query)}, a full solution {_seconds(rates.full)}."
    least = rates.build(clusters, modes) / (rates.full - query)
    return f"{text}; it pays from {least:.0f} queries on."


def _local_words(
    errors: Errors,
    rates: Rates,
    clusters: int,
    modes: int,
    single: int | None,
    gain: float,
    tolerance: float,
    queries: float,
) -> str:
    row = int(np.flatnonzero(errors.clusters == clusters)[0])
    text = (
        f"Build a ROM-net with K = {clusters} clusters and n = {modes} modes. Its predicted mean error is "
        f"{_percent(errors.error[row, modes])} (wanted: {_percent(tolerance)}), where a global basis with as "
        f"many modes has {_percent(errors.error[0, modes])}. "
    )
    if single is None:
        text += f"A global basis does not come to that error with {len(errors.beyond) - 1} modes"
    else:
        text += (
            f"A global basis needs {single} modes; for {queries:g} queries the ROM-net is {gain:.2g} times "
            "cheaper"
        )
        even = _break_even(
            rates.build(clusters, modes) - rates.build(1, single),
            rates.query(1, single) - rates.query(clusters, modes),
        )
        if even == 0:
            text += ", from the first query on"
        elif even > 0:
            text += f", and it pays from {even:.0f} queries on"
        else:
            text += ", because it is cheaper to build; a query takes longer"
    return text + _beside_full(rates, clusters, modes) + "."


def _beside_full(rates: Rates, clusters: int, modes: int) -> str:
    if not np.isfinite(rates.full):
        return ". The cost of a full solution is not known"
    query = rates.query(clusters, modes)
    return f". A query takes {_seconds(query)}, {rates.full / query:.3g} times less than a full solution"


def _global_words(
    errors: Errors, modes: int, local: tuple[int, int] | None, gain: float, tolerance: float, queries: float
) -> str:
    text = (
        f"A single global basis is enough: n = {modes} modes have a predicted mean error of "
        f"{_percent(errors.beyond[modes])} (wanted: {_percent(tolerance)}). "
    )
    if local is not None:
        return text + (
            f"Do not build a ROM-net: the best, K = {local[0]} with n = {local[1]}, costs {1 / gain:.2g} "
            f"times as much for {queries:g} queries."
        )
    nearest = _nearest(errors, tolerance)
    return text + (
        "Do not build a ROM-net: no dictionary comes to that error with two snapshots for each mode and at "
        f"most {RATIO:g} times the error of a global basis" + (f"; {nearest}." if nearest else ".")
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1 or unit == "us":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError
