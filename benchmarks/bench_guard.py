"""What a guarded policy can cost at worst, what the guard itself costs, and PI beside fixed steps.

The policies do their worst, with nothing learned; those that are learned are in bench_stepping.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.figure import Figure
from sciflow.step_controller import ACCEPT, Knob, Memory, StepController, StepResult, StepState, Verdict
from sciflow.stepping import Stepping

EQUATIONS = ("van_der_pol", "pendulum", "arenstorf", "lorenz")
RUNS, STARS = 5, 20
WORST = ("tiny", "huge", "random", "near", "small", "alternate", "lures", "rest")


@dataclass(frozen=True)
class Hostile(StepController):
    """A policy that does its worst.

    Attributes
    ----------
    how : str
        One of `WORST`.
    tolerance : float
        Where the error would be: it aims beside that.
    """

    name: ClassVar[str] = "hostile"
    how: str = "tiny"
    tolerance: float = 1e-6

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """Nothing but a count and a guess."""
        return {"n": 0, "near": 1e-2}

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """Something unwise."""
        n, near, knob = memory["n"], memory["near"], state.knob
        dice = random.Random(n)
        value = {
            "tiny": knob.low,
            "huge": knob.high,
            "random": knob.low * (knob.high / knob.low) ** dice.random(),
            "near": near * 10 ** dice.uniform(-1, 1),
            "small": near * 10 ** dice.uniform(-1, 0),
            "alternate": knob.low if n % 2 else knob.high,
            "lures": knob.high if n % 5 == 4 else near / 2,
            "rest": 0.9 * (state.until - state.time),
        }[self.how]
        return value, {**memory, "n": n + 1}

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """Learns where the tolerance is."""
        if result.converged and result.error > 0:
            near = result.value * (self.tolerance / result.error) ** (1 / result.knob.order)
            memory = {**memory, "near": min(max(near, result.knob.low), result.knob.high)}
        return ACCEPT, memory


def _played(episodes: Any, controller: StepController, runs: int) -> tuple[list[float], float]:
    """Work of each run, and the largest drift."""
    work, drift = [], 0.0
    for seed in range(runs):
        stepper = episodes.begin(seed)
        work.append(Stepping(stepper, controller).to(episodes.until).cost)
        drift = max(drift, abs(stepper.drift()))
    return work, drift


def _worst(
    episodes: Any, tolerance: float, runs: int, chaotic: bool, value: float | None = None
) -> tuple[float, str]:
    """Largest ratio of the work under a hostile policy to that of the fallback, and how it got there.

    The fallback is PI or, with a `value`, the fixed one, and the tolerance what is taken back.
    """
    from sciflow_control.controllers.fixed_step import FixedStep
    from sciflow_control.controllers.guarded import Guarded
    from sciflow_control.controllers.pi import PI

    fallback = PI(tolerance, lowest="accept") if value is None else FixedStep(value)
    rollback = None if value is None else tolerance
    alone, own = _played(episodes, fallback, runs)
    most, how_most, drifts, single = 0.0, "", 0.0, 0.0
    for how in WORST:
        work, drift = _played(episodes, Guarded(Hostile(how, tolerance), fallback, rollback=rollback), runs)
        each = max(a / b for a, b in zip(work, alone, strict=True))
        ratio = sum(work) / sum(alone) if chaotic else each
        single = max(single, each)
        drifts = max(drifts, drift)
        if ratio > most:
            most, how_most = ratio, how
    note = f"{len(WORST)} hostile policies, {runs} runs each, {'summed' if chaotic else 'the worst run'}; "
    note += f"worst is '{how_most}'"
    note += f", a single run {single:.2f}" if chaotic else ""
    if own > 0:
        note += f"; largest drift {drifts:.1e}, alone {own:.1e}"
    return most, note


def _microseconds(controller: StepController) -> float:
    """Per attempt, with a stepper that does nothing."""
    knob = Knob("dt", "1", 1e-8, 1.0, order=3.0)
    memory, time_, n, begin = controller.init(knob), 0.0, 4000, time.thread_time()
    for _ in range(n):
        value, memory = controller.choose(memory, StepState(time_, 1e9, knob))
        error = 1e-4 * (0.6 + 0.3 * math.sin(time_)) * (value / 0.01) ** 3
        verdict, memory = controller.judge(memory, StepResult(time_, value, value, knob, error, cost=1.0))
        time_ += value if verdict.accepted else 0.0
    return 1e6 * (time.thread_time() - begin) / n


def _beside_fixed() -> tuple[float, str]:
    """Evaluations of PI steps over those of the fixed step with the same error, on the relaxed oscillator."""
    import numpy as np

    from sciflow_control.controllers.fixed_step import FixedStep
    from sciflow_control.controllers.pi import PI
    from sciflow_control.integrators.equations import Equations

    def end(controller: StepController) -> tuple[float, Any]:
        stepper: Any = Equations("arenstorf").begin(0)
        leg = Stepping(stepper, controller).to(17.0)
        return leg.cost, np.array(stepper.solution())

    exact = end(PI(1e-13))[1]
    cost, solution = end(PI(1e-7))
    error = float(np.abs(solution - exact).max())
    for halvings in range(8, 22):
        work, solution = end(FixedStep(2.0**-halvings))
        if float(np.abs(solution - exact).max()) <= error:
            return cost / work, f"{cost:.0f} evaluations, fixed {work:.0f}, error <= {error:.1e}"
    raise AssertionError("no fixed step is as accurate")


def bench_equations() -> Iterator[Figure]:
    """Hostile policies over equations, each run for itself."""
    from sciflow_control.integrators.equations import Equations

    for equation in EQUATIONS:
        ratio, note = _worst(Equations(equation), 1e-6, RUNS, False)
        yield Figure(f"{equation}_worst_over_fallback", ratio, 1.5, better="<=", note=note)


def bench_bodies() -> Iterator[Figure]:
    """Hostile policies over three bodies, whose single runs take other orbits."""
    from sciflow_control.bodies.hermite import Hermite
    from sciflow_control.bodies.leapfrog import Leapfrog
    from sciflow_control.bodies.three_body import ThreeBody

    for integrator, tolerance in ((Hermite(), 1e-6), (Leapfrog(), 1e-4)):
        ratio, note = _worst(ThreeBody(integrator), tolerance, STARS, True)
        yield Figure(f"{integrator.name}_worst_over_fallback", ratio, 1.5, better="<=", note=note)
    for star, value, error in ((Hermite(), 0.01, 1e-6), (Hermite(), 0.01, 1e-8), (Leapfrog(), 0.01, 1e-4)):
        ratio, note = _worst(ThreeBody(star), error, STARS, True, value)
        name = f"{star.name}_fixed_{error:g}_worst_over_fallback"
        yield Figure(name, ratio, 1.5, better="<=", note=note)


def bench_rules() -> Iterator[Figure]:
    """PI beside the fixed step, and what a guarded decision takes."""
    from sciflow_control.controllers.fixed_step import FixedStep
    from sciflow_control.controllers.guarded import Guarded
    from sciflow_control.controllers.pi import PI

    ratio, note = _beside_fixed()
    yield Figure("arenstorf_pi_over_fixed", ratio, 0.5, better="<=", note=note)
    plain, guarded = _microseconds(PI(1e-4)), _microseconds(Guarded(FixedStep(0.008), PI(1e-4)))
    note = f"the driver is not counted; PI alone {plain:.1f} us"
    yield Figure("guarded_decision", guarded, 50.0, " us", "<=", note)
