"""What must hold for the linear solver: the rules of its kind, and what is known about it alone."""

import pytest
from sciflow import Context
from sciflow.testing import check, example

from sciflow.templates.linear_solver.template_name import TemplateName

PETSc = pytest.importorskip("petsc4py.PETSc")


def test_it_holds_to_the_rules_of_linear_solvers() -> None:
    """Tolerances, restarts to the bit, logs, JSON, imports."""
    check(example(TemplateName))


def test_a_system_that_is_solved_again_takes_no_iteration() -> None:
    """The first guess is the solution then."""
    matrix = PETSc.Mat().createAIJ((50, 50), nnz=3, comm=PETSc.COMM_SELF)
    for row in range(50):
        for column in range(max(row - 1, 0), min(row + 2, 50)):
            matrix.setValue(row, column, 2.1 if row == column else -1.0)
    matrix.assemble()
    x, b = matrix.createVecs()
    b.set(1.0)
    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    ksp.setType("cg")
    ksp.getPC().setType("none")
    ksp.setTolerances(rtol=1e-8)
    ksp.setOperators(matrix)
    solving = TemplateName().wrap(ksp, Context())
    assert solving.solve(b, x, {}) > 5
    assert solving.solve(b, x, {}) == 0
