"""What makes members alike, and how they are grouped."""
