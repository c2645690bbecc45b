"""An artifact as xarray: lazily loaded, with named axes, units and coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    from sciflow.artifact.sealed import Artifact

MESH = ("node_", "face", "triangles", "tetrahedra", "dof_", "mesh")


class _Reordered(BackendArray):
    """A field whose members are stored in their solvers' orders, in the canonical one."""

    def __init__(self, artifact: Artifact, name: str) -> None:
        self._array = artifact.array(name)
        self._orders = artifact.numbering(name)
        self.shape = self._array.shape
        self.dtype = self._array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._basic
        )

    def _basic(self, key: tuple[Any, ...]) -> np.ndarray:
        wanted = np.arange(self.shape[0])[key[0]]
        rows = []
        for member in np.atleast_1d(wanted).tolist():
            values = np.asarray(self._array[(member, *key[1:-1], slice(None))])
            order = self._orders.get(member)
            rows.append((values if order is None else values[..., order])[..., key[-1]])
        if np.ndim(wanted) == 0:
            return np.asarray(rows[0])
        return np.stack(rows) if rows else np.asarray(self._array[key])


def dataset(artifact: Artifact) -> xr.Dataset:
    """See `Artifact.to_xarray`."""
    data: xr.Dataset = xr.open_zarr(artifact.path / "data.zarr", consolidated=False, chunks=None)
    for name in artifact.attributes.get("numberings", {}):
        old = data[name]
        lazy = indexing.LazilyIndexedArray(_Reordered(artifact, name))
        data[name] = xr.Variable(old.dims, lazy, old.attrs)
    labels = artifact.attributes.get("parameters")
    if labels and "parameter" in data.dims:
        data = data.assign_coords(parameter=labels)
    return data


def tree(artifact: Artifact) -> xr.DataTree:
    """See `Artifact.to_datatree`."""
    data = dataset(artifact)
    groups: dict[str, list[str]] = {"solver": [], "mesh": [], "numbering": []}
    for name in map(str, data.data_vars):
        if name.startswith("solver_"):
            groups["solver"].append(name)
        elif name.startswith("numbering_") or name.endswith("_numbering"):
            groups["numbering"].append(name)
        elif name.startswith(MESH):
            groups["mesh"].append(name)
    nodes = {f"/{group}": data[names] for group, names in groups.items() if names}
    rest = data.drop_vars([n for names in groups.values() for n in names])
    return xr.DataTree.from_dict({"/": rest, **nodes})
