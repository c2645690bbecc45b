"""Periodic continuation of fields along axes that are not periodic."""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow_operators.fourier.dft import kept


def gap(extra: int, ends: int, device: torch.device | None = None) -> Tensor:
    """The polynomial through both ends of an axis, at the points between its end and its next beginning.

    Parameters
    ----------
    extra : int
        Points in the gap.
    ends : int
        Points of each end that the polynomial takes.
    device : device, optional
        Of the result.

    Returns
    -------
    Tensor of float64, shape (extra, 2 * ends)
        From the last and the first points of the axis to the gap.

    Notes
    -----
    Lagrange's form of the one polynomial of degree ``2 * ends - 1`` through these points. On a fine grid
    it becomes Hermite's: the continued function then has ``ends - 1`` continuous derivatives, and that of
    a smooth function with the period of the longer domain is met with an error of order ``2 * ends`` in
    the length of the gap.
    """
    line = torch.arange(1 - ends, extra + 1 + ends, device=device).to(torch.float64)
    nodes = torch.cat([line[:ends], line[-ends:]])
    at = line[ends:-ends, None] - nodes
    columns = []
    for i in range(2 * ends):
        apart = nodes[i] - nodes
        above = torch.cat([at[:, :i], at[:, i + 1 :]], dim=1)
        below = torch.cat([apart[:i], apart[i + 1 :]])
        columns.append((above / below).prod(dim=1))
    return torch.stack(columns, dim=1)


def extra_points(points: int, padding: float) -> int:
    """Points added to an axis of a domain whose length grows by the factor `1 + padding`.

    The period is `1 + padding` times the distance of the end points, so that the modes stay the same
    functions of space when the grid is refined.
    """
    return max(0, round((1 + padding) * (points - 1)) - points) if padding else 0


def extend(x: Tensor, axis: int, extra: int, ends: int) -> Tensor:
    """Add points to the end of an axis.

    Parameters
    ----------
    x : Tensor, any shape
    axis : int
        The one that grows.
    extra : int
        By how many points.
    ends : int
        See `gap`; 0 adds zeros.
    """
    if not ends:
        shape = [*x.shape]
        shape[axis] = extra
        return torch.cat([x, x.new_zeros(shape)], dim=axis)
    matrix = kept(gap, (extra, ends), x)
    n = x.shape[axis]
    both = torch.cat([x.narrow(axis, n - ends, ends), x.narrow(axis, 0, ends)], dim=axis)
    between = torch.tensordot(both, matrix, dims=([axis], [1])).movedim(-1, axis)
    return torch.cat([x, between], dim=axis)
