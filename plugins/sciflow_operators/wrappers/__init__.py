"""Networks around networks: conditioning, refinement, staggering."""
