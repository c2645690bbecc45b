"""Local models as arrays: what is kept of each cluster for the online stage, and how it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.galerkin import Tables
from sciflow_rom.indicator import Probe


@dataclass(frozen=True)
class Dual:
    """A field at the integration points, rebuilt from its values at the points of the cubature.

    Attributes
    ----------
    inverse : ndarray, shape (mode, point * component)
        Pseudo-inverse of the dual modes at the points of the cubature.
    """

    inverse: np.ndarray


@dataclass(frozen=True)
class LocalModel:
    """The online part of one cluster.

    Attributes
    ----------
    tables : Tables
        For Newton's method.
    starts : ndarray, shape (member, mode)
        Coefficients of the first step of the members of the cluster.
    near : ndarray, shape (member, parameter)
        Their scaled parameters, to begin where the nearest of them is.
    probe : Probe or None
        For the error indicator.
    duals : mapping of str to Dual
        By dual field.
    """

    tables: Tables
    starts: np.ndarray
    near: np.ndarray
    probe: Probe | None
    duals: Mapping[str, Dual]

    def guess(self, features: np.ndarray) -> np.ndarray:
        """Coefficients of the member whose parameters are nearest."""
        gaps = self.near - features
        return np.asarray(self.starts[np.einsum("ij,ij->i", gaps, gaps).argmin()])


_TABLES = ("strains", "weights", "points", "loads")


def pack(model: LocalModel) -> dict[str, np.ndarray]:
    """A local model as named arrays."""
    arrays = {name: getattr(model.tables, name) for name in _TABLES}
    arrays |= {"starts": model.starts, "near": model.near}
    if model.probe is not None:
        arrays["probe_strains"] = model.probe.strains
        arrays |= {f"test_{name}": getattr(model.probe.test, name) for name in _TABLES}
    return {**arrays, **{f"dual_{name}": dual.inverse for name, dual in model.duals.items()}}


def unpack(arrays: Mapping[str, np.ndarray]) -> LocalModel:
    """The local model in what `pack` gave.

    Raises
    ------
    Invalid
        If an array is missing or does not fit the others.
    """
    try:
        tables = Tables(*(np.asarray(arrays[name]) for name in _TABLES))
        starts, near = np.asarray(arrays["starts"]), np.asarray(arrays["near"])
        probe = None
        if "probe_strains" in arrays:
            test = Tables(*(np.asarray(arrays[f"test_{name}"]) for name in _TABLES))
            probe = Probe(np.asarray(arrays["probe_strains"]), test)
    except KeyError as error:
        raise Invalid(f"a local model lacks the array {error}") from None
    modes = {a.shape[-1] for a in (tables.strains, tables.loads, starts)}
    if tables.strains.ndim != 3 or len(tables.weights) != len(tables.strains) or len(modes) != 1:
        raise Invalid(
            f"the tables of a local model do not fit each other: strains {tables.strains.shape}, "
            f"weights {tables.weights.shape}, loads {tables.loads.shape}, starts {starts.shape}"
        )
    duals = {k.removeprefix("dual_"): Dual(np.asarray(v)) for k, v in arrays.items() if k.startswith("dual_")}
    return LocalModel(tables, starts, near, probe, duals)
