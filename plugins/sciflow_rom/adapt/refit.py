"""Chooses the integration points of a local model anew, beginning with those that it had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciflow_rom.adapt.regions import Region
from sciflow_rom.net.ranks import max_ranks, sum_ranks
from sciflow_rom.net.tables import First, LocalModel
from sciflow_rom.points.cubature import Cubature

if TYPE_CHECKING:
    from sciflow.reduction import Integrals
    from sciflow_rom.adapt.site import Site

MANY = 400
"""Integrands of a cubature from which on stresses are replaced by their modes."""


def refitted(
    site: Site, region: Region, test: tuple[np.ndarray, np.ndarray], near: list[tuple[np.ndarray, np.ndarray]]
) -> Region:
    """A region with points and tables for its basis, begun with the points that it had; collective.

    Parameters
    ----------
    site : Site
    region : Region
        With a basis and cases that its points and tables do not fit.
    test : tuple of ndarray
        Test modes of the indicator, shape (dof, test), and their strains.
    near : list of (ndarray, ndarray)
        Points of cases that may be sent here too, and their coefficients: the indicator is made for them
        as well.
    """
    rows, cases = site.integrals.rows, region.cases
    modes = region.basis.modes[rows]
    strains = site.integrals.strains(modes)
    known = [(cases.points[c], cases.coefficients[c]) for c in cases.chosen(site.rom.states)]
    stresses = np.stack(list(_states(site, strains, known)))
    few = stresses if modes.shape[1] * len(stresses) <= MANY else site.assembler.stress_modes(stresses)
    start = _start(site.integrals, region.places, region.model.tables.weights)
    chosen = site.assembler.cubature(site.rom.hyper_reduction, strains, few, start)
    first = site.ctx.comm.rank == 0
    modes_of = {name: basis.modes for name, basis in region.duals.items() if first}
    gaps, cubature = site.assembler.watched(modes_of, chosen)
    tables = site.assembler.tables(strains, modes, cubature)
    at = site.integrals.places[cubature.points]
    places = site.assembler.gathered(at, at)
    more = np.stack([*stresses, *_states(site, strains, near)]) if near else stresses
    probe = site.assembler.probe(strains, (test[0][rows], test[1]), more, site.rom.indicator_points)
    worst = float(max_ranks(np.array([cubature.error]), site.ctx.comm)[0])
    begin = First.of(site.model.space.scale(cases.points), cases.coefficients[:, 0])
    model = LocalModel(tables, begin, probe, gaps)
    return Region(model, region.basis, region.duals, places, worst, cases)


def _states(
    site: Site, strains: np.ndarray, cases: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Iterator[np.ndarray]:
    """Stresses at this rank's points for projected solutions, each scaled to unit size.

    The forces of a solution in equilibrium add up to nothing where a source is part of the stress: any
    point at which they vanish would do as a cubature. So the stress without any strain, the source,
    counts for itself as well.
    """
    every = max(1, -(-site.assembler.steps * len(cases) // site.rom.states))
    for number, (point, coefficients) in enumerate(cases):
        mu = dict(zip(site.problem.parameters, point.tolist(), strict=True))
        law = site.problem.law(site.integrals.points, mu)
        history = site.problem.start(len(site.integrals.points))
        yield from _scaled(site, law(np.zeros(strains.shape[:2]), history, 0)[0])
        for step, a in enumerate(coefficients):
            stress, _, history = law(strains @ a, history, step)
            if (step + 1 + number) % every == 0 or step == site.assembler.steps - 1:
                yield from _scaled(site, stress)


def _scaled(site: Site, stress: np.ndarray) -> Iterator[np.ndarray]:
    """A stress of unit size, if it is not zero."""
    squares = site.integrals.weights @ np.square(stress).sum(axis=1)
    size = float(sum_ranks(np.array([squares]), site.ctx.comm)[0]) ** 0.5
    if size > 0:
        yield stress / size


def _start(integrals: Integrals, places: np.ndarray, weights: np.ndarray) -> Cubature | None:
    """This rank's part of the points and weights of an earlier cubature."""
    if not len(places):
        return None
    places, weights = places[weights > 0], weights[weights > 0]
    order = np.argsort(integrals.places)
    at = np.searchsorted(integrals.places[order], places)
    at = np.minimum(at, len(order) - 1)
    mine = integrals.places[order[at]] == places
    found = order[at[mine]]
    sort = np.argsort(found)
    return Cubature(found[sort].astype(np.int64), weights[mine][sort], np.inf) if mine.any() else None
