"""Mesh: the UGRID arrays of an ensemble as points and cells that VTK understands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciflow.errors import Invalid
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

KINDS = {
    (2, 3): ("Triangle", 5),
    (2, 4): ("Quadrilateral", 9),
    (3, 4): ("Tetrahedron", 10),
    (2, 6): ("Triangle_6", 22),
}
"""By dimension of the cells and number of their corners: name in XDMF, number in VTK."""
_CONNECTIVITY = {2: "face_node_connectivity", 3: "volume_node_connectivity"}


@dataclass(frozen=True)
class Mesh:
    """Where the values of a field are.

    Attributes
    ----------
    points : ndarray, shape (node, 3)
        Coordinates, zero where the mesh has fewer, in the unit of the coordinate arrays.
    cells : ndarray of int64, shape (cell, corner)
        Into `points`.
    kind : tuple
        Of the cells, see `KINDS`.
    """

    points: np.ndarray
    cells: np.ndarray
    kind: tuple[str, int]

    def reordered(self, order: np.ndarray) -> Mesh:
        """The same mesh with ``points[order]``, for values in the order of a solver."""
        import numpy as np

        return Mesh(self.points[order], np.argsort(order)[self.cells], self.kind)


def nodal(field: Field) -> bool:
    """Whether a field has one value at each node, or at each degree of freedom of its cells."""
    at_nodes = field.attributes.get("location") == "node" or "cell_dofs" in field.attributes
    return "mesh" in field.attributes and at_nodes and field.axes[-1:] in [("node",), ("dof",)]


def _names(field: Field, topology: Field) -> tuple[list[str], str]:
    """Names of the coordinates of the points, and of the cells."""
    about = topology.attributes
    dimension = int(about.get("topology_dimension", 0))
    nodes = str(about.get("node_coordinates", "")).split()
    if "cell_dofs" in field.attributes:
        return [f"dof_{n.rpartition('_')[2]}" for n in nodes], str(field.attributes["cell_dofs"])
    return nodes, str(about.get(_CONNECTIVITY.get(dimension, ""), ""))


def arrays_of(artifact: Artifact, fields: Mapping[str, Field]) -> dict[str, tuple[Field, np.ndarray]]:
    """The arrays of the meshes on which some fields are.

    Returns
    -------
    dict of str to tuple
        Field and values, by name. An array that is not there is left out; `mesh_of` says so.
    """
    known = artifact.schema.fields
    wanted: list[str] = []
    for field in fields.values():
        topology = str(field.attributes.get("mesh", ""))
        if topology not in known:
            continue
        about = known[topology].attributes
        wanted += [topology, *str(about.get("node_coordinates", "")).split()]
        wanted += [str(about[key]) for key in _CONNECTIVITY.values() if key in about]
        nodes, cells = _names(field, known[topology])
        wanted += [*nodes, cells]
    return {n: (known[n], artifact.read(n)) for n in dict.fromkeys(wanted) if n in known}


def mesh_of(name: str, field: Field, arrays: Mapping[str, tuple[Field, np.ndarray]]) -> Mesh:
    """The mesh of a field.

    Parameters
    ----------
    name : str
        Of the field, for messages.
    field : Field
        With the attributes ``mesh`` and ``location`` or ``cell_dofs``.
    arrays : mapping of str to tuple
        See `arrays_of`.

    Raises
    ------
    Invalid
        If an array of the mesh is missing, or its cells are of a kind without a word for it here.

    References
    ----------
    UGRID conventions 1.0, 2-D and 3-D unstructured mesh topology.
    """
    import numpy as np

    topology = str(field.attributes["mesh"])
    if topology not in arrays:
        raise Invalid(f"field {name!r}: its mesh {topology!r} is not there")
    nodes, connectivity = _names(field, arrays[topology][0])
    for array in (*nodes, connectivity):
        if array not in arrays:
            raise Invalid(
                f"field {name!r}: the mesh {topology!r} has no {array or 'cells of dimension 2 or 3'}"
            )
    about, cells = arrays[connectivity]
    cells = cells.astype(np.int64) - int(about.attributes.get("start_index", 0))
    dimension = int(arrays[topology][0].attributes["topology_dimension"])
    kind = KINDS.get((dimension, cells.shape[-1]))
    if kind is None or cells.ndim != 2 or not 1 <= len(nodes) <= 3:
        raise Invalid(
            f"field {name!r}: {connectivity!r} has cells of {cells.shape[-1]} corners, which is not known"
        )
    points = np.zeros((len(arrays[nodes[0]][1]), 3))
    for axis, node in enumerate(nodes):
        points[:, axis] = arrays[node][1]
    if cells.size and not 0 <= cells.min() <= cells.max() < len(points):
        raise Invalid(f"field {name!r}: {connectivity!r} names nodes that do not exist")
    return Mesh(points, cells, kind)
