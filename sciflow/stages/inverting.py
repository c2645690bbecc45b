"""The work of the ``invert`` stage: least squares on a model whose defect the solver tells."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Failed
from sciflow.problem import ParameterSpace
from sciflow.schema import Field
from sciflow.stages import queries
from sciflow.stages.answers import Asked, Domain, domain_of
from sciflow.stages.design import scale, unit_points
from sciflow.stages.invert import INVERSION
from sciflow.stages.least_squares import Residual, derivatives, minimised, secant, size_of
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
    minimises ``|(g(z) + f(z_k) - g(z_k) + B (z - z_k) - y) / s|`` over a box about the best z_k: the model
    with its defect there added. B is the slope of the defect, as far as the solves so far tell (Broyden's
    update, from 0): without it the search would end where the residual of the solver is orthogonal to the
    derivatives of the model, which are not its own. A round costs one full solve. Where the misfit by the
    solver does not fall the box is quartered, else doubled.

    References
    ----------
    N. M. Alexandrov, R. M. Lewis, C. R. Gumbert, L. L. Green and P. A. Newman, "Approximation and model
    management in aerodynamic optimization with variable-fidelity models", J. Aircraft 38 (2001) 1093-1101.
    C. G. Broyden, "A class of methods for solving nonlinear simultaneous equations", Math. Comp. 19 (1965)
    577-593.
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
            If the solver fails at the parameters that the model finds, or the model answers nowhere.
        """
        starts = unit_points("sobol", len(self.space), self.stage.starts, (), self.stage.seed)
        fits = [self._fit(z, lambda _: np.zeros(len(self.observed)), 0.0, 1.0) for z in starts]
        misfits = np.nan_to_num([size_of(self._model(z)) for z in fits], nan=np.inf)
        if not np.isfinite(misfits).any():
            raise Failed(f"the model gives no answer, wherever it was asked from {len(starts)} starts")
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

    def _fit(self, start: np.ndarray, defect: Residual, low: Any, high: Any) -> np.ndarray:
        """Least squares on the model with a defect added, within a box."""
        return minimised(lambda z: self._model(z) + defect(z), start, low, high, STEP)

    # -- searches ------------------------------------------------------------------------------

    def _search(self, place: np.ndarray) -> list[Step]:
        """Full solves of the search; the best is the result."""
        steps: list[Step] = []
        width, best, defect = 0.25, place, np.zeros(len(self.observed))
        slope, least = np.zeros((len(defect), len(place))), np.inf
        while len(steps) < self.stage.budget:
            residual, guess = self._full(place, self.stage.budget), self._model(place)
            size = size_of(residual)
            if not np.isfinite(size) and not steps:
                raise Failed(f"the solver fails at what the model finds: {self.solves.failed[0]}")
            steps.append(Step(place, size, size_of(guess)))
            if len(steps) > 1 and np.isfinite(residual - guess).all():
                slope = secant(slope, place - best, residual - guess - defect)
            if size < least and np.isfinite(guess).all():
                least, best, defect, width = size, place, residual - guess, min(1.0, 2 * width)
            else:
                width /= 4
            about = partial(_about, best, defect, slope)
            low, high = np.clip(best - width, 0, 1), np.clip(best + width, 0, 1)
            place = self._fit(best, about, low, high)
            if np.abs(place - best).max() < self.stage.tolerance:
                break
        return steps

    def _alone(self, start: np.ndarray) -> dict[str, Any]:
        """The fit with the solver alone from one start, as far as its budget goes."""
        first, limit = len(self.solves), self.stage.budget + self.stage.alone
        path: list[tuple[int, float]] = []

        def residual(z: np.ndarray) -> np.ndarray:
            found = self._full(z, limit)
            if np.isfinite(size := size_of(np.atleast_2d(found)[0])):
                path.append((len(self.solves) - first, size))
            return found

        with contextlib.suppress(_Spent):
            minimised(residual, start, 0.0, 1.0, COARSE, self.stage.tolerance)
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
        """Standard errors of the parameters that the noise makes, by the derivatives of the model.

        A direction that the observations do not tell is unsure by the width of the box, and no more.
        """
        jacobian = derivatives(self._model, place, STEP)
        ends = [scale(np.clip(place + s * STEP, 0, 1)[None], self.space)[0] for s in (1, -1)]
        inside = np.clip(place + STEP, 0, 1) - np.clip(place - STEP, 0, 1)
        _, told, directions = np.linalg.svd(jacobian)
        wide = np.ones(len(place))
        wide[: len(told)] /= np.maximum(told, 1.0)
        errors = np.linalg.norm(directions * wide[:, None], axis=0)
        return np.asarray(errors * (ends[0] - ends[1]) / inside)


def _trained(space: ParameterSpace, domain: Domain) -> ParameterSpace:
    """The space that the training members fill; what was one value in all of them stays that."""
    low, high = domain.points.min(axis=0), domain.points.max(axis=0)
    slack = np.where(high > low, 0.0, 1e-9 * np.maximum(np.abs(low), 1e-9))
    ends = zip(space, (low - slack).tolist(), (high + slack).tolist(), strict=True)
    return space.narrowed({name: (a, b) for name, a, b in ends})


def _about(best: np.ndarray, defect: np.ndarray, slope: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A defect that is linear about a place, shape (observation,), or a row for each place."""
    return np.asarray(defect + (place - best) @ slope.T)
