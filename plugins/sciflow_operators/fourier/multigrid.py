"""Configuration of the multi-grid domain decomposition; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port
from sciflow_operators.fourier.fno import FNO
from sciflow_operators.training.trained import Gridded, Trained, on_a_grid

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MultiGrid(Gridded):
    """A network that sees one patch of the domain at a time, with coarser views of its surroundings.

    Attributes
    ----------
    inner : Gridded
        The network of a patch. What it says of training is not used; its increments neither.
    levels : int
        ``2**levels`` patches along each axis. The input of each is given ``levels`` times more, with every
        2nd, 4th, ... point around the same centre, as further channels. The coarsest view is then as large
        as the whole domain.
    halo : float
        Points added on both sides of a patch, as a fraction of the whole axis; what the network gives
        there is cut off.
    edge : {"reflect", "replicate"}
        What stands beyond the ends of an axis that is not periodic: the mirrored field or its end value.
    coordinates : bool
        Also give the network the coordinates of each point in the whole domain.

    Notes
    -----
    How it is trained: see `Trained`. A patch is no periodic domain, so a Fourier network adds its own
    padding to each patch: the halo may serve instead (``inner.padding = 0``).

    References
    ----------
    J. Kossaifi, N. Kovachki, K. Azizzadenesheli and A. Anandkumar, "Multi-grid tensorized Fourier neural
    operator for high-resolution PDEs", TMLR 2024.
    """

    name: ClassVar[str] = "multigrid"
    dimensions: ClassVar[tuple[int, ...]] = (1, 2, 3)
    inner: Gridded = FNO(factorisation="tucker", padding=0.0, coordinates=False)
    levels: int = 1
    halo: float = 0.0625
    edge: Literal["reflect", "replicate"] = "reflect"
    coordinates: bool = True
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        on_a_grid(self.name, self.inner)
        # An FNO that trains on several grids has an objective of its own and answers as any other.
        if type(self.inner).fitted not in (Trained.fitted, FNO.fitted):
            raise Invalid(
                f"{self.inner.name} is trained in a way of its own and cannot be inside {self.name}; "
                f"put {self.name} inside it"
            )
        if not 0 <= self.levels <= 6:
            raise Invalid(f"levels must be 0 to 6, got {self.levels}")
        if not 0 <= self.halo < 0.5:
            raise Invalid(f"halo must be a fraction of the axis in [0, 0.5), got {self.halo}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        small = FNO.example().replace(padding=0.0, coordinates=False)
        return cls(inner=small, epochs=4, batch=4, threads=1, device="cpu")

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.fourier.patches import Patched, window

        count = len(port.points)
        if count not in self.inner.dimensions:
            able = " or ".join(map(str, self.inner.dimensions))
            raise Invalid(f"{self.inner.name} takes {able} spatial axes, these fields have {count}")
        if min(port.points) < 2 ** (self.levels + 1):
            raise Invalid(
                f"levels={self.levels} cuts each axis into {2**self.levels} patches of at least 2 points; "
                f"the grid has {port.points}"
            )
        points = window(port.points, self.levels, self.halo)
        inner = self.inner.module(self._patch(port, points))
        return Patched(inner, self.levels, self.halo, port.periodic, self.edge, self.coordinates)

    def _patch(self, port: Port, points: tuple[int, ...]) -> Port:
        """What the network of a patch takes: the channels of all views, coordinates behind the others."""
        axes = len(points) if self.coordinates else 0
        width = port.channels_in + axes
        names = (*port.names, *(f"coordinate_{i}" for i in range(axes)))
        fields = (*port.fields, *range(port.channels_in, width))
        views = range(self.levels + 1)
        # A number for each sample is the same in every view: it counts once, the others are taken for fields.
        more = tuple(v * width + i for v in views for i in range(width) if v or i in fields)
        return replace(
            port,
            fields=more,
            points=points,
            periodic=tuple(p and not self.levels and not self.halo for p in port.periodic),
            names=tuple(name if not v else f"{name}_{2**v}" for v in views for name in names),
        )
