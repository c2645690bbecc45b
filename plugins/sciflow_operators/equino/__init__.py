"""EquiNO: equilibrium neural operators for representative volume elements."""
