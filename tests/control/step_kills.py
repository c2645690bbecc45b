"""Runs with controlled steps in a process to be killed: ``python -m tests.control.step_kills STORE NAME``."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

from sciflow import Resources, Store, run
from sciflow.executors.mpi import Mpi
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow_control.components import (
    DQN,
    PI,
    PID,
    PPO,
    FixedStep,
    Guarded,
    Hermite,
    Leapfrog,
    Levels,
    LogRange,
    MaximumStep,
    ProblemEpisodes,
    StepTrial,
    StopAt,
    ThreeBody,
    ThreeBodyProblem,
    TrainPolicy,
    WorkReward,
)


def _ensemble(problem, count, ranks=1, parallel=1):
    async def flow():
        design = await run(Design(problem=problem, count=count))
        resources = Resources(ranks=ranks, parallel=parallel)
        return await run(Simulate(problem), design=design, executor=Mpi(), resources=resources)

    return flow


def _guarded(value):
    return Guarded(FixedStep(value), PI(1e-4, lowest="accept", first=0.03), rollback=1e-4)


def burgers():
    """Filtered steps."""
    from sciflow_spectral.components import Burgers

    return _ensemble(Burgers(points=64, solve_points=512, levels=21, stepping=PID(1e-7)), 12)


def stars():
    """A guarded policy, two members at a time."""
    return _ensemble(ThreeBodyProblem(Hermite(), _guarded(0.05), years=30.0, levels=31), 12, parallel=2)


def plate():
    """Times to be met, bounds that depend on time."""
    from sciflow_fenics.moving_heat import MovingHeat

    bounded = StopAt(MaximumStep(PI(1e-3), (0.0, 5.0), (0.1, 2.0)), (1.0, 7.0), after=0.01)
    return _ensemble(MovingHeat(cells=12, grid=9, levels=6, end=30.0, events=False, stepping=bounded), 12)


def plate_on_two_ranks():
    """The solver is chosen too."""
    from sciflow_control.bandits.thompson import Thompson
    from sciflow_control.space import Solvers
    from sciflow_control.tuned.solver import Tuned
    from sciflow_fenics.moving_heat import MovingHeat

    arms = Solvers(("bcgs+bjacobi", "richardson+none", "cg+jacobi", "given"))
    tuned = Tuned(Thompson(arms), hold=1, limit=20.0)
    problem = MovingHeat(cells=12, grid=9, levels=6, end=30.0, stepping=PI(1e-3), solver=tuned)
    return _ensemble(problem, 8, ranks=2)


def _trained(learner, actions):
    stage = TrainPolicy(
        ThreeBody(Leapfrog(), years=5.0), WorkReward(1e-6), learner, actions,
        steps=24_000, evaluate_every=500, evaluate_seeds=5, checkpoint_every=1000,
    )  # fmt: skip
    return lambda: run(stage)


def dqn():
    """Levels."""
    return _trained(DQN(), Levels(5))


def ppo():
    """A range."""
    return _trained(PPO(), LogRange())


def plate_policy():
    """Episodes of a problem, whose solver is shared by the training and its held-out ones."""
    from sciflow_fenics.moving_heat import MovingHeat

    episodes = ProblemEpisodes(MovingHeat(cells=8, grid=5, levels=1, end=20.0))
    stage = TrainPolicy(
        episodes, WorkReward(1e-3), DQN(), Levels(5, 0.02, 2.0),
        steps=6000, evaluate_every=500, evaluate_seeds=3, checkpoint_every=500,
    )  # fmt: skip
    return lambda: run(stage)


def trial():
    """More than one checkpoint long."""
    return lambda: run(StepTrial(ThreeBody(years=30.0), _guarded(0.05), count=2000, watched=3))


def neural_ode():
    """A surrogate that is taught to need few steps, at random times."""
    from sciflow.stages.train import Train
    from sciflow_operators.ode.neural_ode import NeuralODE
    from sciflow_spectral.components import Burgers

    surrogate = NeuralODE(
        width=16, layers=1, tolerance=1e-3, epochs=150, batch=8, threads=1, device="cpu", report_every=1,
        regularise="both", error_weight=0.5, stiffness_weight=0.05, where="local", sampling="steps", fade=0.3,
    )  # fmt: skip
    stage = Train(surrogate, ("viscosity", "u[0]"), ("u",), checkpoint_every=1, checkpoint_seconds=0.5)

    async def flow():
        data = await _ensemble(Burgers(points=16, solve_points=64, levels=5, steps=40), 24)()
        return await run(stage, ensemble=data)

    return flow


RUNS = {
    f.__name__: f
    for f in (burgers, stars, plate, plate_on_two_ranks, dqn, ppo, plate_policy, trial, neural_ode)
}


def made(root, name):
    """The artifact, from a process of its own: dolfinx before torch changes last bits of a training."""
    subprocess.run([sys.executable, "-m", "tests.control.step_kills", str(root), name], check=True)
    return _made(root, name)


def _made(root, name):
    with within(Session(Store(Path(root)))):
        return asyncio.run(RUNS[name]()())


def killed(root, name, moments):
    """Begin, kill so many seconds after something was begun, again and again; gives the number of kills."""
    count = 0
    for moment in moments:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.step_kills", str(root), name], stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while not any(root.glob("partial/*")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        if process.poll() is not None:
            return count
        process.kill()
        process.wait()
        count += 1
        while _alive(root):
            time.sleep(0.02)
    return count


def _alive(root):
    """Whether a job of this store has not noticed yet that its driver is gone."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(root).encode() in entry.read_bytes():
                return True
    return False


if __name__ == "__main__":
    _made(*sys.argv[1:])
