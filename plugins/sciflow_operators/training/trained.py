"""The configuration that all trained networks share; torch is imported where it is used."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.surrogate import Arrays, Model, Report, Surrogate
from sciflow_operators.fields.port import Port
from sciflow_operators.training.losses import Loss, RelativeL2
from sciflow_operators.training.unroll import Once, Unroll

if TYPE_CHECKING:
    from torch import nn

    from sciflow.context import Context
    from sciflow.samples import Samples, Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.training.fitted import Fitted


_NOT_NEGATIVE = ("noise", "patience", "drops", "report_every")


@dataclass(frozen=True, kw_only=True)
class Trained(Surrogate):
    """A network that `sciflow_operators.training.loop.fit` trains; a subclass says which.

    Attributes
    ----------
    epochs : int
        Passes over the training samples.
    batch : int
        Samples per batch, of all ranks together.
    accumulate : int
        Batches whose gradients are averaged for one update of the weights.
    learning_rate : float
        Largest learning rate of the schedule.
    weight_decay : float
        Of AdamW, on weights only.
    schedule : {"onecycle", "cosine", "step", "constant"}
        How the learning rate changes from update to update; see `optimiser.rate`.
    warmup : float
        Part of the updates in which the learning rate rises from 0; not of ``onecycle``, which rises
        by itself.
    drops : int
        How often ``step`` halves the learning rate.
    loss : Loss
        What is minimised.
    unroll : Unroll
        On how many of its own steps the network is trained.
    noise : float
        Standard deviation of the noise that is added to inputs that are fields, in units of each
        channel's spread.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    ema : float
        Decay of the exponential average of the weights over the updates, such as 0.999; the average is
        then what is validated and what the model is in the end. 0 takes the weights themselves.
    keep : {"last", "best"}
        Which epoch's weights are the model: the last one's, or those with the least validation error.
    patience : int
        Epochs without a smaller validation error after which training ends; 0 never ends it early.
    precision : {"float32", "bfloat16"}
        ``bfloat16`` trains in mixed precision (autocast); weights, losses and predictions stay in single
        precision.
    compile : {"off", "auto", "on"}
        Let torch compile the network for training, on a GPU with CUDA graphs; ``auto`` does so on a GPU.
        Where there is no compiler, the log says so and training goes on without.
    report_every : int
        Updates between two reports amid an epoch, from which training can be resumed; 0 reports only at
        the ends of epochs.
    threads : int
        Torch threads; 0 takes all cores this process may use, or ``OMP_NUM_THREADS`` if that is fewer.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU where there is one; ``cuda`` refuses to train without one.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    epochs: int = 60
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["onecycle", "cosine", "step", "constant"] = "onecycle"
    warmup: float = 0.0
    drops: int = 5
    loss: Loss = RelativeL2()
    unroll: Unroll = Once()
    noise: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    keep: Literal["last", "best"] = "last"
    patience: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["off", "auto", "on"] = "off"
    report_every: int = 0
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("width", "modes", "layers", "epochs", "batch", "accumulate"):
            value = getattr(self, name, 1)
            if any(v < 1 for v in (value if isinstance(value, tuple) else (value,))):
                raise Invalid(f"{name} must be at least 1, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise Invalid(f"learning_rate must be positive and finite, got {self.learning_rate}")
        for name in ("padding", "radius", "weight_decay", "clip", "threads", *_NOT_NEGATIVE):
            if not getattr(self, name, 0) >= 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")
        for name in ("ema", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def horizon(self) -> int:
        """See `Surrogate.horizon`."""
        return self.unroll.horizon

    @abstractmethod
    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """How fields become channels, and a network with random weights between them.

        Raises
        ------
        Invalid
            If it cannot map such fields.
        """

    def fitted(
        self, signature: Signature, layout: Channels, net: nn.Module, scales: tuple[Scale, Scale]
    ) -> Fitted:
        """The model around a network; overridden where it is trained or asked in a way of its own."""
        from sciflow_operators.training.fitted import Fitted

        return Fitted(self, signature, layout, net, scales)

    def groups(self, net: nn.Module) -> list[tuple[list[nn.Parameter], float, float]]:
        """Groups of weights, each with its factors of learning rate and weight decay.

        By default all learn at the same rate, and only those with more than one axis decay.
        """
        weights: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for p in net.parameters():
            (weights if p.ndim > 1 else others).append(p)
        return [(weights, 1.0, 1.0), (others, 1.0, 0.0)]

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`."""
        from sciflow_operators.training.loop import fit

        return fit(self, samples, valid, ctx, resume)

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        from sciflow_operators.training.fitted import load

        return load(self, state, signature)


@dataclass(frozen=True, kw_only=True)
class Gridded(Trained):
    """A network between fields on one regular grid, channels last; a subclass says which.

    Attributes
    ----------
    increments : bool
        Learn the change from the last input level of the same name, where every output has one.
    """

    dimensions: ClassVar[tuple[int, ...]] = (1, 2)
    increments: bool = False

    @abstractmethod
    def module(self, port: Port) -> nn.Module:
        """A network with random weights: (batch, *points, channel in) to (batch, *points, channel out).

        Wrappers call it with ports of their own.

        Raises
        ------
        Invalid
            If it cannot map such fields.
        """

    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """See `Trained.network`."""
        from sciflow_operators.fields.channels import Layout, port

        layout = Layout.of(signature, increments=self.increments)
        if len(layout.space) not in self.dimensions:
            able = " or ".join(map(str, self.dimensions))
            raise Invalid(f"{self.name} takes {able} spatial axes, these fields have {layout.space}")
        return layout, self.module(port(layout, signature))


def on_a_grid(name: str, inner: Surrogate) -> None:
    """Refuse as the inner network of `name` what is none of a regular grid.

    Raises
    ------
    Invalid
        If it is none.
    """
    if not isinstance(inner, Gridded):
        what = getattr(inner, "name", type(inner).__name__)
        raise Invalid(f"{name}.inner must be a network of a regular grid, such as fno or unet; got {what}")
