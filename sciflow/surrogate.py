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

    def doubt(self, x: Arrays) -> np.ndarray | None:
        """How wrong each answer of `predict` may be, as the model itself sees it.

        Parameters
        ----------
        x : mapping of str to ndarray, shape (batch, ...)
            As for `predict`.

        Returns
        -------
        ndarray of float64, shape (batch,), or None
            An estimated upper bound of the error of each answer over the size of the answer (of all outputs
            together, in the Euclidean norm): not negative, infinite where there is no answer. None where the
            model cannot say; then who asks must judge by other means, such as where its training members lie.

        Notes
        -----
        By default the norm of `spread` over the norm of the prediction, the worst of the outputs, and
        None without a spread. That is a scale of the error and no bound that holds: calibrate it
        (`sciflow.stages.calibrate.Calibration.doubt`).
        """
        spread = self.spread(x)
        return None if spread is None else relative_size(spread, self.predict(x))

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


def relative_size(part: Arrays, whole: Arrays) -> np.ndarray:
    """Norm of every sample of one thing over that of another, the largest of the outputs.

    Parameters
    ----------
    part, whole : mapping of str to ndarray, shape (batch, ...)
        In one unit for each name.

    Returns
    -------
    ndarray of float64, shape (batch,)
        Infinite where a value of either is not finite, or `whole` is zero and `part` is not.
    """
    import numpy as np

    found = []
    for name, values in part.items():
        sizes = [np.linalg.norm(np.asarray(a[name], dtype=np.float64).reshape(len(values), -1), axis=1)
                 for a in (part, whole)]  # fmt: skip
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(sizes[0] == 0, 0.0, sizes[0] / sizes[1])
        found.append(np.where(np.isfinite(sizes[0] + sizes[1]), ratio, np.inf))
    return np.asarray(np.max(found, axis=0))


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

    def starting_from(self, start: Artifact) -> Surrogate:
        """What to `fit` so that training begins with the weights of a fitted model; none by default.

        Parameters
        ----------
        start : Artifact
            Of kind ``model``, fitted to other data, perhaps with fewer or other fields.

        Raises
        ------
        Invalid
            If this surrogate cannot begin with that model.
        """
        raise Invalid(f"{self.name} cannot begin with the weights of a model; leave out 'start'")

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
