"""Step controllers by formula, by time and by a guarded policy; they need nothing but the core."""
