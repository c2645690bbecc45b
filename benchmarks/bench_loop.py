"""Closing the loop: what a model of a solver saves it, as guess or recycle space, its own time included.

Newton steps and seconds from the guess of a ROM-net, a regression and an FNO, beside the solver from zero,
from the nearest stored solution, and from the Kirchhoff transform, which this equation has. Iterations of
conjugate gradients from guesses of a known error. Stored solutions as recycle space, beside recycling
without them, CG with incomplete Cholesky, and a direct solver.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks.figure import Figure
from sciflow import Context, run
from sciflow.flow import Session, within
from sciflow.guess import FromModel, Guess
from sciflow.linear_solver import LinearSolver, Plain, Solving
from sciflow.problem import ParameterSpace, Problem, member_seed
from sciflow.stages.costs import offline_seconds
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store

if TYPE_CHECKING:
    from sciflow import Artifact
    from sciflow_fenics.components import SteadyHeat

CELLS, MEMBERS, UNSEEN, EPOCHS = 96, 120, 30, 40


@contextlib.contextmanager
def _store() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, within(Session(Store(folder))):
        yield Path(folder)


def _points(space: ParameterSpace, count: int, seed: int) -> list[dict[str, float]]:
    """Points between the bounds; even in the logarithm where the space says so."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        row = {}
        for name, p in space.items():
            share = rng.random()
            row[name] = p.low * (p.high / p.low) ** share if p.log else p.low + share * (p.high - p.low)
        rows.append(row)
    return rows


def _solved(problem: Any, mu: Mapping[str, float], ctx: Context) -> tuple[Mapping[str, float], Any, float]:
    """Figures of the solver, the fields and the seconds of a steady member."""
    begin = time.perf_counter()
    (state,) = problem.solve(mu, ctx)
    return state.metrics, state.fields, time.perf_counter() - begin


@dataclass(frozen=True)
class Nearest(Guess):
    """The stored solution with the nearest parameters: what needs no training."""

    name: ClassVar[str] = "bench_nearest"
    ensemble: str = ""

    def check(self, problem: Any) -> None:
        """It is of the same problem."""

    def predict(self, problem: Any, mu: Mapping[str, float], known: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Guess.predict`."""
        points, fields = _stored(self.ensemble)
        here = _scaled(np.array([list(mu.values())]))
        nearest = fields[int(np.abs(points - here).sum(axis=1).argmin())]
        return np.asarray(nearest)


_READ: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _scaled(points: np.ndarray) -> np.ndarray:
    return np.column_stack([points[:, 0], points[:, 1], np.log10(points[:, 2]) / 3])


def _stored(path: str) -> tuple[np.ndarray, np.ndarray]:
    from sciflow.artifact import Artifact

    if path not in _READ:
        artifact = Artifact.open(path)
        _READ[path] = _scaled(artifact.read("parameters")), artifact.read("temperature")
    return _READ[path]


@dataclass(frozen=True)
class Kirchhoff(Guess):
    """``v = u + u^3 / 3`` satisfies ``-lap v = q``: one linear solve with a factor that is kept."""

    name: ClassVar[str] = "bench_kirchhoff"

    def check(self, problem: Any) -> None:
        """It is of this equation."""

    def predict(self, problem: Any, mu: Mapping[str, float], known: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Guess.predict`."""
        n = problem.cells
        v = np.zeros((n + 1, n + 1))
        v[1:-1, 1:-1] = _laplacian(n).solve(known["source"][1:-1, 1:-1].reshape(-1) / n**2).reshape(n - 1, -1)
        return np.asarray(2 * np.sinh(np.arcsinh(1.5 * v) / 3))


_FACTORS: dict[int, Any] = {}


def _laplacian(n: int) -> Any:
    """The factor of five points, which linear elements on these triangles give."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    if n not in _FACTORS:
        line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n - 1, n - 1))
        one = sp.identity(n - 1)
        _FACTORS[n] = splu((sp.kron(line, one) + sp.kron(one, line)).tocsc())
    return _FACTORS[n]


async def _models(problem: SteadyHeat) -> tuple[Artifact, dict[str, Artifact]]:
    """The ensemble that is learned from, and what learned from it."""
    from sciflow_operators.components import FNO
    from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, PODRegression, RomNet

    data = await run(Simulate(problem), design=await run(Design(problem=problem, count=MEMBERS)))
    small = await run(Compress(problem.unknown), ensemble=data)
    groups = await run(Cluster(clusterer=KMedoids(6)), compression=small)
    rom = BuildRom(RomNet(problem, modes=14))
    regression = PODRegression(modes=40, logarithmic=("amplitude",))
    network = FNO(width=16, modes=12, epochs=EPOCHS, batch=10)
    outputs = (problem.unknown,)
    return data, {
        "rom_net": await run(rom, ensemble=data, compression=small, clustering=groups),
        "pod_regression": await run(Train(regression, tuple(problem.parameters), outputs), ensemble=data),
        "fno": await run(Train(network, ("source",), outputs), ensemble=data),
    }


def bench_newton() -> Iterator[Figure]:
    """Unseen members of steady heat conduction, amplitudes from 1 to 1000, in one process."""
    from sciflow_fenics.components import SteadyHeat

    problem = SteadyHeat(CELLS)
    with _store():
        data, models = asyncio.run(_models(problem))
        guesses: dict[str, Guess] = {n: FromModel(str(m.path)) for n, m in models.items()}
        guesses |= {"nearest_member": Nearest(str(data.path)), "kirchhoff": Kirchhoff()}
        ways: dict[str, Problem] = {
            "zero": problem,
            **{n: problem.replace(guess=g) for n, g in guesses.items()},
        }
        unseen = _points(problem.parameters, UNSEEN, 11)
        rows: dict[str, list[tuple[float, ...]]] = {n: [] for n in ways}
        for counts in (False, True):
            for i, mu in enumerate(unseen if counts else unseen[:3]):
                right = None
                for name in [*ways][i % len(ways) :] + [*ways][: i % len(ways)]:
                    metrics, fields, seconds = _solved(ways[name], mu, Context())
                    u = fields["temperature"].values
                    right = u if right is None else right
                    apart = float(np.linalg.norm(u - right) / np.linalg.norm(right))
                    if counts:
                        taken = metrics.get("guessed", 1.0)
                        rows[name].append((metrics["newton"], seconds, taken, apart, mu["amplitude"]))
        yield from _newton_figures({n: np.array(r) for n, r in rows.items()}, models)


def _newton_figures(rows: Mapping[str, np.ndarray], models: Mapping[str, Artifact]) -> Iterator[Figure]:
    zero = rows["zero"]
    hot = zero[:, 4] > 100
    for name, found in rows.items():
        if name == "zero":
            continue
        steps = zero[:, 0].mean(), found[:, 0].mean()
        took = zero[:, 1].sum(), found[:, 1].sum()
        strong = zero[hot, 1].sum() / found[hot, 1].sum()
        note = (
            f"{steps[0]:.2f} steps and {1e3 * took[0] / len(zero):.1f} ms from zero, {steps[1]:.2f} and "
            f"{1e3 * took[1] / len(zero):.1f} ms with the guess, {found[:, 2].mean():.0%} taken; amplitudes "
            f"above 100: {strong:.2f}x"
        )
        yield Figure(
            f"newton_steps_{name}", steps[0] / steps[1], 1.5, note=f"{steps[0]:.2f} to {steps[1]:.2f}"
        )
        yield Figure(f"seconds_{name}", took[0] / took[1], 1.3, note=note)
        if name in models:
            saved = (took[0] - took[1]) / len(zero)
            offline = offline_seconds(models[name])
            even = offline / saved if saved > 0 else np.inf
            said = f"{offline:.0f} s of training, without the {MEMBERS} simulations"
            yield Figure(f"members_until_{name}_has_paid", even, 1000.0, "", "<=", said)
    apart = max(float(found[:, 3].max()) for found in rows.values())
    yield Figure("solutions_differ_by", apart, 1e-9, "", "<=", "largest relative distance of any two ways")


@dataclass(frozen=True)
class Blurred(Guess):
    """The solution with a smooth error of a known size."""

    name: ClassVar[str] = "bench_blurred"
    error: float = 0.0

    def check(self, problem: Any) -> None:
        """Nothing to look at."""

    def predict(self, problem: Any, mu: Mapping[str, float], known: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Guess.predict`."""
        exact = _EXACT[0]
        line = np.sin(np.pi * np.linspace(0, 1, len(exact)))
        bump = np.outer(line, line)
        return np.asarray(exact + self.error * np.linalg.norm(exact) / np.linalg.norm(bump) * bump)


_EXACT: list[np.ndarray] = []


def bench_krylov() -> Iterator[Figure]:
    """CG with ILU for Darcy flow, to 1e-11, from guesses of a known error: what any model may gain."""
    from sciflow_fenics.components import Darcy

    problem = Darcy(CELLS, grid=CELLS + 1, dofs=True)
    counts: dict[float, list[float]] = {}
    for member, mu in enumerate(_points(problem.parameters, 10, 3)):
        metrics, fields, _ = _solved(problem, mu, Context(seed=member))
        part = fields["pressure_dof"]
        exact = np.empty(len(part.values))
        exact[part.index] = part.values
        _EXACT[:] = [exact.reshape(CELLS + 1, -1)]
        counts.setdefault(1.0, []).append(metrics["linear"])
        for error in (0.1, 1e-2, 1e-3):
            guided = problem.replace(guess=Blurred(error))
            counts.setdefault(error, []).append(_solved(guided, mu, Context(seed=member))[0]["linear"])
    means = {error: float(np.mean(found)) for error, found in counts.items()}
    for error in (0.1, 1e-2, 1e-3):
        note = f"{means[1.0]:.1f} from zero, {means[error]:.1f} from an error of {error:.1%}"
        yield Figure(f"cg_iterations_from_{error:g}", means[1.0] / means[error], 1.0, note=note)


class Timed(Solving):
    """Another one, and how long its systems took."""

    def __init__(self, inner: Solving, seconds: list[float]) -> None:
        self._inner, self._seconds = inner, seconds

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`."""
        begin = time.perf_counter()
        iterations = self._inner.solve(b, x, features)
        self._seconds.append(time.perf_counter() - begin)
        _ITERATIONS.append(iterations)
        return iterations

    def close(self) -> None:
        """See `Solving.close`; what it takes to leave a space to others is counted."""
        begin = time.perf_counter()
        self._inner.close()
        self._seconds[-1] += time.perf_counter() - begin


_SECONDS: dict[str, list[float]] = {}
_ITERATIONS: list[int] = []


@dataclass(frozen=True)
class Watched(LinearSolver):
    """Times another solver; without one a PETSc solver by its name."""

    name: ClassVar[str] = "bench_watched"
    label: str = ""
    inner: LinearSolver | None = None
    petsc: tuple[str, str] = ("", "")

    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """See `LinearSolver.wrap`."""
        seconds = _SECONDS.setdefault(self.label, [])
        if self.inner is not None:
            return Timed(self.inner.wrap(ksp, ctx, restart), seconds)
        if not self.petsc[0]:
            return Timed(Plain(ksp), seconds)
        from petsc4py import PETSc

        made = ksp.query(self.label)
        if made is None:
            made = PETSc.KSP().create(ksp.getComm())
            made.setOperators(*ksp.getOperators())
            made.setType(self.petsc[0])
            made.getPC().setType(self.petsc[1])
            made.setTolerances(rtol=ksp.getTolerances()[0], max_it=5000)
            ksp.compose(self.label, made)
        return Timed(Plain(made), seconds)


def bench_recycle_space() -> Iterator[Figure]:
    """A basis of stored pressures as recycle space of deflated CG, for unseen permeabilities; to 1e-11."""
    from sciflow_control.components import Recycling
    from sciflow_fenics.components import Darcy

    problem = Darcy(CELLS, grid=CELLS + 1, dofs=True)
    with _store() as folder:

        async def stored() -> Artifact:
            return await run(Simulate(problem), design=await run(Design(problem=problem, count=60)))

        data = asyncio.run(stored())
        plain = Recycling("deflated_cg", k=20, preconditioner="icc")
        seeded = plain.replace(basis=str(data.path), field="pressure_dof", share=False, refresh=0)
        ways = {
            "cg+ilu": Watched("own"),
            "cg+icc": Watched("icc", petsc=("cg", "icc")),
            "cholesky": Watched("cholesky", petsc=("preonly", "cholesky")),
            "recycled": Watched("recycled", plain),
            "seeded": Watched("seeded", seeded),
        }
        counts: dict[str, list[float]] = {n: [] for n in ways}
        for name, solver in ways.items():
            scratch = folder / name
            scratch.mkdir()
            _SECONDS.clear()
            for member, mu in enumerate(_points(problem.parameters, 12, 5)):
                ctx = Context(seed=member_seed(1, member), scratch=scratch)
                counts[name].append(_solved(problem.replace(solver=solver), mu, ctx)[0]["linear"])
            found = np.array(next(iter(_SECONDS.values())))
            counts[name].append(1e3 * float(np.median(found[1:])))
        yield from _recycled(counts)


def _recycled(counts: Mapping[str, list[float]]) -> Iterator[Figure]:
    """Iterations of the first member and of the others, and median milliseconds of a solve."""
    first = {n: found[0] for n, found in counts.items()}
    rest = {n: float(np.mean(found[1:-1])) for n, found in counts.items()}
    ms = {n: found[-1] for n, found in counts.items()}
    for other in ("recycled", "cg+icc", "cg+ilu"):
        note = f"{first[other]:.0f} against {first['seeded']:.0f} iterations"
        yield Figure(f"first_member_beside_{other}", first[other] / first["seeded"], 1.5, note=note)
        note = f"{rest[other]:.1f} against {rest['seeded']:.1f} iterations"
        target = 0.95 if other == "recycled" else 1.5
        yield Figure(f"later_members_beside_{other}", rest[other] / rest["seeded"], target, note=note)
    for other in ("recycled", "cg+icc", "cg+ilu", "cholesky"):
        note = f"{ms[other]:.1f} ms against {ms['seeded']:.1f} ms"
        yield Figure(f"seconds_beside_{other}", ms[other] / ms["seeded"], 1.0, note=note)


def bench_recycle_newton() -> Iterator[Figure]:
    """The basis of a reduced model as recycle space of GCRO-DR with ILU, for Newton's systems."""
    from sciflow_control.components import Recycling
    from sciflow_fenics.components import SteadyHeat
    from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, RomNet

    problem = SteadyHeat(CELLS)
    with _store() as folder:

        async def reduced() -> Artifact:
            data = await run(Simulate(problem), design=await run(Design(problem=problem, count=60)))
            small = await run(Compress(problem.unknown), ensemble=data)
            group = await run(Cluster(clusterer=KMedoids(1)), compression=small)
            rom = RomNet(problem, modes=20, top=1, indicator_modes=0)
            return await run(BuildRom(rom), ensemble=data, compression=small, clustering=group)

        model = asyncio.run(reduced())
        plain = Recycling("gcro_dr", m=40, k=20, preconditioner="ilu")
        basis = str(model.path)
        ways = {
            "lu": Watched("lu"),
            "gmres+ilu": Watched("gmres", petsc=("gmres", "ilu")),
            "recycled": Watched("recycled", plain),
            "seeded": Watched("seeded", plain.replace(basis=basis, field="basis_0", share=False)),
        }
        first, later, ms = {}, {}, {}
        for name, solver in ways.items():
            scratch = folder / name
            scratch.mkdir()
            _SECONDS.clear()
            _ITERATIONS.clear()
            ends = []
            for member, mu in enumerate(_points(problem.parameters, 8, 5)):
                ctx = Context(seed=member_seed(1, member), scratch=scratch)
                _solved(problem.replace(solver=solver), mu, ctx)
                ends.append(len(_ITERATIONS))
            first[name], later[name] = (
                sum(_ITERATIONS[: ends[0]]),
                sum(_ITERATIONS[ends[0] :]) / (len(ends) - 1),
            )
            ms[name] = 1e3 * sum(_SECONDS[solver.label][ends[0] :]) / (len(ends) - 1)
        for other in ("recycled", "gmres+ilu"):
            for when, of in (("first_member", first), ("later_members", later)):
                note = f"{of[other]:.0f} against {of['seeded']:.0f} iterations of a member"
                target = 0.95 if (other, when) == ("recycled", "later_members") else 1.5
                yield Figure(f"newton_{when}_beside_{other}", of[other] / of["seeded"], target, note=note)
        for other in ("recycled", "gmres+ilu", "lu"):
            note = f"{ms[other]:.1f} ms against {ms['seeded']:.1f} ms of a member's systems"
            yield Figure(f"newton_seconds_beside_{other}", ms[other] / ms["seeded"], 1.0, note=note)
