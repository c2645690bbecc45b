"""Embedded Runge-Kutta steps beside scipy's, and PETSc's methods under our control beside its own adaptor.

Times are those of the thread; work is counted in evaluations of the right-hand side or in linear solves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun

EQUATIONS = ("van_der_pol", "lotka_volterra", "brusselator", "arenstorf", "fitzhugh_nagumo", "pendulum")
SEEDS, UNTIL, AIM = (1, 2, 3), 10.0, 1e-6
TOLERANCES = tuple(10.0**-k for k in range(4, 12))
PEERS = ("RK45", "RK23", "DOP853", "LSODA")


def _per_step(step: Callable[[], object], count: int) -> float:
    """Microseconds; the best of five."""
    found = []
    for _ in range(5):
        begin = time.thread_time()
        for _ in range(count):
            step()
        found.append((time.thread_time() - begin) / count * 1e6)
    return min(found)


def _slope(equation: str, seed: int) -> tuple[Callable[..., np.ndarray], list[float]]:
    """The right-hand side for scipy, with the same compiled kernel, and the initial state."""
    from sciflow_control.integrators.compiled import jitted
    from sciflow_control.integrators.right_hand_sides import EQUATIONS as ALL

    made = ALL[equation]
    parameters, state = made.draw(np.random.default_rng([seed]))
    kernel, p = jitted(made.rhs), np.array(parameters)

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        out = np.empty_like(y)
        kernel(t, y, p, out)
        return out

    return rhs, state


def bench_steps() -> Iterator[Figure]:
    """Time of a step of Dormand and Prince's method, the same compiled right-hand side for both."""
    from scipy.integrate import RK45

    from sciflow.stepping import Leg, Stepping
    from sciflow_control.controllers.fixed_step import FixedStep
    from sciflow_control.integrators.equations import Equations

    rhs, state = _slope("pendulum", 1)
    ours = Equations("pendulum").begin(1)

    def once() -> None:
        ours.attempt(1e-3, 1e9)
        ours.accept()

    once()
    peer = RK45(rhs, 0.0, state, 1e9, max_step=1e-3, first_step=1e-3, rtol=1e-3, atol=1e-3)
    bare, theirs = _per_step(once, 2000), _per_step(peer.step, 500)
    stepping, leg = Stepping(Equations("pendulum").begin(1), FixedStep(1e-3)), Leg()
    driven = _per_step(lambda: stepping.step(1e9, leg), 2000)
    note = f"ours {bare:.2f} us, under a controller {driven:.1f} us, scipy's RK45 {theirs:.0f} us"
    yield Figure("step_over_scipy", theirs / bare, 10.0, note=note)
    yield Figure("controlled_step_over_scipy", theirs / driven, 3.0, note=note)


def bench_work() -> Iterator[Figure]:
    """Evaluations for an error of 1e-6 at the end, over those of scipy's RK45; geometric mean."""
    from sciflow.stepping import Stepping
    from sciflow_control.controllers.pi import PI
    from sciflow_control.integrators.equations import Equations
    from sciflow_control.integrators.tableaus import METHODS

    runs: dict[str, Callable[[str, int, float], tuple[np.ndarray, float]]] = {}

    def ours(method: Any) -> Callable[[str, int, float], tuple[np.ndarray, float]]:
        def run(equation: Any, seed: int, tolerance: float) -> tuple[np.ndarray, float]:
            stepper = Equations(equation, method, UNTIL).begin(seed)
            leg = Stepping(stepper, PI(tolerance, first=1e-3)).to(UNTIL)
            return stepper.solution(), leg.cost

        return run

    def scipys(method: str) -> Callable[[str, int, float], tuple[np.ndarray, float]]:
        from scipy.integrate import solve_ivp

        def run(equation: str, seed: int, tolerance: float) -> tuple[np.ndarray, float]:
            rhs, state = _slope(equation, seed)
            found = solve_ivp(rhs, (0, UNTIL), state, method, rtol=tolerance, atol=tolerance)
            return found.y[:, -1], float(found.nfev)

        return run

    runs |= {method: ours(method) for method in METHODS} | {peer: scipys(peer) for peer in PEERS}
    needed: dict[str, list[float]] = {name: [] for name in runs}
    for equation in EQUATIONS:
        for seed in SEEDS:
            exact, _ = runs["DOP853"](equation, seed, 3e-14)
            for name, run in runs.items():
                needed[name].append(_work_for(run, equation, seed, exact))
    base = np.log(needed["RK45"])
    ratios = {name: float(np.exp(np.mean(np.log(work) - base))) for name, work in needed.items()}
    note = f"{len(base)} runs; " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    yield Figure("dormand_prince_over_rk45", ratios["dormand_prince"], 1.0, better="<=", note=note)
    yield Figure("tsitouras_over_rk45", ratios["tsitouras"], 1.0, better="<=")
    yield Figure("bogacki_shampine_over_rk23", ratios["bogacki_shampine"] / ratios["RK23"], 1.0, better="<=")


def _work_for(run: Callable[..., tuple[np.ndarray, float]], equation: str, seed: int, exact: Any) -> float:
    """Work at which the error is `AIM`, between the tolerances on both sides of it."""
    before: tuple[float, float] | None = None
    for tolerance in TOLERANCES:
        state, work = run(equation, seed, tolerance)
        error = max(float(np.abs(state - exact).max()), 1e-15)
        if error <= AIM:
            if before is None:
                return work
            part = math.log(before[0] / AIM) / math.log(before[0] / error)
            return before[1] * (work / before[1]) ** part
        before = (error, work)
    raise NotRun(f"an error of {AIM} is not reached for {equation}")


def bench_stiff() -> Iterator[Figure]:
    """Steps over half a period of van der Pol's oscillator, when the tolerance falls from 1e-4 to 1e-8."""
    from sciflow.stepping import Stepping
    from sciflow_control.controllers.pi import PI
    from sciflow_control.integrators.initial_value import InitialValue
    from sciflow_control.integrators.right_hand_sides import van_der_pol
    from sciflow_control.integrators.runge_kutta import RungeKutta

    notes, ratio = [], {}
    for mu in (5.0, 20.0, 100.0):
        counts = []
        for tolerance in (1e-4, 1e-6, 1e-8):
            problem = InitialValue(van_der_pol, [2.0, 0.0], parameters=[mu])
            stepping = Stepping(RungeKutta(problem, bounds=(1e-10, 10.0)), PI(tolerance, first=1e-3))
            counts.append(len(stepping.to(2 * mu).taken))
        notes.append(f"mu {mu:g}: " + ", ".join(map(str, counts)))
        ratio[mu] = counts[-1] / counts[0]
    # Beyond it the tolerance changes nothing: stability holds the steps down.
    yield Figure("steps_ratio_mu_20", ratio[20.0], 2.0, note="; ".join(notes))


def bench_petsc() -> Iterator[Figure]:
    """Linear solves for an error of 1e-3 under PI, over those of TSAdapt basic; van der Pol's oscillator."""
    try:
        from petsc4py import PETSc
    except ImportError as error:
        raise NotRun("petsc4py is missing") from error
    from scipy.integrate import solve_ivp

    from sciflow.stepping import Stepping
    from sciflow_control.controllers.pi import PI
    from sciflow_control.integrators.ts_stepper import TSStepper
    from tests.control.ts_tools import oscillator, slope

    exact = solve_ivp(slope, (0, 5), [2.0, 0.0], "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]

    def ours(kind: str, sub: str | None, tolerance: float) -> tuple[float, float]:
        ts, u = oscillator(kind, sub, end=5.0)
        leg = Stepping(TSStepper(ts, u, (1e-8, 1.0)), PI(tolerance, first=1e-3)).to(5.0)
        return float(np.abs(u.getArray() - exact).max()), leg.cost

    def basic(kind: str, sub: str | None, tolerance: float) -> tuple[float, float]:
        ts, u = oscillator(kind, sub, end=5.0)
        PETSc.Options("peer_")["ts_adapt_type"] = "basic"
        ts.setOptionsPrefix("peer_")
        ts.setExactFinalTime(PETSc.TS.ExactFinalTime.MATCHSTEP)
        ts.setFromOptions()
        ts.setTolerances(rtol=tolerance, atol=tolerance)
        ts.setMaxSNESFailures(-1)
        ts.solve(u)
        return float(np.abs(u.getArray() - exact).max()), float(ts.getSNESIterations())

    tolerances = [10.0 ** (-k / 2) for k in range(4, 15)]
    for kind, sub in (("cn", None), ("arkimex", "3"), ("rosw", None), ("bdf", None)):
        work = []
        for run in (ours, basic):
            found = np.log([run(kind, sub, tolerance) for tolerance in tolerances])
            order = np.argsort(found[:, 0])
            work.append(math.exp(np.interp(math.log(1e-3), found[order, 0], found[order, 1])))
        note = f"{work[0]:.0f} against {work[1]:.0f}"
        yield Figure(f"{kind}_over_basic", work[0] / work[1], 1.1, better="<=", note=note)


def bench_overhead() -> Iterator[Figure]:
    """Time of PETSc's backward Euler steps with nothing to decide, steered over plain."""
    try:
        from petsc4py import PETSc
    except ImportError as error:
        raise NotRun("petsc4py is missing") from error
    from sciflow_control.controllers.fixed_step import FixedStep
    from sciflow_control.integrators.ts_steer import steer
    from tests.control.ts_tools import rod

    def solve(steered: bool, cells: int) -> float:
        ts, u, _ = rod("beuler", n=cells, end=0.1, comm=PETSc.COMM_SELF)
        ksp = ts.getSNES().getKSP()
        ksp.setType("preonly")
        ksp.getPC().setType("lu")
        if steered:
            steer(ts, FixedStep(1e-3), (1e-8, 1.0))
        else:
            PETSc.Options("peer_")["ts_adapt_type"] = "none"
            ts.setOptionsPrefix("peer_")
            ts.setExactFinalTime(PETSc.TS.ExactFinalTime.MATCHSTEP)
            ts.setFromOptions()
        begin = time.thread_time()
        ts.solve(u)
        return (time.thread_time() - begin) / ts.getStepNumber() * 1e6

    for cells in (1000, 10000):
        plain, steered = (min(solve(flag, cells) for _ in range(5)) for flag in (False, True))
        note = f"{steered:.0f} against {plain:.0f} us per step, {cells} unknowns"
        yield Figure(f"steered_over_plain_{cells}", steered / plain, 1.1, better="<=", note=note)


def bench_batches() -> Iterator[Figure]:
    """Time of a step in torch for each state, of one alone over many side by side."""
    import torch

    from sciflow_control.integrators.initial_value import InitialValue
    from sciflow_control.integrators.torch_runge_kutta import TorchRungeKutta

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    for members in (1, 100000):
        state = torch.ones((members, 2), dtype=torch.float64)
        stepper = TorchRungeKutta(InitialValue(lambda t, y: -y, state), batched=True)

        def once(stepper: TorchRungeKutta = stepper) -> None:
            stepper.attempt(1e-3, 1e9)
            stepper.accept()

        found.append(_per_step(once, 10) / members)
    torch.set_num_threads(threads)
    note = f"a step of one state {found[0]:.0f} us, per state of 100000 {found[1]:.3f} us"
    yield Figure("torch_one_over_batched", found[0] / found[1], 100.0, note=note)
