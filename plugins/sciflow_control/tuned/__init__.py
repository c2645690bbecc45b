"""PETSc solvers whose settings a controller chooses."""
