"""The work of the ``invert`` stage: least squares on a model whose defect the solver tells."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Failed
from sciflow.problem import ParameterSpace
from sciflow.schema import Field
from sciflow.stages import queries
from sciflow.stages.answers import Asked, Domain, domain_of
from sciflow.stages.design import scale, unit_points
from sciflow.stages.invert import INVERSION
from sciflow.stages.simulate import Simulate
from sciflow.stages.solves import Solves

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.stages.invert import Invert
    from sciflow.store import Writer

STEP = 1e-3
"""Of the differences that give the derivatives of a model, over the ranges; it may be of single precision."""
COARSE = 1e-2
"""The same for the solver, whose own tolerance is not known."""

Residual = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Step:
    """One full solve of the search.

    Attributes
    ----------
    place : ndarray, shape (parameter,)
        In the unit cube.
    misfit : float
        Root mean square of the residuals over their noise, by the solver.
    model : float
        The same by the model.
    """

    place: np.ndarray
    misfit: float
    model: float


class _Spent(Exception):
    """The budget of full solves is used up."""


class Inversion:
    """One attempt.

    Parameters
    ----------
    stage : Invert
        Configuration.
    inputs : mapping of str to Artifact
        ``model``, and perhaps ``observation`` and ``ensemble``.
    out : Writer
        Of the result.
    ctx : Context
        Executor, resources, progress.

    Notes
    -----
    With parameters z in the unit cube, observed y, noise s, the model g and the solver f, each round
    minimises ``|(g(z) + f(z_k) - g(z_k) - y) / s|`` over a box about the best z_k: the model with its defect
    there added, whose minimum is a fixed point where the residual of the solver is orthogonal to the
    derivatives of the model. A round costs one full solve. Where the misfit by the solver does not fall the
    box is halved, else doubled.

    References
    ----------
    N. M. Alexandrov, R. M. Lewis, C. R. Gumbert, L. L. Green and P. A. Newman, "Approximation and model
    management in aerodynamic optimization with variable-fidelity models", J. Aircraft 38 (2001) 1093-1101.
    """

    def __init__(self, stage: Invert, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        from sciflow.stages.train import load_model

        artifact = inputs["model"]
        training = queries.training_of(artifact, inputs.get("ensemble"))
        self.stage, self.inputs, self.out, self.ctx = stage, inputs, out, ctx
        self.problem = queries.problem_of(artifact, stage.problem, training)
        model = load_model(artifact)
        self.asked = [
            Asked(model, self.problem, q, queries.output_of(artifact, model.signature, self.problem, q))
            for q in stage.quantities
        ]
        simulate = Simulate(self.problem, minimum=0.0, attempts=stage.attempts)
        self.solves = Solves(simulate, stage.budget + stage.alone, artifact, out, ctx)
        domain = domain_of(artifact, self.problem, training)
        self.space = self.problem.parameters if domain is None else _trained(self.problem.parameters, domain)
        self.answers = 0

    def run(self) -> None:
        """Fit, verify, correct, store.

        Raises
        ------
        Failed
            If the solver fails at the parameters that the model finds.
        """
        starts = unit_points("sobol", len(self.space), self.stage.starts, (), self.stage.seed)
        fits = [self._fit(z, np.zeros(len(self.observed)), 0.0, 1.0) for z in starts]
        misfits = np.array([_size(self._model(z)) for z in fits])
        steps = self._search(fits[int(misfits.argmin())])
        taken = len(self.solves)
        alone = self._alone(starts[int(misfits.argmin())]) if self.stage.alone else None
        self._store(starts, np.array(fits), misfits, steps, taken, alone)

    @cached_property
    def observed(self) -> np.ndarray:
        """Observed values, shape (observation,)."""
        stage = self.stage
        if stage.values:
            return np.array(stage.values)
        artifact, values = self.inputs["observation"], []
        for quantity in stage.quantities:
            name, level = quantity.source
            found = self.problem.fields[name]
            lines = {a: artifact.read(a) for a in found.axes if a in artifact.schema.fields}
            grid = queries.grid_of(found, lines, self.problem.axis_units(), self.problem.periodic)
            whole = artifact.gather(name).whole(np.array([stage.member]))
            if found.axes[:1] and found.axes[0] in queries.TIME:
                count = whole.shape[1]
                if found.axes[0] == "step":
                    count = int(artifact.read("n_steps")[stage.member])
                whole = whole[:, level % count]
            values.append(quantity.of(whole, grid)[0])
        return np.array(values)

    @cached_property
    def noise(self) -> np.ndarray:
        """Standard deviations of the observations, shape (observation,)."""
        if self.stage.noise:
            return np.array(self.stage.noise)
        largest = float(np.abs(self.observed).max())
        return np.full(len(self.observed), largest / 100 or 1.0)

    # -- residuals -----------------------------------------------------------------------------

    def _model(self, places: np.ndarray) -> np.ndarray:
        """Residuals by the model, over their noise, shape (..., observation)."""
        rows = np.atleast_2d(places)
        self.answers += len(rows)
        points = scale(rows, self.space)
        values = np.stack([one.some(points)[0] for one in self.asked], axis=1)
        found = (values - self.observed) / self.noise
        return found if np.ndim(places) > 1 else np.asarray(found[0])

    def _full(self, places: np.ndarray, limit: int) -> np.ndarray:
        """The same by the solver."""
        rows = np.atleast_2d(places)
        if len(self.solves) + len(rows) > limit:
            raise _Spent
        members = self.solves.more(scale(rows, self.space))
        values = np.stack([self.solves.quantity(q, members) for q in self.stage.quantities], axis=1)
        found = (values - self.observed) / self.noise
        return found if np.ndim(places) > 1 else np.asarray(found[0])

    def _fit(self, start: np.ndarray, defect: np.ndarray, low: Any, high: Any) -> np.ndarray:
        """Least squares on the model with a defect added, within a box."""
        return _least_squares(lambda z: self._model(z) + defect, start, low, high, STEP)

    # -- searches ------------------------------------------------------------------------------

    def _search(self, place: np.ndarray) -> list[Step]:
        """Full solves of the search; the best is the result."""
        steps: list[Step] = []
        width, best, defect = 0.25, place, np.zeros(len(self.observed))
        while len(steps) < self.stage.budget:
            residual = self._full(place, self.stage.budget)
            if not np.isfinite(residual).all() and not steps:
                raise Failed(f"the solver fails at what the model finds: {self.solves.failed[0]}")
            guess, size = self._model(place), _size(residual)
            better = np.isfinite(size) and all(size < s.misfit for s in steps)
            steps.append(Step(place, size, _size(guess)))
            if better:
                best, defect, width = place, residual - guess, min(1.0, 2 * width)
            else:
                width /= 4
            low, high = np.clip(best - width, 0, 1), np.clip(best + width, 0, 1)
            place = self._fit(best, defect, low, high)
            if np.abs(place - best).max() < self.stage.tolerance:
                break
        return steps

    def _alone(self, start: np.ndarray) -> dict[str, Any]:
        """The fit with the solver alone from one start, as far as its budget goes."""
        first, limit = len(self.solves), self.stage.budget + self.stage.alone
        path: list[tuple[int, float]] = []

        def residual(z: np.ndarray) -> np.ndarray:
            found = self._full(z, limit)
            for row in np.atleast_2d(found)[:1]:
                path.append((len(self.solves) - first, _size(row)))
            return np.nan_to_num(found, nan=1e3)

        with contextlib.suppress(_Spent):
            _least_squares(residual, start, 0.0, 1.0, COARSE, self.stage.tolerance)
        return {"solves": [n for n, _ in path], "misfits": [m for _, m in path]}

    # -- results -------------------------------------------------------------------------------

    def _store(
        self, starts: np.ndarray, fits: np.ndarray, misfits: np.ndarray, steps: list[Step], taken: int,
        alone: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        best = min(steps, key=lambda s: s.misfit if np.isfinite(s.misfit) else np.inf)
        parameter, many = (
            Field(("parameter",), "any", "float64"),
            Field(("start", "parameter"), "any", "float64"),
        )
        found = scale(best.place[None], self.space)[0]
        self.out.write("observed", self.observed, INVERSION["observed"])
        self.out.write("noise", self.noise, INVERSION["observed"])
        self.out.write("found", found, parameter)
        self.out.write("found_error", self._errors(best.place), parameter)
        self.out.write("start_points", scale(starts, self.space), many)
        self.out.write("start_found", scale(fits, self.space), many)
        self.out.write("start_misfit", misfits, Field(("start",), "1", "float64"))
        places = scale(np.array([s.place for s in steps]), self.space)
        self.out.write("step_points", places, INVERSION["step_points"])
        for name, values in (
            ("misfit", [s.misfit for s in steps]),
            ("model_misfit", [s.model for s in steps]),
        ):
            self.out.write(f"step_{name}", np.array(values), INVERSION[f"step_{name}"])
        self.solves.store()
        self.out.describe(
            model=self.inputs["model"].digest,
            parameters=list(self.space),
            parameter_units=[p.unit for p in self.space.values()],
            quantities=[q.words() for q in self.stage.quantities],
            inversion={
                "solves": taken,
                "budget": self.stage.budget,
                "answers": self.answers,
                "misfit": best.misfit,
                "first_misfit": steps[0].misfit,
                "alone": alone,
            },
        )

    def _errors(self, place: np.ndarray) -> np.ndarray:
        """Standard errors of the parameters that the noise makes, by the derivatives of the model."""
        jacobian = _derivatives(self._model, place, STEP)
        ends = [scale(np.clip(place + s * STEP, 0, 1)[None], self.space)[0] for s in (1, -1)]
        inside = np.clip(place + STEP, 0, 1) - np.clip(place - STEP, 0, 1)
        covariance = np.linalg.pinv(jacobian.T @ jacobian)
        return np.asarray(np.sqrt(np.diag(covariance)) * (ends[0] - ends[1]) / inside)


def _trained(space: ParameterSpace, domain: Domain) -> ParameterSpace:
    """The space that the training members fill; what was one value in all of them stays that."""
    low, high = domain.points.min(axis=0), domain.points.max(axis=0)
    slack = np.where(high > low, 0.0, 1e-9 * np.maximum(np.abs(low), 1e-9))
    ends = zip(space, (low - slack).tolist(), (high + slack).tolist(), strict=True)
    return space.narrowed({name: (a, b) for name, a, b in ends})


def _size(residual: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(residual**2)))


def _derivatives(residual: Residual, place: np.ndarray, step: float) -> np.ndarray:
    """By central differences, one-sided at the ends of the unit cube, shape (observation, parameter)."""
    ahead, back = np.clip(place + step, 0, 1), np.clip(place - step, 0, 1)
    rows = np.repeat(place[None], 2 * len(place), axis=0)
    for i in range(len(place)):
        rows[2 * i, i], rows[2 * i + 1, i] = ahead[i], back[i]
    values = residual(rows)
    return np.asarray((values[::2] - values[1::2]).T / (ahead - back))


def _least_squares(
    residual: Residual, start: np.ndarray, low: Any, high: Any, step: float, tolerance: float = 1e-8
) -> np.ndarray:
    """Trust-region reflective least squares within a box of the unit cube."""
    from scipy.optimize import least_squares

    low, high = np.broadcast_to(low, start.shape), np.broadcast_to(high, start.shape)
    high = np.where(high - low > 1e-9, high, low + 1e-9)
    begin = np.clip(start, low + 1e-6 * (high - low), high - 1e-6 * (high - low))
    found = least_squares(
        residual, begin, jac=lambda z: _derivatives(residual, z, step), bounds=(low, high), xtol=tolerance
    )
    return np.asarray(np.clip(found.x, low, high))
