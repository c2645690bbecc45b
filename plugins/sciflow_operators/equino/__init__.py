"""EquiNO: modes of a cell problem, networks for their coefficients, correctors of their answers."""
