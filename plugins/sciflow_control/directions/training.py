"""How directions are trained: one loop, whose every update is a function of seed and number."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import Diverged, Invalid
from sciflow.stages.train import Checkpoints, tensors
from sciflow_control.directions.iteration import conjugate_directions
from sciflow_control.directions.model import ABOUT, WEIGHTS, network, pick_device, proposing
from sciflow_control.directions.network import Directions, losses
from sciflow_control.directions.poisson import Poisson
from sciflow_control.directions.ritz import Ritz, coefficients, lanczos
from sciflow_control.directions.train import DIRECTIONS

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow.surrogate import Arrays
    from sciflow_control.directions.train import TrainDirections

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
VALID = 2**32
"""Number of the update whose right-hand sides are for validation: no training comes so far."""
TRIAL = 2**32 + 1


@dataclass
class Training:
    """What does not change from update to update, and what does.

    Attributes
    ----------
    config : TrainDirections
        The configuration.
    operator : Poisson
        Of its domain.
    ritz : Ritz
        Of the operator, in single precision on the device.
    net : Directions
        On the device.
    optimiser : Adam
        With its moments.
    updates : int
        Done so far.
    """

    config: TrainDirections
    operator: Poisson
    ritz: Ritz
    net: Directions
    optimiser: torch.optim.Adam
    updates: int = 0


def run(config: TrainDirections, out: Writer, ctx: Context) -> None:
    """See `TrainDirections.run`."""
    if ctx.comm.size > 1:
        raise Invalid(f"directions are trained on one rank, this job has {ctx.comm.size}; ask for one")
    kept = Checkpoints(out.scratch)
    history, state = kept.latest()
    now = begin(config)
    if state is not None:
        restore(now, state)
        ctx.log.info("training goes on after update %d", now.updates)
    while now.updates < config.updates:
        ctx.progress(now.updates, config.updates, "updates")
        history.append(advance(now))
        ctx.metric(now.updates, loss=history[-1]["loss"], valid=history[-1]["valid"])
        due = now.updates // config.checkpoint_every > history[-1]["before"] // config.checkpoint_every
        if due and now.updates < config.updates:
            kept.save(history, save(now))
    _store(now, history, out)


def begin(config: TrainDirections) -> Training:
    """Ritz vectors and a network with random weights.

    Raises
    ------
    Invalid
        If a GPU is asked for that is not there.
    """
    device = pick_device(config.device)
    operator = Poisson.of(config.domain)
    start = np.random.default_rng([config.seed]).standard_normal(len(operator.places))
    places = torch.from_numpy(operator.places).to(device)
    shape = operator.cells.shape

    def product(v: Tensor) -> Tensor:
        field = v.new_zeros(operator.cells.size)
        field[places] = v
        return operator.product(field.reshape(1, 1, *shape)).flatten()[places]

    found = lanczos(product, product(torch.from_numpy(start).to(device)), config.ritz, config.seed)
    net = network(config).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    return Training(config, operator, Ritz(found.values, found.vectors.float()), net, optimiser)


def right_hand_sides(now: Training, update: int, count: int) -> Tensor:
    """Random right-hand sides of length one, shape (count, 1, grid); a function of seed and update."""
    config, vectors = now.config, now.ritz.vectors
    c = coefficients(count, len(vectors), config.emphasis, config.emphasised, config.seed, update)
    values = torch.from_numpy(c.astype(np.float32)).to(vectors) @ vectors
    field = values.new_zeros((count, now.operator.cells.size))
    field[:, torch.from_numpy(now.operator.places).to(field.device)] = values / values.norm(
        dim=1, keepdim=True
    )
    return field.reshape(count, 1, *now.operator.cells.shape)


def advance(now: Training) -> dict[str, float]:
    """Updates up to the next note in the history, or the end.

    Returns
    -------
    dict
        ``before``, ``updates``: numbers of updates; ``loss``: their mean; ``valid``: of unseen ones, after.

    Raises
    ------
    Diverged
        If a loss is not finite.
    """
    config, total, before = now.config, 0.0, now.updates
    end = min(config.updates, (before // config.report_every + 1) * config.report_every)
    while now.updates < end:
        b = right_hand_sides(now, now.updates, config.batch)
        rate = config.learning_rate
        if config.schedule == "cosine":
            rate *= (1 + math.cos(math.pi * now.updates / config.updates)) / 2
        now.optimiser.param_groups[0]["lr"] = rate
        now.optimiser.zero_grad()
        loss = losses(now.operator, b, _directions(now, b)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        now.optimiser.step()
        total += float(loss.detach())
        now.updates += 1
        if not math.isfinite(total):
            raise Diverged(
                f"the losses up to update {now.updates} sum up to {total}; lower "
                f"learning_rate={config.learning_rate}"
            )
    b = right_hand_sides(now, VALID, max(config.batch, 16))
    with torch.no_grad():
        valid = float(losses(now.operator, b, _directions(now, b)).mean())
    return {"before": before, "updates": now.updates, "loss": total / (end - before), "valid": valid}


def _directions(now: Training, b: Tensor) -> Tensor:
    """What the network proposes, in the precision of `b`."""
    half = now.config.precision == "bfloat16"
    with torch.autocast(b.device.type, torch.bfloat16, enabled=half):
        q: Tensor = now.net(b, now.operator.mask(b))
    return q.to(b)


def save(now: Training) -> dict[str, np.ndarray]:
    """Everything that training needs to go on, as plain arrays of its own."""
    arrays = {f"net.{k}": v.detach().cpu().numpy().copy() for k, v in now.net.state_dict().items()}
    for i, values in now.optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{i}.{key}": values[key].cpu().numpy().copy() for key in MOMENTS}
    arrays["updates"] = np.array(now.updates)
    arrays["about"] = np.frombuffer(_about(now).encode(), dtype=np.uint8).copy()
    return arrays


def _about(now: Training) -> str:
    return json.dumps(now.config.identity(), sort_keys=True)


def restore(now: Training, state: Arrays) -> None:
    """Go on where `save` was called.

    Raises
    ------
    Invalid
        If the checkpoint is one of another configuration.
    """
    written = bytes(np.asarray(state["about"])).decode()
    if written != _about(now):
        raise Invalid(
            f"the checkpoint is one of {written}, this is {_about(now)}; delete it to train from the "
            "beginning"
        )
    weights = {
        k.removeprefix("net."): torch.tensor(np.asarray(v)) for k, v in state.items() if k.startswith("net.")
    }
    now.net.load_state_dict(weights)
    document = now.optimiser.state_dict()
    document["state"] = {
        i: {key: torch.tensor(np.asarray(state[f"optimiser.{i}.{key}"])) for key in MOMENTS}
        for i in range(len(weights))
    }
    now.optimiser.load_state_dict(document)
    now.updates = int(state["updates"])


def trial(now: Training, rtol: float = 1e-6, iterations: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Relative residuals of the learned directions and of CG, for a right-hand side that was never seen.

    Two arrays of shape (iteration,), NaN behind the last iteration of the shorter one.
    """
    b = np.random.default_rng([now.config.seed, TRIAL]).standard_normal(len(now.operator.places))
    field = now.operator.scatter(b / np.linalg.norm(b))
    maps = (proposing(now.net, now.operator, now.config.precision), lambda r: r)
    found = [
        conjugate_directions(now.operator.apply, m, field, rtol=rtol, iterations=iterations).residuals
        for m in maps
    ]
    longest = max(map(len, found))
    learned, plain = (np.pad(v, (0, longest - len(v)), constant_values=np.nan) for v in found)
    return learned, plain


def _store(now: Training, history: list[dict[str, float]], out: Writer) -> None:
    about = {
        "dimension": now.net.dimension,
        "width": now.config.width,
        "layers": list(now.config.layers),
        "levels": now.config.levels,
        "points": list(now.config.domain.points),
    }
    weights = {k: v.detach().cpu().numpy() for k, v in now.net.state_dict().items()}
    out.write_file(WEIGHTS, tensors(weights))
    out.write_file(ABOUT, json.dumps(about, indent=1, sort_keys=True).encode())
    learned, plain = trial(now)
    steps = np.array([int(row["updates"]) for row in history])
    columns = {f"history_{name}": np.array([row[name] for row in history]) for name in ("loss", "valid")}
    values = {"ritz_values": now.ritz.values, "history_updates": steps, **columns}
    values |= {"residuals_learned": learned, "residuals_cg": plain}
    for name, field in DIRECTIONS.fields.items():
        out.write(name, values[name], field)
    count = sum(v.size for v in weights.values())
    out.describe(
        network=about, weights=count, domain=now.config.domain.to_json(), cells=len(now.operator.places)
    )
