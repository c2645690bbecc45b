"""Entry point of the plugin: configurations only, torch is imported where they are used."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow.hooks import hookimpl
from sciflow.surrogate import Arrays, Model, Report, Surrogate

if TYPE_CHECKING:
    from torch import nn

    from sciflow.context import Context
    from sciflow.samples import Samples, Signature
    from sciflow_operators.channels import Channels


@dataclass(frozen=True, kw_only=True)
class Trained(Surrogate):
    """A network that `sciflow_operators.training.fit` trains; a subclass says which.

    Attributes
    ----------
    epochs : int
        Passes over the training samples.
    batch : int
        Samples per step, of all ranks together.
    learning_rate : float
        Largest learning rate of the schedule.
    weight_decay : float
        Of AdamW, on weights only.
    schedule : {"onecycle", "cosine"}
        How the learning rate changes from step to step.
    loss : {"relative_l2", "squared"}
        What is minimised.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    threads : int
        Torch threads.
    device : {"auto", "cpu", "cuda"}
        Where.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    loss: Literal["relative_l2", "squared"] = "relative_l2"
    clip: float = 1.0
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("width", "modes", "layers", "epochs", "batch"):
            if getattr(self, name, 1) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise Invalid(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("padding", "radius", "weight_decay", "clip", "threads"):
            if getattr(self, name, 0) < 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")

    @abstractmethod
    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """How fields become channels, and a network with random weights between them.

        Raises
        ------
        Invalid
            If it cannot map such fields.
        """

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`."""
        from sciflow_operators.training import fit

        return fit(self, samples, valid, ctx, resume)

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        from sciflow_operators.model import load

        return load(self, state, signature)


@dataclass(frozen=True, kw_only=True)
class FNO(Trained):
    """Fourier neural operator in one or two dimensions.

    Attributes
    ----------
    width : int
        Channels of the hidden layers.
    modes : int
        Fourier modes kept along each axis (both signs counted).
    layers : int
        Fourier layers.
    padding : float
        Fraction of the domain that is added along axes that are not periodic; a Fourier series is
        periodic, so without it the two ends of such an axis are neighbours.
    coordinates : bool
        Also give the network the grid coordinates. Without them, it commutes with every shift of a
        periodic domain.
    epochs : int
        Passes over the training samples.
    batch : int
        Samples per step, of all ranks together.
    learning_rate : float
        Largest learning rate of the schedule.
    weight_decay : float
        Of AdamW, on weights only.
    schedule : {"onecycle", "cosine"}
        How the learning rate changes from step to step.
    loss : {"relative_l2", "squared"}
        ``relative_l2``: error over the norm of each sample's field. ``squared``: mean square of the
        error over the spread of each channel of the field.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    threads : int
        Torch threads; 0 takes all cores this process may use, or ``OMP_NUM_THREADS`` if that is fewer.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU where there is one.
    """

    name: ClassVar[str] = "fno"
    width: int = 32
    modes: int = 16
    layers: int = 4
    padding: float = 0.125
    coordinates: bool = True
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2:
            raise Invalid(f"width must be at least 2, got {self.width}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, modes=4, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """See `Trained.network`."""
        from sciflow_operators.channels import Layout
        from sciflow_operators.fno import FNONet

        layout = Layout.of(signature)
        return layout, FNONet(
            layout.channels_in,
            layout.channels_out,
            self.width,
            [self.modes] * len(layout.space),
            self.layers,
            [axis in signature.periodic for axis in layout.space],
            self.padding,
            self.coordinates,
        )


@dataclass(frozen=True, kw_only=True)
class MLP(Trained):
    """Fully connected network from numbers and fields of any shape to fields of any shape.

    Attributes
    ----------
    width : int
        Numbers in each hidden layer.
    layers : int
        Hidden layers.
    epochs : int
        Passes over the training samples.
    batch : int
        Samples per step, of all ranks together.
    learning_rate : float
        Largest learning rate of the schedule.
    weight_decay : float
        Of AdamW, on weights only.
    schedule : {"onecycle", "cosine"}
        How the learning rate changes from step to step.
    loss : {"relative_l2", "squared"}
        ``relative_l2``: error over the norm of each sample's field. ``squared``: mean square of the
        error over the spread of each channel of the field.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    threads : int
        Torch threads; 0 takes all cores this process may use, or ``OMP_NUM_THREADS`` if that is fewer.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU where there is one.
    """

    name: ClassVar[str] = "mlp"
    width: int = 256
    layers: int = 4
    weight_decay: float = 0.0

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=8, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """See `Trained.network`."""
        from sciflow_operators.channels import Flat
        from sciflow_operators.mlp import MLPNet

        layout = Flat.of(signature)
        return layout, MLPNet(layout.channels_in, layout.channels_out, self.width, self.layers)


@dataclass(frozen=True, kw_only=True)
class MPPDE(Trained):
    """Message-passing neural PDE solver on regular grids in one or two dimensions.

    Attributes
    ----------
    width : int
        Channels of each grid point.
    layers : int
        Message-passing steps.
    radius : int
        Points within this distance, in grid points, are neighbours; 0 takes 2 on a line and 1 in a
        plane, four neighbours each.
    coordinates : bool
        Also give each point its coordinates. Without them, it commutes with every shift of a periodic
        domain.
    epochs : int
        Passes over the training samples.
    batch : int
        Samples per step, of all ranks together.
    learning_rate : float
        Largest learning rate of the schedule.
    weight_decay : float
        Of AdamW, on weights only.
    schedule : {"onecycle", "cosine"}
        How the learning rate changes from step to step.
    loss : {"relative_l2", "squared"}
        ``relative_l2``: error over the norm of each sample's field. ``squared``: mean square of the
        error over the spread of each channel, or of its increments where those are learned.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    threads : int
        Torch threads; 0 takes all cores this process may use, or ``OMP_NUM_THREADS`` if that is fewer.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU where there is one.
    """

    name: ClassVar[str] = "mp_pde"
    width: int = 32
    layers: int = 4
    radius: int = 0
    coordinates: bool = True
    learning_rate: float = 4e-3
    loss: Literal["relative_l2", "squared"] = "squared"

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(width=4, layers=2, epochs=4, batch=4, threads=1, device="cpu")

    def network(self, signature: Signature) -> tuple[Channels, nn.Module]:
        """See `Trained.network`."""
        from sciflow_operators.channels import Layout, places
        from sciflow_operators.mp_pde import MPPDENet

        layout = Layout.of(signature, increments=True)
        fields, scalars = places(layout.inputs)
        return layout, MPPDENet(
            fields,
            scalars,
            layout.channels_out,
            self.width,
            self.layers,
            self.radius or (2 if len(layout.space) == 1 else 1),
            [axis in signature.periodic for axis in layout.space],
            self.coordinates,
        )


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [FNO, MLP, MPPDE]
