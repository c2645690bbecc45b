"""When a reduced solution is believed, while the model changes and queries leave what it was trained for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciflow_rom.net.indicator import Calibration, calibrate

RECENT = 50
"""Full-order solutions, the last ones, by which the indicator is calibrated."""


def needed(coverage: float) -> int:
    """Full-order solutions from which on a bound with this coverage can be told; see `calibrate`."""
    return int(np.ceil(coverage / (1 - coverage) - 1e-9))


def calibration(
    trained: Calibration, pairs: Sequence[tuple[float, float]], coverage: float, margin: float
) -> Calibration:
    """The calibration of the indicator after some full-order solutions.

    Parameters
    ----------
    trained : Calibration
        That of the training, which holds where the queries are distributed as its members were.
    pairs : sequence of (float, float)
        Indicator and true error of the reduced answers to those queries that were solved in full, in
        their order.
    coverage : float
        In (0, 1).
    margin : float
        At least 1.

    Returns
    -------
    Calibration
        ``members`` counts the pairs that it was made of.

    Notes
    -----
    As long as there are fewer pairs than a bound needs (`needed`), the larger of the bound of the training
    and the worst ratio so far counts, times `margin`: a bound without a guarantee, and a deliberately
    careful one. Later the bound is that of split conformal prediction on the last `RECENT` pairs alone.
    Two things it presumes are met only approximately. The pairs are to be exchangeable with the queries
    to come: the model that a pair belongs to is an earlier, poorer one. And the pairs are to be drawn
    without regard to their ratio: queries are solved in full for a large indicator, not for a large
    ratio, and some, drawn by lot, for neither (`Enrich.audit`). The errors of those drawn by lot say
    what share of the answers meets the tolerance, whatever the indicator is worth.
    """
    usable = np.array([p for p in pairs if np.isfinite(p).all()][-RECENT:]).reshape(-1, 2)
    found = calibrate(usable[:, 0], usable[:, 1], coverage)
    if len(usable) >= needed(coverage) and np.isfinite(found.bound):
        return found
    ratios = usable[:, 1] / np.maximum(usable[:, 0], 1e-300)
    worst = max(float(ratios.max(initial=0.0)), trained.bound)
    factor = found.factor if len(usable) else trained.factor
    return Calibration(factor, margin * worst, coverage, len(usable))


def reason(upper: float, tolerance: float, *, outside: bool, calibrated: bool, audited: bool) -> str:
    """Why a query is solved in full; empty if its reduced solution is believed.

    Parameters
    ----------
    upper : float
        Bound of its relative error; NaN or infinite where there is none.
    tolerance : float
        Asked for.
    outside : bool
        Whether it lies outside of everything that was solved in full so far.
    calibrated : bool
        Whether the indicator was calibrated with such queries.
    audited : bool
        Whether it was drawn by lot.
    """
    if not upper <= tolerance:
        return "bound"
    if outside and not calibrated:
        return "outside"
    return "audit" if audited else ""
