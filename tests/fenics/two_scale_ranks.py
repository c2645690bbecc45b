"""Run under mpirun: a two-scale computation, rank 0 keeps it; and one that fails on one rank. argv: file."""

import sys

import numpy as np

from sciflow import Context, Diverged
from sciflow.worker import communicator
from sciflow_fenics.components import RVE, CookMembrane
from sciflow_fenics.macro import Macro


class Spoilt:
    """Has no answer on the last rank."""

    def __init__(self, law, spoilt):
        self.law, self.spoilt = law, spoilt

    def respond(self, strain):
        stress, tangent = self.law.respond(strain)
        return stress * (np.nan if self.spoilt else 1.0), tangent


def main(file):
    comm = communicator()
    macro = Macro(CookMembrane(4), Context(comm=comm))
    forces = np.array([30.0, 60.0])
    step = list(macro.march(RVE(cells=4).direct(), forces))[-1]
    found = {
        "u": macro.whole(macro.form.rows, step.u, 2 * 9 * 9),
        "strain": macro.whole(macro.form.places, step.strain, macro.count),
        "stress": macro.whole(macro.form.places, step.stress, macro.count),
        "displacement": step.displacement,
        "calls": step.calls,
    }
    try:
        list(macro.march(Spoilt(RVE(cells=4).direct(), comm.rank == comm.size - 1), forces[1:]))
    except Diverged as error:
        found["failure"] = str(error)
    if comm.rank == 0:
        np.savez(file, **found)


main(*sys.argv[1:])
