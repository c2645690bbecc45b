"""Learned search directions beside CG, ICC-CG, deflated CG, a sine transform and Cholesky."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun, medians

RTOL = 1e-4
"""Of the published tests."""
OTHERS = ("cg", "icc", "deflated", "cholesky", "sine")


def bench_two_dimensions() -> Iterator[Figure]:
    """Trained on a box of 32 x 32 cells, 1000 updates; other sizes, other domains."""
    yield from _measured(2, 32, (32, 64, 128), updates=1000)


def bench_three_dimensions() -> Iterator[Figure]:
    """Trained on a box of 16 x 16 x 16 cells, 300 updates."""
    yield from _measured(3, 16, (16, 32), updates=300)


def bench_domains() -> Iterator[Figure]:
    """Trained on three domains of 32 x 32 cells, tried on others of 64 x 64, more and more of it blocked."""
    _needs()
    import torch

    from sciflow_control.directions.domains import Ball, Box, Obstacles

    torch.set_num_threads(1)
    blocked = ((4, 0), (8, 1), (16, 2), (32, 3), (64, 4))
    tried = [Box((64, 64)), Ball((64, 64)), *(Obstacles((64, 64), k, 0.3, s) for k, s in blocked)]
    for on in (Box((32, 32)), Ball((32, 32)), Obstacles((32, 32), 8, 0.3, 11)):
        net = trained(on, 1000)
        for domain in tried:
            found = iterations(net, domain)
            there = int(domain.cells().sum())
            note = f"CG {found['cg']:.1f}, learned {found['learned']:.1f}; {there} of 4096 cells are inside"
            name = f"on_{on.name}_for_{domain.name}" + (
                f"_{domain.count}" if domain.name == "obstacles" else ""
            )
            yield Figure(name, found["cg"] / found["learned"], 2.0, note=note)


def _needs() -> None:
    if find_spec("torch") is None or find_spec("petsc4py") is None:
        raise NotRun("torch and petsc4py are needed: pip install torch; apt install python3-petsc4py")


def _measured(dimension: int, points: int, sizes: tuple[int, ...], updates: int) -> Iterator[Figure]:
    _needs()
    import torch

    from sciflow_control.directions.domains import Ball, Box, Obstacles

    torch.set_num_threads(1)
    net = trained(Box((points,) * dimension), updates)
    counts: dict[int, float] = {}
    for n in sizes:
        for cls, target in ((Box, 5.0), (Ball, 2.0), (Obstacles, 2.0)):
            domain = cls((n,) * dimension)
            found = iterations(net, domain)
            if cls is Box:
                counts[n] = found["learned"]
            note = ", ".join(f"{k} {v:.1f}" for k, v in found.items()) + f"; to {RTOL:g}"
            name = f"iterations_{dimension}d_{domain.name}_{n}"
            yield Figure(name, found["cg"] / found["learned"], target, note=note)
        seconds = times(net, Box((n,) * dimension))
        single, half = seconds.pop("learned"), seconds.pop("learned_bfloat16")
        ours = min(single, half)
        for name, value in seconds.items():
            note = (
                f"{name} {1e3 * value:.3g} ms, learned {1e3 * single:.3g} ms in float32, "
                f"{1e3 * half:.3g} ms in bfloat16; on a box"
            )
            yield Figure(f"seconds_{dimension}d_{n}_{name}", value / ours, 1.0, note=note)
    first, last = sizes[0], sizes[-1]
    note = (
        f"iterations on {last}^{dimension} over those on {first}^{dimension}; published: independent of size"
    )
    yield Figure(f"growth_{dimension}d", counts[last] / counts[first], 1.1, better="<=", note=note)


def trained(domain: Any, updates: int) -> Any:
    """A network of the published form after a short training."""
    from sciflow_control.directions import training
    from sciflow_control.directions.train import TrainDirections

    now = training.begin(TrainDirections(domain, updates=updates, learning_rate=2e-3, device="cpu"))
    while now.updates < updates:
        training.advance(now)
    return now.net


def right_hand_sides(operator: Any) -> list[np.ndarray]:
    """Two of white noise and a constant."""
    n = len(operator.places)
    return [*np.random.default_rng(5).standard_normal((2, n)), np.ones(n)]


def iterations(net: Any, domain: Any) -> dict[str, float]:
    """Mean iterations by solver."""
    from sciflow_control.directions.poisson import Poisson

    operator = Poisson.of(domain)
    runs = solvers(net, operator, ("learned", "cg", "icc", "deflated"))
    return {k: float(np.mean([run(b) for b in right_hand_sides(operator)])) for k, run in runs.items()}


def times(net: Any, domain: Any) -> dict[str, float]:
    """Median seconds of a solve without its set-up, by solver; one right-hand side of white noise."""
    from sciflow_control.directions.poisson import Poisson

    operator = Poisson.of(domain)
    b = right_hand_sides(operator)[0]
    runs = solvers(net, operator, ("learned", "learned_bfloat16", *OTHERS))
    return medians({k: lambda run=run: run(b) for k, run in runs.items()}, 3, warm=1)


def solvers(net: Any, operator: Any, names: tuple[str, ...]) -> dict[str, Callable[[np.ndarray], int]]:
    """Solvers that are set up; each takes a right-hand side and gives its iterations."""
    from petsc4py import PETSc

    from sciflow_control.directions.model import proposing
    from sciflow_control.directions.preconditioner import DirectionsPC, flexible_cg

    a = operator.matrix()
    matrix = PETSc.Mat().createAIJ(a.shape, csr=(a.indptr, a.indices, a.data), comm=PETSc.COMM_SELF)
    matrix.setOption(PETSc.Mat.Option.SPD, True)
    x, right = matrix.createVecs()

    def by(ksp: Any) -> Callable[[np.ndarray], int]:
        ksp.setTolerances(rtol=RTOL, max_it=5000)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        ksp.setUp()

        def solve(b: np.ndarray) -> int:
            right.setArray(b)
            ksp.solve(right, x)
            if ksp.getConvergedReason() <= 0:
                raise NotRun(f"{ksp.getType()} ended with PETSc's reason {ksp.getConvergedReason()}")
            return int(ksp.getIterationNumber())

        return solve

    def petsc(method: str, preconditioner: str) -> Any:
        ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        ksp.setOperators(matrix)
        ksp.setType(method)
        ksp.getPC().setType(preconditioner)
        return ksp

    def learned(precision: str) -> Callable[[np.ndarray], int]:
        return by(flexible_cg(matrix, DirectionsPC(proposing(net, operator, precision), operator), 2))

    made: dict[str, Callable[[], Callable[[np.ndarray], int]]] = {
        "learned": lambda: learned("float32"),
        "learned_bfloat16": lambda: learned("bfloat16"),
        "cg": lambda: by(petsc("cg", "none")),
        "icc": lambda: by(petsc("cg", "icc")),
        "deflated": lambda: deflated(matrix, a),
        "cholesky": lambda: cholesky(petsc("preonly", "cholesky"), right, x),
        "sine": lambda: sine(operator),
    }
    return {name: made[name]() for name in names}


def cholesky(ksp: Any, right: Any, x: Any) -> Callable[[np.ndarray], int]:
    """Substitution with a factor that is there."""
    from petsc4py import PETSc

    try:
        ksp.getPC().setFactorSolverType("cholmod")
        ksp.setUp()
    except PETSc.Error:
        ksp.getPC().setFactorSolverType("petsc")
        ksp.setUp()

    def solve(b: np.ndarray) -> int:
        right.setArray(b)
        ksp.solve(right, x)
        return 1

    return solve


def deflated(matrix: Any, a: Any, count: int = 16) -> Callable[[np.ndarray], int]:
    """CG without the `count` lowest eigenvectors, which are exact: more than the published rival had."""
    from scipy.sparse.linalg import eigsh

    from sciflow_control.recycling.deflated_cg import DeflatedCG

    method = DeflatedCG(matrix, k=count)
    method.seed(eigsh(a.tocsc(), count, sigma=0.0)[1])
    seen = []

    def solve(b: np.ndarray) -> int:
        x = np.zeros_like(b)
        method.solve(
            matrix, lambda v, z: v.copy(z), b, x, tolerances=(RTOL, 0.0), limit=5000, same=bool(seen)
        )
        seen.append(1)
        return method.iterations

    return solve


def sine(operator: Any) -> Callable[[np.ndarray], int]:
    """The exact solution on a box by sine transforms."""
    from scipy.fft import dstn, idstn

    lines = [2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in operator.cells.shape]
    spectrum = sum(np.meshgrid(*lines, indexing="ij"))

    def solve(b: np.ndarray) -> int:
        idstn(dstn(b.reshape(operator.cells.shape), 1) / spectrum, 1)
        return 1

    return solve
