"""Bandits: decisions from costs, with explicit state."""
