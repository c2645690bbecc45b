"""Builds a ROM-net from compressed and clustered snapshots, and opens it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow.schema import Field
from sciflow.stages.train import MODEL, store_model, tensors
from sciflow_rom.bases import LocalBasis, columns_of, numerical_rank, pod
from sciflow_rom.net.assembly import Assembler, Made, Settings
from sciflow_rom.net.indicator import Calibration, calibrate, covered, spearman
from sciflow_rom.net.online_slice import RomModel, from_state
from sciflow_rom.net.planning import Plan, plan
from sciflow_rom.net.ranks import max_ranks
from sciflow_rom.net.space import Space
from sciflow_rom.net.tables import LocalModel, pack, unpack

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Signature
    from sciflow.store import Writer
    from sciflow_rom.coordinates import Coordinates
    from sciflow_rom.net.romnet import BuildRom, RomNet

RANKED = 5
"""Of fewer unseen members, the order of their errors says nothing."""


def build(stage: BuildRom, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
    """Build all local models, those that an earlier attempt finished excepted, and store the model.

    Parameters
    ----------
    stage : BuildRom
        Configuration.
    inputs : mapping of str to Artifact
        ``ensemble``, ``compression``, ``clustering``.
    out : Writer
        Of the model; rank 0 writes.
    ctx : Context
        Ranks that share the mesh.
    """
    from sciflow_rom.compress.compression import load_coordinates

    rom, compression = stage.surrogate, inputs["compression"]
    parts = {name: compression.read(name) for name in MODEL}
    coordinates = load_coordinates(compression)
    made = plan(rom, coordinates, parts, inputs["clustering"], stage.seed)
    points = inputs["ensemble"].read("parameters")
    space = Space.of(points, coordinates.logarithmic, made.known.points[[g[0] for g in made.known.groups]])
    assembler = Assembler(rom.reducible, inputs["ensemble"], made.known, ctx)
    folder = out.scratch
    _locals(rom, made, assembler, space, folder)
    error: BaseException | None = None
    if ctx.comm.rank == 0:
        try:
            signature = _signature(rom, inputs["ensemble"])
            model = _model(stage, made, space, assembler.integrals.mesh, signature, folder)
            checks = _calibrated(model, made, coordinates)
            _store(model, made, parts, inputs["ensemble"], checks, folder, out)
        # All ranks end together, whatever it was.
        except Exception as reason:
            error = reason
    ctx.all_ok(error)


def _locals(rom: RomNet, made: Plan, assembler: Assembler, space: Space, folder: Path) -> None:
    """Build each local model that is not there yet and keep it; collective."""
    ctx = assembler.ctx
    count = len(made.bases)
    done = max_ranks(np.array([_there(folder, k) for k in range(count)], dtype=np.int64), ctx.comm)
    if done.all():
        return
    groups = made.known.groups
    settings = Settings(rom.hyper_reduction, rom.indicator_points, rom.states, rom.dual_tolerance)
    test = _test_modes(rom, assembler)
    features = space.scale(made.known.points[[g[0] for g in groups]])
    for cluster in range(count):
        ctx.progress(cluster, count, "local models")
        if done[cluster]:
            continue
        rows = made.clusters[cluster]
        near = [groups[r] for r in made.neighbours(cluster)]
        found = assembler.local(
            made.bases[cluster], [groups[r] for r in rows], near, settings, test, features[rows]
        )
        if ctx.comm.rank == 0:
            keep(found, folder, cluster)
        ctx.check_together()
    ctx.progress(count, count, "local models")


def _test_modes(rom: RomNet, assembler: Assembler) -> tuple[np.ndarray, np.ndarray] | None:
    """Modes of all training snapshots, and their strains."""
    if rom.indicator_modes == 0:
        return None
    known = assembler.coordinates
    columns = columns_of(known, np.arange(len(known.groups)))
    rank = numerical_rank(known, columns, normalised=True)
    modes = assembler.lift(pod(known, columns, modes=min(rom.indicator_modes, rank), normalised=True))
    return modes, assembler.integrals.strains(modes)


def _file(folder: Path, cluster: int) -> Path:
    return folder / f"cluster-{cluster:05d}.safetensors"


def _there(folder: Path, cluster: int) -> bool:
    return _file(folder, cluster).exists()


def keep(made: Made, folder: Path, cluster: int) -> None:
    """Keep a finished local model, whole or not at all."""
    from sciflow.artifact.disk import Disk

    assert made.model is not None
    arrays = {f"model.{k}": v for k, v in pack(made.model).items()}
    arrays |= {f"dual.{k}": v for k, v in made.duals.items()}
    arrays |= {"basis": made.basis, "places": made.places, "error": np.array([made.error])}
    Disk().replace(_file(folder, cluster), tensors(arrays))


def kept(folder: Path, cluster: int) -> Made:
    """What `keep` kept."""
    from safetensors.numpy import load_file

    arrays = load_file(_file(folder, cluster))
    model = unpack({k.removeprefix("model."): v for k, v in arrays.items() if k.startswith("model.")})
    duals = {k.removeprefix("dual."): v for k, v in arrays.items() if k.startswith("dual.")}
    return Made(model, arrays["basis"], duals, arrays["places"], float(arrays["error"][0]))


def _signature(rom: RomNet, ensemble: Artifact) -> Signature:
    from sciflow.stored import Stored

    names = tuple(rom.problem.parameters)
    return Stored(ensemble, names, (rom.reducible.unknown,), ensemble.members()[:1]).signature


def _model(
    stage: BuildRom, made: Plan, space: Space, mesh: str, signature: Signature, folder: Path
) -> RomModel:
    rom = stage.surrogate
    local = []
    for cluster in range(len(made.bases)):
        model = kept(folder, cluster).model
        assert isinstance(model, LocalModel)
        local.append(model)
    features = space.scale(made.known.points[[g[0] for g in made.known.groups]])
    rng = np.random.default_rng([stage.seed, 2])
    ranker = rom.selector.train(features, made.errors, rng)
    nothing = Calibration(1.0, np.inf, rom.coverage, 0)
    return RomModel(rom, signature, local, ranker, space, nothing, mesh)


def reduced_errors(
    model: RomModel, bases: list[LocalBasis], coordinates: Coordinates, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answer members whose solutions are known, and compare in the coordinates: no field is made.

    Parameters
    ----------
    model : RomModel
        To ask.
    bases : list of LocalBasis
        Of its clusters.
    coordinates : Coordinates
        With those members.
    members : ndarray of int64, shape (member,)
        Which.

    Returns
    -------
    errors : ndarray, shape (member,)
        ``sqrt(sum_t |u_t - Psi a_t|^2 / sum_t |u_t|^2)`` in the product of the compression; infinite for
        one that no local model converges for.
    indicators, uppers : ndarray, shape (member,)
        Estimates and bounds of the model.
    """
    from sciflow.errors import Diverged

    names = list(model.problem.parameters)
    chosen = coordinates.of(members)
    rows = []
    for group in chosen.groups:
        mu = dict(zip(names, chosen.points[group[0]].tolist(), strict=True))
        try:
            found = model.solve(mu)
        except Diverged:
            rows.append((np.inf, np.inf, np.inf))
            continue
        truth = chosen.triangle[:, group]
        gap = truth - bases[found.cluster].coordinates @ found.coefficients.T
        error = float(np.linalg.norm(gap) / np.linalg.norm(truth))
        rows.append((error, found.estimate, found.upper))
    table = np.array(rows).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _calibrated(
    model: RomModel, made: Plan, coordinates: Coordinates
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Calibrate in place; figures and values of the members that nothing has seen."""
    checks: dict[str, float] = {}
    if model.config.indicator_modes:
        errors, indicators, _ = reduced_errors(model, made.bases, coordinates, made.held)
        model.calibration = calibrate(indicators, errors, model.config.coverage)
    errors, estimates, uppers = reduced_errors(model, made.bases, coordinates, made.test)
    if len(errors):
        checks["test_error"] = float(errors.mean())
        if model.config.indicator_modes and np.isfinite(estimates).all():
            checks["test_coverage"] = covered(uppers, errors)
            if len(errors) >= RANKED:
                checks["test_spearman"] = spearman(errors, estimates)
    values = {"check_error": errors, "check_estimate": estimates, "check_upper": uppers}
    return {k: v for k, v in checks.items() if np.isfinite(v)}, values


def _store(
    model: RomModel, made: Plan, parts: Mapping[str, np.ndarray], ensemble: Artifact,
    checks: tuple[Mapping[str, float], Mapping[str, np.ndarray]], folder: Path, out: Writer,
) -> None:  # fmt: skip
    for name in MODEL:
        out.write(name, parts[name], MODEL[name])
    basis, dual = Field(("dof", "mode"), "any", "float64"), Field(("row", "mode"), "any", "float64")
    table = []
    for cluster in range(len(made.bases)):
        one = kept(folder, cluster)
        out.write(f"basis_{cluster}", one.basis, basis)
        out.write(f"places_{cluster}", one.places, Field(("point",), "1", "int64", "integration points"))
        for name, modes in one.duals.items():
            out.write(f"dual_{name}_{cluster}", modes, dual)
        table.append(
            {
                "members": len(made.clusters[cluster]),
                "modes": int(one.basis.shape[1]),
                "points": len(one.places),
                "cubature_error": one.error,
            }
        )
    for name, values in checks[1].items():
        out.write(name, values, Field(("sample",), "1", "float64", "of each of test_members"))
    out.write("calibration_members", made.held, MODEL["train_members"])
    store_model(model.config, model, [], out)
    bound = model.calibration.bound
    out.describe(
        ensemble=ensemble.digest,
        window=None,
        rom={
            "mesh": model.mesh,
            "clusters": table,
            "calibration_members": model.calibration.members,
            "coverage": model.config.coverage,
            "bound": bound if np.isfinite(bound) else None,
            **checks[0],
        },
    )


def open_model(rom: RomNet, artifact: Artifact) -> RomModel:
    """The model in an artifact; its modes are read when a field is asked for.

    Raises
    ------
    Invalid
        If the artifact holds no ROM-net, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from sciflow.samples import Signature

    file = artifact.file("model.safetensors")
    try:
        state = load(file.read_bytes())
    except SafetensorError as error:
        raise Invalid(f"{file} is damaged: {error}") from None
    about = json.loads(artifact.file("model.json").read_bytes())

    def modes(kind: str, cluster: int) -> np.ndarray:
        return artifact.read(f"basis_{cluster}" if kind == "basis" else f"dual_{kind}_{cluster}")

    return from_state(rom, state, Signature.from_json(about["signature"]), modes)
