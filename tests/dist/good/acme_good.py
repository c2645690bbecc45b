"""A third party's plugin: one problem."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sciflow import Field, Parameter, ParameterSpace, Problem, State, hookimpl


@dataclass(frozen=True)
class Decay(Problem):
    """u = exp(-rate t)."""

    name: ClassVar[str] = "acme_decay"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(rate=Parameter(0.1, 2.0, "s-1"))
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "1")}

    def coordinates(self):
        import numpy as np

        return {"time": np.linspace(0, 1, 3), "x": np.linspace(0, 1, 2)}

    def solve(self, mu, ctx):
        import numpy as np

        for t in self.coordinates()["time"]:
            yield State(t, {"u": np.full(2, np.exp(-mu["rate"] * t))})


@hookimpl
def sciflow_components():
    return [Decay]


@hookimpl
def sciflow_report(artifact):
    if artifact.schema.kind == "ensemble":
        return [("From the third party", "<p>decay, as expected</p>")]
    return None


@hookimpl
def sciflow_flows():
    return [Path(__file__).with_name("acme_flows.py")]
