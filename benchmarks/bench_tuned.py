"""Solvers that a tuner chooses, beside fixed ones; factors that are kept; what the worst arms can cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.figure import Figure, medians

SOLVERS = ("cg+icc", "cg+ssor", "cg+eisenstat", "cg+hypre", "cholesky")
OMEGAS = (1.0, 1.2, 1.4, 1.6, 1.7, 1.8, 1.85, 1.9, 1.95)
CASES = ((32, 400), (50, 400), (100, 300), (256, 30))
"""Unknowns along a side, and systems."""
ADVERSARIES = (
    *("richardson+none", "richardson+ssor", "gmres+none", "preonly+jacobi", "minres+none", "bcgs+none"),
    *("cg+none", "fcg+none", "cg+gamg", "cholesky"),
)


def _operator(matrix: Any) -> Any:
    from petsc4py import PETSc

    rows, columns = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    return PETSc.Mat().createAIJ(matrix.shape, csr=(rows, columns, matrix.data), comm=PETSc.COMM_SELF)


def _load(mat: Any, matrix: Any) -> None:
    from petsc4py import PETSc

    rows, columns = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    mat.zeroEntries()
    mat.setValuesCSR(rows, columns, matrix.data)
    mat.assemble()


def _plain(mat: Any, method: str, preconditioner: str) -> Any:
    from petsc4py import PETSc

    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    ksp.setOperators(mat)
    ksp.setType(method)
    ksp.getPC().setType(preconditioner)
    ksp.setTolerances(rtol=1e-8, max_it=20000)
    return ksp


def _darcy(side: int, count: int) -> tuple[Any, list[Any]]:
    from sciflow_control.systems.darcy import DarcySystems

    systems = list(DarcySystems(side, contrast=5.0).draw(count, 0))
    return _operator(systems[0].matrix), systems


def bench_darcy() -> Iterator[Figure]:
    """A new permeability for each system; mixed arms, in wall-clock time, beside what is usual."""
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP

    space = Solvers(SOLVERS, OMEGAS)
    for side, count in CASES:
        mat, systems = _darcy(side, min(count, 60))
        b, x = mat.createVecs()
        tuned = TunedKSP(_plain(mat, "gmres", "ilu"), Thompson(space), cost="seconds")
        usual = {"gmres+ilu": _plain(mat, "gmres", "ilu"), "cg+icc": _plain(mat, "cg", "icc")}
        fixed = {
            str(dict(a)): TunedKSP(_plain(mat, "gmres", "ilu"), _only(a), limit=50.0) for a in space.arms
        }
        every: dict[str, list[float]] = {n: [] for n in ("tuned", *usual, *fixed)}
        for i in range(count):
            system = systems[i % len(systems)]
            _load(mat, system.matrix)
            b.setArray(system.rhs)
            late = i >= count - min(count // 3, 25)  # each arm where the tuner has learned
            for name, ksp in {"tuned": tuned, **usual, **(fixed if late else {})}.items():
                if name in usual and not (late or i % 10 == 0):
                    continue
                mat.stateIncrease()
                begin = time.perf_counter()
                ksp.solve(b, x)
                every[name].append(time.perf_counter() - begin)
        yield from _compared(side, count, every, list(fixed))


def _only(arm: Any) -> Any:
    """A tuner with one arm."""
    from sciflow_control.bandits.fixed import Fixed
    from sciflow_control.space import Solvers

    method, omega = str(arm["method"]), arm.get("omega")
    return Fixed(Solvers((method,), (1.0,) if omega is None else (float(omega),)))


def _compared(side: int, count: int, every: dict[str, list[float]], fixed: Sequence[str]) -> Iterator[Figure]:
    late = len(every[fixed[0]])
    means = {n: float(np.mean(v[-late + 1 :] if n in fixed else v)) for n, v in every.items()}
    best = min(fixed, key=lambda n: means[n])
    after = float(np.mean(every["tuned"][-late:]))
    note = f"tuned {1e3 * means['tuned']:.2f} ms of {count} systems"
    for name, target in (("gmres+ilu", 4.0), ("cg+icc", 2.0)):
        if name == "gmres+ilu" or side <= 100:
            says = f"{note}, {name} {1e3 * means[name]:.2f} ms"
            yield Figure(f"darcy_{side}_beside_{name}", means[name] / means["tuned"], target, note=says)
    if count > 200:
        says = f"{best} {1e3 * means[best]:.2f} ms, tuned {1e3 * after:.2f} ms"
        yield Figure(f"darcy_{side}_late_over_best", after / means[best], 1.15, "x", "<=", says)


def bench_reuse() -> Iterator[Figure]:
    """One operator of 1e4 unknowns, assembled once more for every right-hand side."""
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP

    mat, systems = _darcy(100, 1)
    b, x = mat.createVecs()
    b.setArray(systems[0].rhs)
    for factor in ("lu", "cholesky"):
        alone = _plain(mat, "preonly", factor)
        tuned = TunedKSP(_plain(mat, "preonly", factor), Thompson(Solvers(("given", "cg+icc"))))

        def again(ksp: Any) -> None:
            mat.stateIncrease()  # as an assembly of the same values does
            ksp.solve(b, x)

        def anew(factor: str = factor) -> None:
            _plain(mat, "preonly", factor).solve(b, x)

        calls = {
            "numeric": lambda k=alone: again(k),
            "whole": anew,
            "kept": lambda k=tuned: again(k),
        }
        seconds = medians(calls, repeats=15, warm=12)
        note = f"kept {1e3 * seconds['kept']:.2f} ms, "
        yield Figure(
            f"{factor}_kept_beside_factorising", seconds["whole"] / seconds["kept"], 25.0,
            note=note + f"factorising {1e3 * seconds['whole']:.1f} ms",
        )  # fmt: skip
        yield Figure(
            f"{factor}_kept_beside_known_pattern", seconds["numeric"] / seconds["kept"], 5.0,
            note=note + f"with the pattern's analysis kept {1e3 * seconds['numeric']:.1f} ms",
        )  # fmt: skip


def bench_adversaries() -> Iterator[Figure]:
    """Arms that diverge, stagnate, break down or cost too much to set up, drawn at random; in work."""
    from sciflow_control.bandits.fixed import Random
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP
    from sciflow_control.tuned.costs import price

    ratios: list[float] = []
    for safe in (("gmres", "ilu"), ("cg", "icc"), ("cg", "jacobi"), ("preonly", "lu")):
        mat, systems = _darcy(32, 100)
        b, x = mat.createVecs()
        alone, tuned = _plain(mat, *safe), TunedKSP(_plain(mat, *safe), Random(Solvers(ADVERSARIES)), hold=1)
        for i, system in enumerate(systems):
            _load(mat, system.matrix)
            b.setArray(np.random.default_rng(i).standard_normal(1024) if i % 2 else system.rhs)
            alone.solve(b, x)
            tuned.solve(b, x)
            cost = price(*safe, tuned._tuning.size)
            work = alone.getIterationNumber() * cost.iteration + (cost.numeric if i else cost.setup)
            ratios.append(tuned.solved.work / work)
    note = f"{len(ratios)} solves, four safe arms; mean {np.mean(ratios):.2f}x"
    yield Figure("worst_over_safe_arm", max(ratios), 2.0, "x", "<=", note)
