"""Components that are small enough to reason about: tests run on them, jobs find them here."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import ClassVar, Literal

from sciflow import (
    Diverged,
    Field,
    Invalid,
    Model,
    Parameter,
    ParameterSpace,
    Part,
    Problem,
    Report,
    Share,
    State,
    Surrogate,
    hookimpl,
)

SPACE = ParameterSpace(a=Parameter(0.5, 2.0, "m"), b=Parameter(1e-3, 1.0, "s", log=True))


@dataclass(frozen=True)
class Wave(Problem):
    """u(t, x) = a sin(x (1 + t)) + b, with members that can be told to fail.

    Attributes
    ----------
    points : int
        Grid points.
    fail : {"", "diverge", "raise", "nan", "kill", "hog"}
        How members fail.
    every : int
        Every so many members by the first digits of ``a`` fail.
    """

    name: ClassVar[str] = "toy_wave"
    parameters: ClassVar[ParameterSpace] = SPACE
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "K"), "q": Field(("x",), "W", "float64")}
    points: int = 8
    fail: Literal["", "diverge", "raise", "nan", "kill", "hog"] = ""
    above: float = 1.8
    pause: float = 0.0

    def coordinates(self):
        import numpy as np

        return {"time": np.array([0.0, 0.5, 1.0]), "x": np.linspace(0, 1, self.points)}

    def solve(self, mu, ctx):
        import time

        import numpy as np

        x = self.coordinates()["x"]
        bad = mu["a"] > self.above
        if bad and self.fail == "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        if bad and self.fail == "hog":
            kept = bytearray(600 << 20)
            kept[::4096] = b"x" * len(kept[::4096])
            time.sleep(30)
        if bad and self.fail == "raise":
            raise RuntimeError("a bug in the solver")
        for t in (0.0, 0.5, 1.0):
            if bad and self.fail == "diverge" and t > 0:
                raise Diverged("residual 1e9 after 50 iterations")
            time.sleep(self.pause / 3)
            u = mu["a"] * np.sin(x * (1 + t)) + mu["b"]
            if bad and self.fail == "nan" and t > 0.9:
                u[0] = np.nan
            rank, size = ctx.comm.rank, ctx.comm.size
            mine = np.arange(rank, self.points, size)
            fields = {"u": Part(mine, u[mine])}
            if t == 0:
                fields["q"] = x + ctx.rng(0).random(len(x)) if rank == 0 else None
            yield State(t, fields, {"iterations": 3})


@dataclass(frozen=True)
class Block(Problem):
    """The same numbers for several members at once."""

    name: ClassVar[str] = "toy_block"
    parameters: ClassVar[ParameterSpace] = SPACE
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "K")}
    batch: ClassVar[int] = 4
    periodic: ClassVar[tuple[str, ...]] = ("x",)
    points: int = 8

    def coordinates(self):
        import numpy as np

        return {"time": np.array([0.0, 1.0]), "x": np.arange(self.points) / self.points}

    def solve(self, mu, ctx):
        import numpy as np

        for state in self.solve_batch({k: np.array([v]) for k, v in mu.items()}, ctx):
            yield State(state.time, {k: v[0] for k, v in state.fields.items()})

    def solve_batch(self, mu, ctx):
        import numpy as np

        x = self.coordinates()["x"]
        for t in (0.0, 1.0):
            u = mu["a"][:, None] * np.sin(2 * np.pi * (x + t * mu["b"][:, None]))
            u[mu["a"] > 1.95] = np.nan
            yield State(t, {"u": u})


@dataclass(frozen=True)
class March(Problem):
    """A recurrence that can go on from any state, with degrees of freedom spread over the ranks.

    Every level that is computed is noted in the job's scratch directory.
    """

    name: ClassVar[str] = "toy_march"
    parameters: ClassVar[ParameterSpace] = SPACE
    levels: int = 6
    points: int = 7
    pause: float = 0.0

    @property
    def fields(self):
        return {
            "u": Field(("time", "x"), "K"),
            "v": Field(("time", "dof"), "Pa", "float64"),
            "q": Field(("x",), "W"),
        }

    def coordinates(self):
        import numpy as np

        return {
            "time": np.arange(1.0, self.levels + 1),
            "x": np.linspace(0, 1, self.points),
            "dof": np.arange(float(self.points)),
        }

    def solve(self, mu, ctx):
        import numpy as np

        return self.resume(mu, ctx, {"w": np.linspace(0, mu["a"], self.points), "level": 0})

    def resume(self, mu, ctx, restart):
        import time

        import numpy as np

        rank, size = ctx.comm.rank, ctx.comm.size
        mine = np.arange(self.points)[::-1][rank::size]
        w = np.array(restart["w"])
        for level in range(int(restart["level"]), self.levels):
            time.sleep(self.pause)
            w = mu["a"] * np.cos(3 * w + level) + mu["b"]
            if rank == 0 and str(ctx.scratch) != ".":
                ctx.scratch.mkdir(parents=True, exist_ok=True)
                with (ctx.scratch.parent.parent / "computed").open("a") as file:
                    file.write(f"{ctx.seed} {level}\n")
            fields = {"v": Share(w[mine], mine)}
            if rank == 0:
                fields |= {"u": w} | ({"q": w + 1} if level == 0 else {})
            yield State(
                level + 1.0,
                fields,
                {"steps": 1},
                lambda w=w, level=level: {"w": w, "level": np.array(level + 1)},
            )


@dataclass(frozen=True)
class Steps(Problem):
    """Chooses its steps itself: members end after different numbers of them."""

    name: ClassVar[str] = "toy_steps"
    parameters: ClassVar[ParameterSpace] = SPACE
    fields: ClassVar[dict] = {"u": Field(("step", "x"), "K")}
    most: int = 9
    back: bool = False

    def coordinates(self):
        import numpy as np

        return {"step": np.arange(float(self.most)), "x": np.linspace(0, 1, 5)}

    def times(self, a):
        import numpy as np

        return np.cumsum(np.full(2 + int(3 * a), a))

    def solve(self, mu, ctx):
        import numpy as np

        for t in self.times(mu["a"]):
            yield State(-t if self.back else t, {"u": mu["b"] + t * np.linspace(0, 1, 5)})


class Line(Model):
    """y = x W + c by least squares."""

    def __init__(self, signature, weights):
        self.signature, self.weights = signature, weights

    @staticmethod
    def flat(signature, arrays):
        import numpy as np

        rows = [np.asarray(arrays[n], dtype=float) for n in signature.inputs]
        columns = [r.reshape(len(r), -1) for r in rows]
        return np.concatenate([*columns, np.ones((len(columns[0]), 1))], axis=1)

    def predict(self, x):
        flat = self.flat(self.signature, x) @ self.weights
        (name,) = self.signature.outputs
        return {name: flat.reshape(len(flat), *self.signature.shape(name))}

    def state(self):
        return {"weights": self.weights}


@dataclass(frozen=True)
class Least(Surrogate):
    """Linear least squares, fitted in a number of identical steps so that there is something to resume."""

    name: ClassVar[str] = "toy_least"
    epochs: int = 6
    stop_at: int = 0

    def fit(self, samples, valid, ctx, resume=None):
        import numpy as np

        batch = next(samples.batches(len(samples), seed=None))
        (name,) = samples.signature.outputs
        a = Line.flat(samples.signature, batch.x)
        y = batch.y[name].reshape(len(a), -1)
        weights = np.zeros((a.shape[1], y.shape[1])) if resume is None else np.array(resume["weights"])
        first = 0 if resume is None else int(resume["epoch"])
        for epoch in range(first, self.epochs):
            if self.stop_at and epoch == self.stop_at and resume is None:
                raise RuntimeError("the power went")
            weights = weights + np.linalg.lstsq(a, y - a @ weights, rcond=None)[0] * 0.9
            loss = float(np.abs(a @ weights - y).mean())
            state = {"weights": weights, "epoch": np.array(epoch + 1)}
            yield Report(epoch + 1, self.epochs, {"train_loss": loss}, lambda state=state: state)
        return Line(samples.signature, weights)

    def load(self, state, signature):
        import numpy as np

        if "weights" not in state:
            raise Invalid("the array 'weights' is missing")
        return Line(signature, np.asarray(state["weights"]))


class Timid(Line):
    """Doubts itself the more, the farther the first input is from 1."""

    def doubt(self, x):
        import numpy as np

        first = np.asarray(next(iter(x.values())), dtype=float)
        return np.abs(first - 1.0).reshape(len(first), -1).max(axis=1)


@dataclass(frozen=True)
class Unsure(Least):
    """The same, and its models say how far to trust them."""

    name: ClassVar[str] = "toy_unsure"

    def fit(self, samples, valid, ctx, resume=None):
        model = yield from Least.fit(self, samples, valid, ctx, resume)
        return Timid(model.signature, model.weights)

    def load(self, state, signature):
        model = Least.load(self, state, signature)
        return Timid(model.signature, model.weights)


TOYS = (Wave, Block, March, Steps, Least, Unsure)


@hookimpl
def sciflow_components():
    return list(TOYS)
