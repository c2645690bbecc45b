"""Surrogate: a learned solution operator; its configuration, and the fitted model it gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Samples, Signature

Arrays = Mapping[str, "np.ndarray"]
"""Named arrays: all that a model or a checkpoint may consist of (never a pickle)."""


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes
    ----------
    parameters : int
        Numbers that were learned.
    operations : float
        Floating-point operations of one prediction, a multiplication and an addition counted as two;
        NaN where nobody counted.
    """

    parameters: int
    operations: float = math.nan


class Model(ABC):
    """A fitted surrogate.

    Attributes
    ----------
    signature : Signature
        What it maps from and to.
    """

    signature: Signature

    @abstractmethod
    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """Predict outputs for a batch.

        Parameters
        ----------
        x : mapping of str to ndarray, shape (batch, ...)
            The inputs of `signature`, in their units.

        Returns
        -------
        dict of str to ndarray, shape (batch, ...)
            The outputs of `signature`, in their units.
        """

    def spread(self, x: Arrays) -> dict[str, np.ndarray] | None:
        """How unsure the model says it is of `predict`; None, as here, where it cannot say.

        Parameters
        ----------
        x : mapping of str to ndarray, shape (batch, ...)
            As for `predict`.

        Returns
        -------
        dict of str to ndarray, shape (batch, ...), or None
            A standard deviation of every value of every output, in its unit. Only calibration
            (`sciflow.stages.calibrate`) tells how far the truth is from a prediction.
        """
        return None

    @abstractmethod
    def state(self) -> Arrays:
        """The arrays that `Surrogate.load` needs to build this model again, bit for bit."""

    def notes(self) -> Mapping[str, Any]:
        """What whoever uses this model must know, such as a licence or where first weights came from.

        Plain JSON types. Kept in the attributes of the ``model`` artifact and shown in the report.
        """
        return {}

    def size(self, x: Arrays) -> Size:
        """How large this model is; by default every number of `state` counts as learned.

        Parameters
        ----------
        x : mapping of str to ndarray, shape (1, ...)
            Inputs of one prediction.
        """
        return Size(sum(int(values.size) for values in self.state().values()))


@dataclass(frozen=True)
class Report:
    """What `Surrogate.fit` says after each epoch, and now and then amid one.

    Attributes
    ----------
    epoch : int
        Epochs finished so far.
    epochs : int
        Epochs in all.
    metrics : mapping of str to float
        Such as ``train_loss``, ``valid_error``, ``learning_rate``.
    checkpoint : callable
        Returns everything needed to go on from here as if nothing had happened. Called only when the
        caller wants to keep it, and before it asks for the next report.
    batches : int
        Batches of the next epoch that are done already; 0 right after an epoch. A report amid an epoch
        is there to be kept: curves are made of the others.
    """

    epoch: int
    epochs: int
    metrics: Mapping[str, float]
    checkpoint: Callable[[], Arrays]
    batches: int = 0


class Surrogate(Component):
    """The configuration of a learned solution operator.

    Attributes
    ----------
    epochs : int
        Reports of `fit`; for stored samples, passes over them. 1 where it is fitted in one go.
    """

    kind: ClassVar[str] = "surrogate"
    epochs: int = 1

    @property
    def horizon(self) -> int:
        """How many of its own steps one training sample holds, for training on roll-outs.

        The outputs of the training samples that `fit` gets have so many times the time levels that the
        model predicts; the validation samples are single steps, and their signature is the model's.
        """
        return 1

    @abstractmethod
    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """Fit a model; a generator, so that the caller logs, stops and checkpoints.

        Parameters
        ----------
        samples, valid : Samples
            Training and validation samples with equal signatures, but for `horizon`.
        ctx : Context
            ``ctx.seed`` decides every random choice. With several ranks in ``ctx.comm`` each brings
            samples of its own (see `Samples`) and all of them get the same model.
        resume : mapping of str to ndarray or None
            A checkpoint of an earlier `Report`; training goes on after it, bit for bit.

        Yields
        ------
        Report
            After each epoch, and amid one where the configuration asks for it and the samples are
            `Samples.resumable`.

        Returns
        -------
        Model
            The fitted model, as the value of the generator.

        Raises
        ------
        Diverged
            If the loss is no longer finite.
        Invalid
            If the signature cannot be fitted (wrong number of axes, say).
        """

    @abstractmethod
    def load(self, state: Arrays, signature: Signature) -> Model:
        """Build a fitted model from `Model.state`.

        Raises
        ------
        Invalid
            If arrays are missing or have other shapes than this configuration.
        """

    def open(self, artifact: Artifact) -> Model:
        """The fitted model in a ``model`` artifact of this configuration.

        Reads ``files/model.safetensors`` whole and gives it to `load`; a surrogate whose artifact holds
        more than that, read when it is needed, overrides this.

        Raises
        ------
        Invalid
            If the artifact is damaged or does not fit this configuration.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        from sciflow.samples import Signature

        file = artifact.file("model.safetensors")
        try:
            state = load(file.read_bytes())
        except SafetensorError as error:
            raise Invalid(f"{file} is damaged: {error}") from None
        return self.load(state, Signature.from_json(artifact.attributes["signature"]))
