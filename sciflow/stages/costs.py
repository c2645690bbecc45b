"""What ensembles and models took to make, and what an answer takes, as their records and provenance say."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact


def member_seconds(ensemble: Artifact, members: np.ndarray, clock: str = "seconds") -> np.ndarray:
    """Times of members, s, as they were measured; NaN where none was recorded.

    Parameters
    ----------
    ensemble : Artifact
        Members that were computed, not imported.
    members : ndarray of int64, shape (member,)
        Which.
    clock : {"seconds", "cpu_seconds"}
        Wall time, or processor time of the first rank.

    Returns
    -------
    ndarray, shape (member,)
    """
    import numpy as np

    from sciflow.artifact.writer import committed

    records = committed(ensemble.path)
    return np.array([float(records.get(int(m), {}).get(clock, math.nan)) for m in members])


def first_ones(ensemble: Artifact, members: np.ndarray) -> np.ndarray:
    """Which members were the first that their process solved, bool, shape (member,).

    Parameters
    ----------
    ensemble : Artifact
        False for all where its records do not say.
    members : ndarray of int64, shape (member,)
        Which.
    """
    import numpy as np

    from sciflow.artifact.writer import committed

    records = committed(ensemble.path)
    return np.array([bool(records.get(int(m), {}).get("first", False)) for m in members], dtype=bool)


def queries_until(paid: float, query: float, full: float) -> float:
    """Queries that a model must answer before it has saved what it took.

    Parameters
    ----------
    paid : float
        What it took before its first answer, s.
    query, full : float
        Time of one answer, and of one simulation, s.

    Returns
    -------
    float
        A whole number; inf where an answer is not faster than a simulation.
    """
    return math.ceil(paid / (full - query)) if query < full and math.isfinite(paid) else math.inf


def solver_seconds(ensemble: Artifact) -> float:
    """Median wall time of one member of an ensemble, s; NaN where none was recorded.

    Parameters
    ----------
    ensemble : Artifact
        Members that were computed, not imported.
    """
    import statistics

    found = [r["seconds"] for r in _records(ensemble)]
    return float(statistics.median(found)) if found else math.nan


def ensemble_seconds(ensemble: Artifact) -> float:
    """Wall time of all members of an ensemble, as if they had been solved one after the other, s.

    Parameters
    ----------
    ensemble : Artifact
        Those that failed count as well; NaN where none was recorded.
    """
    from sciflow.artifact.writer import committed

    found = [r["seconds"] for r in committed(ensemble.path).values() if "seconds" in r]
    return float(sum(found)) if found else math.nan


def solver_source(ensemble: Artifact) -> str:
    """Where `solver_seconds` comes from, in words."""
    found = _records(ensemble)
    if not found:
        return "no times were recorded"
    problem = ensemble.attributes.get("problem", {})
    ranks = sorted({int(r.get("ranks", 1)) for r in found})
    parts = [
        f"{what} {component['component']}"
        for what in ("solver", "stepping")
        if (component := problem.get(what))
    ]
    how = f" with {' and '.join(parts)}" if parts else ""
    many = f"{'–'.join(map(str, sorted({ranks[0], ranks[-1]})))} rank{'s' if ranks[-1] > 1 else ''}"
    return (
        f"median of {len(found)} members of {problem.get('component', 'the ensemble')}{how} on {many}, timed "
        f"while the ensemble was made ({ensemble.path.name})"
    )


def _records(ensemble: Artifact) -> list[Mapping[str, Any]]:
    from sciflow.artifact.writer import committed

    return [r for r in committed(ensemble.path).values() if r.get("status") == 1]


def peak_bytes(model: Artifact) -> float:
    """Peak memory of the process that made a model, bytes; NaN where none was recorded.

    Parameters
    ----------
    model : Artifact
        Its provenance holds the figure: that of the job, where there was one.
    """
    usage = model.provenance.get("job", {}).get("usage")
    usage = usage or model.provenance.get("environment", {}).get("usage", {})
    return float(usage.get("process", {}).get("peak_rss_bytes", math.nan))


def ancestors(artifact: Artifact) -> Iterator[Artifact]:
    """An artifact, its inputs, theirs and so on, each once; those of ensembles and designs are left out.

    Parameters
    ----------
    artifact : Artifact
        Inputs are looked up where its provenance says; one that is no longer there is left out.
    """
    from sciflow.artifact import Artifact

    seen, left = set(), [artifact]
    while left:
        one = left.pop()
        if one.digest in seen:
            continue
        seen.add(one.digest)
        yield one
        if not _solved(one):
            paths = [Path(entry["path"]) for entry in one.provenance.get("inputs", {}).values()]
            left += [Artifact.open(path, verify=False) for path in paths if path.is_dir()]


def _solved(one: Artifact) -> bool:
    return one.schema.kind in ("ensemble", "design")


def _worked(one: Artifact) -> float:
    """Wall time of a stage, s: of its job where there was one, without the wait for it."""
    p = one.provenance
    return float(p.get("job", {}).get("seconds", p["end"] - p["start"]))


def offline_seconds(model: Artifact) -> float:
    """Wall time of all the stages that led from an ensemble to a model, without the ensemble's own, s.

    Parameters
    ----------
    model : Artifact
        See `ancestors`.
    """
    return sum(_worked(one) for one in ancestors(model) if not _solved(one))


def training_data_seconds(model: Artifact) -> float:
    """Time that all members took which a model learned from, s.

    Parameters
    ----------
    model : Artifact
        Its ensembles are looked up where the provenance says, also those of the stages before it. 0 where it
        learned while they were solved, which its own time holds then; NaN where they are no longer there.
    """
    if "online" in model.attributes:
        return 0.0
    found = [ensemble_seconds(one) for one in ancestors(model) if one.schema.kind == "ensemble"]
    return sum(found) if found else math.nan


def paid(model: Artifact, data: Artifact) -> dict[str, float]:
    """What a model took before its first answer, s: its own stages, and the solving of the ensemble.

    Parameters
    ----------
    model : Artifact
        Other ensembles that it learned from, such as coarse ones, are among its own stages. One that was
        trained while its solvers ran took them and the training together.
    data : Artifact
        The ensemble.

    Returns
    -------
    dict of str to float
        ``offline_seconds`` and ``ensemble_seconds``; NaN where nobody knows.
    """
    others = sum(_worked(one) for one in ancestors(model) if _solved(one) and one.digest != data.digest)
    own = offline_seconds(model) + others
    together = "online" in model.attributes
    return {"offline_seconds": own, "ensemble_seconds": 0.0 if together else ensemble_seconds(data)}


def answer_seconds(model: Artifact, ensemble: Artifact, members: np.ndarray, count: int = 20) -> float:
    """Median time of one prediction, s, one at a time and without the first one, which may compile.

    Parameters
    ----------
    model : Artifact
        What is asked.
    ensemble : Artifact
        With its inputs.
    members : ndarray of int64, shape (member,)
        Whose inputs are taken.
    count : int
        Answers at most.
    """
    import statistics

    from sciflow.stages.train import load_model, samples_of

    fitted = load_model(model)
    samples = samples_of(model, fitted.signature, ensemble, members[: count + 1])
    times = []
    for batch in samples.batches(1, seed=None):
        begin = time.perf_counter()
        fitted.predict(batch.x)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:] or times)
