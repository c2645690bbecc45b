"""Inner products of a stored field: from the coordinates of its grid or the triangles of its mesh."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciflow.artifact.layout import LEVEL_AXES
from sciflow.errors import Invalid, NotFound, nearest
from sciflow_rom.compress.products import Product, of_root

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

GRID = ("z", "y", "x")
"""Axes of space."""
MESH = ("node", "dof")
"""Axes of unknowns on a mesh."""


def product_of(
    ensemble: Artifact, field: str, product: Literal["euclidean", "l2", "h1"], columns: str = "member"
) -> Product:
    """The inner product of a field of an ensemble.

    Parameters
    ----------
    ensemble : Artifact
        With coordinates of the field's axes, or ``triangles``, ``node_x`` and ``node_y``.
    field : str
        Its name.
    product : {"euclidean", "l2", "h1"}
        Which one.
    columns : {"member", "level"}
        For ``member``, time levels get the weights of the trapezoidal rule (not the Euclidean product).

    Raises
    ------
    NotFound
        If there is no such field.
    Invalid
        If the product is not available for it.
    """
    if field not in ensemble.schema.fields:
        raise NotFound(f"{ensemble.path}: no field {field!r}. {nearest(field, ensemble.schema.fields)}")
    axes = ensemble.schema.fields[field].axes
    if product not in ("euclidean", "l2", "h1"):
        raise Invalid(f"product {product!r}. {nearest(product, ('euclidean', 'l2', 'h1'))}")
    if product == "euclidean":
        return Product()
    space = [a for a in axes[1:] if a not in LEVEL_AXES]
    times = None
    if columns == "member" and "time" in axes:
        times = trapezoid(_coordinate(ensemble, field, "time"), periodic=False)
    shape = dict(zip(axes, ensemble.array(field).shape, strict=True))
    if any(a in GRID for a in space):
        periodic = ensemble.attributes.get("periodic", ())
        lines = [(_coordinate(ensemble, field, a), a in periodic) if a in GRID else shape[a] for a in space]
        return grid(lines, gradient=product == "h1", times=times)
    if any(a in MESH for a in space):
        if len(space) > 1:
            raise Invalid(
                f"{field!r} has axes {axes}; on a mesh only fields of one value per node have {product!r}"
            )
        nodes, faces = _mesh(ensemble, field, shape[space[0]], product)
        return triangles(nodes, faces, gradient=product == "h1", times=times)
    raise Invalid(
        f"{field!r} has axes {axes}, none of which is one of space ({', '.join((*GRID, *MESH))}); "
        f"the product {product!r} is not available, 'euclidean' is"
    )


def _coordinate(ensemble: Artifact, field: str, axis: str) -> np.ndarray:
    if axis not in ensemble.schema.fields:
        raise Invalid(f"{ensemble.path}: the axis {axis!r} of {field!r} has no coordinates; take 'euclidean'")
    return ensemble.read(axis)


def _mesh(ensemble: Artifact, field: str, count: int, product: str) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and triangles of a field of linear elements."""
    missing = [n for n in ("node_x", "node_y", "triangles") if n not in ensemble.schema.fields]
    if missing:
        raise Invalid(
            f"the product {product!r} of {field!r} needs the mesh, {', '.join(missing)} are not stored in "
            f"{ensemble.path}; take 'euclidean'"
        )
    nodes = np.stack([ensemble.read("node_x"), ensemble.read("node_y")], axis=1)
    if len(nodes) != count:
        raise Invalid(
            f"{field!r} has {count} unknowns on {len(nodes)} nodes; the product {product!r} is known "
            "for linear triangles only; take 'euclidean'"
        )
    return nodes, ensemble.read("triangles")


def trapezoid(points: np.ndarray, *, periodic: bool) -> np.ndarray:
    """Weights of the trapezoidal rule.

    Parameters
    ----------
    points : ndarray, shape (n,)
        Increasing or decreasing. A periodic axis is taken to be evenly spaced, without its end.
    periodic : bool
        Whether the end is the start.

    Returns
    -------
    ndarray, shape (n,)
        One for a single point.

    Raises
    ------
    Invalid
        If the points are not in order.
    """
    if len(points) < 2:
        return np.ones(len(points))
    gaps = _gaps(points, periodic)
    if periodic:
        return np.asarray((gaps + np.roll(gaps, 1)) / 2)
    return np.asarray((np.append(gaps, 0.0) + np.append(0.0, gaps)) / 2)


def _gaps(points: np.ndarray, periodic: bool) -> np.ndarray:
    gaps = np.diff(points)
    if not ((gaps > 0).all() or (gaps < 0).all()):
        raise Invalid("coordinates of an axis must increase or decrease for a product of functions")
    closed = np.append(gaps, (points[-1] - points[0]) / (len(points) - 1)) if periodic else gaps
    return np.asarray(np.abs(closed))


def grid(
    lines: list[tuple[np.ndarray, bool] | int], *, gradient: bool = False, times: np.ndarray | None = None
) -> Product:
    """The product of functions on a grid, by the trapezoidal rule.

    Parameters
    ----------
    lines : list of (ndarray, bool) or int
        For each axis of a level its coordinates and whether it is periodic; or the size of one that is
        not of space (components).
    gradient : bool
        Add the products of the gradients: differences of neighbours, exact for functions that are
        linear in between.
    times : ndarray or None
        See `Product`.

    Notes
    -----
    ``<u, v> = sum_p w_p u_p v_p``, and for each axis of space ``sum_e w'_e / h_e (u_e+ - u_e-)(v_e+ -
    v_e-)`` over the edges along it, with ``w'`` the weights of the other axes.
    """
    from scipy import sparse

    each = [np.ones(i) if isinstance(i, int) else trapezoid(i[0], periodic=i[1]) for i in lines]
    weights = reduce(np.multiply.outer, each).reshape(-1)
    if not gradient:
        return Product(weights=weights, times=times)
    roots = [sparse.diags(np.sqrt(weights))]
    for axis, line in enumerate(lines):
        if isinstance(line, int) or len(line[0]) < 2:
            continue
        factors = [sparse.diags(np.sqrt(w)) for w in each]
        factors[axis] = _differences(*line)
        roots.append(reduce(lambda a, b: sparse.kron(a, b, format="csr"), factors))
    return of_root(sparse.vstack(roots), times)


def _differences(points: np.ndarray, periodic: bool) -> Any:
    """``h^1/2 du/dx`` on each interval of a line, shape (interval, point)."""
    from scipy import sparse

    count, gaps = len(points), _gaps(points, periodic)
    edges = np.arange(len(gaps))
    ends = np.stack([edges, (edges + 1) % count], axis=1)
    values = np.stack([-1 / np.sqrt(gaps), 1 / np.sqrt(gaps)], axis=1)
    rows = np.repeat(edges, 2)
    return sparse.csr_matrix((values.reshape(-1), (rows, ends.reshape(-1))), shape=(len(gaps), count))


def triangles(
    nodes: np.ndarray, faces: np.ndarray, *, gradient: bool = False, times: np.ndarray | None = None
) -> Product:
    """The product of linear finite elements on triangles.

    Parameters
    ----------
    nodes : ndarray, shape (node, 2)
        Coordinates.
    faces : ndarray of int, shape (face, 3)
        Nodes of each triangle.
    gradient : bool
        Add the products of the gradients.
    times : ndarray or None
        See `Product`.

    Raises
    ------
    Invalid
        If a triangle has no area or a node is in none.

    Notes
    -----
    The rule with the middles of the edges is exact for the product of two linear functions: each
    edge ``(i, j)`` adds ``w/4 (u_i + u_j)(v_i + v_j)``, ``w`` a third of the area of the triangles
    beside it. A gradient is constant on a triangle and adds its area times the product of the gradients.
    So ``M = G^T G`` with ``G`` sparse, of 3 rows per node (7 with gradients), without a factorisation.

    References
    ----------
    G. Strang, G. Fix, "An Analysis of the Finite Element Method" (1973), table 4.1 (the rule of degree 2).
    """
    from scipy import sparse

    a, b, c = (nodes[faces[:, k]] for k in range(3))
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    count = len(nodes)
    if (np.abs(area) <= 1e-14 * np.abs(area).max(initial=0.0)).any():
        raise Invalid("a triangle of the mesh has no area")
    if len(np.unique(faces)) != count:
        raise Invalid("a node of the mesh is in no triangle")
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, which = np.unique(pairs, axis=0, return_inverse=True)
    shares = np.bincount(which.reshape(-1), weights=np.tile(np.abs(area) / 3, 3))
    half = np.repeat(np.sqrt(shares) / 2, 2)
    rows = np.repeat(np.arange(len(edges)), 2)
    roots = [sparse.csr_matrix((half, (rows, edges.reshape(-1))), shape=(len(edges), count))]
    if gradient:
        # The gradient of a corner's function is the opposite edge, turned, by twice the area.
        opposite = np.stack([c - b, a - c, b - a], axis=1)
        size = np.sqrt(np.abs(area)) / (2 * area)
        rows = np.repeat(np.arange(len(faces)), 3)
        for turned in (-opposite[:, :, 1], opposite[:, :, 0]):
            slope = (size[:, None] * turned).reshape(-1)
            roots.append(sparse.csr_matrix((slope, (rows, faces.reshape(-1))), shape=(len(faces), count)))
    return of_root(sparse.vstack(roots), times)
