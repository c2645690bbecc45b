"""Configuration of the fully connected network; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow_operators.training.trained import Trained

if TYPE_CHECKING:
    from torch import nn

    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels


@dataclass(frozen=True, kw_only=True)
class MLP(Trained):
    """Fully connected network from numbers and fields of any shape to fields of any shape.

    Attributes
    ----------
    width : int
        Numbers in each hidden layer.
    layers : int
        Hidden layers.

    Notes
    -----
    How it is trained: see `Trained`.
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
        from sciflow_operators.baselines.mlp_net import MLPNet
        from sciflow_operators.fields.channels import Flat

        layout = Flat.of(signature)
        return layout, MLPNet(layout.channels_in, layout.channels_out, self.width, self.layers)
