"""The groundwork of an enrichment: the local models of a ROM-net with the solutions they were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.adapt.incremental import Weighted, add
from sciflow_rom.adapt.regions import Cases, Region, project
from sciflow_rom.bases import columns_of, numerical_rank, pod
from sciflow_rom.net.ranks import sum_ranks

if TYPE_CHECKING:
    from sciflow_rom.adapt.site import Site

ORTHONORMAL = 1e-3
"""How orthonormal the modes of a model have to be, for its compression to be the right one."""


def groundwork(site: Site) -> tuple[list[Region], Weighted]:
    """The regions of a model as it was built or enriched before, and the test modes of its indicator.

    Reads each member of the training once; collective.

    Raises
    ------
    Invalid
        If the compression is not that of the model.
    """
    if "enrichment" in site.artifact.attributes:
        return _earlier(site)
    known = site.assembler.coordinates
    rows = known.points[[g[0] for g in known.groups]]
    features = site.model.space.scale(rows)
    return [_region(site, k, rows, features) for k in range(site.model.clusters)], _test(site)


def _earlier(site: Site) -> tuple[list[Region], Weighted]:
    """Those that an earlier enrichment left in the artifact; its solutions count as training now."""
    from safetensors.numpy import load_file

    from sciflow_rom.adapt.regions import weighted_of

    regions = []
    for k in range(site.model.clusters):
        region = Region.of(load_file(site.artifact.file(f"region-{k}.safetensors")))
        cases = region.cases
        known = Cases(cases.points, cases.coefficients, cases.norms, cases.gaps, np.full(len(cases), -1))
        model = region.model
        regions.append(Region(model, region.basis, region.duals, region.places, region.error, known))
    return regions, weighted_of(load_file(site.artifact.file("test.safetensors")), "test")


def _region(site: Site, cluster: int, points: np.ndarray, features: np.ndarray) -> Region:
    local = site.model.local[cluster]
    gaps = np.square(local.first.centres[:, None] - features[None]).sum(axis=2)
    rows = gaps.argmin(axis=1)
    modes = site.artifact.read(f"basis_{cluster}")
    gram = site.inner(modes, modes)
    if np.abs(gram - np.eye(len(gram))).max() > ORTHONORMAL:
        raise Invalid(
            f"{site.artifact.path}: the modes of local model {cluster} are not orthonormal in the "
            "product of the compression; give the one that the model was built with"
        )
    basis = Weighted(modes, np.ones(modes.shape[1]))
    cases = _known(site, basis, rows, points)
    # Modes of a decomposition: their coefficients are uncorrelated.
    sigma = np.linalg.norm(cases.scaled.reshape(-1, modes.shape[1]), axis=0)
    basis = Weighted(modes, sigma, float(np.square(cases.gaps).sum()))
    duals = {}
    for name in site.problem.dual:
        block = np.hstack([site.dual(site.assembler.ensemble, name, int(site.members[r])) for r in rows])
        begun = Weighted.empty(len(block))
        duals[name] = add(begun, block, tolerance=max(site.rom.dual_tolerance, 1e-7)).basis
    places = site.artifact.read(f"places_{cluster}")
    error = float(site.artifact.attributes["rom"]["clusters"][cluster]["cubature_error"])
    return Region(local, basis, duals, places, error, cases)


def _known(site: Site, basis: Weighted, rows: np.ndarray, points: np.ndarray) -> Cases:
    found = []
    for row in rows:
        columns = site.columns(site.assembler.ensemble, int(site.members[row]))
        found.append(project(basis, columns, site.matrix))
    coefficients, norms, gaps = (np.array([f[i] for f in found]) for i in range(3))
    return Cases(points[rows], coefficients, norms, gaps, np.full(len(rows), -1))


def _test(site: Site) -> Weighted:
    """Modes of all training snapshots, as the model was built with them."""
    known = site.assembler.coordinates
    columns = columns_of(known, np.arange(len(known.groups)))
    count = min(site.rom.indicator_modes, numerical_rank(known, columns, normalised=True))
    found = pod(known, columns, modes=count, normalised=True)
    whole = np.zeros((site.assembler.dofs, count))
    whole[site.integrals.rows] = site.assembler.lift(found)
    lost = float(np.square(found.sigma[count:]).sum())
    return Weighted(sum_ranks(whole, site.ctx.comm), found.sigma[:count], lost)
