"""One loop that trains all networks: objective, optimiser, checkpoints, ranks."""
