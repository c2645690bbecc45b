"""Problems in one dimension whose weak form can be reduced: heat in a rod, cyclic creep of a bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sciflow import Field, Parameter, ParameterSpace, State, hookimpl
from sciflow.reduction import Reducible
from sciflow_rom.regress.selectors import Selector


@dataclass(frozen=True)
class Rod(Reducible):
    """-((1 + u^2) u')' = f on [0, 1], u = 0 at both ends."""

    name: ClassVar[str] = "toy_rod"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        place=Parameter(0.2, 0.8, "m"), amplitude=Parameter(1.0, 300.0, "W", log=True)
    )
    fields: ClassVar[dict] = {"temperature": Field(("x",), "K", "float64")}
    unknown: ClassVar[str] = "temperature"
    cells: int = 60

    def coordinates(self):
        import numpy as np

        return {"x": np.linspace(0, 1, self.cells + 1)}

    def integrals(self, ctx):
        from tests.rom.line import Line

        return Line(ctx.comm, self.cells, 2, end_load=False)

    def law(self, points, mu):
        from tests.rom.line import Conducting

        return Conducting(points, mu)

    def solve(self, mu, ctx):
        import numpy as np

        from tests.rom.line import Line, newton

        mu = self.parameters.checked(mu)
        from sciflow.context import SerialComm

        line = Line(SerialComm(), self.cells, 2, end_load=False)
        n = self.cells + 1
        u, _ = newton(
            line, self.law(line.points, mu), np.zeros(n), np.zeros((2 * self.cells, 0)), 0,
            np.arange(1, n - 1), np.zeros(n),
        )  # fmt: skip
        yield State(0.0, {"temperature": u})


@dataclass(frozen=True)
class Bar(Reducible):
    """A bar that is pulled and pushed at its end, fixed at the other."""

    name: ClassVar[str] = "toy_bar"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        pull=Parameter(1.0, 3.0, "N"), strength=Parameter(0.6, 1.2, "Pa")
    )
    fields: ClassVar[dict] = {
        "displacement": Field(("time", "x"), "m", "float64"),
        "cumulated": Field(("time", "point"), "1", "float64"),
        "stress": Field(("time", "point"), "Pa", "float64"),
    }
    unknown: ClassVar[str] = "displacement"
    dual: ClassVar[tuple[str, ...]] = ("cumulated", "stress")
    cells: int = 40
    cycles: int = 1

    def coordinates(self):
        import numpy as np

        return {
            "time": np.linspace(0, self.cycles, 10 * self.cycles + 1)[1:],
            "x": np.linspace(0, 1, self.cells + 1),
            "point": np.arange(float(self.cells)),
        }

    def integrals(self, ctx):
        from tests.rom.line import Line

        return Line(ctx.comm, self.cells, 1, end_load=True)

    def law(self, points, mu):
        from tests.rom.line import Creeping

        return Creeping(points, mu, 0.1)

    def start(self, count):
        import numpy as np

        return np.zeros((count, 2))

    def load(self, mu, step):
        import numpy as np

        return np.array([mu["pull"] * np.sin(2 * np.pi * 0.1 * (step + 1))])

    def observe(self, name, stress, history):
        return history[:, 1] if name == "cumulated" else stress[:, 1]

    def solve(self, mu: Mapping[str, float], ctx):
        import numpy as np

        from tests.rom.line import Line, newton

        mu = self.parameters.checked(mu)
        from sciflow.context import SerialComm

        line = Line(SerialComm(), self.cells, 1, end_load=True)
        law, history, u = self.law(line.points, mu), self.start(self.cells), np.zeros(self.cells + 1)
        for step, time in enumerate(self.steps()):
            before = history
            force = line.loads @ self.load(mu, step)
            u, history = newton(line, law, u, before, step, np.arange(1, self.cells + 1), force)
            stress = law(line.strains(u[:, None])[:, :, 0], before, step)[0]
            fields = {"displacement": u, "cumulated": history[:, 1], "stress": stress[:, 1]}
            yield State(float(time), fields)


@dataclass(frozen=True)
class Remember(Selector):
    """Ranks as for the nearest training member."""

    name: ClassVar[str] = "toy_remember"

    def train(self, features, errors, rng):
        from tests.rom.line import Recall

        return Recall(features, errors)

    def load(self, state):
        from tests.rom.line import Recall

        return Recall(state["features"], state["errors"])


@hookimpl
def sciflow_components():
    return [Rod, Bar, Remember]
