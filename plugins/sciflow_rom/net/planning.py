"""Who is in which basis, who is held out to calibrate, and how well each basis serves each member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow_rom.bases import LocalBasis, local_bases, member_errors

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow_rom.coordinates import Coordinates
    from sciflow_rom.net.romnet import RomNet

LEAST = 3
"""A cluster keeps at least so many members when some are held out for calibration."""

FOLDS = 10
"""Parts of a cluster that are left out in turn, to know how well its basis serves others."""


@dataclass(frozen=True)
class Plan:
    """Who does what: members by their use, and the bases.

    Attributes
    ----------
    known : Coordinates
        Of the members in the bases.
    clusters : list of ndarray of int64
        Rows of each cluster's basis members among the groups of `known`.
    bases : list of LocalBasis
        Columns are those of `known`.
    errors : ndarray, shape (member, cluster)
        Relative errors of projecting each of `known` on each basis, those of its own cluster by
        `left_out`.
    held, test : ndarray of int64, shape (member,)
        Members for the calibration, and those that nothing has seen.
    """

    known: Coordinates
    clusters: list[np.ndarray]
    bases: list[LocalBasis]
    errors: np.ndarray
    held: np.ndarray
    test: np.ndarray

    def neighbours(self, cluster: int) -> np.ndarray:
        """Rows of members outside of a cluster for which its basis is among the two best."""
        if len(self.bases) < 2:
            return np.zeros(0, dtype=np.int64)
        second = np.argsort(self.errors, axis=1)[:, :2]
        near = np.flatnonzero((second == cluster).any(axis=1))
        return np.setdiff1d(near, self.clusters[cluster])


def plan(
    rom: RomNet, coordinates: Coordinates, parts: Mapping[str, np.ndarray], clustering: Artifact, seed: int
) -> Plan:
    """Choose the members of the bases and of the calibration, and decompose each cluster.

    Parameters
    ----------
    rom : RomNet
        Modes, tolerance, how many members to calibrate with.
    coordinates : Coordinates
        Of all members.
    parts : mapping of str to ndarray
        ``train_members``, ``valid_members``, ``test_members``.
    clustering : Artifact
        Of the training members.
    seed : int
        Decides who is held out.
    """
    from sciflow_rom.clusters.clustering import basis_rows

    members = clustering.read("members")
    labels = clustering.read("labels")
    held = parts["valid_members"]
    wanted = rom.calibration if rom.indicator_modes else 0
    missing = min(wanted - len(held), len(members) // 5)
    out: list[int] = []
    count = np.bincount(labels)
    for row in np.random.default_rng([seed, 1]).permutation(len(members)):
        if len(out) < missing and count[labels[row]] > LEAST:
            count[labels[row]] -= 1
            out.append(int(row))
    known = coordinates.of(np.delete(members, out))
    names = known.members[[g[0] for g in known.groups]]
    row_of = {int(m): i for i, m in enumerate(names)}
    chosen = [[row_of[int(m)] for m in members[rows] if int(m) in row_of] for rows in basis_rows(clustering)]
    clusters = [np.array(rows, dtype=np.int64) for rows in chosen]
    bases = local_bases(known, clusters, modes=rom.modes, tolerance=rom.tolerance or None)
    errors = np.stack([member_errors(known, basis) for basis in bases], axis=1)
    for cluster, rows in enumerate(clusters):
        errors[rows, cluster] = left_out(known, rows, rom)
    held = np.sort(np.concatenate([held, members[out]]))
    return Plan(known, clusters, bases, errors, held, parts["test_members"])


def left_out(known: Coordinates, rows: np.ndarray, rom: RomNet) -> np.ndarray:
    """Errors of a cluster's members on the bases of the others, a few left out at a time.

    Parameters
    ----------
    known : Coordinates
        With the members of all bases.
    rows : ndarray of int64, shape (k,)
        Those of the cluster.
    rom : RomNet
        Modes and tolerance.

    Returns
    -------
    ndarray, shape (k,)
        1 where a cluster has one member.
    """
    errors = np.ones(len(rows))
    folds = min(FOLDS, len(rows))
    names = known.members[[g[0] for g in known.groups]]
    for fold in range(folds) if len(rows) > 1 else ():
        out = np.arange(len(rows)) % folds == fold
        basis = local_bases(known, [rows[~out]], modes=rom.modes, tolerance=rom.tolerance or None)[0]
        errors[out] = member_errors(known.of(names[rows[out]]), basis)
    return errors
