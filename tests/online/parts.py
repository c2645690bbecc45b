"""Pieces of an online training that several tests put together."""

from __future__ import annotations

import numpy as np

from sciflow import Context, Field, Parameter, ParameterSpace, Problem, State
from sciflow_online.intake import Recipe
from sciflow_online.reception import Reception
from sciflow_online.reservoirs import FIFO
from sciflow_online.roster import Roster
from sciflow_online.sending import Client
from sciflow_online.terms import Plan, Terms

TOKEN = "word"


class Ramp(Problem):
    """u(t, x) = a + 10 t + x, q(x) = a x: every value says where it belongs."""

    name = "ramp"
    parameters = ParameterSpace(a=Parameter(0.0, 1e4, "m"))
    fields = {"u": Field(("time", "x"), "K"), "q": Field(("x",), "W")}

    def __init__(self, levels=5, points=3):
        self.levels, self.points = levels, points

    def coordinates(self):
        return {"time": np.arange(1.0, self.levels + 1), "x": np.arange(float(self.points))}

    def solve(self, mu, ctx):
        x = np.arange(float(self.points))
        for t in range(1, self.levels + 1):
            fields = {"u": mu["a"] + 10 * t + x}
            yield State(float(t), fields | ({"q": mu["a"] * x} if t == 1 else {}))


def recipe(problem=None, window=(0, 1)):
    names = ("a", "q", "time") if window == (0, 1) else ("a", "q") if window is None else ("u",)
    return Recipe(problem or Ramp(), names, ("u",), window)


def reception(
    server, made, members=6, valid=1, *, capacity=10_000, attempts=3, lanes=0, ahead=4, policy=None
):
    """A reception whose member m has a = 100 m."""
    points = 100.0 * np.arange(members)[:, None]
    purposes = np.array([1] * valid + [0] * (members - valid))
    roster = Roster(range(members), attempts, lanes)
    buffer = (policy or FIFO(capacity=capacity)).open(made.slabs(), np.random.default_rng(0), capacity)
    terms = Terms(TOKEN, "session", credits=ahead, heartbeat=1e9, patience=1e9)
    here = Reception(server, made, buffer, Plan(points, purposes), terms, roster, Context(), lanes)
    return here, buffer


def client(server_link, group="g", **more):
    return Client(server_link, more.pop("token", TOKEN), group, patience=more.pop("patience", 20.0), **more)


def drained(buffer):
    """Every (member, sample) of a FIFO, in order, with its arrays."""
    buffer.close()
    found = []
    while len(rows := buffer.draw(64)):
        arrays = buffer.take(rows)
        keys = zip(buffer._member[rows].tolist(), buffer._sample[rows].tolist(), strict=True)
        found += [(m, s, {k: v[i] for k, v in arrays.items()}) for i, (m, s) in enumerate(keys)]
    return found
