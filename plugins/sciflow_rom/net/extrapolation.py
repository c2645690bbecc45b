"""Answers of a reduced model for another number of steps, compared with stored members level by level."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow.schema import Field
from sciflow.stages.train import load_model
from sciflow_rom.net.extrapolate import EXTRAPOLATION, problem_of
from sciflow_rom.net.online_slice import RomModel, Trajectory

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.reduction import Reducible
    from sciflow.store import Writer
    from sciflow_rom.net.extrapolate import Extrapolate

PLACES = ("point_x", "point_y", "node_x", "node_y", "triangles")
"""Arrays of an ensemble that a map of a field at the integration points needs."""


def level_errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Errors of single levels.

    Parameters
    ----------
    found, truth : ndarray, shape (step, ...)
        In the same unit.

    Returns
    -------
    ndarray, shape (step,)
        ``|found_t - truth_t| / sqrt(mean_s |truth_s|^2)``: the mean square over the levels is the square
        of the relative error over all of them, and a level where the truth is zero does no harm.
    """
    gaps = np.linalg.norm((found - truth).reshape(len(truth), -1), axis=1)
    size = np.linalg.norm(truth) / np.sqrt(len(truth))
    return np.asarray(gaps / size if size > 0 else np.where(gaps > 0, np.inf, 0.0))


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """Norm of the difference over that of the truth, of any equal shapes."""
    size = float(np.linalg.norm(truth))
    gap = float(np.linalg.norm(found - truth))
    return gap / size if size > 0 else (np.inf if gap > 0 else 0.0)


def unexplained(model: RomModel, name: str, trajectory: Trajectory) -> np.ndarray:
    """What the modes of a dual field cannot follow of its values at the points, for each step.

    Parameters
    ----------
    model : RomModel
        The online slice is enough.
    name : str
        Of the field.
    trajectory : Trajectory
        An answer.

    Returns
    -------
    ndarray, shape (step,)
        ``|B z - q| / |q|``, between 0 and 1: a field that the training has not seen shows here.
    """
    response = trajectory.response
    pairs = zip(response.stress, response.history, strict=True)
    values = np.stack([model.problem.observe(name, s, h).reshape(-1) for s, h in pairs])
    modes = np.linalg.pinv(model.local[trajectory.cluster].gaps[name])
    rest = np.linalg.norm(values - model.dual_coefficients(name, trajectory) @ modes.T, axis=1)
    size = np.linalg.norm(values, axis=1)
    return np.asarray(np.divide(rest, size, out=np.zeros_like(size), where=size > 0))


def extrapolate(stage: Extrapolate, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
    """Answer all members that ended well and store what became of it.

    Raises
    ------
    Invalid
        If model and ensemble differ in more than the number of steps, or no member ended well.
    Diverged
        If no local model converges for a member.
    """
    model, ensemble = load_model(inputs["model"]), inputs["ensemble"]
    assert isinstance(model, RomModel)
    problem, members = problem_of(ensemble), ensemble.members()
    if not len(members):
        raise Invalid(f"{ensemble.path}: no member ended well")
    duals = [n for n in problem.dual if len(problem.shape(n)) == 1]
    points = ensemble.read("parameters")
    rows: list[dict[str, Any]] = []
    worst: tuple[float, int, dict[str, np.ndarray]] | None = None
    for sample, member in enumerate(members):
        ctx.progress(sample, len(members), "members")
        mu = dict(zip(problem.parameters, points[member].tolist(), strict=True))
        if not rows:
            model.solve(mu, problem=problem)  # not timed: compares mesh and law, once
        row, example = _answer(stage, model, problem, ensemble, int(member), mu, duals)
        rows.append(row)
        if worst is None or row["relative_l2"] > worst[0]:
            worst = row["relative_l2"], sample, example
        ctx.check()
    ctx.progress(len(members), len(members), "members")
    assert worst is not None
    _store(stage, inputs, model, problem, members, rows, worst[1], worst[2], out)


def _answer(
    stage: Extrapolate, model: RomModel, problem: Reducible, ensemble: Artifact, member: int,
    mu: Mapping[str, float], duals: list[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
    """Numbers of one member, and its dual fields at the last level: truth and answer."""
    begin = time.perf_counter()
    found = model.solve(mu, problem=problem)
    solved = time.perf_counter()
    fields = {problem.unknown: model.lift(found), **{n: model.dual(n, found) for n in duals}}
    row: dict[str, Any] = {
        "estimate": found.estimate,
        "upper": found.upper,
        "seconds": solved - begin,
        "lift_seconds": time.perf_counter() - solved,
        "flags": found.flags,
    }
    example = {}
    levels = np.arange(len(found.times))
    for name, values in fields.items():
        stored = ensemble.gather(name).read(np.full(len(levels), member), levels)
        truth = stored.reshape(values.shape).astype(np.float64)
        end = "" if name == problem.unknown else f"_{name}"
        row[f"relative_l2{end}"] = relative(values, truth)
        row[f"last_l2{end}"] = relative(values[-stage.last :], truth[-stage.last :])
        row[f"level_errors{end}"] = level_errors(values, truth)
        if end:
            row[f"gaps{end}"] = unexplained(model, name, found)
            row[f"peak{end}"], row[f"peak_truth{end}"] = values.max(axis=1), truth.max(axis=1)
            example[f"example{end}"], example[f"example_truth{end}"] = values[-1], truth[-1]
    return row, example


def _store(
    stage: Extrapolate, inputs: Mapping[str, Artifact], model: RomModel, problem: Reducible,
    members: np.ndarray, rows: list[dict[str, Any]], worst: int, example: Mapping[str, np.ndarray],
    out: Writer,
) -> None:  # fmt: skip
    from sciflow.stages.costs import solver_seconds

    ensemble = inputs["ensemble"]
    out.write("members", members, EXTRAPOLATION["members"])
    out.write("time", problem.steps(), EXTRAPOLATION["time"])
    for name in rows[0]:
        if name == "flags":
            continue
        values = np.array([row[name] for row in rows])
        unit = problem.fields[name.split("_")[-1]].unit if name.startswith("peak") else "1"
        axes = ("sample", "time") if values.ndim == 2 else ("sample",)
        out.write(name, values, EXTRAPOLATION.fields.get(name) or Field(axes, unit, "float64"))
    for name, values in example.items():
        unit = problem.fields[name.removeprefix("example_").removeprefix("truth_")].unit
        out.write(name, values, Field(("point",), unit, "float64", "at the last level of the worst member"))
    if all(name in ensemble.schema.fields for name in PLACES):
        for name in PLACES:
            out.write(name, ensemble.read(name), ensemble.schema.fields[name])
    chosen = sum(int((local.tables.weights > 0).sum()) for local in model.local)
    everywhere = problem.shape(problem.dual[0])[0] if problem.dual else None
    out.describe(
        model=inputs["model"].digest,
        ensemble=ensemble.digest,
        unknown=problem.unknown,
        duals=[n.removeprefix("example_truth_") for n in example if n.startswith("example_truth_")],
        trained=len(model.problem.steps()),
        last=stage.last,
        worst=worst,
        full_seconds=_finite(solver_seconds(ensemble)),
        points=chosen / len(model.local),
        all_points=everywhere,
        flags=[list(row["flags"]) for row in rows],
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
