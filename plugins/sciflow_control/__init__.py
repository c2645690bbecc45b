"""Learned control inside solvers: bandits for relaxation and solver choice, Krylov recycling."""
