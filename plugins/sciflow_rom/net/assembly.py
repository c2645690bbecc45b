"""The offline side of a local model, on the ranks of a mesh: modes, strains, a cubature, tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.bases import LocalBasis
from sciflow_rom.net.galerkin import Tables
from sciflow_rom.net.indicator import Probe
from sciflow_rom.net.ranks import all_rows, from_first, gather_rows, max_ranks, sum_ranks
from sciflow_rom.net.tables import First, LocalModel
from sciflow_rom.points.cubature import Cubature
from sciflow_rom.points.gappy import completed, gappy

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.reduction import Integrals, Law, Reducible
    from sciflow_rom.coordinates import Coordinates
    from sciflow_rom.points.cubatures import HyperReduction

STRESSES = 1e-4
"""Part of the training stresses that their modes may leave, where many integrands would be made of them."""

MANY = 600
"""Integrands from which on stresses are replaced by their modes."""


@dataclass(frozen=True)
class Settings:
    """How local models are made.

    Attributes
    ----------
    rule, probe_rule : HyperReduction
        How integration points are chosen, for the forces and for the indicator.
    states : int
        Training states of a local model, at most about so many.
    dual_tolerance : float
        Part of the dual snapshots that their modes may leave.
    """

    rule: HyperReduction
    probe_rule: HyperReduction
    states: int = 64
    dual_tolerance: float = 1e-3


@dataclass(frozen=True)
class Made:
    """A local model with what only the offline side needs; arrays on rank 0, elsewhere empty.

    Attributes
    ----------
    model : LocalModel or None
        None on other ranks.
    basis : ndarray, shape (dof, mode)
        Modes in the order of one flattened time level of the field.
    duals : mapping of str to ndarray, shape (point * component, mode)
        Dual modes in the order of ``Integrals.places``.
    places : ndarray of int64, shape (point,)
        Where the points of the cubature are, to begin with when it is made anew.
    error : float
        Of the cubature: the largest over the ranks.
    """

    model: LocalModel | None
    basis: np.ndarray
    duals: Mapping[str, np.ndarray]
    places: np.ndarray
    error: float


class Assembler:
    """Makes local models of one problem on the ranks of a context; every method is collective.

    Parameters
    ----------
    problem : Reducible
        Whose weak form is reduced.
    ensemble : Artifact
        Its solutions.
    coordinates : Coordinates
        Of them, by levels; of all members that are used.
    ctx : Context
        Ranks that share the mesh.

    Raises
    ------
    Invalid
        If the coordinates are not those of single levels.
    """

    def __init__(
        self, problem: Reducible, ensemble: Artifact, coordinates: Coordinates, ctx: Context
    ) -> None:
        self.problem, self.ensemble, self.coordinates, self.ctx = problem, ensemble, coordinates, ctx
        self.steps = len(problem.steps())
        for group in coordinates.groups:
            levels = np.maximum(coordinates.levels[group], 0)
            if len(levels) != self.steps or (levels != np.arange(self.steps)).any():
                raise Invalid(
                    f"member {coordinates.members[group[0]]} has {len(group)} snapshots for {self.steps} "
                    "steps: a reduced model in space needs one for each level; compress with columns='level'"
                )
        self.integrals: Integrals = problem.integrals(ctx)
        self._first = ctx.comm.rank == 0
        self._rows = self.gathered(self.integrals.rows, self.integrals.rows)

    @property
    def dofs(self) -> int:
        """Numbers in one time level of the field."""
        return int(np.prod(self.problem.shape(self.problem.unknown)))

    def lift(self, basis: LocalBasis) -> np.ndarray:
        """Modes at this rank's unknowns, shape (row, mode); one pass over the snapshots of the basis.

        Each rank reads an equal share of every snapshot, whichever part of the mesh it has.
        """
        from sciflow_rom.compress.lifting import lift
        from sciflow_rom.compress.snapshots import Snapshots

        known, columns = self.coordinates, basis.columns
        members = np.unique(known.members[columns])
        snapshots = Snapshots(self.ensemble, self.problem.unknown, members, "level", self.ctx.comm)
        weights = np.zeros((snapshots.columns, basis.weights.shape[1]))
        levels = np.maximum(known.levels[columns], 0)
        weights[np.searchsorted(members, known.members[columns]) * self.steps + levels] = basis.weights
        share = np.concatenate([values for _, values in lift(snapshots, weights)])
        return np.asarray(all_rows(share, self.ctx.comm)[self.integrals.rows])

    def coefficients(self, basis: LocalBasis, group: np.ndarray) -> np.ndarray:
        """Projections of one member's levels on a basis, shape (step, mode)."""
        return np.asarray(self.coordinates.triangle[:, group].T @ basis.coordinates)

    def point(self, group: np.ndarray) -> dict[str, float]:
        """The parameters of the member with these columns, shape (level,)."""
        return dict(zip(self.problem.parameters, self.coordinates.points[group[0]].tolist(), strict=True))

    def states(
        self, basis: LocalBasis, strains: np.ndarray, groups: list[np.ndarray], limit: int
    ) -> Iterator[np.ndarray]:
        """Stresses at this rank's points for projected training snapshots, `separated`.

        The history is that of the law along the projected levels of each member.

        Parameters
        ----------
        basis : LocalBasis
        strains : ndarray, shape (point, component, mode)
            Of its modes.
        groups : list of ndarray
            Columns of each member to take.
        limit : int
            At most about so many states, spread over the members and then over the levels.

        Yields
        ------
        ndarray, shape (point, component)
        """
        take = groups if len(groups) <= limit else [groups[i * len(groups) // limit] for i in range(limit)]
        every = max(1, -(-self.steps * len(take) // limit))
        for number, group in enumerate(take):
            law = self.problem.law(self.integrals.points, self.point(group))
            history = start = self.problem.start(len(self.integrals.points))
            for step, a in enumerate(self.coefficients(basis, group)):
                stress, _, history = law(strains @ a, history, step)
                # The last level counts always; members take turns with the others.
                if (step + 1 + number) % every == 0 or step == self.steps - 1:
                    yield from separated(law, stress, step, start)

    def cubature(
        self,
        rule: HyperReduction,
        strains: np.ndarray,
        stresses: np.ndarray,
        start: Cubature | None = None,
    ) -> Cubature:
        """Points and weights of this rank that integrate forces; local.

        Parameters
        ----------
        rule : HyperReduction
            How they are chosen.
        strains : ndarray, shape (point, component, mode)
            Of the modes that forces are tested with.
        stresses : ndarray, shape (state, point, component)
            Of training states.
        start : Cubature or None
            An earlier one.
        """
        weights = self.integrals.weights
        if not len(weights):
            return Cubature(np.zeros(0, dtype=np.int64), np.zeros(0), 0.0)
        many = len(stresses) * strains.shape[2] > MANY
        few = self.stress_modes(stresses) if many else stresses
        products = [np.einsum("qcn,qc->qn", strains, stress) for stress in few]
        return rule.reduce(np.hstack(products), weights, start)

    def stress_modes(self, stresses: np.ndarray) -> np.ndarray:
        """Fewer stresses on this rank that span what matters of many, shape (mode, point, component)."""
        flat = (stresses * np.sqrt(self.integrals.weights)[:, None]).reshape(len(stresses), -1)
        values, vectors = np.linalg.eigh(flat @ flat.T)
        keep = values > STRESSES**2 * max(values[-1], 1e-300)
        combined: np.ndarray = np.tensordot(vectors[:, keep].T, stresses, axes=1)
        return combined

    def gathered(self, values: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Rows of all ranks, shape (row, ...), on rank 0 in increasing `order`; empty elsewhere."""
        rows = gather_rows(values, self.ctx.comm)
        keys = gather_rows(order, self.ctx.comm)
        return np.asarray(rows[np.argsort(keys, kind="stable")])

    def tables(self, strains: np.ndarray, modes: np.ndarray, cubature: Cubature) -> Tables:
        """Tables at the points of the ranks' cubatures, on rank 0; see `local`.

        Strains of the modes have the shape (point, component, mode), modes (row, mode).
        """
        pick, where = cubature.points, self.integrals.places[cubature.points]
        loads = sum_ranks(self.integrals.loads.T @ modes, self.ctx.comm)
        return Tables(
            self.gathered(strains[pick], where),
            self.gathered(cubature.weights, where),
            self.gathered(self.integrals.points[pick], where),
            loads,
        )

    def probe(
        self, strains: np.ndarray, test: tuple[np.ndarray, np.ndarray], stresses: np.ndarray,
        rule: HyperReduction,
    ) -> Probe:  # fmt: skip
        """The indicator's tables of a local model, on rank 0.

        Parameters
        ----------
        strains : ndarray, shape (point, component, mode)
            Of the local modes.
        test : tuple of ndarray
            Test modes, shape (row, test), and their strains.
        stresses : ndarray, shape (state, point, component)
            Of training states of the local model and of its neighbours.
        rule : HyperReduction
            How the points are chosen.
        """
        points = self.cubature(rule, test[1], stresses)
        where = self.integrals.places[points.points]
        tables = self.tables(test[1], test[0], points)
        # Kept in single precision: an indicator needs no more, and it is most of what is stored.
        small = Tables(_single(tables.strains), tables.weights, tables.points, tables.loads)
        return Probe(_single(self.gathered(strains[points.points], where)), small)

    def dual(self, groups: list[np.ndarray], name: str, limit: int, tolerance: float) -> np.ndarray:
        """Modes of a dual field of some members at this rank's points, shape (point * component, mode)."""
        gather = self.ensemble.gather(name)
        take = groups if len(groups) <= limit else [groups[i * len(groups) // limit] for i in range(limit)]
        every = max(1, -(-self.steps * len(take) // limit))
        levels = np.arange(self.steps - 1, -1, -every)[::-1]
        columns = []
        for group in take:
            members = np.full(len(levels), self.coordinates.members[group[0]])
            found = gather.read(members, levels)[:, 0][:, self.integrals.places]
            columns.append(found.reshape(len(levels), -1).T.astype(np.float64))
        block = np.hstack(columns)
        gram = sum_ranks(block.T @ block, self.ctx.comm)
        values, vectors = np.linalg.eigh(gram)
        order = np.argsort(values)[::-1]
        values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
        tails = np.sqrt(np.append(np.cumsum(values[::-1])[::-1], 0.0) / max(values.sum(), 1e-300))
        count = max(1, int(np.argmax(tails <= max(tolerance, 1e-7))))
        return np.asarray(block @ (vectors[:, :count] / np.sqrt(np.maximum(values[:count], 1e-300))))

    def local(
        self, basis: LocalBasis, groups: list[np.ndarray], near: list[np.ndarray], settings: Settings,
        test: tuple[np.ndarray, np.ndarray] | None, features: np.ndarray,
        start: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Made:  # fmt: skip
        """A whole local model.

        Parameters
        ----------
        basis : LocalBasis
            Of its cluster.
        groups : list of ndarray
            Columns of each member whose states the cubature is made for.
        near : list of ndarray
            Those of members that may be sent here too: the indicator is made for them as well.
        settings : Settings
            Rules, limits.
        test : tuple of ndarray, or None
            Test modes and their strains; None for no indicator.
        features : ndarray, shape (member, parameter)
            Scaled parameters of `groups`.
        start : tuple of ndarray or None
            Places and weights of an earlier cubature, to begin with.
        """
        modes = self.lift(basis)
        strains = self.integrals.strains(modes)
        stresses = np.stack(list(self.states(basis, strains, groups, settings.states)))
        chosen = self.cubature(settings.rule, strains, stresses, self._starting(start))
        duals = self.dual_modes(groups, settings)
        gaps, cubature = self.watched(duals, chosen)
        tables = self.tables(strains, modes, cubature)
        places = self.gathered(self.integrals.places[cubature.points], self.integrals.places[cubature.points])
        probe = None
        if test is not None:
            if near:
                others = self.states(basis, strains, near, settings.states)
                stresses = np.stack([*stresses, *others])
            probe = self.probe(strains, test, stresses, settings.probe_rule)
        error = float(max_ranks(np.array([cubature.error]), self.ctx.comm)[0])
        rows = self.gathered(modes, self.integrals.rows)
        if not self._first:
            return Made(None, np.zeros((0, 0)), {}, places, error)
        starts = np.stack([self.coefficients(basis, group)[0] for group in groups])
        model = LocalModel(tables, First.of(features, starts), probe, gaps)
        whole = np.zeros((self.dofs, modes.shape[1]))
        whole[self._rows] = rows
        return Made(model, whole, duals, places, error)

    def _starting(self, start: tuple[np.ndarray, np.ndarray] | None) -> Cubature | None:
        """This rank's part of an earlier cubature; points without weight were only there to be looked at."""
        if start is None:
            return None
        position = {int(place): i for i, place in enumerate(self.integrals.places)}
        mine = [(position[int(p)], w) for p, w in zip(*start, strict=True) if w > 0 and int(p) in position]
        if not mine:
            return None
        points = np.array([p for p, _ in mine], dtype=np.int64)
        order = np.argsort(points)
        return Cubature(points[order], np.array([w for _, w in mine])[order], np.inf)

    def dual_modes(self, groups: list[np.ndarray], settings: Settings) -> dict[str, np.ndarray]:
        """Modes of each dual field, shape (point * component, mode), on rank 0."""
        places, found = self.integrals.places, {}
        for name in self.problem.dual:
            modes = self.dual(groups, name, settings.states, settings.dual_tolerance)
            width = int(np.prod(self.problem.shape(name)[1:], dtype=np.int64))
            rows = self.gathered(modes.reshape(len(places), width * modes.shape[1]), places)
            if self._first:
                found[name] = rows.reshape(-1, modes.shape[1])
        return found

    def watched(
        self, modes: Mapping[str, np.ndarray], cubature: Cubature
    ) -> tuple[dict[str, np.ndarray], Cubature]:
        """What turns values of dual fields at points into coefficients, and the points.

        Where those of the cubature do not tell the modes apart, some are added, without weight.

        Parameters
        ----------
        modes : mapping of str to ndarray, shape (point * component, mode)
            On rank 0, in the order of the places.
        cubature : Cubature
            This rank's points.

        Returns
        -------
        gaps : dict of str to ndarray, shape (mode, point * component)
            On rank 0, for the points in the order of their places.
        cubature : Cubature
            With the points that were added.
        """
        if not self.problem.dual:
            return {}, cubature
        places = self.integrals.places
        everywhere = self.gathered(places, places)
        wanted = self.gathered(places[cubature.points], places[cubature.points])
        fields = {name: found.reshape(len(everywhere), -1, found.shape[1]) for name, found in modes.items()}
        for found in fields.values():
            wanted = everywhere[np.sort(completed(found, np.searchsorted(everywhere, wanted)))]
        gaps = {name: gappy(f, np.searchsorted(everywhere, wanted)).inverse for name, f in fields.items()}
        wanted = from_first(wanted, self.ctx.comm)
        points = np.flatnonzero(np.isin(places, wanted))
        weights = np.zeros(len(places))
        weights[cubature.points] = cubature.weights
        return gaps, Cubature(points, weights[points], cubature.error)


def separated(law: Law, stress: np.ndarray, step: int, start: np.ndarray) -> list[np.ndarray]:
    """A stress without what the law gives for no strain, and that: a source, where there is one.

    Parameters
    ----------
    law : Law
        Of the state.
    stress : ndarray, shape (point, component)
    step : int
    start : ndarray, shape (point, variable)
        History before the first step.

    Notes
    -----
    In equilibrium the integrals of all forces vanish where sources are part of the law, and a cubature
    that only knows their sum may put its whole weight where nothing happens. Each part has integrals
    that are not zero.
    """
    source = law(np.zeros_like(stress), start, step)[0]
    return [stress - source, source] if source.any() else [stress]


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)
