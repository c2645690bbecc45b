"""Sizes of the scalable operator transformer: plain numbers, torch is not needed to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from sciflow.errors import Invalid


@dataclass(frozen=True)
class Architecture:
    """Sizes of a scalable operator transformer (scOT).

    Attributes
    ----------
    points : int
        Grid points along each of the two axes. Other grids are resampled to this one and back.
    patch : int
        Grid points of a token along each axis.
    width : int
        Channels of the first stage; each later one has twice as many, on a grid half as fine.
    depths, heads : tuple of int
        Attention blocks of each stage, and heads of their attention.
    skips : tuple of int
        ConvNeXt blocks between the encoder's and the decoder's half of each stage.
    window : int
        Tokens along each axis that attend to each other; all of them where a stage has fewer.
    expansion : float
        Width of the perceptrons over that of their stage.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    points: int = 128
    patch: int = 4
    width: int = 48
    depths: tuple[int, ...] = (4, 4, 4, 4)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    skips: tuple[int, ...] = (2, 2, 2, 0)
    window: int = 16
    expansion: float = 4.0

    def __post_init__(self) -> None:
        if min(self.points, self.patch, self.width, self.window) < 1 or self.expansion <= 0:
            raise Invalid("points, patch, width and window must be at least 1 and expansion positive")
        stages = len(self.depths)
        if not stages or len(self.heads) != stages or len(self.skips) != stages:
            raise Invalid(
                f"depths, heads and skips need one number for each stage, got {self.depths}, "
                f"{self.heads} and {self.skips}"
            )
        if min(self.depths) < 1 or min(self.heads) < 1 or min(self.skips) < 0:
            raise Invalid("every stage needs a block and a head, and skips cannot be negative")
        if self.points % (self.patch * 2 ** (stages - 1)):
            raise Invalid(
                f"points must be a multiple of {self.patch * 2 ** (stages - 1)} (a patch, and half the "
                f"resolution in {stages - 1} stages), got {self.points}"
            )
        for stage, heads in enumerate(self.heads):
            tokens, width = self.tokens(stage), self.channels(stage)
            if width % heads:
                raise Invalid(f"stage {stage} has {width} channels, which {heads} heads cannot share equally")
            if tokens % min(self.window, tokens):
                raise Invalid(
                    f"stage {stage} has {tokens} tokens along an axis, which windows of {self.window} "
                    "do not fill; choose a window that divides them"
                )

    def tokens(self, stage: int) -> int:
        """Tokens along each axis of a stage."""
        return self.points // self.patch >> stage

    def channels(self, stage: int) -> int:
        """Channels of a stage."""
        return self.width << stage


SIZES: Mapping[str, Architecture] = MappingProxyType(
    {
        "T": Architecture(),
        "S": Architecture(depths=(8, 8, 8, 8)),
        "B": Architecture(width=96, depths=(8, 8, 8, 8)),
        "L": Architecture(width=192, depths=(8, 8, 8, 8)),
    }
)
"""The published sizes, by letter."""
