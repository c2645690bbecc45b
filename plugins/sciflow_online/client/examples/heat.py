"""The heat equation on the unit square, explicit in time: a solver that sends its levels to sciflow.

python heat.py CELLS LEVELS

    u_t = d (u_xx + u_yy),  u = 0 on the boundary,  u(x, y, 0) = a sin(pi x) sin(pi y)

The lines marked with ``sciflow`` are all that a solver needs.
"""

import sys

import numpy as np

from sciflow_online.sending import connect  # sciflow

PERIOD = 0.01
"""Time between two levels, s."""


def step(u: np.ndarray, number: float) -> np.ndarray:
    """One explicit step of u, shape (y, x); `number` is diffusivity times step over spacing squared."""
    wide = np.pad(u, 1)
    change = number * (wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2] - 4 * u)
    return np.asarray(u + change)


def main(cells: int, levels: int) -> None:
    """Solve for whatever parameters come."""
    line = np.arange(1, cells) / cells
    shape = np.outer(np.sin(np.pi * line), np.sin(np.pi * line))
    client = connect()  # sciflow
    for member in client.members():  # sciflow
        amplitude, diffusivity = member.parameters["amplitude"], member.parameters["diffusivity"]  # sciflow
        steps = int(np.ceil(4 * diffusivity * PERIOD * cells**2)) + 1
        u = amplitude * shape
        for level in range(1, levels + 1):
            fields = {"initial": u} if level == 1 else {}
            for _ in range(steps):
                u = step(u, diffusivity * PERIOD / steps * cells**2)
            client.send(level * PERIOD, {"temperature": u, **fields})  # sciflow
        client.finish()  # sciflow
    client.close()  # sciflow


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
