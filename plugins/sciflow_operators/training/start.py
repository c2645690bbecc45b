"""Parts of a network that do not begin with random weights, and what they say of where those came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import nn

from sciflow.errors import SciflowError
from sciflow_operators.fields.channels import groups

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_operators.fields.channels import Channels, Scale


@runtime_checkable
class Prepared(Protocol):
    """A module with a beginning of its own; wrappers hold it as a submodule and need not know it."""

    def begin(self, log: logging.Logger, scalars: Mapping[str, tuple[float, float]]) -> None:
        """Called once, before a training that does not go on from a checkpoint.

        Parameters
        ----------
        log : Logger
            Of the training.
        scalars : mapping of str to (float, float)
            Mean and spread by which each scalar input is standardised, in its unit.
        """

    def notes(self) -> Mapping[str, Any]:
        """See `Model.notes`."""


def begin(net: nn.Module, layout: Channels, scale: Scale, ctx: Context) -> None:
    """Call `Prepared.begin` of every part of a network that has one; collective.

    Parameters
    ----------
    net : Module
        With random weights.
    layout : Channels
        What its input channels are.
    scale : Scale
        Of the input channels.
    ctx : Context
        Of the training.

    Raises
    ------
    SciflowError
        What a part raises, once all ranks know of it.
    """
    scalars, first = {}, 0
    for (name, count), width in zip(layout.inputs.items(), groups(layout.inputs), strict=True):
        if not count:
            scalars[name] = (float(scale.mean[first]), float(scale.spread[first]))
        first += width
    fault: SciflowError | None = None
    try:
        for part in net.modules():
            if isinstance(part, Prepared):
                part.begin(ctx.log, scalars)
    except SciflowError as error:
        fault = error
    ctx.all_ok(fault)


def notes(net: nn.Module) -> dict[str, Any]:
    """What the parts of a network say of themselves; see `Model.notes`."""
    found: dict[str, Any] = {}
    for part in net.modules():
        if isinstance(part, Prepared):
            found |= part.notes()
    return found
