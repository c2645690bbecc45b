"""Three stars that fall towards each other, with steps chosen by formula and by a trained policy.

Learned ones are played on runs that no training has seen, beside fixed values, PI control with roll-back,
IAS15 and Bulirsch-Stoer (with rebound). Then one policy is passed on, guarded, to every integrator.

    sciflow run flows/three_body.py                  # size=ci: a few minutes
    sciflow run flows/three_body.py --set size=full  # 100 runs in each trial
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from prefect import flow

import sciflow_control.components as control
from sciflow import report, run
from sciflow_control.trials.step_table import Curve

FIXED, PI, STARS = control.FixedStep, control.PI, control.ThreeBody
OURS = {"hermite": control.Hermite(), "leapfrog": control.Leapfrog(low=1e-3)}
THEIRS = {"ias15": control.Ias15(), "bulirsch_stoer": control.BulirschStoer(high=1e-5)}
VALUES = {"hermite": (0.1, 0.047, 0.022, 0.01, 0.0047, 0.0022), "leapfrog": (0.1, 0.03, 0.01, 0.003)}
TRAININGS = {"hermite": control.TrainPolicy.hermite, "leapfrog": control.TrainPolicy.leapfrog}
TAKEN_BACK = {"hermite": 1e-7, "leapfrog": 1e-3}


@flow
async def three_body(
    size: Literal["ci", "full"] = "ci", count: int = 0, steps: int = 0, years: float = 30.0
) -> Path:
    """Train policies for the steps of two integrators, and compare them with classical control.

    Args:
        size: ci takes three minutes; full has the published number of runs.
        count: Runs in each trial; 0 leaves that to the size.
        steps: Of each training; 0 leaves that to the size.
        years: Length of a run in the trials.
    """
    count, steps = count or (100 if size == "full" else 30), steps or (100_000 if size == "full" else 30_000)
    trials: dict[str, Any] = {}

    async def curve(group: str, name: str, stars: Any, *controllers: Any, frontier: bool = False) -> Curve:
        names = [f"{group} {name} {len(trials)} {i}".replace(" ", "_") for i in range(len(controllers))]
        for label, controller in zip(names, controllers, strict=True):
            trials[label] = await run(control.StepTrial(stars, controller, count))
        return Curve(name, tuple(names), group, frontier)

    async def table(title: str, curves: list[Curve]) -> Any:
        stage = control.StepTable(tuple(curves), title)
        return await run(stage, **{name: trials[name] for name in stage.inputs})

    pi = [PI(t, lowest="accept") for t in (1e-3, 1e-4, 1e-5, 1e-6)]
    curves, passed, policies = [], [], []
    for name, ours in OURS.items():
        stars = STARS(ours, years=years)
        policies.append(await run(TRAININGS[name](STARS(ours)).replace(steps=steps)))
        learned = control.Learned(str(policies[-1].path), policies[-1].digest[:16])
        careful = control.Guarded(learned, FIXED(VALUES[name][-1]), rollback=TAKEN_BACK[name])
        curves += [
            await curve(name, "fixed", stars, *map(FIXED, VALUES[name]), frontier=True),
            await curve(name, "PI", stars, *pi, frontier=True),
            await curve(name, "learned", stars, learned),
            await curve(name, "guarded", stars, careful, control.Guarded(learned, pi[1])),
        ]
    stars = STARS(control.Leapfrog("fixed"), years=years)
    curves.append(await curve("leapfrog", "equal steps", stars, FIXED(1e-2), FIXED(1e-3)))
    others = {**OURS, **THEIRS, "whfast": control.WHFast(low=1e-5)} if find_spec("rebound") else OURS
    for name in list(others)[2:4]:
        stars = STARS(others[name].replace(most=10**8), years=years, interval=years)
        curves.append(await curve("hermite", name, stars, FIXED(1e-9), FIXED(1e-6)))
    learned = control.Learned(str(policies[0].path), policies[0].digest[:16], transfer=True)
    for name, other in others.items():
        stars = STARS(other, years=years)
        passed.append(await curve(name, "fallback", stars, *pi[1:], frontier=True))
        passed.append(await curve(name, "guarded", stars, *(control.Guarded(learned, p) for p in pi[1:])))
    shown = [trials[c.trials[1]] for c in curves if c.name == "guarded"] + policies
    tables = await table("Error against work", curves), await table("One policy on every integrator", passed)
    return await report("Three stars", *tables, *shown)
