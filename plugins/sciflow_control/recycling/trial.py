"""The ``recycling_trial`` stage: a sequence of systems, solved with and without recycling, and by others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.errors import Invalid, nearest
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.systems.darcy import DarcySystems
from sciflow_control.systems.system import Systems

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_control.recycling.contenders import Contender
    from sciflow_control.systems.system import System

PRECONDITIONERS = ("none", "jacobi", "bjacobi", "sor", "asm", "icc", "ilu")
"""The rows of the published table."""
METHODS = {
    "gmres": "GMRES(m)",
    "lgmres": "LGMRES(m)",
    "gcro_dr_alone": "GCRO-DR, each system alone",
    "gcro_dr": "GCRO-DR, recycled",
    "gcro_dr_sorted": "GCRO-DR, recycled, sorted",
    "bcgs": "BiCGStab",
    "cg": "CG",
    "cg_projected": "CG from earlier solutions",
    "deflated_cg": "deflated CG",
    "direct": "direct, factorised each time",
    "direct_kept": "direct, factors kept",
}
"""What each method is called in the report. Those with CG need symmetric positive definite operators; from
`earlier solutions` and `factors kept` need one operator for all systems."""
STATUSES = ("solved", "gave up", "wrong")
"""Solved; not converged or stopped by an error; converged as it says, but the residual is too large."""
_AXES = ("row", "system")
RECYCLING_TRIAL = Schema(
    "recycling_trial",
    {
        "iterations": Field(_AXES, "1", "int64", "as the method counts them"),
        "products": Field(_AXES, "1", "int64", "multiplications with the operator"),
        "seconds": Field(_AXES, "s", "float64", "set-up and solve"),
        "residual": Field(_AXES, "1", "float64", "||b - A x|| / ||b||, computed anew"),
        "status": Field(_AXES, "1", "uint8", f"0 to 2: {', '.join(STATUSES)}"),
        "permutation": Field(("system",), "1", "int64", "the systems in the order of the sorted method"),
    },
)
SLACK = 2.0
"""A residual may be so many times the tolerance, as methods follow it by a recurrence."""


@dataclass(frozen=True)
class RecyclingTrial(Stage):
    """Solves one sequence of systems by every method with every preconditioner, and checks each solution.

    Attributes
    ----------
    systems : Systems
        The sequence.
    count : int
        Systems.
    seed : int
        Of the sequence.
    preconditioners : tuple of str
        Some of none, jacobi, bjacobi, sor, asm, icc, ilu.
    methods : tuple of str
        Some of `METHODS`; () takes all that the systems allow.
    m, k : int
        Largest space of a cycle, and how much of it is carried on; 40 and 20 are published.
    blocks : int
        Of block Jacobi and additive Schwarz. The published runs have one for each of 72 processes.
    limit : int
        Iterations after which a solve has failed.
    ordering : {"greedy", "hilbert"}
        How the sorted method's systems are ordered by their parameters.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    All methods start from zero, on one process, with one matrix object whose values are overwritten, so
    that an ordering or the pattern of an incomplete factor is found once. The time of a solve includes the
    set-up of its preconditioner. Where the operator stays, preconditioners are kept.
    """

    name: ClassVar[str] = "recycling_trial"
    requires: ClassVar[tuple[str, ...]] = ("petsc4py", "scipy")
    output: ClassVar[Schema] = RECYCLING_TRIAL
    systems: Systems = DarcySystems()
    count: int = 20
    seed: int = 0
    preconditioners: tuple[str, ...] = PRECONDITIONERS
    methods: tuple[str, ...] = ()
    m: int = 40
    k: int = 20
    blocks: int = 8
    limit: int = 10000
    ordering: Literal["greedy", "hilbert"] = "greedy"

    def __post_init__(self) -> None:
        check_choices(self)
        if min(self.count, self.blocks, self.limit) < 1 or self.seed < 0:
            raise Invalid(
                f"count={self.count}, blocks={self.blocks} and limit={self.limit} must be at least 1, "
                f"seed={self.seed} at least 0"
            )
        if not 1 <= self.k < self.m:
            raise Invalid(
                f"of m={self.m} directions at least one and fewer than m are carried, not k={self.k}"
            )
        if not self.preconditioners:
            raise Invalid(f"no preconditioner; there are {', '.join(PRECONDITIONERS)}")
        for name in self.preconditioners:
            if name not in PRECONDITIONERS:
                raise Invalid(f"there is no preconditioner {name!r}. {nearest(name, PRECONDITIONERS)}")
        for name in self.methods:
            if name not in METHODS:
                raise Invalid(f"there is no method {name!r}. {nearest(name, METHODS)}")
            if name not in allowed(self.systems):
                raise Invalid(
                    f"{METHODS[name]} does not suit {self.systems.name}: CG needs symmetric positive "
                    "definite operators, factors and solutions are kept for one operator"
                )

    @classmethod
    def example(cls) -> Self:
        """A small one."""
        return cls(DarcySystems(size=8), count=3, preconditioners=("jacobi",))

    def rows(self) -> list[tuple[str, str]]:
        """Preconditioner and method of every row; direct solvers have no preconditioner."""
        methods = self.methods or allowed(self.systems)
        pairs = [(p, m) for p in self.preconditioners for m in methods if not m.startswith("direct")]
        return pairs + [("", m) for m in methods if m.startswith("direct")]

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Solve everything.

        Raises
        ------
        Invalid
            On several ranks.
        """
        import numpy as np

        from sciflow_control.recycling.ordering import order, path_length

        if ctx.comm.size > 1:
            raise Invalid(f"{self.name} times one process, it was started on {ctx.comm.size}")
        systems = list(self.systems.draw(self.count, self.seed))
        parameters = np.stack([s.parameters for s in systems])
        given, ordered = np.arange(self.count), order(parameters, self.ordering)
        rows, errors = self.rows(), {}
        columns = {n: np.zeros((len(rows), self.count), RECYCLING_TRIAL[n].dtype) for n in RECYCLING_TRIAL}
        for at, (name, method) in enumerate(rows):
            along = ordered if method.endswith("_sorted") else given
            label = f"{method} with {name}" if name else method
            ctx.progress(at, len(rows), "rows of the table", {"now": label})
            error = self._row((name, method), systems, along, {n: v[at] for n, v in columns.items()})
            if error:
                errors[label] = error
                ctx.log.warning("%s: %s", label, error)
        for name in RECYCLING_TRIAL:
            out.write(name, ordered if name == "permutation" else columns[name], RECYCLING_TRIAL[name])
        out.describe(
            rows=[{"preconditioner": name, "method": method} for name, method in rows],
            systems=self.systems.to_json(),
            unknowns=len(systems[0].rhs),
            steady=self.systems.steady,
            m=self.m,
            k=self.k,
            ordering=self.ordering,
            path_lengths=[path_length(parameters, given), path_length(parameters, ordered)],
            rank=int(np.linalg.matrix_rank(np.stack([s.rhs for s in systems]))),
            errors=errors,
        )
        ctx.progress(len(rows), len(rows), "rows of the table")

    def _row(
        self,
        row: tuple[str, str],
        systems: list[System],
        along: np.ndarray,
        columns: Mapping[str, np.ndarray],
    ) -> str:
        """Solve all systems by one method; what stopped it first, if something did."""
        from petsc4py import PETSc

        from sciflow_control.recycling.contenders import Settings, contender

        shared = Settings(
            self.m, self.k, self.blocks, self.systems.tolerance, self.limit, self.systems.symmetric
        )
        solver, matrix, before, first = contender(row[1], row[0], shared), None, None, ""
        for index in along:
            system = systems[index]
            if matrix is None:
                matrix = matrix_of(system.matrix, self.systems.symmetric)
            elif system.matrix is not before:
                overwrite(matrix, system.matrix)
            same, before = system.matrix is before, system.matrix
            try:
                found = solved(solver, matrix, system, same)
            # A preconditioner or factorisation that breaks down is a result.
            except PETSc.Error as error:
                first = first or f"PETSc error {error.ierr}"
                found = {"status": STATUSES.index("gave up"), "residual": float("nan")}
            if found["status"] == 0 and found["residual"] > SLACK * self.systems.tolerance:
                found["status"] = STATUSES.index("wrong")
            for name, value in found.items():
                columns[name][index] = value
        return first


def allowed(systems: Systems) -> tuple[str, ...]:
    """The methods that suit a sequence."""
    return tuple(
        name
        for name in METHODS
        if (systems.symmetric or "cg" not in name.split("_"))
        and (systems.steady or name not in ("cg_projected", "direct_kept"))
    )


def matrix_of(csr: Any, symmetric: bool) -> Any:
    """A copy of a matrix for PETSc, on this process alone."""
    from petsc4py import PETSc

    made = PETSc.Mat().createAIJ(csr.shape, csr=(csr.indptr, csr.indices, csr.data), comm=PETSc.COMM_SELF)
    if symmetric:
        made.setOption(PETSc.Mat.Option.SPD, True)
    return made


def overwrite(matrix: Any, csr: Any) -> None:
    """Put other values on the same pattern."""
    matrix.setValuesCSR(csr.indptr, csr.indices, csr.data)
    matrix.assemble()


def solved(solver: Contender, matrix: Any, system: System, same: bool) -> dict[str, float]:
    """Solve one system, look at the clock and check the solution."""
    import numpy as np

    b, x = matrix.createVecLeft(), matrix.createVecRight()
    b.array[:] = system.rhs
    begun = time.perf_counter()
    reason = solver.solve(matrix, b, x, same)
    passed = time.perf_counter() - begun
    left = np.linalg.norm(system.rhs - system.matrix @ x.array) / np.linalg.norm(system.rhs)
    return {
        "iterations": solver.iterations,
        "products": solver.products,
        "seconds": passed,
        "residual": float(left),
        "status": STATUSES.index("solved" if reason > 0 and np.isfinite(left) else "gave up"),
    }
