"""Numbers from parameters: regressions, the choice of a cluster, POD with regression."""
