"""What a propagation found: estimates with intervals, costs, and the same by full solves alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.stages import allocation, multifidelity
from sciflow.stages.multifidelity import Correction

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.stages.propagating import Propagation

KEPT = 40
"""Points of the curve of the interval over the cost, at most."""


def summary(
    done: Propagation, correction: Correction, replaced: np.ndarray, solved: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Everything that a report says.

    Parameters
    ----------
    done : Propagation
        With all its full solves.
    correction : Correction
        Of the queries that were drawn by lot.
    replaced : ndarray, shape (query,)
        Answers, those in doubt replaced; NaN where there is none.
    solved : ndarray of int, shape (doubtful,)
        Queries that were replaced.

    Returns
    -------
    dict
        Plain JSON.
    dict of str to ndarray, shape (solve,)
        Half widths of the intervals of the mean over the full solves that were drawn.
    """
    level, share = done.stage.coverage, done.stage.quantity.probability
    parts = () if share else done.stage.quantiles
    full, cheap = done.full_seconds, done.cheap_seconds
    cost = len(done.order) * full + len(done.points) * cheap
    spread = correction.spread()
    mean = correction.mean(share=share)
    equal = cost / full
    rho = correction.correlation(share=share)
    costs = _costs(done, correction, cost, rho)
    about: dict[str, Any] = {
        "queries": len(done.points),
        "solved": len(done.order),
        "budget": done.limit,
        "drawn": len(correction.full),
        "doubtful": int((done.answers.reason > 0).sum()),
        "replaced": len(solved),
        "unanswered": int((~np.isfinite(replaced)).sum()),
        "failed": len(done.failed),
        "coverage": level,
        "tolerance": done.stage.tolerance,
        "correlation": rho,
        "spread": spread,
        "replaced_estimate": _replaced(done, replaced, solved, parts),
        "corrected_estimate": {
            "mean": mean.to_json(),
            "variance": correction.variance(share=share).to_json(),
            "quantiles": [correction.quantile(q).to_json() for q in parts],
        },
        "quantiles": list(parts),
        "plain_error": spread / math.sqrt(equal),
        "costs": costs,
        "speedup": _gain(spread, equal, mean.error),
    }
    trained = costs["training"]
    if trained is not None:
        about["speedup_with_training"] = _gain(spread, (cost + trained) / full, mean.error)
    return about, _path(done, correction, spread, share)


def _replaced(
    done: Propagation, values: np.ndarray, solved: np.ndarray, parts: Sequence[float]
) -> dict[str, Any]:
    """The estimate from answers alone; ``bias`` bounds what they are off by on average, if doubts hold."""
    there = values[np.isfinite(values)]
    if len(there) < 2:
        return {}
    change = done.answers.change.copy()
    change[solved[np.isfinite(done.full[solved])]] = 0.0
    bias = float(change[np.isfinite(values)].mean())
    level, share = done.stage.coverage, done.stage.quantity.probability
    return {
        "mean": multifidelity.plain_mean(there, level, share=share).to_json(),
        "variance": float(there.var(ddof=1)),
        "quantiles": [q.to_json() for q in multifidelity.plain_quantiles(there, parts, level)],
        "bias": _finite(bias),
    }


def _costs(done: Propagation, correction: Correction, cost: float, rho: float) -> dict[str, Any]:
    """What was spent, in seconds or in answers, and from how many full solves on the model pays."""
    full, cheap = done.full_seconds, done.cheap_seconds
    ratio = allocation.best_ratio(full, cheap, rho)
    gain = allocation.variance_ratio(full, cheap, rho)
    training = None if done.stage.cost else training_seconds(done.inputs["model"], done.training)
    pays = None
    if training is not None and gain < 1:
        pays = _finite(math.ceil(training / (full * (1 - gain))))
    best = allocation.allocation(cost, full, cheap, rho)
    return {
        "unit": "answers" if done.stage.cost else "s",
        "full": full,
        "cheap": cheap,
        "all": cost,
        "equal_solves": cost / full,
        "training": training,
        "best_ratio": _finite(ratio),
        "ratio": len(done.points) / len(correction.full),
        "best_solves": best[0],
        "best_queries": best[1],
        "best_speedup": _finite(1 / max(gain, 1e-300)),
        "break_even_solves": pays,
    }


def training_seconds(model: Artifact, training: Artifact | None) -> float | None:
    """Wall time of all stages that led to a model, and of the members it was trained with, s.

    Parameters
    ----------
    model : Artifact
        The fitted model.
    training : Artifact or None
        Its ensemble; None where it is no longer there.

    Returns
    -------
    float or None
        None where the ensemble is not there or was imported.
    """
    from sciflow.stages.costs import paid

    if training is None or not Path(training.path).is_dir():
        return None
    return _finite(sum(paid(model, training).values()))


def _path(done: Propagation, correction: Correction, spread: float, share: bool) -> dict[str, np.ndarray]:
    """Half widths after fewer of the solves that were drawn, beside those of full solves alone."""
    count = len(correction.full)
    counts = np.unique(np.geomspace(min(5, count), count, KEPT).astype(int))
    extra = len(done.order) - count
    full, cheap = done.full_seconds, done.cheap_seconds
    found = [correction.first(int(k)).mean(share=share) for k in counts]
    cost = (counts + extra) * full + len(done.points) * cheap
    factor = np.array([multifidelity.student(done.stage.coverage, max(int(k) - 1, 1)) for k in cost / full])
    return {
        "solves": counts.astype(np.float64),
        "cost": cost,
        "mean": np.array([e.value for e in found]),
        "half": np.array([e.half for e in found]),
        "plain_half": factor * spread / np.sqrt(np.maximum(cost / full, 1.0)),
    }


def _gain(spread: float, solves: float, error: float) -> float | None:
    """Variance of the mean of so many full solves over that of the mean that was found."""
    return spread**2 / solves / error**2 if spread > 0 and error > 0 else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
