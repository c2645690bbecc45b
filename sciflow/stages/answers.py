"""What a fitted model says to many queries, and which of its answers are in doubt."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Diverged
from sciflow.quantity import Quantity
from sciflow.stages.queries import Output, grid_of

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.problem import Problem
    from sciflow.stages.calibrate import Calibration
    from sciflow.surrogate import Model

TRUSTED, BOUND, OUTSIDE, FAR, SILENT = range(5)
"""Why an answer is in doubt: it is not; its bound exceeds the tolerance; the query is outside of the box of
the training members; it is far from all of them; the model gave no answer."""


@dataclass(frozen=True)
class Domain:
    """Where the training members lie.

    Attributes
    ----------
    points : ndarray, shape (member, parameter)
        Of the training members.
    logarithmic : ndarray of bool, shape (parameter,)
        Which parameters are taken by their logarithm.

    Notes
    -----
    The box reaches beyond the extreme members by twice the mean distance of their coordinates, since a
    sample of n evenly spread values misses either end by 1/(n + 1) of the range on average.
    """

    points: np.ndarray
    logarithmic: np.ndarray

    def _scaled(self, points: np.ndarray) -> np.ndarray:
        logs = np.where(self.logarithmic, np.log(np.maximum(points, 1e-300)), points)
        return np.asarray(logs)

    @cached_property
    def _box(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self._scaled(self.points)
        low, high = rows.min(axis=0), rows.max(axis=0)
        margin = 2 * (high - low) / max(len(rows) - 1, 1) + 1e-9 * np.maximum(np.abs(low), np.abs(high))
        return low - margin, high + margin, np.where(high > low, high - low, 1.0)

    def outside(self, points: np.ndarray) -> np.ndarray:
        """Whether each point is outside of the box of the members, bool of shape (query,)."""
        low, high, _ = self._box
        rows = self._scaled(points)
        return np.asarray(((rows < low) | (rows > high)).any(axis=1))

    def far(self, points: np.ndarray, factor: float) -> np.ndarray:
        """Whether the next member is more than `factor` times as far as any member is from its next.

        Parameters
        ----------
        points : ndarray, shape (query, parameter)
            In the units of the parameters.
        factor : float
            See `sciflow.stages.propagate.Propagate`.

        Returns
        -------
        ndarray of bool, shape (query,)
        """
        from scipy.spatial import cKDTree

        if len(self.points) < 2:
            return np.zeros(len(points), dtype=bool)
        size = self._box[2]
        tree = cKDTree(self._scaled(self.points) / size)
        usual = tree.query(tree.data, k=2)[0][:, 1].max()
        return np.asarray(tree.query(self._scaled(points) / size)[0] > factor * usual)


def domain_of(model: Artifact, problem: Problem, training: Artifact | None) -> Domain | None:
    """Where the members lie that a model was fitted to; None where nobody kept them."""
    if training is None:
        return None
    rows = training.read("parameters")[model.read("train_members")]
    names = list(training.attributes["parameters"])
    if set(names) != set(problem.parameters):
        return None
    logs = np.array([p.log for p in problem.parameters.values()], dtype=np.bool_)
    return Domain(rows[:, [names.index(n) for n in problem.parameters]], logs)


@dataclass
class Answers:
    """What a model says to many queries.

    Attributes
    ----------
    quantity : ndarray, shape (query,)
        NaN where it gave no answer.
    doubt : ndarray, shape (query,)
        Bound of the relative error of the field, see `Model.doubt`; NaN where the model cannot say.
    change : ndarray, shape (query,)
        What that bound means for the quantity, in its unit; NaN where it is not known.
    reason : ndarray of uint8, shape (query,)
        Why it is in doubt; 0 where it is not.
    seconds : float
        Wall time of one answer, its doubt included.
    """

    quantity: np.ndarray
    doubt: np.ndarray
    change: np.ndarray
    reason: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    seconds: float = 0.0

    def judge(self, points: np.ndarray, tolerance: float, far: float, domain: Domain | None) -> None:
        """Say which answers are in doubt, and why.

        Parameters
        ----------
        points : ndarray, shape (query, parameter)
            What was asked.
        tolerance, far : float
            See `sciflow.stages.propagate.Propagate`; the first is a relative error.
        domain : Domain or None
            Where the training members lie; None where nobody knows.
        """
        self.reason = np.where(self.doubt > tolerance, BOUND, TRUSTED).astype(np.uint8)
        if domain is not None:
            self.reason[domain.far(points, far)] = FAR
            self.reason[domain.outside(points)] = OUTSIDE
        self.reason[~np.isfinite(self.quantity)] = SILENT

    @property
    def doubtful(self) -> np.ndarray:
        """Queries in doubt, the most doubtful first: where there is no answer, outside, far, by the bound."""
        rank = np.select(
            [self.reason == SILENT, self.reason == OUTSIDE, self.reason == FAR], [3.0, 2.0, 1.0], 0.0
        )
        doubt = np.where(np.isnan(self.doubt), 0.0, self.doubt)
        order = np.lexsort((-doubt, -rank))
        return np.asarray(order[self.reason[order] != TRUSTED])

    @property
    def filled(self) -> np.ndarray:
        """The quantity, with the mean of all where there is no answer."""
        there = np.isfinite(self.quantity)
        middle = float(self.quantity[there].mean()) if there.any() else 0.0
        return np.where(there, self.quantity, middle)


@dataclass
class Asked:
    """A fitted model that is asked for a quantity.

    Attributes
    ----------
    model : Model
    problem : Problem
        It stands for.
    quantity : Quantity
    output : Output
    calibration : Calibration or None
        Tells the doubt in place of the model.
    """

    model: Model
    problem: Problem
    quantity: Quantity
    output: Output
    calibration: Calibration | None = None

    def answers(self, points: np.ndarray, batch: int, ctx: Context) -> Answers:
        """Ask all queries, so many at once.

        Parameters
        ----------
        points : ndarray, shape (query, parameter)
            In the order and units of the problem's parameters.
        batch : int
            Queries at a time.
        ctx : Context
            Is told how far it is.
        """
        columns, seconds = [], 0.0
        for first in range(0, len(points), batch):
            ctx.progress(first, len(points), "queries of the model")
            begin = time.perf_counter()
            columns.append(self.some(points[first : first + batch]))
            seconds += time.perf_counter() - begin
        found = [np.concatenate(c) for c in zip(*columns, strict=True)]
        return Answers(found[0], found[1], found[2], seconds=seconds / len(points))

    def some(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quantity, doubt and change of some queries at once, each of shape (query,); see `Answers`."""
        x = self.inputs(points)
        with warnings.catch_warnings():
            # Queries outside of the training are found, and counted, by where they lie.
            warnings.simplefilter("ignore", UserWarning)
            doubt = self._doubt(x)
            values = self._predict(x)
        own, fields = self.model.signature, values[self.output.name]
        whole = np.linalg.norm(np.asarray(fields, dtype=np.float64).reshape(len(fields), -1), axis=1)
        if self.output.level is not None:
            fields = fields[:, self.output.level]
        units = self.problem.axis_units()
        grid = grid_of(own.outputs[self.output.name], own.coordinates, units, own.periodic)
        quantity = self.quantity.of(fields, grid)
        told = np.full(len(points), np.nan) if doubt is None else np.asarray(doubt, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            change = self.quantity.change(fields, told * whole, grid)
        return quantity, told, np.where(np.isnan(told), np.nan, change)

    def inputs(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Parameter points, shape (query, parameter), as inputs of the model."""
        names = list(self.problem.parameters)
        signature = self.model.signature
        return {n: points[:, names.index(n)].astype(f.dtype) for n, f in signature.inputs.items()}

    def _doubt(self, x: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Doubts; infinite where the model diverges, NaN or None where nobody says."""

        def ask(one: Mapping[str, np.ndarray]) -> np.ndarray | None:
            if self.calibration is None:
                return self.model.doubt(one)
            return self.calibration.doubt(self.model, one)

        try:
            return ask(x)
        except Diverged:
            pass
        rows = []
        for one in _singly(x):
            try:
                told = ask(one)
            except Diverged:
                told = np.full(1, np.inf)
            rows.append(np.full(1, np.nan) if told is None else told)
        return np.asarray(np.concatenate(rows))

    def _predict(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predictions; those that diverge alone are NaN."""
        try:
            return self.model.predict(x)
        except Diverged:
            pass
        rows = []
        for one in _singly(x):
            try:
                rows.append(self.model.predict(one))
            except Diverged:
                rows.append(self._nothing())
        return {n: np.concatenate([r[n] for r in rows]) for n in rows[0]}

    def _nothing(self) -> dict[str, np.ndarray]:
        shapes = {n: self.model.signature.shape(n) for n in self.model.signature.outputs}
        return {n: np.full((1, *shape), np.nan) for n, shape in shapes.items()}


def _singly(x: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of each query alone."""
    for row in range(len(next(iter(x.values())))):
        yield {name: values[row : row + 1] for name, values in x.items()}
