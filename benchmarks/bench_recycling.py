"""Krylov recycling: iterations and time beside GMRES(40), CG, BiCGStab, LGMRES and direct solvers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow_control.systems.darcy import DarcySystems

COUNT, M, K, TOLERANCE, LIMIT = 20, 40, 20, 1e-8, 10000
DEFLATED = 10
"""Vectors of deflated CG: each costs time in every iteration, and more save few."""
PACKAGES = ("cholmod", "umfpack", "superlu", "mumps", "petsc")
KRYLOV = {"GMRES(40)": "gmres", "LGMRES(40)": "lgmres", "CG": "cg", "BiCGStab": "bcgs"}
# PETSc 3.18's bcgsl leaves a wrong solution with a preconditioner on the right.


@dataclass
class Record:
    """Iterations, products with the operator and seconds of one method, system by system."""

    iterations: list[int] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, iterations: int, products: int, seconds: float) -> None:
        self.iterations.append(iterations)
        self.products.append(products)
        self.seconds.append(seconds)

    def mean(self) -> float:
        """Iterations, without the first system, which nobody has learned anything for."""
        return statistics.fmean(self.iterations[1:])

    def ms(self) -> float:
        return 1e3 * statistics.median(self.seconds[1:])


def krylov(kind: str, matrix: Any, pc: Any) -> Any:
    """A PETSc solver that measures the residual itself, as ours do."""
    from petsc4py import PETSc

    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    ksp.setOperators(matrix)
    ksp.setType(kind)
    if kind != "cg":
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
    if kind in ("gmres", "lgmres"):
        ksp.setGMRESRestart(M)
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.setTolerances(rtol=TOLERANCE, max_it=LIMIT)
    ksp.setPC(pc)
    return ksp


def direct(matrix: Any, symmetric: bool) -> tuple[str, Callable[[Any, Any], None]]:
    """The first package that is there, and a call that factorises and solves."""
    from petsc4py import PETSc

    kind = "cholesky" if symmetric else "lu"
    for package in PACKAGES:
        ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        ksp.setOperators(matrix)
        ksp.setType("preonly")
        ksp.getPC().setType(kind)
        ksp.getPC().setFactorSolverType(package)
        try:
            ksp.setUp()
        except PETSc.Error:
            continue

        def call(b: Any, x: Any, ksp: Any = ksp) -> None:
            matrix.stateIncrease()
            ksp.solve(b, x)

        return package, call
    raise NotRun("PETSc has no direct solver")


def race(systems: DarcySystems, name: str) -> dict[str, Record]:
    """Every method on every system, one after the other, with one preconditioner for all."""
    from petsc4py import PETSc

    from sciflow_control.recycling.deflated_cg import DeflatedCG
    from sciflow_control.recycling.gcro_dr import GCRODR

    found: dict[str, Record] = {}
    ours: dict[str, Any] = {}
    for system in systems.draw(COUNT, 0):
        A, n = system.matrix, len(system.rhs)
        matrix = PETSc.Mat().createAIJ((n, n), csr=(A.indptr, A.indices, A.data), comm=PETSc.COMM_SELF)
        pc = PETSc.PC().create(PETSc.COMM_SELF)
        pc.setOperators(matrix)
        pc.setType(name)
        pc.setUp()
        x, b = matrix.createVecs()
        b.setArray(system.rhs)
        for label, kind in KRYLOV.items():
            if systems.symmetric or kind != "cg":
                ksp = krylov(kind, matrix, pc)
                ksp.setUp()
                seconds = timed(ksp.solve, b, x)
                if ksp.getConvergedReason() > 0:
                    check(system, x.array, label)
                found.setdefault(label, Record()).add(ksp.getIterationNumber(), 0, seconds)
        if not ours:
            ours["GCRO-DR(40,20)"] = GCRODR(matrix, M, K)
            if systems.symmetric:
                ours["deflated CG(10)"] = DeflatedCG(matrix, M, DEFLATED, refresh=10)
        for label, method in ours.items():
            y = np.zeros(n)
            seconds = timed(solve, method, matrix, pc, system.rhs, y)
            check(system, y, label)
            found.setdefault(label, Record()).add(method.iterations, method.products, seconds)
        package, call = direct(matrix, systems.symmetric)
        seconds = timed(call, b, x)
        check(system, x.array, package)
        found.setdefault(package, Record()).add(0, 0, seconds)
    return found


def solve(method: Any, matrix: Any, pc: Any, b: np.ndarray, x: np.ndarray) -> None:
    method.solve(matrix, pc.apply, b, x, tolerances=(TOLERANCE, 0.0), limit=LIMIT)


def check(system: Any, x: np.ndarray, label: str) -> None:
    """Whoever does not solve the system does not count."""
    size = np.linalg.norm(system.rhs - system.matrix @ x) / np.linalg.norm(system.rhs)
    if not size <= 1.1 * TOLERANCE:
        raise NotRun(f"{label} left a residual of {size:.1e}")


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begin


def table(found: Mapping[str, Record]) -> str:
    parts = []
    for label, r in found.items():
        its = f"{r.mean():.0f} its " if r.mean() else ""
        its += f"({r.iterations.count(LIMIT)} not converged) " if LIMIT in r.iterations else ""
        parts.append(f"{label} {its}{r.ms():.3g} ms")
    return ", ".join(parts)


def figures(systems: DarcySystems, name: str, times: float) -> Iterator[Figure]:
    found = race(systems, name)
    ours, gmres = found["GCRO-DR(40,20)"], found["GMRES(40)"]
    label = f"{systems.form}_{systems.size**2}_{name}"
    products = statistics.fmean(ours.products[1:])
    note = f"per system after the first of {COUNT}: {table(found)}; {products:.0f} products of GCRO-DR"
    yield Figure(f"{label}_iterations", gmres.mean() / ours.mean(), times, "x", ">=", note)
    if systems.size >= 100:
        first = ours.seconds[0] / gmres.seconds[0]
        against = f"GCRO-DR in Python over PETSc's GMRES(40) in C, without set-up; first system {first:.2g}x"
        yield Figure(f"{label}_time", ours.ms() / gmres.ms(), 1.0, "x", "<=", against)
    if "CG" in found:
        cg, deflated = found["CG"], found["deflated CG(10)"]
        yield Figure(
            f"{label}_deflated_iterations", cg.mean() / deflated.mean(), 1.6, "x", ">=", "CG over ours"
        )
        if systems.size >= 100:
            against = "ours in Python over PETSc's CG in C, without set-up"
            yield Figure(f"{label}_deflated_time", deflated.ms() / cg.ms(), 1.0, "x", "<=", against)


def bench_darcy() -> Iterator[Figure]:
    """Symmetric: finite volumes in random media."""
    systems = made("symmetric")
    for size in (50, 100):
        yield from figures(systems.replace(size=size), "jacobi", 3.0)
        yield from figures(systems.replace(size=size), "icc", 2.0)


def bench_stencils() -> Iterator[Figure]:
    """Not symmetric: the stencil of the published code, and the same without its slip."""
    for form in ("columns", "skr"):
        for name, times in (("jacobi", 3.0), ("ilu", 2.0)):
            yield from figures(made(form).replace(size=100), name, times)


def made(form: str) -> DarcySystems:
    try:
        import petsc4py  # noqa: F401
    except ImportError:
        raise NotRun("petsc4py is missing: apt-get install python3-petsc4py") from None
    from sciflow_control.systems.darcy import DarcySystems

    return DarcySystems(form=form, tolerance=TOLERANCE)  # type: ignore[arg-type]
