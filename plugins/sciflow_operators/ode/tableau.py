"""Coefficients of the integrators, as plain numbers."""

from __future__ import annotations

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
"""Times of the stages of Dormand and Prince's pair of orders 5 and 4, in parts of the step."""
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""Weights of the earlier derivatives in the state of every stage; the last stage is the new state."""
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Weights of the derivatives in the difference of the solutions of orders 5 and 4."""
DENSE = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
"""Weights of the derivatives in the last coefficient of the interpolant of order 4."""
EVALUATIONS = 6
"""Of the derivative in a step: the seventh stage is the first one of the next step."""
