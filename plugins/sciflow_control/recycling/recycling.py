"""The ``recycling`` linear solver: every system of an ensemble begins where others ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Diverged, Invalid
from sciflow.linear_solver import LinearSolver, Solving

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

SYMMETRIC = ("own", "none", "jacobi", "ssor", "icc", "gamg", "hypre")


@dataclass(frozen=True)
class Recycling(LinearSolver):
    """Krylov recycling: GCRO-DR for any operator, deflated CG for symmetric positive definite ones.

    A space of a few vectors, those that Krylov methods are slow for, goes from one system to the next,
    and from one member of an ensemble to those that start after it. Where it fails the problem's own
    solver goes on from there.

    Attributes
    ----------
    method : {"gcro_dr", "deflated_cg"}
        See `GCRODR` and `DeflatedCG`.
    m, k : int
        Vectors of a cycle (of the window that Ritz vectors are gathered in, beside 2 k) and vectors
        that are carried.
    preconditioner : str
        ``"own"``: that of the problem's own solver.
    refresh : int or None
        Cycles (GCRO-DR) or systems (deflated CG, 0 never) between two choices of the space; None:
        see `GCRODR`, 10 systems.
    share : bool
        Whether members begin with the newest space that another one of the same mesh, partition and
        settings left. A member's solution then depends on the others, within the tolerance.
    basis : str
        Where there is no such space: an artifact (its directory), or a ``.npy`` file of shape (dof,
        vector), to begin with.
    field : str
        Of that artifact: a basis with the axis ``mode``, or snapshots.
    digest_of_basis : str
        Of the artifact or file. Where it is empty that of the one that is there is taken when the
        configuration is made.

    Notes
    -----
    A member that goes on after a kill takes its space from the restart data and gives the same bits. One
    that starts anew may find a newer space: its solution is the same within the tolerance only.
    """

    name: ClassVar[str] = "recycling"
    requires: ClassVar[tuple[str, ...]] = ("petsc4py", "scipy")
    method: Literal["gcro_dr", "deflated_cg"] = "gcro_dr"
    m: int = 40
    k: int = 20
    preconditioner: Literal[
        "own", "none", "jacobi", "bjacobi", "sor", "ssor", "icc", "ilu", "asm", "gamg", "hypre"
    ] = "own"
    refresh: int | None = None
    share: bool = True
    basis: str = ""
    field: str = "basis"
    digest_of_basis: str = ""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.m < 2 or not 0 <= self.k < self.m:
            raise Invalid(f"a cycle of m >= 2 vectors carries 0 to m - 1 of them; got m={self.m}, k={self.k}")
        if self.refresh is not None and self.refresh < (1 if self.method == "gcro_dr" else 0):
            raise Invalid(f"{self.method}: refresh={self.refresh} is no number of cycles or systems")
        if self.method == "deflated_cg" and self.preconditioner not in SYMMETRIC:
            raise Invalid(
                f"{self.preconditioner} is not symmetric, and deflated_cg needs that: "
                f"one of {', '.join(SYMMETRIC)}"
            )
        if self.digest_of_basis and not self.basis:
            raise Invalid("digest_of_basis is that of a basis: say which, with basis")
        if self.basis and not self.digest_of_basis:
            from sciflow_control.recycling.seeding import check

            object.__setattr__(self, "digest_of_basis", check(self.basis, self.field))

    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """See `LinearSolver.wrap`."""
        from sciflow_control.recycling.ksp import RecyclingKSP

        keeps = self.share or bool(self.basis)
        solver = RecyclingKSP(
            ksp,
            self.method,
            m=self.m,
            k=self.k,
            preconditioner=self.preconditioner,
            refresh=self.refresh,
            hpddm=False if keeps else None,
            log=ctx.log,
        )
        return Recycled(self, solver, ksp, ctx, restart)


class Recycled(Solving):
    """The systems of one member; made by `Recycling.wrap`.

    Attributes
    ----------
    solver : RecyclingKSP
        Tells of the last solve.
    """

    def __init__(
        self,
        config: Recycling,
        solver: Any,
        ksp: Any,
        ctx: Context,
        restart: Mapping[str, np.ndarray] | None,
    ) -> None:
        self.solver, self._config, self._ksp, self._ctx = solver, config, ksp, ctx
        self._restart, self._open, self._solved = restart, False, 0

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`."""
        if not self._open:
            self._begin()
        self.solver.solve(b, x)
        self._solved += 1
        if self.solver.getConvergedReason() < 0:
            raise Diverged(
                f"neither recycling nor the problem's own solver converged: PETSc reason "
                f"{self.solver.getConvergedReason()}, residual {self.solver.getResidualNorm():.2e}"
            )
        return int(self.solver.getIterationNumber())

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Solving.restart`."""
        if not self._open:
            return self._restart or {}
        found: Mapping[str, np.ndarray] = self.solver.state()
        return found

    def close(self) -> None:
        """See `Solving.close`: leave the space for others."""
        spaces = self._spaces() if self._solved else None
        if spaces is not None and self.solver.space().shape[1]:
            spaces.write(self.solver.knowledge())

    def _begin(self) -> None:
        """Take up a space, now that the operator's layout is known."""
        from sciflow_control.recycling import seeding

        self._open = True
        if self._restart is not None and len(self._restart):
            self.solver.restore(self._restart)
            return
        spaces = self._spaces()
        found = spaces.newest() if spaces is not None else None
        if found is not None:
            self.solver.learn(found)
        elif self._config.basis and self._config.k:
            c = self._config
            vectors = seeding.read(c.basis, c.field, c.k, c.digest_of_basis)
            self.solver.seed(seeding.local(vectors, self._ksp, c.basis))

    def _spaces(self) -> Any:
        """Where spaces are shared; None where they are not, or where there is no folder of the job's own."""
        from pathlib import Path

        from sciflow_control.recycling.spaces import Spaces, layout

        if not self._config.share or self._ctx.scratch == Path() or not self._config.k:
            return None
        matrix = self._ksp.getOperators()[0]
        c = self._config
        kind = layout(matrix, method=c.method, m=c.m, k=c.k, preconditioner=c.preconditioner)
        return Spaces(self._ctx.scratch, kind, matrix.getComm(), self._ctx.log)
