"""Step controllers that are learned: environment, rewards, training, and policies that need no torch."""
