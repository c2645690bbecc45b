"""The flow of this package; ``sciflow run plucked_strings`` finds it by its name."""

from pathlib import Path

from prefect import flow
from sciflow import report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.rollout import Rollout
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train

from sciflow_string import ModeDecomposition, Spectrum, String


@flow
async def plucked_strings(
    string: String = String(),
    surrogate: ModeDecomposition = ModeDecomposition(),
    members: int = 24,
    tones: int = 8,
) -> Path:
    """Pluck a string in many ways, learn one step of its motion, and hear what was learned.

    Args:
        string: What is solved.
        surrogate: What learns the step.
        members: How often it is plucked.
        tones: How many tones are listed.
    """
    points = await run(Design(problem=string, count=members))
    data = await run(Simulate(string), design=points)
    model = await run(Train(surrogate, ("u", "v"), ("u", "v"), window=(1, 1)), ensemble=data)
    given = {"model": model, "ensemble": data, "training": data}
    score, rolled = await run(Evaluate(), **given), await run(Rollout(), **given)
    heard = await run(Spectrum(tones), model=model, ensemble=data)
    return await report("Plucked strings", heard, score, rolled, model, data, points)
