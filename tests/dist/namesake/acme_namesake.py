"""A plugin whose entry point has the name of another distribution's."""

from dataclasses import dataclass
from typing import ClassVar

from sciflow import Field, Parameter, ParameterSpace, Problem, State, hookimpl


@dataclass(frozen=True)
class Growth(Problem):
    """u = exp(rate t)."""

    name: ClassVar[str] = "acme_growth"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(rate=Parameter(0.1, 2.0, "s-1"))
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "1")}

    def coordinates(self):
        import numpy as np

        return {"time": np.linspace(0, 1, 3), "x": np.linspace(0, 1, 2)}

    def solve(self, mu, ctx):
        import numpy as np

        for t in self.coordinates()["time"]:
            yield State(t, {"u": np.full(2, np.exp(mu["rate"] * t))})


@hookimpl
def sciflow_components():
    return [Growth]
