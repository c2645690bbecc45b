"""Problems in one dimension whose weak form can be reduced: heat in a rod, cyclic creep of a bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sciflow import Diverged, Field, Parameter, ParameterSpace, State, hookimpl
from sciflow.reduction import Integrals, Reducible
from sciflow_rom.regress.selectors import Selector


class Line(Integrals):
    """Linear elements on [0, 1] with `gauss` points per cell; generalised strains (value, slope).

    The unknowns are those of all nodes; what is fixed is left to the vectors.
    """

    def __init__(self, comm, cells, gauss, end_load):
        self.comm = comm
        h = 1.0 / cells
        mine = np.arange(cells * comm.rank // comm.size, cells * (comm.rank + 1) // comm.size)
        xi, w = np.polynomial.legendre.leggauss(gauss)
        self._share = 0.5 * (1 + xi)
        self._cells, self._n, self._h = mine, cells + 1, h
        last = comm.rank == comm.size - 1
        self.rows = np.append(mine, mine[-1] + 1) if last else mine
        self.places = (mine[:, None] * gauss + np.arange(gauss)).ravel()
        self.points = ((mine[:, None] + self._share) * h).reshape(-1, 1)
        self.weights = np.tile(0.5 * h * w, len(mine))
        self.loads = np.zeros((len(self.rows), 1 if end_load else 0))
        if end_load and last:
            self.loads[-1, 0] = 1.0
        self.mesh = f"line-{cells}-{gauss}"

    def strains(self, vectors):
        whole = np.zeros((self._n, vectors.shape[1]))
        whole[self.rows] = vectors
        if self.comm.size > 1:
            total = np.empty_like(whole)
            self.comm.Allreduce(whole, total)
            whole = total
        left, right = whole[self._cells], whole[self._cells + 1]
        slope = (right - left) / self._h
        value = [(1 - s) * left + s * right for s in self._share]
        found = np.stack([np.stack([v, slope], axis=1) for v in value], axis=1)
        return found.reshape(-1, 2, vectors.shape[1])


def newton(integrals, law, u, history, step, free, force):
    """The full-order model, dense, independent of what is tested."""
    basis = integrals.strains(np.eye(len(u)))[:, :, free]
    for _ in range(40):
        strain = integrals.strains(u[:, None])[:, :, 0]
        stress, tangent, new = law(strain, history, step)
        forces = np.einsum("qcn,qc->n", basis, integrals.weights[:, None] * stress)
        residual = forces - force[free]
        size = np.einsum("qcn,qc->n", np.abs(basis), integrals.weights[:, None] * np.abs(stress))
        if np.linalg.norm(residual) <= 1e-13 * np.linalg.norm(size):
            return u, new
        moved = (integrals.weights[:, None, None] * (tangent @ basis)).reshape(-1, len(free))
        matrix = basis.reshape(-1, len(free)).T @ moved
        u = u.copy()
        u[free] -= np.linalg.solve(matrix, residual)
    if np.linalg.norm(residual) > 1e-11 * np.linalg.norm(size):
        raise Diverged(f"step {step}: residual {np.linalg.norm(residual):.1e}")
    return u, new


class Conducting:
    """(-f, (1 + u^2) u'), f a bump of height `amplitude` at `place`."""

    def __init__(self, points, mu):
        x = points[:, 0]
        self._source = mu["amplitude"] * np.exp(-0.5 * ((x - mu["place"]) / 0.08) ** 2)

    def __call__(self, strain, history, step):
        u, slope = strain[:, 0], strain[:, 1]
        k = 1 + u**2
        stress = np.stack([-self._source, k * slope], axis=1)
        tangent = np.zeros((len(u), 2, 2))
        tangent[:, 1, 0], tangent[:, 1, 1] = 2 * u * slope, k
        return stress, tangent, history


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
        return {"x": np.linspace(0, 1, self.cells + 1)}

    def integrals(self, ctx):
        return Line(ctx.comm, self.cells, 2, end_load=False)

    def law(self, points, mu):
        return Conducting(points, mu)

    def solve(self, mu, ctx):
        mu = self.parameters.checked(mu)
        from sciflow.context import SerialComm

        line = Line(SerialComm(), self.cells, 2, end_load=False)
        n = self.cells + 1
        u, _ = newton(
            line, self.law(line.points, mu), np.zeros(n), np.zeros((2 * self.cells, 0)), 0,
            np.arange(1, n - 1), np.zeros(n),
        )  # fmt: skip
        yield State(0.0, {"temperature": u})


class Creeping:
    """An elastic foundation, and viscoplastic flow with isotropic and kinematic hardening.

    History: plastic strain, cumulated plastic strain. The implicit step is linear, so it is exact.
    """

    MODULUS, HARDENING, KINEMATIC, VISCOSITY, FOUNDATION = 100.0, 10.0, 20.0, 5.0, 30.0

    def __init__(self, points, mu, dt):
        self._yield = mu["strength"] * (1 + 0.3 * np.sin(6 * points[:, 0]))
        self._dt = dt

    def __call__(self, strain, history, step):
        e, h, k = self.MODULUS, self.HARDENING, self.KINEMATIC
        plastic, cumulated = history[:, 0], history[:, 1]
        trial = e * (strain[:, 1] - plastic) - k * plastic
        over = np.abs(trial) - self._yield - h * cumulated
        stiff = e + k + h + self.VISCOSITY / self._dt
        flow = np.where(over > 0, over, 0.0) / stiff
        new = np.stack([plastic + flow * np.sign(trial), cumulated + flow], axis=1)
        stress = np.stack([self.FOUNDATION * strain[:, 0], e * (strain[:, 1] - new[:, 0])], axis=1)
        tangent = np.zeros((len(strain), 2, 2))
        tangent[:, 0, 0] = self.FOUNDATION
        tangent[:, 1, 1] = np.where(over > 0, e - e * e / stiff, e)
        return stress, tangent, new


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
        return {
            "time": np.linspace(0, self.cycles, 10 * self.cycles + 1)[1:],
            "x": np.linspace(0, 1, self.cells + 1),
            "point": np.arange(float(self.cells)),
        }

    def integrals(self, ctx):
        return Line(ctx.comm, self.cells, 1, end_load=True)

    def law(self, points, mu):
        return Creeping(points, mu, 0.1)

    def start(self, count):
        return np.zeros((count, 2))

    def load(self, mu, step):
        return np.array([mu["pull"] * np.sin(2 * np.pi * 0.1 * (step + 1))])

    def observe(self, name, stress, history):
        return history[:, 1] if name == "cumulated" else stress[:, 1]

    def solve(self, mu: Mapping[str, float], ctx):
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


class Recall:
    """Errors of the member that is nearest."""

    def __init__(self, features, errors):
        self._features, self._errors = np.asarray(features), np.asarray(errors)

    def rank(self, features):
        return self._errors[np.abs(self._features - features).sum(axis=1).argmin()]

    def state(self):
        return {"features": self._features, "errors": self._errors}


@dataclass(frozen=True)
class Remember(Selector):
    """Ranks as for the nearest training member."""

    name: ClassVar[str] = "toy_remember"

    def train(self, features, errors, rng):
        return Recall(features, errors)

    def load(self, state):
        return Recall(state["features"], state["errors"])


@hookimpl
def sciflow_components():
    return [Rod, Bar, Remember]
