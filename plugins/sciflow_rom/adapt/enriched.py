"""Writes an enriched ROM-net: a model like the one that it was made of, and what the enrichment did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.schema import Field
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, store_model, tensors
from sciflow_rom.adapt.enriching import ANSWERED, FAILED, SOLVED, UNTRUSTED
from sciflow_rom.adapt.regions import weighted_arrays
from sciflow_rom.net.online_slice import RomModel

if TYPE_CHECKING:
    from sciflow.store import Writer
    from sciflow_rom.adapt.enriching import Enrichment

STATES = "0 answered, 1 solved in full, 2 not to be trusted, 3 the full-order model failed"


def store(done: Enrichment) -> None:
    """Write everything.

    Parameters
    ----------
    done : Enrichment
        With an answer to every query.
    """
    out = done.out
    for name in MODEL:
        out.write(name, done.inputs["model"].read(name), MODEL[name])
    held = done.inputs["model"].read("calibration_members")
    out.write("calibration_members", held, MODEL["train_members"])
    _queries(done, out)
    _solutions(done, out)
    _rounds(done, out)
    _model(done, out)
    out.describe(
        ensemble=done.inputs["ensemble"].digest,
        window=None,
        rom=_about(done),
        enrichment=_summary(done),
    )


def _queries(done: Enrichment, out: Writer) -> None:
    rows = [done.answers[q] for q in range(len(done.points))]
    out.write("queries", done.points, Field(("query", "parameter"), "any", "float64"))
    numbers = {
        "query_state": ("uint8", STATES, [a.state for a in rows]),
        "query_cluster": ("int64", "local model; -1 none converged", [a.cluster for a in rows]),
        "query_iterations": ("int64", "evaluations of the law", [a.iterations for a in rows]),
        "query_round": ("int64", "full-order rounds before", [a.round for a in rows]),
        "query_solution": ("int64", "its full-order solution, a member; -1 none", [a.member for a in rows]),
    }
    for name, (dtype, text, values) in numbers.items():
        out.write(name, np.array(values, dtype=dtype), Field(("query",), "1", dtype, text))
    for name, text in (("estimate", "of the relative error"), ("upper", "bound of the relative error")):
        values = [getattr(a, name) for a in rows]
        numeric = np.array([np.nan if v is None else v for v in values])
        out.write(f"query_{name}", numeric, Field(("query",), "1", "float64", text))
    out.write(
        "query_error",
        _errors(done),
        Field(("query",), "1", "float64", "of the reduced answer, where it is known"),
    )
    if done.stage.fields:
        _answers(done, out)


def _errors(done: Enrichment) -> np.ndarray:
    """True errors of the reduced answers that full-order solutions replaced, shape (query,)."""
    errors = np.full(len(done.points), np.nan)
    good = [q for m, q in enumerate(done.solved) if m not in done.failed]
    pairs = [pair for finished in done.done for pair in finished.pairs]
    for query, (_, error) in zip(good, pairs, strict=True):
        errors[query] = np.nan if error is None else error
    return errors


def _answers(done: Enrichment, out: Writer) -> None:
    """The unknown field of every answer: the full-order solution where there is one."""
    from sciflow.artifact.snapshot import Snapshot

    problem = done.problem
    field = problem.fields[problem.unknown]
    values = done.fields()
    good = [m for m in range(len(done.solved)) if m not in done.failed]
    steps = np.arange(values.shape[1])
    if good:
        gather = Snapshot(out.path).gather(problem.unknown)
        for member in good:
            found = gather.read(np.full(len(steps), member), steps)
            values[done.solved[member]] = found.reshape(len(steps), -1)
    timed = "time" in field.axes
    shape = (len(values), *((len(steps),) if timed else ()), *problem.shape(problem.unknown))
    kept = Field(("query", *field.axes), field.unit, field.dtype, "of the answer to each query")
    out.write(f"answer_{problem.unknown}", values.reshape(shape).astype(field.dtype), kept)


def _solutions(done: Enrichment, out: Writer) -> None:
    """What is known of the full-order solutions; those that were not made are NaN."""
    status = np.zeros(done.limit, dtype=np.uint8)
    status[: len(done.solved)] = [2 if m in done.failed else 1 for m in range(len(done.solved))]
    points = np.full((done.limit, done.points.shape[1]), np.nan)
    points[: len(done.solved)] = done.points[done.solved]
    if done.limit:
        out.write("parameters", points, ENSEMBLE["parameters"])
        out.write("status", status, Field(("member",), "1", "uint8", "0 not made, 1 ok, 2 failed"))


def _rounds(done: Enrichment, out: Writer) -> None:
    """Sizes of all bases and cubatures, and the queries before, by round; 0 before a region is there."""
    clusters = len(done.done[-1].modes)
    before = np.zeros(len(done.done), dtype=np.int64)
    for answer in done.answers.values():
        # A query that was solved in full belongs to the round that its solution made.
        late = answer.round + (answer.state in (SOLVED, FAILED))
        before[late + 1 :] += 1
    out.write("round_queries", before, Field(("round",), "1", "int64", "queries answered by earlier models"))
    for name in ("modes", "points"):
        table = np.zeros((len(done.done), clusters), dtype=np.int64)
        for row, finished in enumerate(done.done):
            table[row, : len(finished.modes)] = getattr(finished, name)
        out.write(f"round_{name}", table, Field(("round", "cluster"), "1", "int64"))
    gaps = np.array([g for finished in done.done for g in finished.gaps])
    text = "relative error of projection of each full-order solution on the best basis before"
    out.write("solution_gap", gaps, Field(("solution",), "1", "float64", text))


def _model(done: Enrichment, out: Writer) -> None:
    """The model: online slice, modes, and what it takes to enrich it once more."""
    model = done.model
    final = RomModel(
        model.config, model.signature, model.local, model.ranker, done.space, done.calibration, model.mesh
    )
    basis, dual = Field(("dof", "mode"), "any", "float64"), Field(("row", "mode"), "any", "float64")
    for cluster in range(final.clusters):
        region = done.region(cluster)
        out.write(f"basis_{cluster}", region.basis.modes, basis)
        out.write(f"places_{cluster}", region.places, Field(("point",), "1", "int64", "integration points"))
        for name, modes in region.duals.items():
            out.write(f"dual_{name}_{cluster}", modes.modes, dual)
        out.write_file(f"region-{cluster}.safetensors", tensors(region.arrays()))
    test = done.rounds.test(done.number)
    out.write_file("test.safetensors", tensors(weighted_arrays("test", test)))
    store_model(final.config, final, [], out)


def _about(done: Enrichment) -> dict[str, Any]:
    """As the stage ``build_rom`` describes a model."""
    bound = done.calibration.bound
    table = []
    for cluster in range(len(done.done[-1].modes)):
        region = done.region(cluster)
        table.append(
            {
                "members": len(region.cases),
                "modes": region.modes,
                "points": len(region.places),
                "cubature_error": region.error,
            }
        )
    return {
        "mesh": done.base.mesh,
        "clusters": table,
        "calibration_members": done.calibration.members,
        "coverage": done.stage.coverage,
        "bound": bound if np.isfinite(bound) else None,
    }


def _summary(done: Enrichment) -> dict[str, Any]:
    states = np.array([a.state for a in done.answers.values()])
    reasons: dict[str, int] = {}
    for answer in done.answers.values():
        if answer.state in (SOLVED, FAILED):
            reasons[answer.reason] = reasons.get(answer.reason, 0) + 1
    errors = _errors(done)
    audited = np.array(
        [q for q, a in done.answers.items() if a.state == SOLVED and a.reason == "audit"], dtype=int
    )
    held = errors[audited] <= done.stage.tolerance
    return {
        "tolerance": done.stage.tolerance,
        "budget": done.limit,
        "queries": len(done.points),
        "answered": int((states == ANSWERED).sum()),
        "solved": len(done.solved),
        "untrusted": int((states == UNTRUSTED).sum()),
        "failed": int((states == FAILED).sum()),
        "reasons": reasons,
        "audited": len(audited),
        "audited_within_tolerance": int(held.sum()),
        "model": done.inputs["model"].digest,
        "design": done.inputs["design"].digest,
    }
