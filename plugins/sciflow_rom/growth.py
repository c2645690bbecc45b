"""Makes the local models of a ROM-net larger by full-order solutions, on ranks that share the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Diverged, Invalid
from sciflow_rom.assembly import Assembler
from sciflow_rom.bases import columns_of, numerical_rank, pod
from sciflow_rom.cubature import Cubature
from sciflow_rom.incremental import Inner, Weighted, add
from sciflow_rom.online_slice import RomModel
from sciflow_rom.ranks import max_ranks, sum_ranks
from sciflow_rom.regions import Cases, Region, error_table, project, sine_to_medoid, sines
from sciflow_rom.rounds import Round, Rounds
from sciflow_rom.tables import First, LocalModel

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.reduction import Integrals, Reducible
    from sciflow_rom.products import Product
    from sciflow_rom.romnet import RomNet
    from sciflow_rom.selectors import Selector
    from sciflow_rom.space import Space

MANY = 400
"""Integrands of a cubature from which on stresses are replaced by their modes."""

ORTHONORMAL = 1e-3
"""How orthonormal the modes of a model have to be, for its compression to be the right one."""


@dataclass(frozen=True)
class Rules:
    """How regions grow; see `sciflow_rom.enrichment.Enrich`."""

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
    """Begins with a model as it was built, and adds solutions; every method is collective.

    Every rank holds the modes of the whole field; points of integration are spread over the ranks.

    Parameters
    ----------
    model : Artifact
        With a ROM-net.
    ensemble, compression : Artifact
        That it was made of.
    rules : Rules
        How regions grow.
    rounds : Rounds
        Where they are kept.
    ctx : Context
        Ranks that share the mesh.
    """

    def __init__(
        self, model: Artifact, ensemble: Artifact, compression: Artifact, rules: Rules, rounds: Rounds,
        ctx: Context,
    ) -> None:  # fmt: skip
        from sciflow.stages.train import load_model
        from sciflow_rom.compression import load_coordinates
        from sciflow_rom.metrics import product_of

        opened = load_model(model)
        assert isinstance(opened, RomModel)
        self.artifact, self.rules, self.rounds, self.ctx = model, rules, rounds, ctx
        self.model: RomModel = opened
        self.rom: RomNet = opened.config
        self.problem: Reducible = opened.problem
        about = compression.attributes
        self.matrix = matrix_of(product_of(ensemble, about["field"], about["product"], "level"))
        members = np.setdiff1d(model.read("train_members"), model.read("calibration_members"))
        self.members = members
        self.assembler = Assembler(self.problem, ensemble, load_coordinates(compression).of(members), ctx)
        self.integrals: Integrals = self.assembler.integrals
        if self.integrals.mesh != opened.mesh:
            raise Invalid(f"{model.path} was built on the mesh {opened.mesh}, this is {self.integrals.mesh}")

    @property
    def inner(self) -> Inner:
        """Inner products of whole columns."""
        matrix = self.matrix
        return lambda a, b: np.asarray(a.T @ (b if matrix is None else matrix @ b))

    # -- the model as it was built -------------------------------------------------------------

    def prepare(self) -> None:
        """Round 0: the regions of the model, with the solutions that they were made of."""
        if self.rounds.get(0) is not None:
            return
        if "enrichment" in self.artifact.attributes:
            regions, test = self._earlier()
        else:
            known = self.assembler.coordinates
            rows = known.points[[g[0] for g in known.groups]]
            features = self.model.space.scale(rows)
            regions = [self._region(k, rows, features) for k in range(self.model.clusters)]
            test = self._test()
        self._keep(0, regions, range(len(regions)), test)

    def _earlier(self) -> tuple[list[Region], Weighted]:
        """Those that an earlier enrichment left in the artifact; its solutions count as training now."""
        from safetensors.numpy import load_file

        from sciflow_rom.regions import weighted_of

        regions = []
        for k in range(self.model.clusters):
            region = Region.of(load_file(self.artifact.file(f"region-{k}.safetensors")))
            cases = region.cases
            known = Cases(cases.points, cases.coefficients, cases.norms, cases.gaps, np.full(len(cases), -1))
            model = region.model
            regions.append(Region(model, region.basis, region.duals, region.places, region.error, known))
        return regions, weighted_of(load_file(self.artifact.file("test.safetensors")), "test")

    def _region(self, cluster: int, points: np.ndarray, features: np.ndarray) -> Region:
        local = self.model.local[cluster]
        gaps = np.square(local.first.centres[:, None] - features[None]).sum(axis=2)
        rows = gaps.argmin(axis=1)
        modes = self.artifact.read(f"basis_{cluster}")
        gram = self.inner(modes, modes)
        if np.abs(gram - np.eye(len(gram))).max() > ORTHONORMAL:
            raise Invalid(
                f"{self.artifact.path}: the modes of local model {cluster} are not orthonormal in the "
                "product of the compression; give the one that the model was built with"
            )
        basis = Weighted(modes, np.ones(modes.shape[1]))
        cases = self._known(basis, rows, points)
        # Modes of a decomposition: their coefficients are uncorrelated.
        sigma = np.linalg.norm(cases.scaled.reshape(-1, modes.shape[1]), axis=0)
        basis = Weighted(modes, sigma, float(np.square(cases.gaps).sum()))
        duals = {}
        for name in self.problem.dual:
            block = np.hstack([self._dual(self.assembler.ensemble, name, int(self.members[r])) for r in rows])
            begun = Weighted.empty(len(block))
            duals[name] = add(begun, block, tolerance=max(self.rom.dual_tolerance, 1e-7)).basis
        places = self.artifact.read(f"places_{cluster}")
        error = float(self.artifact.attributes["rom"]["clusters"][cluster]["cubature_error"])
        return Region(local, basis, duals, places, error, cases)

    def _known(self, basis: Weighted, rows: np.ndarray, points: np.ndarray) -> Cases:
        found = []
        for row in rows:
            columns = self._columns(self.assembler.ensemble, int(self.members[row]))
            found.append(project(basis, columns, self.matrix))
        coefficients, norms, gaps = (np.array([f[i] for f in found]) for i in range(3))
        return Cases(points[rows], coefficients, norms, gaps, np.full(len(rows), -1))

    def _columns(self, artifact: Artifact, member: int) -> np.ndarray:
        """The unknown of a member, shape (dof, step)."""
        steps = np.arange(self.assembler.steps)
        gather = artifact.gather(self.problem.unknown)
        found = gather.read(np.full(len(steps), member), steps)
        return np.asarray(found.reshape(len(steps), -1).T, dtype=np.float64)

    def _dual(self, artifact: Artifact, name: str, member: int) -> np.ndarray:
        """A dual field of a member at some of its steps, shape (point * component, step)."""
        every = max(1, self.assembler.steps // 16)
        steps = np.arange(self.assembler.steps - 1, -1, -every)[::-1]
        found = artifact.gather(name).read(np.full(len(steps), member), steps)
        return np.asarray(found.reshape(len(steps), -1).T, dtype=np.float64)

    def _duals(self, artifact: Artifact, member: int) -> dict[str, np.ndarray]:
        return {name: self._dual(artifact, name, member) for name in self.problem.dual}

    def _test(self) -> Weighted:
        """Modes of all training snapshots, as the model was built with them."""
        known = self.assembler.coordinates
        columns = columns_of(known, np.arange(len(known.groups)))
        count = min(self.rom.indicator_modes, numerical_rank(known, columns, normalised=True))
        found = pod(known, columns, modes=count, normalised=True)
        whole = np.zeros((self.assembler.dofs, count))
        whole[self.integrals.rows] = self.assembler.lift(found)
        lost = float(np.square(found.sigma[count:]).sum())
        return Weighted(sum_ranks(whole, self.ctx.comm), found.sigma[:count], lost)

    # -- a round -------------------------------------------------------------------------------

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
            Solution(m, point, self._columns(source, m), self._duals(source, m)) for m, point in wanted
        ]
        pairs = [self._pair(number - 1, regions, one) for one in solutions]
        seen = [[project(r.basis, one.columns, self.matrix) for r in regions] for one in solutions]
        grown, touched = self._added(regions, solutions, seen)
        test = self._tested(self.rounds.test(number - 1), solutions)
        strains = self.integrals.strains(test.modes[self.integrals.rows])
        for cluster in sorted(touched):
            self.ctx.check_together()
            grown[cluster] = self._rebuilt(grown[cluster], (test.modes, strains), self._near(grown, cluster))
        gaps = tuple(min(s[2] for s in row) for row in seen)
        self._keep(number, grown, touched, test, before.versions, tuple(pairs), gaps)

    def _pair(self, number: int, regions: list[Region], one: Solution) -> tuple[float | None, float | None]:
        """Indicator and true error of the answer that a solution replaces."""
        model = answering(
            self.model, [r.model for r in regions], self.rules.selector, self.rounds.ranker(number)
        )
        try:
            found = model.solve(dict(zip(self.problem.parameters, one.point.tolist(), strict=True)))
        except Diverged:
            return None, None
        rest = one.columns - regions[found.cluster].basis.modes @ found.coefficients.T
        sizes = [
            float(np.einsum("ij,ji->", self.inner(c, c), np.eye(c.shape[1]))) for c in (rest, one.columns)
        ]
        error = (sizes[0] / sizes[1]) ** 0.5
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
        norms = [float(np.trace(self.inner(one.columns, one.columns))) ** 0.5 for one in group]
        block = np.hstack([one.columns / norm for one, norm in zip(group, norms, strict=True)])
        update = add(region.basis, block, modes=self.rules.modes, tolerance=self.rules.left, inner=self.inner)
        cases = region.cases.carried(update.carry).joined(self._cases(update.basis, group))
        duals = {}
        for name, modes in region.duals.items():
            more = np.hstack([one.duals[name] for one in group])
            duals[name] = add(modes, more, tolerance=self.rom.dual_tolerance).basis
        return Region(region.model, update.basis, duals, region.places, region.error, cases)

    def _cases(self, basis: Weighted, group: list[Solution]) -> Cases:
        found = [project(basis, one.columns, self.matrix) for one in group]
        coefficients, norms, gaps = (np.array([f[i] for f in found]) for i in range(3))
        numbers = np.array([one.number for one in group])
        return Cases(np.stack([one.point for one in group]), coefficients, norms, gaps, numbers)

    def _founded(self, regions: list[Region], one: Solution) -> Region:
        """A new region about a solution, with those known ones that make the smallest angles with it."""
        found: list[tuple[float, int, int]] = []
        for number, region in enumerate(regions):
            part, norm, _ = project(region.basis, one.columns, self.matrix)
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
        sizes = [float(np.trace(self.inner(c, c))) ** 0.5 for c in columns]
        block = np.hstack([c / s for c, s in zip(columns, sizes, strict=True)])
        begun = Weighted.empty(len(one.columns))
        basis = add(begun, block, modes=self.rules.modes, tolerance=self.rules.left, inner=self.inner).basis
        parts = [project(basis, c, self.matrix) for c in columns]
        coefficients, norms, gaps = (np.array([p[i] for p in parts]) for i in range(3))
        gaps[1:] = np.hypot(gaps[1:], [c[2] for c in cases])
        members = np.array([one.number, *(c[1] for c in cases)])
        known = Cases(np.stack([one.point, *(c[0] for c in cases)]), coefficients, norms, gaps, members)
        duals = {}
        for name in self.problem.dual:
            nearest = regions[sorted(found)[0][1]].duals[name]
            duals[name] = add(nearest, one.duals[name], tolerance=self.rom.dual_tolerance).basis
        nothing = np.zeros(0, dtype=np.int64)
        return Region(regions[0].model, basis, duals, nothing, float("nan"), known)

    def _tested(self, test: Weighted, solutions: list[Solution]) -> Weighted:
        """Test modes with the solutions among them: what they show, the indicator sees from now on."""
        norms = [float(np.trace(self.inner(one.columns, one.columns))) ** 0.5 for one in solutions]
        block = np.hstack([one.columns / norm for one, norm in zip(solutions, norms, strict=True)])
        most = max(2 * self.rom.indicator_modes, len(test.sigma))
        return add(test, block, modes=most, inner=self.inner).basis

    def _near(self, regions: list[Region], cluster: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Cases of other regions that may be sent here too: points, and coefficients on this basis."""
        own = {tuple(p) for p in regions[cluster].cases.points.tolist()}
        basis = regions[cluster].basis
        found: list[tuple[float, np.ndarray, np.ndarray]] = []
        for number, region in enumerate(regions):
            if number == cluster:
                continue
            cross = self.inner(region.basis.modes, basis.modes)
            moved = region.cases.coefficients @ cross
            size = np.square(region.cases.coefficients).sum(axis=(1, 2))
            angles = np.sqrt(np.maximum(size - np.square(moved).sum(axis=(1, 2)), 0.0)) / region.cases.norms
            for case, angle in enumerate(angles):
                if tuple(region.cases.points[case].tolist()) not in own:
                    found.append((float(angle), region.cases.points[case], moved[case]))
        found.sort(key=lambda f: f[0])
        return [(point, part) for _, point, part in found[: self.rom.states // 4]]

    # -- points of integration -----------------------------------------------------------------

    def _states(
        self, strains: np.ndarray, cases: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """Stresses at this rank's points for projected solutions, each scaled to unit size.

        The forces of a solution in equilibrium add up to nothing where a source is part of the stress: any
        point at which they vanish would do as a cubature. So the stress without any strain, the source,
        counts for itself as well.
        """
        every = max(1, -(-self.assembler.steps * len(cases) // self.rom.states))
        for number, (point, coefficients) in enumerate(cases):
            mu = dict(zip(self.problem.parameters, point.tolist(), strict=True))
            law = self.problem.law(self.integrals.points, mu)
            history = self.problem.start(len(self.integrals.points))
            yield from self._scaled(law(np.zeros(strains.shape[:2]), history, 0)[0])
            for step, a in enumerate(coefficients):
                stress, _, history = law(strains @ a, history, step)
                if (step + 1 + number) % every == 0 or step == self.assembler.steps - 1:
                    yield from self._scaled(stress)

    def _scaled(self, stress: np.ndarray) -> Iterator[np.ndarray]:
        """A stress of unit size, if it is not zero."""
        squares = self.integrals.weights @ np.square(stress).sum(axis=1)
        size = float(sum_ranks(np.array([squares]), self.ctx.comm)[0]) ** 0.5
        if size > 0:
            yield stress / size

    def _rebuilt(
        self, region: Region, test: tuple[np.ndarray, np.ndarray], near: list[tuple[np.ndarray, np.ndarray]]
    ) -> Region:
        """The region with points and tables for its basis, begun with the points that it had."""
        rows, cases = self.integrals.rows, region.cases
        modes = region.basis.modes[rows]
        strains = self.integrals.strains(modes)
        known = [(cases.points[c], cases.coefficients[c]) for c in cases.chosen(self.rom.states)]
        stresses = np.stack(list(self._states(strains, known)))
        few = stresses if modes.shape[1] * len(stresses) <= MANY else self.assembler.stress_modes(stresses)
        start = self._start(region.places, region.model.tables.weights)
        chosen = self.assembler.cubature(self.rom.hyper_reduction, strains, few, start)
        modes_of = {name: basis.modes for name, basis in region.duals.items()}
        gaps, cubature = self.assembler.watched(modes_of, chosen)
        tables = self.assembler.tables(strains, modes, cubature)
        at = self.integrals.places[cubature.points]
        places = self.assembler.gathered(at, at)
        more = np.stack([*stresses, *self._states(strains, near)]) if near else stresses
        probe = self.assembler.probe(strains, (test[0][rows], test[1]), more, self.rom.indicator_points)
        worst = float(max_ranks(np.array([cubature.error]), self.ctx.comm)[0])
        begin = First.of(self.model.space.scale(cases.points), cases.coefficients[:, 0])
        model = LocalModel(tables, begin, probe, gaps)
        return Region(model, region.basis, region.duals, places, worst, cases)

    def _start(self, places: np.ndarray, weights: np.ndarray) -> Cubature | None:
        """This rank's part of the points and weights of an earlier cubature."""
        if not len(places):
            return None
        places, weights = places[weights > 0], weights[weights > 0]
        order = np.argsort(self.integrals.places)
        at = np.searchsorted(self.integrals.places[order], places)
        at = np.minimum(at, len(order) - 1)
        mine = self.integrals.places[order[at]] == places
        found = order[at[mine]]
        sort = np.argsort(found)
        return Cubature(found[sort].astype(np.int64), weights[mine][sort], np.inf) if mine.any() else None

    # -- the end of a round --------------------------------------------------------------------

    def _keep(
        self, number: int, regions: list[Region], touched: Sequence[int] | set[int] | range, test: Weighted,
        versions: tuple[int, ...] = (), pairs: tuple[tuple[float | None, float | None], ...] = (),
        gaps: tuple[float, ...] = (),
    ) -> None:  # fmt: skip
        """Write what a round changed, and then that it is finished; rank 0."""
        error: BaseException | None = None
        if self.ctx.comm.rank == 0:
            try:
                final = list(versions) + [number] * (len(regions) - len(versions))
                for cluster in touched:
                    final[cluster] = number
                    self.rounds.put_region(cluster, number, regions[cluster])
                self.rounds.put_test(number, test)
                points, errors = error_table(regions, self.matrix)
                rng = np.random.default_rng([self.rules.seed, number])
                ranker = self.rules.selector.train(self.model.space.scale(points), errors, rng)
                self.rounds.put_ranker(number, ranker.state())
                modes = tuple(r.modes for r in regions)
                sizes = tuple(len(r.model.tables.weights) for r in regions)
                self.rounds.put(Round(number, tuple(final), modes, sizes, pairs, gaps))
            # All ranks end together, whatever it was.
            except Exception as reason:
                error = reason
        self.ctx.all_ok(error)


def matrix_of(product: Product) -> Any:
    """A product of positions as a sparse matrix; None for the identity."""
    from scipy import sparse

    if product.weights is not None:
        return sparse.diags(product.weights).tocsr()
    if product.matrix is not None:
        return product.matrix
    return None if product.given is None else (product.given.T @ product.given).tocsr()


def answering(
    model: RomModel, local: list[LocalModel], selector: Selector, state: Mapping[str, np.ndarray],
    space: Space | None = None,
) -> RomModel:  # fmt: skip
    """A model with other local models, whose estimates are the bare indicators.

    Parameters
    ----------
    model : RomModel
        That it was made of.
    local : list of LocalModel
    selector : Selector
    state : mapping of str to ndarray
        Of its ranker.
    space : Space or None
        Another one than that of the model.
    """
    from sciflow_rom.indicator import Calibration

    bare = Calibration(1.0, 1.0, model.calibration.coverage, 0)
    config = model.config.replace(selector=selector)
    ranker = selector.load(state)
    return RomModel(config, model.signature, local, ranker, space or model.space, bare, model.mesh)
