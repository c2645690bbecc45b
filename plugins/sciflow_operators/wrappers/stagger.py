"""Configuration of a network on staggered coarse grids; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.wrappers.wrapped import Wrapped

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Stagger(Wrapped):
    """A fine grid as several coarse ones, each with every `factor`-th point, in front of any network.

    Attributes
    ----------
    inner : Gridded
        The network on the coarse grid; one-, two- or three-dimensional as it can.
    factor : int
        Points of the fine grid for one of the coarse grid, along each axis.
    joint : bool
        One network sees all coarse grids at once, as channels. Otherwise each coarse grid has a network
        of its own that sees nothing else.

    Notes
    -----
    How it is trained: see `Trained`; all networks together, through the fine field.

    ``joint`` is the default: a coarse grid alone cannot tell waves that differ by its sampling rate, and
    one network of the width of a fine one costs ``factor ** -d`` of it, where ``factor ** d`` networks
    cost as much as the fine one. Separate networks are those of the paper; they pay where they run on
    machines of their own.

    References
    ----------
    X. Huang et al., "NeuralStagger: accelerating physics-constrained neural PDE solver with spatial-temporal
    decomposition", ICML 2023, arXiv:2302.10255.
    """

    name: ClassVar[str] = "stagger"
    factor: int = 2
    joint: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 2:
            raise Invalid(f"factor must be at least 2, got {self.factor}; use the inner network alone")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        from sciflow_operators.fourier.fno import FNO

        inner = FNO(width=4, modes=4, layers=2)
        return cls(inner=inner, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.wrappers.stagger_net import StaggerNet

        return StaggerNet(self.inner, port, self.factor, self.joint)
