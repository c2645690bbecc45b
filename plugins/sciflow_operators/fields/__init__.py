"""From named fields to channels and grids, and back."""
