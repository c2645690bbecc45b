"""Full-order models in dolfinx over MPI."""
