"""How a mesh is split; run by pytest alone and under ``mpirun -n 2``."""

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow import Context
from sciflow.worker import communicator
from sciflow_fenics.components import Heat
from sciflow_fenics.lattice import DofOrder, square

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
HEAT = Heat(cells=12, grid=7, levels=3, substeps=2, dofs=False)
POINT = {n: p.low + 0.6 * (p.high - p.low) for n, p in HEAT.parameters.items()}


def test_ranks_get_the_same_cells_every_time():
    """Else a member that is continued is another one in its last bits."""
    from mpi4py import MPI

    from sciflow_fenics import compat

    comm = MPI.COMM_WORLD if SIZE > 1 else MPI.COMM_SELF
    orders = [
        DofOrder(compat.function_space(square(comm, 40, 1.0), 1), 41, 1.0).index.tobytes() for _ in range(6)
    ]
    assert len(set(orders)) == 1


@pytest.mark.parametrize("turn", [0, 1])
def test_a_member_goes_on_with_another_split_of_the_mesh(turn):
    """Where each rank holds what another one had held: another build of the partitioner, for example."""
    states = list(HEAT.solve(POINT, Context(comm=COMM)))
    saved = states[0].restart()
    everyone = COMM.allgather(saved) if SIZE > 1 else [saved]
    given = everyone[(RANK + turn) % SIZE]
    again = list(HEAT.resume(POINT, Context(comm=COMM), given))
    for one, other in zip(again, states[1:], strict=True):
        mine, before = one.fields["temperature"], other.fields["temperature"]
        assert np.array_equal(mine.index, before.index)
        assert np.array_equal(mine.values, before.values)
