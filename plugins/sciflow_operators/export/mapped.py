"""A fitted network as one torch module from named fields to named fields, each in its unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow_operators.fields.channels import Channels, Flat, Layout, groups
from sciflow_operators.training.fitted import Fitted


class Mapped(nn.Module):
    """Scaling, network and scaling back, with the fields' own shapes.

    Parameters
    ----------
    model : Fitted
        On the processor.
    points : sequence of int or None
        Grid of the fields; None takes that of the training samples.

    Raises
    ------
    Invalid
        If the model answers by something else than one pass through its network.
    """

    def __init__(self, model: Fitted, points: Sequence[int] | None = None) -> None:
        super().__init__()
        if type(model).predict is not Fitted.predict or model.passes > 1:
            raise Invalid(
                f"{model.config.name} answers by more than one pass through its network, which an exported "
                "graph does not hold; export the network it is made of, or use sciflow predict"
            )
        self.net = model.net
        self.model = [model]  # in a list: its network is a submodule already
        self.layout: Channels = model.layout
        self.points = _points(model, points)

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        """Outputs in their units from inputs in theirs, in the order of the signature.

        Parameters
        ----------
        *fields : Tensor, shape (batch, [level,] *axes) or (batch,)

        Returns
        -------
        tuple of Tensor, shape (batch, [level,] *axes)
        """
        layout = self.layout
        named = zip(fields, layout.inputs.items(), strict=True)
        columns = [self._column(values, name, count) for values, (name, count) in named]
        values = self.model[0].apply(torch.cat(columns, dim=-1))
        parts = torch.split(values, groups(layout.outputs), dim=-1)
        return tuple(self._field(part, name) for part, name in zip(parts, layout.outputs, strict=True))

    def _column(self, values: Tensor, name: str, count: int) -> Tensor:
        """Channels of an input; what `Channels.stack` does."""
        if isinstance(self.layout, Flat):
            return values.reshape(-1, count)
        if count == 0:
            return values.reshape(-1, *(1,) * (len(self.points) + 1)).expand(-1, *self.points, 1)
        return values.unsqueeze(-1) if values.ndim == 1 + len(self.points) else values.movedim(1, -1)

    def _field(self, part: Tensor, name: str) -> Tensor:
        """An output from its channels; what `Channels.unstack` does."""
        if isinstance(self.layout, Flat):
            return part.reshape(-1, *self.layout.shapes_out[name])
        assert isinstance(self.layout, Layout)
        return part.movedim(-1, 1) if name in self.layout.layered else part.squeeze(-1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of each input."""
        signature, layout = self.model[0].signature, self.layout
        found = {}
        for name, field in signature.inputs.items():
            shape = signature.shape_of(field)
            if isinstance(layout, Layout) and shape:
                shape = (*shape[: len(shape) - len(self.points)], *self.points)
            found[name] = shape
        return found

    def random(self, batch: int, seed: int) -> dict[str, Tensor]:
        """Inputs of normal random numbers with the mean and spread of the training samples.

        Parameters
        ----------
        batch, seed : int
        """
        draw = torch.Generator().manual_seed(seed)
        scale, first, found = self.model[0].scales[0], 0, {}
        for (name, shape), count in zip(self.shapes().items(), groups(self.layout.inputs), strict=True):
            mean, spread = (
                torch.tensor(v[first : first + count]).reshape(self._spread(name, shape))
                for v in (scale.mean, scale.spread)
            )
            found[name] = mean + spread * torch.randn(batch, *shape, generator=draw)
            first += count
        return found

    def _spread(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How the numbers of a field's channels lie beside its values."""
        if isinstance(self.layout, Flat):
            return shape
        levels = max(1, self.layout.inputs[name])
        return (levels, *(1,) * len(self.points)) if len(shape) > len(self.points) else (1,) * len(shape)


def _points(model: Fitted, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """The grid of the fields."""
    if not isinstance(model.layout, Layout):
        if not isinstance(model.layout, Flat):
            raise Invalid(f"the fields of {model.config.name} are laid out in a way that is not exported")
        if wanted:
            raise Invalid(f"{model.config.name} is bound to the grid it was fitted on; leave --points out")
        return ()
    if wanted is None:
        return model.layout.points
    if len(wanted) != len(model.layout.space):
        raise Invalid(
            f"give a number of points for each of {', '.join(model.layout.space)}, got {list(wanted)}"
        )
    return tuple(wanted)


def graph_names(inputs: Mapping[str, object], outputs: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Names in a graph, where every name is a word and stands for one thing.

    ``u[0]`` becomes ``u_0``, ``u[-1]`` becomes ``u_m1``; an output that has the name of an input gets
    ``_out`` behind it.
    """
    taken: set[str] = set()

    def word(name: str, suffix: str) -> str:
        made = re.sub(r"\W+", "_", name.replace("-", "m")).strip("_")
        while made in taken:
            made += suffix
        taken.add(made)
        return made

    return [word(n, "_") for n in inputs], [word(n, "_out") for n in outputs]
