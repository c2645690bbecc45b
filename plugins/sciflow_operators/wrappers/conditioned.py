"""Configuration of a network told the parameters by attention; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.wrappers.wrapped import Wrapped

if TYPE_CHECKING:
    from torch import nn

    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.training.fitted import Fitted


@dataclass(frozen=True, kw_only=True)
class Conditioned(Wrapped):
    """A rough prediction, steered by the scalar parameters, in front of any network.

    Attributes
    ----------
    inner : Gridded
        The network; it gets the rough prediction as further fields beside all inputs.
    features : int
        Channels of each of the three intermediate fields, for each input field.
    hidden : int
        Width of the perceptron from the parameters to the masks.
    kernel : int
        Points of the depth-wise convolution along each axis; odd.
    modes : int
        Fourier modes of the spectral convolution along each axis, both signs counted; no more than the
        training grid carries.
    pull : float
        Weight of the loss of the rough prediction.

    Notes
    -----
    How it is trained: see `Trained`. Equations: see `ConditionedNet`.

    References
    ----------
    M. Takamoto, F. Alesiani and M. Niepert, "Learning neural PDE solvers with parameter-guided channel
    attention", ICML 2023, arXiv:2304.14118. Written from the description; the authors' code was not read.
    """

    name: ClassVar[str] = "conditioned"
    features: int = 8
    hidden: int = 32
    kernel: int = 5
    modes: int = 16
    pull: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("features", "hidden", "kernel"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kernel % 2 == 0:
            raise Invalid(f"kernel must be odd, got {self.kernel}")
        if self.pull < 0:
            raise Invalid(f"pull cannot be negative, got {self.pull}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        from sciflow_operators.fourier.fno import FNO

        inner = FNO(width=4, modes=4, layers=2)
        return cls(inner=inner, features=2, hidden=4, modes=4, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.wrappers.conditioned_net import ConditionedNet

        if not port.fields:
            raise Invalid(f"{self.name} needs an input that is a field, there are {', '.join(port.names)}")
        return ConditionedNet(self, port)

    def fitted(
        self, signature: Signature, layout: Channels, net: nn.Module, scales: tuple[Scale, Scale]
    ) -> Fitted:
        """See `Trained.fitted`."""
        from sciflow_operators.wrappers.conditioned_net import Pulled

        return Pulled(self, signature, layout, net, scales)
