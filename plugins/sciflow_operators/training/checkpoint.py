"""Where a training stands after an update, as plain arrays and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import Invalid
from sciflow_operators.training.fitted import Fitted, require
from sciflow_operators.training.optimiser import MOMENTS, Average

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Signature
    from sciflow.surrogate import Arrays
    from sciflow_operators.training.trained import Trained

FREE = ("surrogate.threads", "surrogate.device", "surrogate.compile", "surrogate.report_every", "ranks")
"""What may differ between a checkpoint and the training that goes on from it."""


@dataclass
class Course:
    """Where a training stands.

    Attributes
    ----------
    epoch : int
        Finished epochs.
    batches : int
        Batches done of the next one.
    updates : int
        Updates of the weights so far.
    total, count : float
        Sum of the losses of the epoch that has begun, and their number, of all ranks.
    loss : float
        Mean loss of the last finished epoch.
    best : float
        Least validation error so far.
    waited : int
        Epochs since then.
    """

    epoch: int = 0
    batches: int = 0
    updates: int = 0
    total: float = 0.0
    count: float = 0.0
    loss: float = math.nan
    best: float = math.inf
    waited: int = 0


@dataclass
class Standing:
    """Everything that changes while a network is trained.

    Attributes
    ----------
    fitted : Fitted
        The model; its network has the weights of the last update.
    optimiser : AdamW
        With its moments.
    average : Average or None
        Of the weights, where the configuration asks for it.
    best : dict of str to Tensor
        The network's state with the least validation error; empty where the last one is taken.
    course : Course
        Counters.
    """

    fitted: Fitted
    optimiser: torch.optim.AdamW
    average: Average | None
    best: dict[str, Tensor]
    course: Course


def about(config: Trained, signature: Signature, ctx: Context) -> dict[str, Any]:
    """What a checkpoint belongs to."""
    fields = {
        word: {n: [list(f.axes), f.unit] for n, f in part.items()}
        for word, part in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
    return {"surrogate": config.to_json(), **fields, "seed": ctx.seed, "ranks": ctx.comm.size}


def save(now: Standing, ctx: Context) -> dict[str, np.ndarray]:
    """Everything that training needs to go on, as plain arrays of its own."""
    fitted = now.fitted
    text = json.dumps(about(fitted.config, fitted.signature, ctx), sort_keys=True)
    arrays = {k: np.array(v) for k, v in fitted.state().items()}
    arrays["about"] = np.frombuffer(text.encode(), dtype=np.uint8).copy()
    arrays |= {f"course.{k}": np.array(v) for k, v in asdict(now.course).items()}
    for i, values in now.optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{i}.{key}": _array(values[key]) for key in MOMENTS}
    if now.average is not None:
        names = zip(now.average.names, now.average.values, strict=True)
        arrays |= {f"average.{name}": _array(value) for name, value in names}
    arrays |= {f"best.{name}": _array(value) for name, value in now.best.items()}
    return arrays


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().copy()


def restore(now: Standing, resume: Arrays) -> None:
    """Put everything but the network's own weights back.

    Raises
    ------
    Invalid
        If arrays are missing or have other shapes.
    """
    config, net = now.fitted.config, now.fitted.net
    parameters = [p for group in now.optimiser.param_groups for p in group["params"]]
    wanted: dict[str, tuple[int, ...]] = {f"course.{k}": () for k in asdict(Course())}
    for i, p in enumerate(parameters):
        wanted |= {f"optimiser.{i}.{key}": () if key == "step" else tuple(p.shape) for key in MOMENTS}
    if now.average is not None:
        wanted |= {f"average.{n}": tuple(p.shape) for n, p in net.named_parameters()}
    # Before the first epoch has ended there is no best one.
    has_best = any(k.startswith("best.") for k in resume)
    if has_best:
        wanted |= {f"best.{n}": tuple(v.shape) for n, v in net.state_dict().items()}
    require(config.name, resume, wanted)
    state = now.optimiser.state_dict()
    state["state"] = {
        i: {key: torch.tensor(np.asarray(resume[f"optimiser.{i}.{key}"])) for key in MOMENTS}
        for i in range(len(parameters))
    }
    now.optimiser.load_state_dict(state)
    if now.average is not None:
        now.average.restore([torch.tensor(np.asarray(resume[f"average.{n}"])) for n in now.average.names])
    if has_best:
        device = now.fitted.device
        now.best = {n: torch.tensor(np.asarray(resume[f"best.{n}"]), device=device) for n in net.state_dict()}
    now.course = Course(**{k: type(v)(resume[f"course.{k}"]) for k, v in asdict(Course()).items()})


def same(config: Trained, signature: Signature, ctx: Context, resume: Arrays) -> None:
    """Refuse a checkpoint of something else, saying what differs.

    Raises
    ------
    Invalid
        If it belongs to another configuration, seed or signature, or amid an epoch to another number
        of ranks.
    """
    try:
        written = json.loads(bytes(resume["about"]))
        amid = int(resume["course.batches"]) > 0
    except (KeyError, ValueError):
        raise Invalid(
            f"this is no checkpoint of {config.name}: it does not say what it belongs to; delete it to train "
            "from the beginning"
        ) from None
    mine, there = _flat(json.loads(json.dumps(about(config, signature, ctx)))), _flat(written)
    free = tuple(name for name in FREE if not (amid and name == "ranks"))
    wrong = [
        f"{name.removeprefix('surrogate.')} is {there.get(name, 'not there')} in the checkpoint and "
        f"{mine.get(name, 'not there')} here"
        for name in sorted({*mine, *there} - {*free})
        if mine.get(name) != there.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Invalid(
            f"the checkpoint is one of another training: {'; '.join(wrong[:5])}{more}; delete it to train "
            "from the beginning"
        )


def _flat(document: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
