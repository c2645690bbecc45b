"""What a linear solver must do: solve, go on from a restart, and note what it learned once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.context import Context
from sciflow.experience import Experience
from sciflow.linear_solver import LinearSolver, Solving

if TYPE_CHECKING:
    import numpy as np


def check_linear_solver(solver: LinearSolver, *, systems: int = 8) -> None:
    """Check a linear solver on a sequence of small systems, on one rank; needs petsc4py.

    Parameters
    ----------
    solver : LinearSolver
        Any configuration of it that needs no features.
    systems : int
        How many are solved: diffusion with reaction, 81 unknowns, the operator changes every second time.

    Raises
    ------
    AssertionError
        If a system is not solved to the tolerance of the solver that was given or is not counted in
        iterations, what goes on from
        `Solving.restart` gives other bits, a restart holds anything but arrays of numbers, a member's log
        is noted before it is closed or more than once, or a member cannot go on from the log of another.
    """
    import tempfile

    import numpy as np

    name = solver.name
    with tempfile.TemporaryDirectory() as folder:
        whole, saved = _solve_member(solver, _Counting(Path(folder), 0), systems)
        for array, values in saved.items():
            kind = np.asarray(values).dtype.kind
            assert kind in "fiub", (
                f"{name}: {array!r} of its restart is no array of numbers, but {kind!r}; only numbers "
                "are stored"
            )
        again, _ = _solve_member(solver, _Counting(None, 0), systems, saved)
        for k, (one, other) in enumerate(zip(whole[systems // 2 :], again, strict=True), systems // 2):
            assert one.tobytes() == other.tobytes(), (
                f"{name}: after a restart system {k} has other bits; restart() gives all that the next solve "
                "reads, in full precision"
            )
        _solve_member(solver, _Counting(Path(folder), 1), systems)


class _Counting(Experience):
    """Counts the logs that are noted."""

    noted = 0

    def note(self, columns: Mapping[str, np.ndarray]) -> None:
        """See `Experience.note`."""
        super().note(columns)
        self.noted += 1


def _solve_member(
    solver: LinearSolver, experience: _Counting, systems: int, saved: Mapping[str, Any] | None = None
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Solutions, from the middle on if there is something to go on from; and what a restart needs there."""
    import numpy as np
    from petsc4py import PETSc

    matrix = PETSc.Mat().createAIJ((81, 81), nnz=5, comm=PETSc.COMM_SELF)
    x, b = matrix.createVecs()
    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    ksp.setType("cg")
    ksp.getPC().setType("jacobi")
    ksp.setTolerances(rtol=1e-8, max_it=500)
    ksp.setOperators(matrix)
    middle = systems // 2
    solving: Any = None
    found: list[np.ndarray] = []
    restart: dict[str, np.ndarray] = {}
    for k in range(0 if saved is None else middle, systems):
        _diffusion(matrix, 0.1 * (k // 2))
        b.setArray(np.random.default_rng(k).standard_normal(81))
        solving = solving or solver.wrap(ksp, Context(seed=1, experience=experience), saved)
        assert isinstance(solving, Solving), f"{solver.name}: wrap gives {solving!r}, it returns a Solving"
        taken: Any = solving.solve(b, x, {"system": float(k)})
        counted = isinstance(taken, int) and taken >= 0
        assert counted, f"{solver.name}: solve gives {taken!r}; it returns how many iterations it took"
        rest = b.duplicate()
        matrix.mult(x, rest)
        rest.axpy(-1.0, b)
        share = rest.norm() / b.norm()
        assert share < 1e-7, (
            f"{solver.name}: system {k} is solved to {share:.1e} only, 1e-8 was asked for; keep the "
            "tolerances of the ksp that it wraps, and let that one solve where another way ends early"
        )
        found.append(x.array.copy())
        if k + 1 == middle:
            restart = {n: np.array(v, copy=True) for n, v in solving.restart().items()}
    assert solving is not None
    assert not experience.noted, (
        f"{solver.name}: a log is noted before the member is closed; call ctx.experience.note in close alone"
    )
    solving.close()
    assert experience.noted <= 1, (
        f"{solver.name}: a member notes {experience.noted} logs; gather its lines, and note them once "
        "in close"
    )
    return found, restart


def _diffusion(matrix: Any, reaction: float) -> None:
    """The five-point operator on 9 by 9 points, and a multiple of the identity."""
    for row in range(81):
        y, x = divmod(row, 9)
        for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if min(other) >= 0 and max(other) < 9:
                matrix.setValue(row, 9 * other[0] + other[1], -1.0)
        matrix.setValue(row, row, 4.0 + reaction)
    matrix.assemble()
