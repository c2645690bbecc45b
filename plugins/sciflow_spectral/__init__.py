"""Full-order models by pseudo-spectral methods, with no system dependency."""
