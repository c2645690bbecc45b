"""Makes the local models of a ROM-net larger by full-order solutions, on ranks that share the mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Diverged
from sciflow_rom.adapt.groundwork import groundwork
from sciflow_rom.adapt.incremental import Weighted, add
from sciflow_rom.adapt.refit import refitted
from sciflow_rom.adapt.regions import Cases, Region, error_table, project, sine_to_medoid, sines
from sciflow_rom.adapt.rounds import Round, Rounds
from sciflow_rom.adapt.site import Site, answering

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow_rom.regress.selectors import Selector


@dataclass(frozen=True)
class Rules:
    """How regions grow; see `sciflow_rom.adapt.enrichment.Enrich`.

    Attributes
    ----------
    modes : int
        Of a region, at most.
    left : float
        Part of its solutions that truncation may leave.
    share : int
        Regions that a solution is added to.
    far : float
        Sine to every medoid beyond which a solution founds a region,
    near : float
        unless its relative error of projection on one of them is at most this.
    selector : Selector
        Ranks the regions.
    seed : int
        Of the selector's training.
    """

    modes: int
    left: float
    share: int
    far: float
    near: float
    selector: Selector
    seed: int


@dataclass(frozen=True)
class Solution:
    """A full-order solution.

    Attributes
    ----------
    number : int
        Which one, counted from 0.
    point : ndarray, shape (parameter,)
    columns : ndarray, shape (dof, step)
        Of the unknown.
    duals : mapping of str to ndarray, shape (point * component, step)
        Of the dual fields.
    """

    number: int
    point: np.ndarray
    columns: np.ndarray
    duals: Mapping[str, np.ndarray]


class Growth:
    """Adds solutions to the local models of a ROM-net, round by round; every method is collective.

    Every rank holds the modes of the whole field; points of integration are spread over the ranks.

    Parameters
    ----------
    site : Site
        The model as it was built.
    rules : Rules
        How regions grow.
    rounds : Rounds
        Where they are kept.
    """

    def __init__(self, site: Site, rules: Rules, rounds: Rounds) -> None:
        self.site, self.rules, self.rounds = site, rules, rounds

    def prepare(self) -> None:
        """Round 0: the regions of the model, with the solutions that they were made of."""
        if self.rounds.get(0) is None:
            regions, test = groundwork(self.site)
            self._keep(0, regions, range(len(regions)), test)

    def grow(self, number: int, source: Artifact, wanted: Sequence[tuple[int, np.ndarray]]) -> None:
        """A round: add some solutions to the model that the round before left.

        Parameters
        ----------
        number : int
            Of the round.
        source : Artifact
            With the solutions as members.
        wanted : sequence of (int, ndarray)
            Members, and their points.
        """
        if self.rounds.get(number) is not None:
            return
        before = self.rounds.get(number - 1)
        assert before is not None, "rounds are made one after the other"
        regions = [self.rounds.region(k, v) for k, v in enumerate(before.versions)]
        if not wanted:
            self._keep(number, regions, (), self.rounds.test(number - 1), before.versions)
            return
        solutions = [
            Solution(m, point, self.site.columns(source, m), self.site.duals(source, m))
            for m, point in wanted
        ]
        pairs = [self._pair(number - 1, regions, one) for one in solutions]
        seen = [[project(r.basis, one.columns, self.site.matrix) for r in regions] for one in solutions]
        grown, touched = self._added(regions, solutions, seen)
        test = self._tested(self.rounds.test(number - 1), solutions)
        strains = self.site.integrals.strains(test.modes[self.site.integrals.rows])
        for cluster in sorted(touched):
            self.site.ctx.check_together()
            grown[cluster] = refitted(
                self.site, grown[cluster], (test.modes, strains), self._near(grown, cluster)
            )
        gaps = tuple(min(s[2] for s in row) for row in seen)
        self._keep(number, grown, touched, test, before.versions, tuple(pairs), gaps)

    def _pair(self, number: int, regions: list[Region], one: Solution) -> tuple[float | None, float | None]:
        """Indicator and true error of the answer that a solution replaces."""
        model = answering(
            self.site.model, [r.model for r in regions], self.rules.selector, self.rounds.ranker(number)
        )
        try:
            found = model.solve(dict(zip(self.site.problem.parameters, one.point.tolist(), strict=True)))
        except Diverged:
            return None, None
        rest = one.columns - regions[found.cluster].basis.modes @ found.coefficients.T
        error = self.site.norm(rest) / self.site.norm(one.columns)
        return (found.estimate, error) if np.isfinite(found.estimate) else (None, error)

    def _added(
        self, regions: list[Region], solutions: list[Solution],
        seen: list[list[tuple[np.ndarray, float, float]]],
    ) -> tuple[list[Region], set[int]]:  # fmt: skip
        """The regions with the solutions in their bases, not yet with new points; and which are changed."""
        into: dict[int, list[Solution]] = {}
        fresh: list[Solution] = []
        for one, row in zip(solutions, seen, strict=True):
            angles = [sine_to_medoid(r, s[0], s[1]) for r, s in zip(regions, row, strict=True)]
            errors = np.array([s[2] for s in row])
            if min(angles) > self.rules.far and errors.min() > self.rules.near:
                fresh.append(one)
                continue
            for cluster in np.argsort(errors, kind="stable")[: self.rules.share].tolist():
                into.setdefault(cluster, []).append(one)
        grown = list(regions)
        for cluster, group in into.items():
            grown[cluster] = self._enlarged(regions[cluster], group)
        touched = set(into)
        for one in fresh:
            touched.add(len(grown))
            grown.append(self._founded(regions, one))
        return grown, touched

    def _enlarged(self, region: Region, group: list[Solution]) -> Region:
        """A region with some solutions more: basis, cases, dual modes."""
        norms = [self.site.norm(one.columns) for one in group]
        block = np.hstack([one.columns / norm for one, norm in zip(group, norms, strict=True)])
        update = add(
            region.basis, block, modes=self.rules.modes, tolerance=self.rules.left, inner=self.site.inner
        )
        cases = region.cases.carried(update.carry).joined(self._cases(update.basis, group))
        duals = {}
        for name, modes in region.duals.items():
            more = np.hstack([one.duals[name] for one in group])
            duals[name] = add(modes, more, tolerance=self.site.rom.dual_tolerance).basis
        return Region(region.model, update.basis, duals, region.places, region.error, cases)

    def _cases(self, basis: Weighted, group: list[Solution]) -> Cases:
        found = [project(basis, one.columns, self.site.matrix) for one in group]
        coefficients, norms, gaps = (np.array([f[i] for f in found]) for i in range(3))
        numbers = np.array([one.number for one in group])
        return Cases(np.stack([one.point for one in group]), coefficients, norms, gaps, numbers)

    def _founded(self, regions: list[Region], one: Solution) -> Region:
        """A new region about a solution, with those known ones that make the smallest angles with it."""
        found: list[tuple[float, int, int]] = []
        for number, region in enumerate(regions):
            part, norm, _ = project(region.basis, one.columns, self.site.matrix)
            angles = sines(region.cases.scaled @ part.reshape(-1) / norm)
            found += [(float(a), number, case) for case, a in enumerate(angles)]
        points: list[tuple[float, ...]] = []
        columns, cases = [one.columns], []
        for _, number, case in sorted(found):
            known = regions[number].cases
            point = tuple(known.points[case].tolist())
            if point not in points and len(points) < max(1, self.rules.modes // 2):
                points.append(point)
                columns.append(regions[number].basis.modes @ known.coefficients[case].T)
                cases.append((known.points[case], int(known.solved[case]), float(known.gaps[case])))
        sizes = [self.site.norm(c) for c in columns]
        block = np.hstack([c / s for c, s in zip(columns, sizes, strict=True)])
        begun = Weighted.empty(len(one.columns))
        basis = add(
            begun, block, modes=self.rules.modes, tolerance=self.rules.left, inner=self.site.inner
        ).basis
        parts = [project(basis, c, self.site.matrix) for c in columns]
        coefficients, norms, gaps = (np.array([p[i] for p in parts]) for i in range(3))
        gaps[1:] = np.hypot(gaps[1:], [c[2] for c in cases])
        members = np.array([one.number, *(c[1] for c in cases)])
        known = Cases(np.stack([one.point, *(c[0] for c in cases)]), coefficients, norms, gaps, members)
        duals = {}
        for name in self.site.problem.dual:
            nearest = regions[sorted(found)[0][1]].duals[name]
            duals[name] = add(nearest, one.duals[name], tolerance=self.site.rom.dual_tolerance).basis
        nothing = np.zeros(0, dtype=np.int64)
        return Region(regions[0].model, basis, duals, nothing, float("nan"), known)

    def _tested(self, test: Weighted, solutions: list[Solution]) -> Weighted:
        """Test modes with the solutions among them: what they show, the indicator sees from now on."""
        norms = [self.site.norm(one.columns) for one in solutions]
        block = np.hstack([one.columns / norm for one, norm in zip(solutions, norms, strict=True)])
        most = max(2 * self.site.rom.indicator_modes, len(test.sigma))
        return add(test, block, modes=most, inner=self.site.inner).basis

    def _near(self, regions: list[Region], cluster: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Cases of other regions that may be sent here too: points, and coefficients on this basis."""
        own = {tuple(p) for p in regions[cluster].cases.points.tolist()}
        basis = regions[cluster].basis
        found: list[tuple[float, np.ndarray, np.ndarray]] = []
        for number, region in enumerate(regions):
            if number == cluster:
                continue
            cross = self.site.inner(region.basis.modes, basis.modes)
            moved = region.cases.coefficients @ cross
            size = np.square(region.cases.coefficients).sum(axis=(1, 2))
            angles = np.sqrt(np.maximum(size - np.square(moved).sum(axis=(1, 2)), 0.0)) / region.cases.norms
            for case, angle in enumerate(angles):
                if tuple(region.cases.points[case].tolist()) not in own:
                    found.append((float(angle), region.cases.points[case], moved[case]))
        found.sort(key=lambda f: f[0])
        return [(point, part) for _, point, part in found[: self.site.rom.states // 4]]

    def _keep(
        self, number: int, regions: list[Region], touched: Sequence[int] | set[int] | range, test: Weighted,
        versions: tuple[int, ...] = (), pairs: tuple[tuple[float | None, float | None], ...] = (),
        gaps: tuple[float, ...] = (),
    ) -> None:  # fmt: skip
        """Write what a round changed, and then that it is finished; rank 0."""
        error: BaseException | None = None
        if self.site.ctx.comm.rank == 0:
            try:
                final = list(versions) + [number] * (len(regions) - len(versions))
                for cluster in touched:
                    final[cluster] = number
                    self.rounds.put_region(cluster, number, regions[cluster])
                self.rounds.put_test(number, test)
                points, errors = error_table(regions, self.site.matrix)
                rng = np.random.default_rng([self.rules.seed, number])
                ranker = self.rules.selector.train(self.site.model.space.scale(points), errors, rng)
                self.rounds.put_ranker(number, ranker.state())
                modes = tuple(r.modes for r in regions)
                sizes = tuple(len(r.model.tables.weights) for r in regions)
                self.rounds.put(Round(number, tuple(final), modes, sizes, pairs, gaps))
            # All ranks end together, whatever it was.
            except Exception as reason:
                error = reason
        self.site.ctx.all_ok(error)
