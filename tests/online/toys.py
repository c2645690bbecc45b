"""Components for online trainings in jobs of their own: quick ones, and ones that fail as they are told."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sciflow import Diverged, Field, Invalid, Model, Problem, Report, State, Surrogate, hookimpl
from tests.toys import SPACE


@dataclass(frozen=True)
class Moody(Problem):
    """u(t, x) = a t + b x, with members that go wrong in many ways.

    Attributes
    ----------
    levels, points : int
        Time levels and grid points.
    pause : float
        Between two levels, s.
    mood : {"", "diverge", "raise", "nan", "kill", "hang", "shape"}
        How members with ``a`` above `above` go wrong, at their second level.
    above : float
        See `mood`.
    once : str
        A folder in which each member notes that it went wrong; it does so no more then. Empty: always.
    """

    name: ClassVar[str] = "toy_moody"
    parameters: ClassVar = SPACE
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "K"), "q": Field(("x",), "W", "float64")}
    levels: int = 4
    points: int = 6
    pause: float = 0.0
    mood: Literal["", "diverge", "raise", "nan", "kill", "hang", "shape"] = ""
    above: float = 1.7
    once: str = ""

    def coordinates(self):
        import numpy as np

        return {"time": np.arange(1.0, self.levels + 1), "x": np.linspace(0, 1, self.points)}

    def _bad(self, mu):
        if mu["a"] <= self.above or not self.mood:
            return False
        if not self.once:
            return True
        note = Path(self.once) / f"{mu['a']!r}"
        if note.exists():
            return False
        note.touch()
        return True

    def solve(self, mu, ctx):

        x = self.coordinates()["x"]
        for t in range(1, self.levels + 1):
            time.sleep(self.pause)
            u = mu["a"] * t + mu["b"] * x
            if t == 2 and self._bad(mu):
                u = self._go_wrong(u)
            whole = ctx.comm.rank == 0
            yield State(float(t), {"u": u, **({"q": mu["a"] * x} if t == 1 else {})} if whole else {})

    def _go_wrong(self, u):
        import numpy as np

        if self.mood == "diverge":
            raise Diverged("residual 1e9 after 50 iterations")
        if self.mood == "raise":
            raise RuntimeError("a bug in the solver")
        if self.mood == "kill":
            os.kill(os.getpid(), 9)
        if self.mood == "hang":
            time.sleep(3600)
        if self.mood == "shape":
            return u[:-1]
        return np.full_like(u, np.nan)


class Average(Model):
    """Every output is the mean of all that was seen."""

    def __init__(self, signature, mean, crash=""):
        self.signature, self.mean, self._crash = signature, mean, crash

    def predict(self, x):
        import numpy as np

        (name,) = self.signature.outputs
        count = len(next(iter(x.values())))
        return {name: np.broadcast_to(self.mean, (count, *self.signature.shape(name)))}

    def state(self):
        die_once(self._crash)
        return {"mean": self.mean}


def die_once(file):
    """Kill this process, if it is the first to come here."""
    if file and not Path(file).exists():
        Path(file).touch()
        os.kill(os.getpid(), 9)


@dataclass(frozen=True)
class Mean(Surrogate):
    """The mean of the outputs, over everything that is drawn: needs no torch and looks at every sample.

    Attributes
    ----------
    epochs, batch : int
        Reports, and samples of a step.
    step : float
        How long each step takes, s.
    crash : str
        A file; if it is not there yet, it is made in the second report and the process dies.
    end_crash : str
        The same for the moment when the model is written.
    """

    name: ClassVar[str] = "toy_mean"
    epochs: int = 4
    batch: int = 4
    step: float = 0.0
    crash: str = ""
    end_crash: str = ""

    def fit(self, samples, valid, ctx, resume=None):
        import numpy as np

        (name,) = samples.signature.outputs
        shape = samples.signature.shape(name)
        total, count = (np.zeros(shape), 0) if resume is None else (resume["total"], int(resume["count"]))
        size = max(1, self.batch // ctx.comm.size)
        for epoch in range(0 if resume is None else int(resume["epoch"]), self.epochs):
            drawn, steps, loss = 0, 0, 0.0
            for batch in samples.batches(size, seed=ctx.seed, epoch=epoch):
                y = np.asarray(batch.y[name], dtype=float)
                losses = ((y - total / max(count, 1)) ** 2).reshape(len(y), -1).mean(1)
                samples.feedback(losses)
                total, count, steps = total + y.sum(0), count + len(y), steps + 1
                drawn, loss = drawn + len(y), loss + float(losses.sum())
                time.sleep(self.step)
                if epoch == 1:
                    die_once(self.crash)
            held = sum(len(b.y[name]) for b in valid.batches(64, seed=None))
            state = {"total": total, "count": np.array(count), "epoch": np.array(epoch + 1)}
            metrics = {"train_loss": loss / max(drawn, 1), "draws": float(drawn), "held": float(held)}
            yield Report(epoch + 1, self.epochs, metrics, lambda state=state: state)
        return Average(samples.signature, total / max(count, 1), self.end_crash)

    def load(self, state, signature):
        if "mean" not in state:
            raise Invalid("the array 'mean' is missing")
        return Average(signature, state["mean"])


@dataclass(frozen=True)
class Other(Mean):
    """The same under another name, to be compared with it."""

    name: ClassVar[str] = "toy_other_mean"


@hookimpl
def sciflow_components():
    return [Moody, Mean, Other]
