"""Neural operators: learned solution operators in torch."""
