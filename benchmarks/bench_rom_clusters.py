"""Clusters for reduced models: errors beside usual clusterings, the criterion's predictions, k-medoids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.figure import Figure, NotRun
from benchmarks.rom_problems import PROBLEMS

if TYPE_CHECKING:
    from sciflow_rom.clusters.clusterers import Clusterer, Dissimilarity
    from sciflow_rom.coordinates import Coordinates

SPLITS, TRAIN, MODES, QUERIES = 3, 300, 5, 100_000
# Error of k-means of the parameters, and of the snapshots as they are, over that of k-medoids by the sine.
PARAMETERS = {"advdiff": 2.5, "burgers": 2.2, "heat": 1.4, "helmholtz": 1.08, "allencahn": 1.05}
SNAPSHOTS = {"advdiff": 8.0, "heat": 4.0, "helmholtz": 1.4, "burgers": 1.1}


@cache
def splits(name: str) -> list[tuple[Coordinates, Coordinates]]:
    """Training and unseen members of a problem, three times."""
    family = PROBLEMS[name]()
    whole, count = family.coordinates(), len(family.points)
    found = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(count)
        found.append((whole.of(order[:TRAIN]), whole.of(order[TRAIN:])))
    return found


def error(
    known: Coordinates, new: Coordinates, clusterer: Clusterer, measure: Dissimilarity, seed: int
) -> float:
    """Mean relative projection error of unseen members on the bases of their clusters."""
    from sciflow_rom.bases import dictionary_curves, local_bases

    found = clusterer.fit(known, measure, np.random.default_rng(seed))
    labels = clusterer.assign(found, known, measure, new)
    bases = local_bases(known, [found.members(k) for k in range(found.clusters)], modes=MODES)
    return float(dictionary_curves(new, bases, labels, MODES)[MODES].mean())


def errors(name: str, clusterer: Clusterer, measure: Dissimilarity) -> np.ndarray:
    """Of all splits."""
    return np.array([error(*parts, clusterer, measure, seed) for seed, parts in enumerate(splits(name))])


def bench_errors() -> Iterator[Figure]:
    """Twenty clusters with five modes: errors of other clusterings over that of k-medoids by the sine."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise NotRun("scikit-learn is missing: pip install 'sciflow[rom]'") from None
    from sciflow_rom.clusters.clusterers import VQPCA, Euclidean, KMeans, KMedoids, Parameters, Sine

    others: list[tuple[str, dict[str, float], Clusterer, Dissimilarity]] = [
        ("k_means_parameters", PARAMETERS, KMeans(20, of="parameters"), Parameters()),
        ("k_means_snapshots", SNAPSHOTS, KMeans(20, of="snapshots"), Euclidean()),
    ]
    for name in PROBLEMS:
        ours = errors(name, KMedoids(20), Sine())
        single = errors(name, KMedoids(1), Sine()).mean()
        directions = errors(name, KMeans(20, of="normalised"), Sine()).mean()
        refined = errors(name, VQPCA(KMedoids(20), modes=MODES), Sine()).mean()
        for label, targets, clusterer, measure in others:
            if name not in targets:
                continue
            theirs = errors(name, clusterer, measure)
            note = (
                f"splits {', '.join(f'{r:.2f}' for r in theirs / ours)}; error {ours.mean():.4f}, "
                f"one basis {single:.4f}, k-means of unit vectors {directions:.4f}, refined {refined:.4f}"
            )
            yield Figure(
                f"{name}_{label}_to_sine", theirs.mean() / ours.mean(), targets[name], "x", ">=", note
            )


def bench_criterion() -> Iterator[Figure]:
    """Errors predicted from 300 members beside those measured on unseen ones; the verdicts."""
    from sciflow_rom.assess.criterion import Costs
    from sciflow_rom.assess.efficiency import predict_errors
    from sciflow_rom.assess.rates import resolve
    from sciflow_rom.assess.verdict import decide
    from sciflow_rom.clusters.clusterers import KMedoids, Sine

    rates = resolve(Costs(), TRAIN, 1681, None)
    for name in PROBLEMS:
        begin = time.perf_counter()
        made = [
            predict_errors(known, Sine(), (10, 20), 20, seed=s) for s, (known, _) in enumerate(splits(name))
        ]
        seconds = (time.perf_counter() - begin) / SPLITS
        predicted = np.array([m.error[:, MODES] for m in made]).T
        measured = np.array([errors(name, KMedoids(k), Sine()) for k in (1, 10, 20)])
        for row, k in enumerate((10, 20), 1):
            for label, ours, theirs in (
                ("error", predicted[row], measured[row]),
                ("gain", predicted[0] / predicted[row], measured[0] / measured[row]),
            ):
                ratio = float(ours.mean() / theirs.mean())
                note = (
                    f"predicted {ours.mean():.3g}, measured {theirs.mean():.3g}; predicted over measured for "
                    f"each split {', '.join(f'{r:.2f}' for r in ours / theirs)}; {seconds:.1f} s"
                )
                yield Figure(f"{label}_{name}_{k}_off", 100 * abs(ratio - 1), 15, " %", "<=", note)
        verdicts = [decide(m, rates, 0.05, QUERIES) for m in made]
        agreed = sum(v.choice == "rom_net" for v in verdicts)
        if name == "allencahn":
            yield Figure("allencahn_proposed", agreed, 0, " of 3", "<=", verdicts[0].words)
        elif name in ("advdiff", "burgers", "heat"):
            yield Figure(f"{name}_proposed", agreed, 3, " of 3", ">=", verdicts[0].words)


def bench_medoids() -> Iterator[Figure]:
    """FasterPAM beside classic PAM, and its time; one thread."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise NotRun("threadpoolctl is missing: pip install threadpoolctl") from None
    from sciflow_rom.clusters.dissimilarity import distance
    from sciflow_rom.clusters.medoids import faster_pam

    with threadpool_limits(1):
        ratios, singles, speeds = [], [], []
        for seed in range(3):
            x = np.random.default_rng(seed).random((5, 1000))
            matrix = distance(x, x)
            begin = time.perf_counter()
            classic = pam(matrix, 20)
            middle = time.perf_counter()
            one = faster_pam(matrix, 20, np.random.default_rng(seed), restarts=1)
            speeds.append((middle - begin) / (time.perf_counter() - middle))
            singles.append(one.loss / classic)
            ratios.append(faster_pam(matrix, 20, np.random.default_rng(seed)).loss / classic)
        note = f"n = 1000, K = 20, five starts; {', '.join(f'{r:.4f}' for r in ratios)}"
        yield Figure("loss_to_pam", float(np.mean(ratios)), 1.01, "x", "<=", note)
        note = (
            f"one start, its loss {np.mean(singles):.4f} of that of PAM, which predicts swaps in the same way"
        )
        yield Figure("speed_to_pam", float(np.median(speeds)), 1.0, "x", ">=", note)
        x = np.random.default_rng(0).random((5, 3000))
        matrix, times = distance(x, x), []
        for seed in range(3):
            begin = time.perf_counter()
            faster_pam(matrix, 30, np.random.default_rng(seed), restarts=1)
            times.append(time.perf_counter() - begin)
        note = "n = 3000, K = 30, one start, median of three"
        yield Figure("seconds", float(np.median(times)), 1.5, " s", "<=", note)


def pam(matrix: np.ndarray, k: int) -> float:
    """Loss of classic PAM: greedy start, then the best of all swaps until none improves."""
    from sciflow_rom.clusters.medoids import changes

    medoids = [int(matrix.sum(axis=0).argmin())]
    while len(medoids) < k:
        near = matrix[medoids].min(axis=0)
        medoids.append(int(np.minimum(matrix, near).sum(axis=1).argmin()))
    chosen, everyone = np.array(medoids), np.arange(len(matrix))
    while True:
        change = changes(matrix, chosen, everyone)
        change[chosen] = np.inf
        candidate, place = np.unravel_index(np.argmin(change), change.shape)
        if change[candidate, place] >= -1e-12:
            return float(matrix[chosen].min(axis=0).sum())
        chosen[place] = candidate
