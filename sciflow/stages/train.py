"""The ``train`` stage: fits a surrogate to an ensemble, with checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.context import exchange
from sciflow.errors import Invalid
from sciflow.registry import registry, require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stored import Stored, check_levels
from sciflow.surrogate import Arrays, Model, Surrogate

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Signature
    from sciflow.store import Writer

_MEMBERS = Field(("sample",), "1", "int64")
MODEL = Schema(
    "model",
    {"train_members": _MEMBERS, "valid_members": _MEMBERS, "test_members": _MEMBERS},
)

READ_AHEAD = 2
"""Batches of a training that a thread reads while a step is taken, for files that are not in memory."""


@dataclass(frozen=True)
class Train(Stage):
    """Fits a surrogate to the members of an ensemble.

    With the input ``start``, a model of the same kind, training begins with its weights (fine-tuning), where
    the surrogate can (`Surrogate.starting_from`).

    Attributes
    ----------
    surrogate : Surrogate
        What to fit.
    inputs_of : tuple of str
        Fields and parameters it maps from; ``"u[0]"`` selects a time level.
    outputs_of : tuple of str
        Fields it maps to.
    train, valid : float
        Fractions of the members; the rest is never seen and kept for evaluation.
    members : int or None
        Learn from the first so many of the training members alone, all of them for ``None``: models that
        differ in it have growing training sets, and the same members for validation and test.
    window : tuple of int or None
        ``(k, l)``: learn to predict ``l`` time levels from the ``k`` before, at every level where they
        fit; with ``k = 0`` from parameters, fields without a time axis and ``"time"``. ``None``: a
        sample is a member.
    pairs : tuple of int or None
        ``(stride, count)``, in place of a window: learn to predict the level j of a member from the level
        i for every pair i <= j of the levels 0, stride, ..., stride * (count - 1); the input
        ``"lead_time"`` is the time between them.
    checkpoint_every : int
        Epochs between checkpoints.
    checkpoint_seconds : float
        A report that comes so long after the last checkpoint, s, is kept as well, also amid an epoch (see
        `sciflow.surrogate.Report`).
    seed : int
        Decides the split and every random choice of the training.
    split_seed : int or None
        Decides the split where trainings with several seeds are to leave out the same members.
    """

    name: ClassVar[str] = "train"
    inputs: ClassVar[Mapping[str, Schema]] = {"ensemble": ENSEMBLE, "start": MODEL}
    optional: ClassVar[tuple[str, ...]] = ("start",)
    output: ClassVar[Schema] = MODEL
    surrogate: Surrogate
    inputs_of: tuple[str, ...]
    outputs_of: tuple[str, ...]
    train: float = 0.8
    valid: float = 0.05
    window: tuple[int, int] | None = None
    pairs: tuple[int, int] | None = None
    checkpoint_every: int = 5
    checkpoint_seconds: float = 300.0
    seed: int = 0
    members: int | None = None
    split_seed: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.train < 1 and 0 < self.valid < 1 and self.train + self.valid < 1):
            raise Invalid(
                "train and valid are fractions that leave some members for the test, "
                f"got {self.train} and {self.valid}"
            )
        for name in ("inputs_of", "outputs_of"):
            if isinstance(value := getattr(self, name), str):
                raise Invalid(f"{name} is a tuple of names: write ({value!r},)")
        if not self.inputs_of or not self.outputs_of:
            raise Invalid("name at least one input and one output field")
        if self.checkpoint_every < 1:
            raise Invalid(f"checkpoint_every must be at least 1, got {self.checkpoint_every}")
        if self.checkpoint_seconds < 0:
            raise Invalid(f"checkpoint_seconds cannot be negative, got {self.checkpoint_seconds}")
        if self.members is not None and self.members < 1:
            raise Invalid(f"at least one member is learned from, got members={self.members}")
        check_levels(self.window, self.pairs)

    def identity(self) -> dict[str, object]:
        """How often it is saved does not change the result."""
        config = self.to_json()
        del config["checkpoint_every"], config["checkpoint_seconds"]
        return config

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse fields that the ensemble does not have, and time levels that do not fit."""
        super().check(inputs)
        require(self.surrogate)
        if "start" in inputs:
            self.surrogate.starting_from(inputs["start"])
        horizon = self.surrogate.horizon
        if horizon > 1:
            self._check_horizon(inputs["ensemble"], horizon)
        self._samples(inputs["ensemble"], None, horizon)

    def _samples(
        self,
        ensemble: Artifact,
        members: np.ndarray | None,
        horizon: int = 1,
        ahead: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Stored:
        window = self.window and (self.window[0], self.window[1] * horizon)
        names = self.inputs_of, self.outputs_of
        return Stored(ensemble, *names, members, window=window, pairs=self.pairs, shard=shard, ahead=ahead)

    def _check_horizon(self, ensemble: Artifact, horizon: int) -> None:
        """Refuse to train on roll-outs where a step does not give what the next one takes."""
        if self.window is None:
            raise Invalid(
                f"{self.surrogate.name} is trained on roll-outs of {horizon} steps, which are cut from "
                "trajectories: give window=(k, l)"
            )
        fields = ensemble.schema.fields
        moving = {n for n in self.inputs_of if n in fields and {"time", "step"} & set(fields[n].axes)}
        given = sorted(moving - {"time", *self.outputs_of})
        if given:
            raise Invalid(
                f"roll-outs of {horizon} steps need the inputs {given} at later time levels, and they are no "
                f"outputs; add them to outputs_of, or train {self.surrogate.name} on single steps"
            )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Fit, keeping checkpoints, and store the model."""
        import numpy as np

        from sciflow.environment import forget_peak

        forget_peak()
        ensemble = inputs["ensemble"]
        good = np.flatnonzero(ensemble.read("status") == 1)
        chosen = self.seed if self.split_seed is None else self.split_seed
        parts = split(good, self.train, self.valid, chosen, self.members)
        shard = (ctx.comm.rank, ctx.comm.size)
        samples = self._samples(ensemble, parts[0], self.surrogate.horizon, READ_AHEAD, shard)
        valid = self._samples(ensemble, parts[1], shard=shard)
        begun = self.surrogate.starting_from(inputs["start"]) if "start" in inputs else self.surrogate
        model, history = self._fit(begun, samples, valid, Checkpoints(out.scratch), ctx)
        if ctx.comm.rank:
            return
        for name, members in zip(MODEL, parts, strict=True):
            out.write(name, members, _MEMBERS)
        store_model(self.surrogate, model, history, out)
        out.describe(
            ensemble=ensemble.digest,
            window=self.window and list(self.window),
            pairs=self.pairs and list(self.pairs),
        )

    def _fit(
        self, surrogate: Surrogate, samples: Stored, valid: Stored, kept: Checkpoints, ctx: Context
    ) -> tuple[Model, list[dict[str, float]]]:
        """The fitted model and the metrics of every epoch."""
        history, resume = kept.latest()
        # Nobody may replace what another rank still reads.
        ctx.comm.barrier()
        if resume is not None:
            ctx.log.info("training goes on after epoch %d", len(history))
        # The first epoch may take a while, and loading its libraries too.
        ctx.progress(len(history), surrogate.epochs, "epochs")
        fit = surrogate.fit(samples, valid, ctx, resume)
        saved = time.monotonic()
        while True:
            try:
                report = next(fit)
            except StopIteration as end:
                return end.value, history
            due = time.monotonic() - saved >= self.checkpoint_seconds
            if not report.batches:
                history.append(dict(report.metrics))
                ctx.metric(report.epoch, **report.metrics)
                due = due or report.epoch % self.checkpoint_every == 0
            ctx.progress(report.epoch, report.epochs, "epochs")
            if report.epoch < report.epochs and _agreed(due, ctx):
                state = report.checkpoint()
                if ctx.comm.rank == 0:
                    kept.save(history, state, report.batches)
                saved = time.monotonic()


def _agreed(due: bool, ctx: Context) -> bool:
    """What the first rank says, whose clock counts; collective."""
    return exchange(ctx.comm, "due" if due else "")[0] == "due"


def split(
    members: np.ndarray, train: float, valid: float, seed: int, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint training, validation and test members that cover all, unless there is a limit.

    Parameters
    ----------
    members : ndarray of int, shape (sample,)
        Members with a result.
    train, valid : float
        Fractions; every part gets at least one member.
    seed : int
        Decides who goes where.
    limit : int or None
        Keep so many of the training members; those of a smaller limit are among those of a larger one.

    Raises
    ------
    Invalid
        If there are fewer than three members, or fewer training members than the limit.
    """
    import numpy as np

    if len(members) < 3:
        raise Invalid(
            f"{len(members)} members with a result cannot be split into training, validation and test"
        )
    order = np.random.default_rng(seed).permutation(members)
    n_valid = max(1, round(valid * len(order)))
    n_train = min(max(1, round(train * len(order))), len(order) - n_valid - 1)
    if limit is not None and limit > n_train:
        raise Invalid(f"there are {n_train} training members, not {limit}; take fewer or a larger fraction")
    return (
        np.sort(order[: n_train if limit is None else limit]),
        np.sort(order[n_train : n_train + n_valid]),
        np.sort(order[n_train + n_valid :]),
    )


class Checkpoints:
    """Checkpoints of a training run as safetensors, newest last; no pickle in them.

    Parameters
    ----------
    directory : Path
        Where they are; survives a kill.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, history: list[dict[str, float]], state: Arrays, batches: int = 0) -> None:
        """Write one checkpoint whole or not at all, and drop all others, also what a kill left half-written.

        Parameters
        ----------
        history : list of dict
            Metrics of the finished epochs.
        state : mapping of str to ndarray
            What `Report.checkpoint` gave.
        batches : int
            Batches of the next epoch that are done.
        """
        import numpy as np

        from sciflow.artifact.disk import Disk

        path = self._directory / f"checkpoint-{len(history):06d}-{batches:08d}.safetensors"
        text = np.frombuffer(json.dumps(history).encode(), dtype=np.uint8)
        Disk().replace(path, tensors({"history": text, **{f"state:{k}": v for k, v in state.items()}}))
        for old in self._directory.glob("checkpoint-*"):
            if old != path:
                old.unlink()

    def latest(self) -> tuple[list[dict[str, float]], dict[str, np.ndarray] | None]:
        """The newest readable checkpoint, or an empty history and None."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        for path in sorted(self._directory.glob("checkpoint-*.safetensors"), reverse=True):
            try:
                data = load(path.read_bytes())
                history: list[dict[str, float]] = json.loads(bytes(data["history"]))
                return history, {
                    k.removeprefix("state:"): v for k, v in data.items() if k.startswith("state:")
                }
            except (OSError, ValueError, KeyError, SafetensorError):
                path.unlink(missing_ok=True)
        return [], None


def tensors(arrays: Arrays) -> bytes:
    """Named arrays in the safetensors format; equal arrays give equal bytes."""
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.asarray(values, order="C") for name, values in sorted(arrays.items())}))


def store_model(surrogate: Surrogate, model: Model, history: list[dict[str, float]], out: Writer) -> None:
    """Write a fitted model, its configuration and its learning curves into an artifact.

    The weights are ``files/model.safetensors``, what they belong to is ``files/model.json``.
    """
    import numpy as np

    state = model.state()
    about: dict[str, Any] = {"surrogate": surrogate.to_json(), "signature": model.signature.to_json()}
    if notes := model.notes():
        about["notes"] = dict(notes)
    out.write_file("model.safetensors", tensors(state))
    out.write_file("model.json", json.dumps(about, indent=1, sort_keys=True).encode())
    for metric in sorted({k for row in history for k in row}):
        curve = np.array([row.get(metric, np.nan) for row in history])
        out.write(f"history_{metric}", curve, Field(("epoch",), "any", "float64"))
    weights = sum(int(np.asarray(values).size) for values in state.values())
    out.describe(**about, weights=weights)


def load_model(artifact: Artifact) -> Model:
    """The fitted model in a ``model`` artifact.

    Raises
    ------
    Invalid
        If the artifact is not a model or does not fit its surrogate.
    """
    about: dict[str, Any] = artifact.attributes
    if "surrogate" not in about:
        raise Invalid(f"{artifact.path} holds no fitted surrogate")
    surrogate = registry().build(about["surrogate"], kind="surrogate")
    assert isinstance(surrogate, Surrogate)
    require(surrogate)
    return surrogate.open(artifact)


def samples_of(
    artifact: Artifact, signature: Signature, ensemble: Artifact, members: np.ndarray | None = None
) -> Stored:
    """Members of an ensemble as samples for a stored model, with the time levels it was trained with.

    Parameters
    ----------
    artifact : Artifact
        The ``model`` artifact; it notes the window or the pairs.
    signature : Signature
        The model's.
    ensemble : Artifact
        Any that has its fields and parameters.
    members : ndarray of int, shape (member,), or None
        ``None`` takes all that ended well.

    Raises
    ------
    Invalid, NotFound
        As `Stored` does.
    """
    window, pairs = (artifact.attributes.get(name) for name in ("window", "pairs"))
    return Stored(
        ensemble,
        tuple(signature.inputs),
        tuple(signature.outputs),
        members,
        window=None if window is None else (window[0], window[1]),
        pairs=None if pairs is None else (pairs[0], pairs[1]),
    )
