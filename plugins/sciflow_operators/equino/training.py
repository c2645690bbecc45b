"""The training of EquiNO: modes from solutions, then networks from the constitutive residual alone."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.context import Context
from sciflow.errors import Diverged, Invalid
from sciflow.stages.design import unit_points
from sciflow.surrogate import Arrays, Report
from sciflow_operators.equino.magic import choose, noise_of
from sciflow_operators.equino.model import SIDES, EquinoModel, from_state
from sciflow_operators.equino.modes import Solutions, modes_of, solutions_of
from sciflow_operators.equino.perceptron import Coefficients, Perceptron
from sciflow_operators.equino.residual import Residual, networks
from sciflow_operators.equino.trend import Box, Trend
from sciflow_operators.training.fitted import require, torch_threads
from sciflow_operators.training.update import seed as mixed

if TYPE_CHECKING:
    from sciflow.reduction import Integrals
    from sciflow.samples import Samples
    from sciflow_operators.equino.equino import EquiNO

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of every parameter."""


def fit(
    config: EquiNO, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None
) -> Generator[Report, None, EquinoModel]:
    """Make modes and train the networks; see `Surrogate.fit`.

    Notes
    -----
    Each round has strains and integration points of its own, drawn from seed and number of the round
    alone; L-BFGS begins each round without a memory. So a checkpoint needs weights and Adam's moments, and
    training from one gives the same bits (on the same machine and number of threads).
    """
    if ctx.comm.size > 1:
        raise Invalid(
            f"EquiNO is fitted on one rank, these are {ctx.comm.size}: its networks and the cell are small. "
            "Start the stage on one"
        )
    problem = config.cell
    integrals = problem.integrals(Context())
    solved = solutions_of(problem, integrals, samples)
    if resume is None:
        model = _begin(config, samples, solved, integrals, ctx.seed)
    else:
        model = from_state(config, resume, samples.signature)
        if model.mesh != integrals.mesh:
            raise Invalid(f"the checkpoint is of the mesh {model.mesh}, {problem.name} has {integrals.mesh}")
    trial = solutions_of(problem, integrals, valid)
    floors = model.modes.floors(trial if len(trial) else solved)
    if not config.network:
        if resume is None:
            yield Report(1, 1, {**floors, **_errors(model, trial)}, model.state)
        return model
    nets = _nets(model)
    optimiser = torch.optim.Adam(nets.parameters(), lr=config.learning_rate)
    first = 0 if resume is None else _restore(optimiser, resume)
    size = float(np.square(model.modes.metric.stress(solved.stress)).sum()) / len(solved)
    loss = math.nan
    for epoch in range(first, config.epochs):
        ctx.check()
        begin = time.perf_counter()
        with torch_threads(config.threads):
            objective = Objective(model, nets, _residual(model, ctx.seed, epoch, size))
            strains = _strains(config, len(problem.components), ctx.seed, epoch)
            polish = epoch >= config.epochs - config.polish
            before, loss = (
                loss,
                (_polish(objective, strains) if polish else _adam(objective, optimiser, strains, epoch)),
            )
        if not math.isfinite(loss):
            raise Diverged(
                f"the residual is {loss} in round {epoch + 1}, after {before:.3g} in the one before; try a "
                f"smaller learning_rate (now {config.learning_rate})"
            )
        model = _updated(model, nets)
        metrics = {
            "train_loss": loss,
            **_errors(model, trial),
            **floors,
            "strains_per_second": config.points / (time.perf_counter() - begin),
        }
        keep = partial(_checkpoint, model, optimiser, epoch + 1)
        yield Report(epoch + 1, config.epochs, metrics, keep)
    return model


class Objective:
    """The residual of the networks as a function of scaled strains.

    Parameters
    ----------
    model : EquinoModel
        Its polynomials, spreads and range.
    nets : ModuleDict
        The networks that are trained.
    residual : Residual
    """

    def __init__(self, model: EquinoModel, nets: nn.ModuleDict, residual: Residual) -> None:
        self.config, self.nets, self._residual = model.config, nets, residual
        self._sides = list(zip(SIDES, model.coefficients, strict=True))
        self._half, self._middle = model.box.half, (model.box.low + model.box.high) / 2

    def __call__(self, x: np.ndarray) -> Tensor:
        """Relative square of the residual of every scaled strain (n, component), shape (n,)."""
        given = torch.from_numpy(x)
        found = [
            torch.from_numpy(side.trend(x)) + torch.from_numpy(side.spread) * self.nets[name](given)
            for name, side in self._sides
        ]
        return self._residual(torch.from_numpy(self._middle + x * self._half), *found)


def _adam(objective: Objective, optimiser: torch.optim.Adam, strains: np.ndarray, epoch: int) -> float:
    """One round of Adam; the root mean square of the residual along it."""
    config = objective.config
    batches = [strains[i : i + config.batch] for i in range(0, len(strains), config.batch)]
    steps = len(batches) * (config.epochs - config.polish)
    total = 0.0
    for step, x in enumerate(batches, epoch * len(batches)):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _share(step, steps)
        optimiser.zero_grad()
        losses = objective(x)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(losses.detach().sum())
    return math.sqrt(total / len(strains)) if total >= 0 else math.nan


def _share(step: int, steps: int) -> float:
    """Of the largest learning rate: up in the first twentieth of the steps, then down along a cosine."""
    warm = 0.05 * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


def _polish(objective: Objective, strains: np.ndarray) -> float:
    """One round of L-BFGS on all strains of the round; the root mean square of the residual at its end."""
    config = objective.config
    optimiser = torch.optim.LBFGS(
        objective.nets.parameters(), max_iter=config.iterations, history_size=config.iterations,
        tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    least = math.inf

    def total() -> Tensor:
        nonlocal least
        optimiser.zero_grad()
        # Block by block, so that the law's arrays stay in the cache.
        parts = [objective(strains[i : i + config.batch]).sum() for i in range(0, len(strains), config.batch)]
        loss = torch.stack(parts).sum() / len(strains)
        loss.backward()  # type: ignore[no-untyped-call]
        least = min(least, float(loss.detach())) if math.isfinite(float(loss.detach())) else math.nan
        return loss

    optimiser.step(total)  # type: ignore[no-untyped-call]
    return math.sqrt(least) if least >= 0 else math.nan


def _strains(config: EquiNO, components: int, seed: int, epoch: int) -> np.ndarray:
    """Scaled strains of one round, shape (points, component)."""
    draw = mixed(seed, epoch, 0)
    return 2 * unit_points(config.sampler, components, config.points, (), draw) - 1


def _residual(model: EquinoModel, seed: int, epoch: int, size: float) -> Residual:
    """The residual at the integration points of one round."""
    count, config = len(model.modes.points), model.config
    chosen = np.arange(count)
    if 0 < config.loss_points < count:
        rng = np.random.default_rng(mixed(seed, epoch, 1))
        chosen = np.sort(rng.permutation(count)[: config.loss_points])
    return Residual(model.modes, chosen, model.problem.material, size)


def _begin(
    config: EquiNO, samples: Samples, solved: Solutions, integrals: Integrals, seed: int
) -> EquinoModel:
    """A model with modes, polynomials and random weights."""
    modes = modes_of(config.cell, integrals, solved, config.counts, config.norm)
    bounds = np.array([(p.low, p.high) for p in config.cell.parameters.values()])
    box = Box.of(solved.macroscopic, bounds)
    x = box.scale(solved.macroscopic)
    sides = []
    for values in modes.coefficients(solved):
        spread = np.ones(values.shape[1])
        if config.scaling == "global":
            mean = np.full(values.shape[1], values.mean())
            trend, spread = Trend(mean[None]), spread * values.std()
        else:
            trend = Trend.fit(x, values, config.degree)
            spread = np.sqrt(np.square(values - trend(x)).mean(axis=0))
        sides.append(Coefficients(trend, spread, None))
    sites = choose(modes, noise_of(modes, solved), config.magic_points)
    model = EquinoModel(config, samples.signature, modes, box, (sides[0], sides[1]), sites, integrals.mesh)
    if not config.network:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _updated(model, networks(config, x.shape[1]))


def _layers(net: nn.Module) -> list[nn.Linear]:
    """Of one network, first to last."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def _updated(model: EquinoModel, nets: nn.ModuleDict) -> EquinoModel:
    """The model with copies of the networks' weights."""
    sides = []
    for name, side in zip(SIDES, model.coefficients, strict=True):
        layers = _layers(nets[name])
        weights, biases = (
            tuple(getattr(layer, kind).detach().numpy().copy() for layer in layers)
            for kind in ("weight", "bias")
        )
        sides.append(Coefficients(side.trend, side.spread, Perceptron(weights, biases)))
    return model.with_coefficients((sides[0], sides[1]))


def _nets(model: EquinoModel) -> nn.ModuleDict:
    """Networks with the model's weights."""
    nets = networks(model.config, len(model.box.low))
    with torch.no_grad():
        for name, side in zip(SIDES, model.coefficients, strict=True):
            assert side.net is not None
            for layer, weight, bias in zip(
                _layers(nets[name]), side.net.weights, side.net.biases, strict=True
            ):
                layer.weight.copy_(torch.tensor(weight))
                layer.bias.copy_(torch.tensor(bias))
    return nets


def _checkpoint(model: EquinoModel, optimiser: torch.optim.Adam, epoch: int) -> dict[str, np.ndarray]:
    """Everything that training needs to go on after `epoch`, as plain arrays."""
    arrays = {k: np.array(v) for k, v in model.state().items()} | {"epoch": np.array(epoch)}
    for i, values in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{i}.{key}": values[key].detach().numpy().copy() for key in MOMENTS}
    return arrays


def _restore(optimiser: torch.optim.Adam, resume: Arrays) -> int:
    """Put a checkpoint's moments back; returns the finished rounds."""
    require("equino", resume, {"epoch": ()})
    parameters = optimiser.param_groups[0]["params"]
    there = [i for i in range(len(parameters)) if f"optimiser.{i}.step" in resume]
    for i in there:
        shapes = {key: () if key == "step" else tuple(parameters[i].shape) for key in MOMENTS}
        require("equino", resume, {f"optimiser.{i}.{key}": shape for key, shape in shapes.items()})
    state = optimiser.state_dict()
    state["state"] = {
        i: {key: torch.tensor(np.asarray(resume[f"optimiser.{i}.{key}"])) for key in MOMENTS} for i in there
    }
    optimiser.load_state_dict(state)
    return int(resume["epoch"])


def _errors(model: EquinoModel, trial: Solutions) -> dict[str, float]:
    """Relative errors of the homogenised stress for validation solutions, with and without corrector."""
    if not len(trial):
        return {}
    size = max(float(np.linalg.norm(trial.homogenised)), 1e-300)
    named = {"valid_error": model.corrected("none")}
    if model.config.corrector != "none":
        named["corrected_error"] = model
    return {
        name: float(np.linalg.norm(one.respond(trial.macroscopic)[0] - trial.homogenised)) / size
        for name, one in named.items()
    }
