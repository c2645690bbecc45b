"""Recycling on any number of ranks; run by pytest alone and under ``mpirun -n 2``."""

import logging

import numpy as np
import pytest

pytest.importorskip("petsc4py")
from petsc4py import PETSc

from sciflow.context import exchange
from sciflow.worker import communicator
from sciflow_control.recycling.blocks import Reduction, orthonormal
from sciflow_control.recycling.ksp import RecyclingKSP
from sciflow_control.recycling.spaces import Spaces, layout
from tests.control.krylov import diffusion, petsc, solver, transport

COMM = communicator()
WORLD = PETSc.COMM_WORLD if COMM.size > 1 else PETSc.COMM_SELF


def systems(make, count, n=9):
    rng = np.random.default_rng(0)
    base = make(n, rng)
    return [(base + 0.05 * np.diag(rng.random(n * n)), rng.standard_normal(n * n)) for _ in range(count)]


def solve(recycling, dense, b):
    matrix = petsc(dense, WORLD)
    recycling.setOperators(matrix)
    x, right = matrix.createVecs()
    first, last = matrix.getOwnershipRange()
    right.setArray(b[first:last])
    recycling.solve(right, x)
    assert not recycling.fell_back
    np.testing.assert_allclose(x.array, np.linalg.solve(dense, b)[first:last], rtol=1e-5, atol=1e-7)
    return x.array.copy()


def agreed(value):
    assert len(set(exchange(COMM, repr(value)))) == 1, "every rank the same"
    return value


@pytest.mark.parametrize("pc", ["none", "jacobi", "icc", "ilu", "asm", "ssor", "gamg"])
@pytest.mark.parametrize("method", ["gcro_dr", "deflated_cg"])
def test_a_sequence_is_solved(method, pc):
    if method == "deflated_cg" and pc in ("ilu", "asm"):
        pytest.skip("not symmetric")
    make = transport if pc == "ilu" else diffusion
    recycling, counts = None, []
    for dense, b in systems(make, 5):
        ksp = recycling or solver(petsc(dense, WORLD), "gmres", "jacobi")
        recycling = recycling or RecyclingKSP(ksp, method, m=16, k=6, preconditioner=pc)
        solve(recycling, dense, b)
        counts.append(agreed(recycling.getIterationNumber()))
    assert min(counts[1:]) <= counts[0]
    assert pc == "gamg" or counts[-1] < counts[0]


def test_without_a_preconditioner_ranks_change_no_count():
    """The numbers that one rank gives: sums over ranks are sums over rows."""
    found = []
    for dense, b in systems(diffusion, 4):
        recycling = found[0][0] if found else RecyclingKSP(solver(petsc(dense, WORLD), "cg"), m=14, k=5)
        solve(recycling, dense, b)
        found.append((recycling, recycling.getIterationNumber()))
    alone = []
    for dense, b in systems(diffusion, 4):
        matrix = petsc(dense)
        recycling = alone[0][0] if alone else RecyclingKSP(solver(matrix, "cg"), m=14, k=5)
        recycling.setOperators(matrix)
        x, right = matrix.createVecs()
        right.setArray(b)
        recycling.solve(right, x)
        alone.append((recycling, recycling.getIterationNumber()))
    for (_, here), (_, there) in zip(found, alone, strict=True):
        assert abs(here - there) <= 2


@pytest.mark.parametrize("spread", [0.0, 1e-13, 1e-9, 1.0])
def test_dependent_columns_become_orthonormal_over_the_ranks(spread):
    rng = np.random.default_rng(1)
    rows = [slice(0, 3), slice(3, 20)] if COMM.size == 2 else [slice(0, 20)]
    block = (np.ones((20, 1)) + spread * rng.standard_normal((20, 5)))[rows[min(COMM.rank, len(rows) - 1)]]
    ranks = Reduction(WORLD)
    q, factor = orthonormal(block, ranks)
    np.testing.assert_allclose(ranks.sum(q.T @ q), np.eye(q.shape[1]), atol=1e-12)
    assert agreed(q.shape[1]) == (5 if spread >= 1e-9 else 1)
    agreed(factor.tobytes().hex()[:400])


@pytest.mark.parametrize("method", ["gcro_dr", "deflated_cg"])
def test_a_rank_without_rows(method):
    recycling = RecyclingKSP(solver(petsc(np.array([[4.0]]), WORLD), "gmres", "jacobi"), method, m=4, k=1)
    for scale in (1.0, 2.0):
        solve(recycling, np.array([[4.0 * scale]]), np.array([3.0]))


@pytest.mark.parametrize("method", ["gcro_dr", "deflated_cg"])
def test_spaces_and_states_come_back(method, tmp_path_factory):
    text = exchange(COMM, str(tmp_path_factory.mktemp("spaces")))[0]
    from pathlib import Path

    sequence = systems(diffusion, 4)
    recycling = RecyclingKSP(solver(petsc(sequence[0][0], WORLD), "cg", "jacobi"), method, m=16, k=6)
    for dense, b in sequence[:2]:
        solve(recycling, dense, b)
    space = recycling.space().copy()
    matrix = petsc(sequence[0][0], WORLD)
    spaces = Spaces(Path(text), layout(matrix, method=method), matrix.getComm(), logging.getLogger("sciflow"))
    spaces.write(recycling.knowledge())
    COMM.barrier()
    np.testing.assert_array_equal(spaces.newest()["space"], space)
    again = RecyclingKSP(solver(petsc(sequence[0][0], WORLD), "cg", "jacobi"), method, m=16, k=6)
    again.restore({k: v.copy() for k, v in recycling.state().items()})
    for dense, b in sequence[2:]:
        np.testing.assert_array_equal(solve(again, dense, b), solve(recycling, dense, b))
    COMM.barrier()
    if COMM.rank == COMM.size - 1:  # one rank's part is enough to spoil it
        next(spaces.folder.rglob(f"rank_{COMM.rank}/space/zarr.json")).write_text("{")
    COMM.barrier()
    assert spaces.newest() is None
