"""Local models as arrays: what is kept of each cluster for the online stage, and how it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.net.galerkin import Tables
from sciflow_rom.net.indicator import Probe


@dataclass(frozen=True)
class First:
    """Where the first step begins: radial basis functions through the training members.

    Attributes
    ----------
    centres : ndarray, shape (member, parameter)
        Scaled parameters of the members.
    weights : ndarray, shape (member + 1 or member + 1 + parameter, mode)
        Of ``r^3`` for each member, of 1 and of the parameters; without the last ones, and with ``-r``,
        where there are too few members for them.
    """

    centres: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, centres: np.ndarray, coefficients: np.ndarray) -> First:
        """Interpolate coefficients, shape (member, mode)."""
        count, dimension = centres.shape
        gaps = np.sqrt(np.square(centres[:, None] - centres[None]).sum(axis=2))
        linear = count >= 2 * (dimension + 1)
        tail = np.hstack([np.ones((count, 1)), centres]) if linear else np.ones((count, 1))
        kernel = gaps**3 if linear else -gaps
        width = tail.shape[1]
        matrix = np.block([[kernel, tail], [tail.T, np.zeros((width, width))]])
        values = np.vstack([coefficients, np.zeros((width, coefficients.shape[1]))])
        return cls(centres, np.linalg.lstsq(matrix, values, rcond=1e-10)[0])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Coefficients for scaled parameters, shape (mode,)."""
        gaps = self.centres - features
        squares = np.einsum("ij,ij->i", gaps, gaps)
        count = len(squares)
        if len(self.weights) == count + 1:
            return np.asarray(self.weights[count] - np.sqrt(squares) @ self.weights[:count])
        cubes = squares * np.sqrt(squares)
        tail = self.weights[count] + features @ self.weights[count + 1 :]
        return np.asarray(cubes @ self.weights[:count] + tail)


@dataclass(frozen=True)
class LocalModel:
    """The online part of one cluster.

    Attributes
    ----------
    tables : Tables
        For Newton's method; points without weight are there for the dual fields.
    first : First
        Coefficients that the first step begins with.
    probe : Probe or None
        For the error indicator.
    gaps : mapping of str to ndarray, shape (mode, point * component)
        By dual field: from values at the points to coefficients of its modes.
    """

    tables: Tables
    first: First
    probe: Probe | None
    gaps: Mapping[str, np.ndarray]


_TABLES = ("strains", "weights", "points", "loads")


def pack(model: LocalModel) -> dict[str, np.ndarray]:
    """A local model as named arrays."""
    arrays = {name: getattr(model.tables, name) for name in _TABLES}
    arrays |= {"centres": model.first.centres, "first": model.first.weights}
    if model.probe is not None:
        arrays["probe_strains"] = model.probe.strains.astype(np.float32)
        arrays |= {f"test_{name}": getattr(model.probe.test, name) for name in _TABLES}
        arrays["test_strains"] = arrays["test_strains"].astype(np.float32)
    return {**arrays, **{f"dual_{name}": inverse for name, inverse in model.gaps.items()}}


def unpack(arrays: Mapping[str, np.ndarray]) -> LocalModel:
    """The local model in what `pack` gave.

    Raises
    ------
    Invalid
        If an array is missing or does not fit the others.
    """
    try:
        tables = Tables(*(np.asarray(arrays[name]) for name in _TABLES))
        first = First(np.asarray(arrays["centres"]), np.asarray(arrays["first"]))
        probe = None
        if "probe_strains" in arrays:
            test = Tables(*(arrays[f"test_{name}"].astype(np.float64) for name in _TABLES))
            probe = Probe(arrays["probe_strains"].astype(np.float64), test)
    except KeyError as error:
        raise Invalid(f"a local model lacks the array {error}") from None
    modes = {a.shape[-1] for a in (tables.strains, tables.loads, first.weights)}
    if tables.strains.ndim != 3 or len(tables.weights) != len(tables.strains) or len(modes) != 1:
        raise Invalid(
            f"the tables of a local model do not fit each other: strains {tables.strains.shape}, "
            f"weights {tables.weights.shape}, loads {tables.loads.shape}, start {first.weights.shape}"
        )
    gaps = {k.removeprefix("dual_"): np.asarray(v) for k, v in arrays.items() if k.startswith("dual_")}
    return LocalModel(tables, first, probe, gaps)
