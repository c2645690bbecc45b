"""Time steps of a plate that a moving source heats: error against linear solves, fixed, adaptive and learned.

A laser draws two lines, then the plate cools: the step that serves changes by orders of magnitude. The same
members are solved with fixed steps, PI and predictive control of the estimated error, the rule that counts
Newton iterations, and a policy that learned on a coarse mesh, alone and guarded.

    sciflow run flows/adaptive_heat.py                  # size=ci: two minutes
    sciflow run flows/adaptive_heat.py --set size=full  # a finer mesh, a longer training
"""

from pathlib import Path
from typing import Literal

from prefect import flow

import sciflow_control.components as control
from sciflow import Artifact, report, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.step_controller import StepController
from sciflow_control.steering.episodes import ProblemEpisodes
from sciflow_control.trials.step_table import Curve
from sciflow_fenics.components import MovingHeat

FIXED = {"ci": (1.0, 0.5, 0.25, 0.125), "full": (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)}
TOLERANCES = {"ci": (3e-3, 1e-3, 3e-4), "full": (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)}


def contenders(size: str, policy: StepController | None) -> dict[str, list[StepController]]:
    """Ways to choose the steps by what they are called, each with several settings."""
    some, counts = TOLERANCES[size][1:-1], (3, 4) if size == "full" else (4,)
    guarded = [control.Guarded(policy, control.PI(t), rollback=10 * t) for t in some] if policy else []
    found: dict[str, list[StepController]] = {
        "fixed": [control.FixedStep(dt) for dt in FIXED[size]],
        "pi": [control.PI(t) for t in TOLERANCES[size]],
        "predictive": [control.Predictive(t) for t in some],
        "iterations": [control.IterationCount(count, first=0.1) for count in counts],
    }
    return {**found, "learned": [policy], "guarded": guarded} if policy else found


def training(steps: int, seed: int) -> control.TrainPolicy:
    """A policy for the steps of any member, learned where a solve is cheap."""
    coarse, lengths = ProblemEpisodes(MovingHeat(8, grid=5, levels=1)), control.Levels(10, 0.02, 10.0)
    learner, reward = control.DQN(explore_steps=steps // 3, discount=0.5), control.WorkReward(target=1e-3)
    made = control.TrainPolicy(coarse, reward, learner, lengths, steps, evaluate_seeds=8, seed=seed)
    return made.replace(evaluate_every=steps // 4)


@flow
async def adaptive_heat(
    size: Literal["ci", "full"] = "ci", members: int = 6, cells: int = 0, steps: int = -1, seed: int = 0
) -> Path:
    """Compare ways to choose the time steps of a plate under a moving source.

    Args:
        size: ci takes two minutes; full has a mesh of 32 cells and ten times the training.
        members: Of each ensemble.
        cells: Of the mesh along each side; 0 leaves that to the size.
        steps: Of the training; 0 leaves the learned steps out, -1 that to the size.
        seed: Of the design and of the training.
    """
    usual = (32, 120_000) if size == "full" else (16, 12_000)
    plate, steps = MovingHeat(cells or usual[0], grid=33, levels=8), usual[1] if steps < 0 else steps
    points = await run(Design(problem=plate, count=members, seed=seed))

    async def solved(controller: StepController) -> Artifact:
        return await run(Simulate(plate.replace(stepping=controller)), design=points)

    trained = await run(training(steps, seed)) if steps else None
    policy = control.Learned(str(trained.path), trained.digest) if trained else None
    reference, trials, curves = await solved(control.PI(1e-6)), {}, []
    for name, settings in contenders(size, policy).items():
        names = {f"{name}_{i}": await solved(controller) for i, controller in enumerate(settings)}
        for label, made in names.items():
            trials[label] = await run(control.EnsembleTrial(), ensemble=made, reference=reference)
        curves.append(Curve(name, tuple(names), frontier=name == "fixed"))
    table = await run(control.StepTable(tuple(curves)), **trials)
    shown = [trials[name] for name in ("pi_1", "learned_0", "guarded_0", "iterations_0") if name in trials]
    return await report("Steps of a plate under a moving source", table, *shown, *filter(None, [trained]))
