"""Port: what goes into and comes out of a network on a regular grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """What goes into and comes out of a network on a regular grid.

    Attributes
    ----------
    fields, scalars : tuple of int
        Input channels that are fields, and those that are one number for each sample (a parameter, a
        time), given as a constant field.
    channels_out : int
        Output channels.
    points : tuple of int
        The grid of the training samples.
    periodic : tuple of bool
        Whether the domain is periodic along each axis.
    names : tuple of str
        Of the input channels; the name of the field or parameter of each.
    """

    fields: tuple[int, ...]
    scalars: tuple[int, ...]
    channels_out: int
    points: tuple[int, ...]
    periodic: tuple[bool, ...]
    names: tuple[str, ...]

    @property
    def channels_in(self) -> int:
        """Number of input channels."""
        return len(self.fields) + len(self.scalars)
