"""Relaxation kernels beside PETSc's: a sweep of SOR over the Laplacian of a square, one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.figure import Figure, NotRun, medians

TARGETS = {256: 5.0, 1024: 5.0}
"""By points along a side."""
OMEGA, COUNT = 1.5, 50


def bench_sweeps() -> Iterator[Figure]:
    """50 forward sweeps in one call over 256^2 and 1024^2 points, in turn with PETSc's MatSOR."""
    if find_spec("petsc4py") is None:
        raise NotRun("petsc4py is missing: apt install python3-petsc4py-real")
    for points, target in TARGETS.items():
        seconds = medians(_sweeps(points), repeats=10 if points < 1000 else 3)
        theirs = seconds["petsc"]
        note = (
            f"PETSc {1e6 * theirs / COUNT:.0f} µs, here {1e6 * seconds['red_black'] / COUNT:.0f} µs a sweep"
        )
        yield Figure(f"red_black_{points}", theirs / seconds["red_black"], target, note=note)
        note = f"coefficients that vary, {1e6 * seconds['varying'] / COUNT:.0f} µs"
        yield Figure(f"red_black_varying_{points}", theirs / seconds["varying"], 1.5, note=note)
        note = f"with the residual's norm, {1e6 * seconds['csr'] / COUNT:.0f} µs"
        yield Figure(f"csr_{points}", theirs / seconds["csr"], 0.7, note=note)


def bench_solves() -> Iterator[Figure]:
    """Whole solves at 256^2, 1e-6: red-black SOR beside PETSc's SSOR-CG, ICC-CG and Cholesky."""
    if find_spec("petsc4py") is None:
        raise NotRun("petsc4py is missing: apt install python3-petsc4py-real")
    runs = _solves(256)
    seconds = medians(runs, repeats=3, warm=1)
    ours = seconds.pop("red_black")
    shown = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in seconds.items())
    best = min(seconds, key=lambda name: seconds[name])
    note = f"here {1e3 * ours:.0f} ms at the best omega; {shown}"
    yield Figure(f"solve_beside_{best}", seconds[best] / ours, 1.0, note=note)


def _matrix(points: int) -> Any:
    from petsc4py import PETSc

    from sciflow_control.systems.laplacian import square_laplacian

    a = square_laplacian(points)
    return PETSc.Mat().createAIJ(a.shape, csr=(a.indptr, a.indices, a.data), comm=PETSc.COMM_SELF)


def _sweeps(points: int) -> dict[str, Callable[[], object]]:
    """One sweep each, over the same right-hand side."""
    import numpy as np

    from sciflow_control.kernels.relaxation import sweep
    from sciflow_control.kernels.stencil import red_black_sweep
    from sciflow_control.systems.laplacian import square_laplacian

    a, matrix = square_laplacian(points), _matrix(points)
    b, x = matrix.createVecs()
    f = np.random.default_rng(0).standard_normal((points, points))
    b.setArray(f.ravel())
    u, flat = np.zeros((points + 2, points + 2)), np.zeros(points**2)
    kx, ky = np.ones((points, points + 1)), np.ones((points + 1, points))
    wide, centre = np.zeros_like(u), np.full((points, points), 4.0)
    forward, right = _forward(), f.ravel()
    return {
        "petsc": lambda: matrix.SOR(b, x, OMEGA, forward, 0.0, COUNT, 1),
        "red_black": lambda: red_black_sweep(u, f, 4.0, 1.0, 1.0, OMEGA, COUNT),
        "varying": lambda: red_black_sweep(wide, f, centre, kx, ky, OMEGA, COUNT),
        "csr": lambda: sweep(a.indptr, a.indices, a.data, right, flat, OMEGA, COUNT),
    }


def _forward() -> int:
    from petsc4py import PETSc

    return int(PETSc.Mat.SORType.LOCAL_FORWARD_SWEEP)


def _solves(points: int) -> dict[str, Callable[[], object]]:
    """Whole solves from zero, set-up included where there is one."""
    import math

    import numpy as np
    from petsc4py import PETSc

    from sciflow_control.kernels.stencil import red_black_sor

    matrix = _matrix(points)
    f = np.random.default_rng(0).standard_normal((points, points))
    best = 2 / (1 + math.sin(math.pi / (points + 1)))

    def petsc(kind: str, pc: str, options: str) -> None:
        ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        PETSc.Options().insertString(options)
        ksp.setOperators(matrix)
        ksp.setType(kind)
        ksp.pc.setType(pc)
        ksp.setTolerances(rtol=1e-6)
        ksp.setFromOptions()
        b, x = matrix.createVecs()
        b.setArray(f.ravel())
        ksp.solve(b, x)
        ksp.destroy()

    return {
        "red_black": lambda: red_black_sor(np.zeros((points + 2, points + 2)), f, 4.0, 1.0, 1.0, best, 1e-6),
        "ssor_cg": lambda: petsc("cg", "sor", "-pc_sor_symmetric -pc_sor_omega 1.95"),
        "icc_cg": lambda: petsc("cg", "icc", ""),
        "cholesky": lambda: petsc("preonly", "cholesky", ""),
    }
