"""Reduced-order models with physics-informed clustering: from an ensemble to a dictionary of local models."""
