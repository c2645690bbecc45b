"""What is steered: solvers whose steps are chosen while they run."""
