"""Configuration of a network that refines its own prediction; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.training.losses import Loss, Squared
from sciflow_operators.wrappers.wrapped import Wrapped

if TYPE_CHECKING:
    from torch import nn

    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.training.fitted import Fitted


@dataclass(frozen=True, kw_only=True)
class Refiner(Wrapped):
    """A network that predicts, adds a little noise to its prediction, and takes the noise off again.

    Attributes
    ----------
    inner : Gridded
        The network. It gets the noised prediction as further fields and how far it is in the
        refinement as a further number of each sample, named ``"refinement"``, from -1 to 1.
    steps : int
        Refinements after the first prediction; 0 is the inner network alone.
    variance : float
        Of the noise of the last refinement, as a part of the variance of what is predicted.
    draws : int
        Predictions with noise of their own, of which `Model.spread` is the standard deviation.

    Notes
    -----
    How it is trained: see `Trained`; the objective is one of its own and `loss` is not read. The noise of
    a prediction comes from a generator with a fixed seed: equal inputs give equal predictions, and all
    samples of a batch get the same noise.

    Equations: see `sciflow_operators.wrappers.refined`.

    References
    ----------
    P. Lippe, B. Veeling, P. Perdikaris, R. Turner and J. Brandstetter, "PDE-Refiner: achieving accurate
    long rollouts with neural PDE solvers", NeurIPS 2023, arXiv:2308.05732, section 3.2.
    """

    name: ClassVar[str] = "refiner"
    steps: int = 3
    variance: float = 4e-7
    draws: int = 8
    increments: bool = True
    loss: Loss = Squared()
    ema: float = 0.995

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0:
            raise Invalid(f"steps cannot be negative, got {self.steps}")
        if not 0 < self.variance < 1:
            raise Invalid(f"variance is a part of that of the fields, between 0 and 1, got {self.variance}")
        if self.draws < 2:
            raise Invalid(f"a spread needs at least 2 draws, got {self.draws}")
        if self.loss != Squared():
            raise Invalid(f"the objective of a refiner is squared; {self.loss.name!r} would not be read")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        from sciflow_operators.fourier.fno import FNO

        inner = FNO(width=4, modes=4, layers=2)
        return cls(inner=inner, steps=2, variance=1e-2, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`; takes the noised prediction and ``"refinement"`` behind the inputs."""
        if not self.steps:
            return self.inner.module(port)
        first, last = port.channels_in, port.channels_in + port.channels_out
        return self.inner.module(
            Port(
                (*port.fields, *range(first, last)),
                (*port.scalars, last),
                port.channels_out,
                port.points,
                port.periodic,
                (*port.names, *["noised"] * port.channels_out, "refinement"),
            )
        )

    def fitted(
        self, signature: Signature, layout: Channels, net: nn.Module, scales: tuple[Scale, Scale]
    ) -> Fitted:
        """See `Trained.fitted`."""
        from sciflow_operators.wrappers.refined import Refined

        return Refined(self, signature, layout, net, scales)
