"""Solvers that a tuner chooses, beside fixed ones; kept factors; the worst arms; costs that switch; restarts.

Times are those of the thread, so that what else the machine does is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.figure import Figure

SOLVERS = ("cg+icc", "cg+ssor", "cg+eisenstat", "cg+hypre", "cholesky")
OMEGAS = (1.0, 1.2, 1.4, 1.6, 1.7, 1.8, 1.85, 1.9, 1.95)
CASES = ((32, 400), (50, 400), (100, 300), (256, 30))
"""Unknowns along a side, and systems."""
ADVERSARIES = (
    *("richardson+none", "richardson+ssor", "gmres+none", "preonly+jacobi", "minres+none", "bcgs+none"),
    *("cg+none", "fcg+none", "cg+gamg", "cholesky"),
)


def _operator(matrix: Any) -> Any:
    from petsc4py import PETSc

    rows, columns = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    return PETSc.Mat().createAIJ(matrix.shape, csr=(rows, columns, matrix.data), comm=PETSc.COMM_SELF)


def _load(mat: Any, matrix: Any) -> None:
    from petsc4py import PETSc

    rows, columns = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    mat.zeroEntries()
    mat.setValuesCSR(rows, columns, matrix.data)
    mat.assemble()


def _plain(mat: Any, method: str, preconditioner: str) -> Any:
    from petsc4py import PETSc

    ksp = PETSc.KSP().create(PETSc.COMM_SELF)
    ksp.setOperators(mat)
    ksp.setType(method)
    ksp.getPC().setType(preconditioner)
    ksp.setTolerances(rtol=1e-8, max_it=20000)
    return ksp


def _exact(mat: Any, method: str, preconditioner: str) -> Any:
    """As `_plain`, but it stops by the true residual, as all arms must."""
    from petsc4py import PETSc

    ksp = _plain(mat, method, preconditioner)
    if method == "gmres":
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    return ksp


def _darcy(side: int, count: int) -> tuple[Any, list[Any]]:
    from sciflow_control.systems.darcy import DarcySystems

    systems = list(DarcySystems(side, contrast=5.0).draw(count, 0))
    return _operator(systems[0].matrix), systems


def bench_darcy() -> Iterator[Figure]:
    """A new permeability for each system; mixed arms, in time, beside what is usual.

    The usual solvers stop by PETSc's default, the preconditioned norm, with true residuals of some times
    the tolerance; ``as_exact`` are those that stop by the true residual, as the tuned one does.
    """
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP

    space = Solvers(SOLVERS, OMEGAS)
    for side, count in CASES:
        mat, systems = _darcy(side, min(count, 60))
        b, x = mat.createVecs()
        tuned = TunedKSP(_plain(mat, "gmres", "ilu"), Thompson(space), cost="seconds", amortise=True)
        usual = {
            f"{m}+{p}{says}": make(mat, m, p)
            for says, make in (("", _plain), ("_as_exact", _exact))
            for m, p in (("gmres", "ilu"), ("cg", "icc"))
        }
        fixed = {
            str(dict(a)): TunedKSP(_plain(mat, "gmres", "ilu"), _only(a), limit=50.0) for a in space.arms
        }
        every: dict[str, list[float]] = {n: [] for n in ("tuned", *usual, *fixed)}
        for i in range(count):
            system = systems[i % len(systems)]
            _load(mat, system.matrix)
            b.setArray(system.rhs)
            late = i >= count - min(count // 3, 25)  # each arm where the tuner has learned
            turns = [*{"tuned": tuned, **usual, **(fixed if late else {})}.items()]
            first = i % len(turns)  # nobody always finds the operator in the cache
            for name, ksp in turns[first:] + turns[:first]:
                if name in usual and not (late or i % 10 == 0):
                    continue
                mat.stateIncrease()
                begin = time.thread_time()
                ksp.solve(b, x)
                every[name].append(time.thread_time() - begin)
        yield from _compared(side, count, every, list(fixed))


def _only(arm: Any) -> Any:
    """A tuner with one arm."""
    from sciflow_control.bandits.fixed import Fixed
    from sciflow_control.space import Solvers

    method, omega = str(arm["method"]), arm.get("omega")
    return Fixed(Solvers((method,), (1.0,) if omega is None else (float(omega),)))


def _compared(side: int, count: int, every: dict[str, list[float]], fixed: Sequence[str]) -> Iterator[Figure]:
    late = len(every[fixed[0]])
    means = {n: float(np.mean(v[-late + 1 :] if n in fixed else v)) for n, v in every.items()}
    best = min(fixed, key=lambda n: means[n])
    after = float(np.mean(every["tuned"][-late:]))
    note = f"tuned {1e3 * means['tuned']:.2f} ms of {count} systems"
    for name in (n for n in every if "+" in n and n not in fixed):
        if name.startswith("gmres") or side <= 100:
            says = f"{note}, {name} {1e3 * means[name]:.2f} ms"
            target = 4.0 if name.startswith("gmres") else 2.0
            yield Figure(f"darcy_{side}_beside_{name}", means[name] / means["tuned"], target, note=says)
    if count > 200:
        says = f"{best} {1e3 * means[best]:.2f} ms, tuned {1e3 * after:.2f} ms"
        yield Figure(f"darcy_{side}_late_over_best", after / means[best], 1.15, "x", "<=", says)


def bench_reuse() -> Iterator[Figure]:
    """One operator of 1e4 unknowns, assembled once more for every right-hand side."""
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP

    mat, systems = _darcy(100, 1)
    b, x = mat.createVecs()
    b.setArray(systems[0].rhs)
    for factor in ("lu", "cholesky"):
        alone = _plain(mat, "preonly", factor)
        tuned = TunedKSP(_plain(mat, "preonly", factor), Thompson(Solvers(("given", "cg+icc"))))

        def again(ksp: Any) -> None:
            mat.stateIncrease()  # as an assembly of the same values does
            ksp.solve(b, x)

        def anew(factor: str = factor) -> None:
            _plain(mat, "preonly", factor).solve(b, x)

        for _ in range(12):
            again(tuned)
        calls = {
            "numeric": (lambda k=alone: again(k), 2),
            "whole": (anew, 2),
            "kept": (lambda k=tuned: again(k), 10),
        }
        seconds = _in_rows(calls, 12)
        note = f"kept {1e3 * seconds['kept']:.2f} ms, "
        yield Figure(
            f"{factor}_kept_beside_factorising", seconds["whole"] / seconds["kept"], 25.0,
            note=note + f"factorising {1e3 * seconds['whole']:.1f} ms",
        )  # fmt: skip
        yield Figure(
            f"{factor}_kept_beside_known_pattern", seconds["numeric"] / seconds["kept"], 5.0,
            note=note + f"with the pattern's analysis kept {1e3 * seconds['numeric']:.1f} ms",
        )  # fmt: skip


def _in_rows(calls: Mapping[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Median time of each call, measured in rows of several, as in a sequence of systems."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, count) in calls.items():
            call()
            begin = time.thread_time()
            for _ in range(count):
                call()
            found[name].append((time.thread_time() - begin) / count)
    return {name: float(np.median(values)) for name, values in found.items()}


def bench_adversaries() -> Iterator[Figure]:
    """Arms that diverge, stagnate, break down or cost too much to set up, drawn at random; in work."""
    from sciflow_control.bandits.fixed import Random
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP
    from sciflow_control.tuned.costs import price

    ratios: list[float] = []
    for safe in (("gmres", "ilu"), ("cg", "icc"), ("cg", "jacobi"), ("preonly", "lu")):
        mat, systems = _darcy(32, 100)
        b, x = mat.createVecs()
        alone, tuned = _plain(mat, *safe), TunedKSP(_plain(mat, *safe), Random(Solvers(ADVERSARIES)), hold=1)
        for i, system in enumerate(systems):
            _load(mat, system.matrix)
            b.setArray(np.random.default_rng(i).standard_normal(1024) if i % 2 else system.rhs)
            alone.solve(b, x)
            tuned.solve(b, x)
            cost = price(*safe, tuned._tuning.size)
            work = alone.getIterationNumber() * cost.iteration + (cost.numeric if i else cost.setup)
            ratios.append(tuned.solved.work / work)
    note = f"{len(ratios)} solves, four safe arms; mean {np.mean(ratios):.2f}x"
    yield Figure("worst_over_safe_arm", max(ratios), 2.0, "x", "<=", note)


def _switching(count: int) -> tuple[Any, list[Any], list[Any]]:
    """Half of the systems are diffusion, in half the reaction outweighs it: the best relaxation switches."""
    import scipy.sparse

    mat, systems = _darcy(32, count)
    matrices = [s.matrix for s in systems]
    for i in range(count // 2, count):
        matrices[i] = matrices[i] + scipy.sparse.diags(0.5 * matrices[i].diagonal())
    return mat, [m.tocsr() for m in matrices], [s.rhs for s in systems]


def _works(ksp: Any, mat: Any, matrices: Sequence[Any], sides: Sequence[Any]) -> list[float]:
    b, x = mat.createVecs()
    found = []
    for matrix, rhs in zip(matrices, sides, strict=True):
        _load(mat, matrix)
        b.setArray(rhs)
        ksp.solve(b, x)
        found.append(ksp.solved.work)
    return found


def bench_drift() -> Iterator[Figure]:
    """How many solves after a switch of the best arm a tuner that forgets is near the new best; in work.

    Four arms, outcomes are forgotten after 20 to 40. With many more arms than that it never settles.
    """
    from sciflow_control.bandits.discounted import Discounted
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP

    count, row = 320, 20
    mat, matrices, sides = _switching(count)
    space = Solvers(("cg+eisenstat",), (1.0, 1.3, 1.6, 1.9))

    def safe() -> Any:
        return _plain(mat, "cg", "icc")

    every = [_works(TunedKSP(safe(), _only(a), limit=50.0), mat, matrices, sides) for a in space.arms]
    best = min(float(np.mean(w[-100:])) for w in every)
    before = min(float(np.mean(w[1 : count // 2])) for w in every)
    needed: dict[str, list[int]] = {"discounted": [], "thompson": []}
    for seed in range(5):
        tuners = {"discounted": Discounted(Thompson(space), 20), "thompson": Thompson(space)}
        for name, tuner in tuners.items():
            ksp = TunedKSP(safe(), tuner, seed=seed, hold=1)
            after = np.array(_works(ksp, mat, matrices, sides))[count // 2 :]
            means = np.convolve(after, np.ones(row) / row, "valid")
            near = np.flatnonzero(means <= 1.15 * best)
            needed[name].append(int(near[0]) if near.size else len(after))
    note = (
        f"until {row} solves in a row take 1.15 times the best arm; seeds {needed['discounted']}, without "
        f"forgetting {needed['thompson']}; best arm {before:.0f} before, {best:.0f} after"
    )
    yield Figure("solves_to_recover", float(max(needed["discounted"])), 50.0, "", "<=", note)


def bench_replay() -> Iterator[Figure]:
    """A sequence that is cut off and goes on from its state, beside one that was not."""
    from sciflow_control.bandits.discounted import Discounted
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned import TunedKSP

    count, cut = 120, 47
    mat, systems = _darcy(32, count)
    b, x = mat.createVecs()
    solutions: list[list[bytes]] = [[], []]
    arms = []
    for run, out in enumerate(solutions):
        tuner = Discounted(Thompson(Solvers(SOLVERS, OMEGAS)), 25)
        ksp = TunedKSP(_plain(mat, "gmres", "ilu"), tuner)
        for i, system in enumerate(systems):
            _load(mat, system.matrix)
            b.setArray(system.rhs)
            if run and i == cut:
                ksp = TunedKSP(_plain(mat, "gmres", "ilu"), tuner, state=ksp.restart())
            ksp.solve(b, x)
            out.append(x.getArray().tobytes())
        arms.append(ksp.history["arm"].tolist())
    differ = sum(a != b for a, b in zip(*solutions, strict=True)) + (arms[0] != arms[1])
    note = f"{count} solves, cut off after {cut}; {len(arms[0])} decisions"
    yield Figure("solutions_that_differ_after_a_restart", float(differ), 0.0, "", "<=", note)
