"""Training while the solvers run: transports, reservoirs, steering, clients."""
