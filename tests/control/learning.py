"""An ensemble whose members learn from each other, without a finite element: decisions are all it stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sciflow import Field, Parameter, ParameterSpace, Problem, State, hookimpl
from sciflow.controller import Controller
from sciflow.linear_solver import LinearSolver, Solving, TakesSolver, wrapped
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Relaxation


@dataclass(frozen=True)
class Gamble(LinearSolver):
    """Lets a tuner choose, solves with what it was given, and learns from what the choice would cost.

    Attributes
    ----------
    controller : Controller
        Chooses.
    """

    name: ClassVar[str] = "toy_gamble"
    requires: ClassVar[tuple[str, ...]] = ("petsc4py",)
    controller: Controller

    @classmethod
    def example(cls):
        return cls(Thompson(Relaxation(1.0, 1.9, 7)))

    def wrap(self, ksp, ctx, restart=None):
        return Gambling(self.controller, ksp, ctx, restart)


class Gambling(Solving):
    def __init__(self, tuner, ksp, ctx, restart):
        from sciflow_control.tuned.history import unpack

        self.tuner, self.ksp, self.ctx = tuner, ksp, ctx
        if restart:
            self.state, self.rows, self.known = unpack(restart["gamble"])
            return
        folded, self.known = ctx.experience.fold("gamble", lambda: (tuner.init(ctx.rng(0)), 0), self.learn)
        self.state, self.rows = tuner.merge([tuner.init(ctx.rng(0)), folded]), []

    def learn(self, value, log):
        return self.tuner.absorb(value[0], log), value[1] + len(log["arm"])

    def solve(self, b, x, features):
        proposal, state = self.tuner.propose(self.state, features)
        made = self.tuner.decision(state, proposal.token)
        if isinstance(self.ksp, Machine):
            self.ksp.values = dict(proposal.values)
        cost = self.ksp.price() if isinstance(self.ksp, Machine) else 1.0
        self.ksp.solve(b, x)
        self.state = self.tuner.observe(state, proposal.token, cost, "ok")
        self.rows.append([made.arm, made.probability, cost, self.known])
        return self.ksp.getIterationNumber()

    def restart(self):
        from sciflow_control.tuned.history import pack

        return {"gamble": pack([self.state, self.rows, self.known])}

    def close(self):
        import numpy as np

        arm, probability, cost, known = np.array(self.rows).T
        whole = {"arm": arm.astype(int), "status": np.zeros(len(arm), int), "known": known.astype(int)}
        self.ctx.experience.note({**whole, "probability": probability, "cost": cost})


class Machine:
    """As much of a KSP as is needed: the solution is the setting that was chosen."""

    def __init__(self, best):
        self.best, self.values = best, {"omega": 1.0}

    def price(self):
        return 1.0 + 10 * (self.values["omega"] - self.best) ** 2

    def solve(self, b, x):
        x[:] = self.values["omega"]

    def getConvergedReason(self):
        return 2

    def getIterationNumber(self):
        return 3


@dataclass(frozen=True)
class Lottery(TakesSolver, Problem):
    """A few solves for each member; the field holds what was chosen for them."""

    name: ClassVar[str] = "toy_lottery"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(a=Parameter(0.5, 2.0, "m"))
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "1", "float64")}
    levels: int = 5
    pause: float = 0.0
    solver: LinearSolver | None = None

    def coordinates(self):
        import numpy as np

        return {"time": np.arange(1.0, self.levels + 1), "x": np.arange(2.0)}

    def solve(self, mu, ctx):
        return self.resume(mu, ctx, None)

    def resume(self, mu, ctx, restart):
        import time

        import numpy as np

        solving = wrapped(self.solver, Machine(1.4 + 0.1 * mu["a"]), ctx, restart)
        first = 0 if restart is None else int(restart["level"])
        for level in range(first, self.levels):
            time.sleep(self.pause)
            u = np.zeros(2)
            solving.solve(None, u, {"a": mu["a"]})
            u[1] *= mu["a"]
            if level + 1 == self.levels:
                solving.close()
            whole = {"u": u if ctx.comm.rank == 0 else None}
            yield State(
                level + 1.0, whole, None, lambda n=level + 1: {"level": np.array(n), **solving.saved()}
            )


@hookimpl
def sciflow_components():
    return [Gamble, Lottery]
