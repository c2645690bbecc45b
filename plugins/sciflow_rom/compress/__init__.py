"""From the snapshots of an ensemble to their coordinates, and from coordinates back to modes."""
