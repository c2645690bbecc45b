"""Regions: local models with the solutions that they were made of, so that they can be made larger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.adapt.incremental import Weighted
from sciflow_rom.net.tables import LocalModel, pack, unpack


@dataclass(frozen=True)
class Cases:
    """Solutions that are known, as a region sees them.

    Attributes
    ----------
    points : ndarray, shape (case, parameter)
        In the problem's units.
    coefficients : ndarray, shape (case, step, mode)
        Of their projections, in the unit of the field times that of the product's square root.
    norms : ndarray, shape (case,)
        Of the solutions, all steps together.
    gaps : ndarray, shape (case,)
        Relative errors of the projections.
    solved : ndarray of int64, shape (case,)
        Which full-order solution of the enrichment it is; -1 for a member of the training.
    """

    points: np.ndarray
    coefficients: np.ndarray
    norms: np.ndarray
    gaps: np.ndarray
    solved: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def scaled(self) -> np.ndarray:
        """Coefficients over the norm of the solution, all steps in a row, shape (case, step * mode)."""
        return np.asarray(self.coefficients.reshape(len(self), -1) / self.norms[:, None])

    @property
    def medoid(self) -> int:
        """The case with the smallest sum of sines of the angles to the others."""
        rows = self.scaled
        return int(sines(rows @ rows.T).sum(axis=1).argmin())

    def carried(self, carry: np.ndarray) -> Cases:
        """As a region sees them whose basis was changed by `incremental.add`; `carry` is (before, after)."""
        moved = self.coefficients @ carry
        before, after = (np.square(c).sum(axis=(1, 2)) for c in (self.coefficients, moved))
        lost = np.maximum(before - after, 0.0) / np.square(self.norms)
        return Cases(self.points, moved, self.norms, np.sqrt(np.square(self.gaps) + lost), self.solved)

    def joined(self, more: Cases) -> Cases:
        """These, and then `more`."""
        pairs = ((getattr(self, name), getattr(more, name)) for name in _CASES)
        return Cases(*(np.concatenate(pair) for pair in pairs))

    def chosen(self, limit: int) -> np.ndarray:
        """At most so many cases for which points of integration are chosen, shape (k,).

        Half of them, if there are so many, are the newest full-order solutions; the others are spread
        evenly.
        """
        new = np.flatnonzero(self.solved >= 0)
        new = new[np.argsort(-self.solved[new], kind="stable")][: max(1, limit // 2)]
        rest = np.setdiff1d(np.arange(len(self)), new)
        room = min(limit - len(new), len(rest))
        spread = rest[np.arange(room) * len(rest) // max(room, 1)]
        return np.sort(np.concatenate([new, spread]))


@dataclass(frozen=True)
class Region:
    """One cluster of a ROM-net, with all that it takes to make it larger.

    Attributes
    ----------
    model : LocalModel
        For the online stage.
    basis : Weighted
        Modes in the order of one flattened time level of the field.
    duals : mapping of str to Weighted
        Dual modes in the order of ``Integrals.places``, components of a point together.
    places : ndarray of int64, shape (point,)
        Where the points of the cubature are; in the order of ``model.tables``.
    error : float
        Of the cubature.
    cases : Cases
        Of the solutions in it.
    """

    model: LocalModel
    basis: Weighted
    duals: Mapping[str, Weighted]
    places: np.ndarray
    error: float
    cases: Cases

    @property
    def modes(self) -> int:
        """How many modes it has."""
        return len(self.basis.sigma)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays."""
        found = {f"model.{k}": v for k, v in pack(self.model).items()}
        found |= {f"cases.{name}": getattr(self.cases, name) for name in _CASES}
        found |= {"places": self.places, "error": np.array([self.error])}
        found |= weighted_arrays("basis", self.basis)
        for name, basis in self.duals.items():
            found |= weighted_arrays(f"dual.{name}", basis)
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Region:
        """What `arrays` gave.

        Raises
        ------
        Invalid
            If an array is missing.
        """
        model = unpack({k.removeprefix("model."): v for k, v in arrays.items() if k.startswith("model.")})
        names = {k.split(".")[1] for k in arrays if k.startswith("dual.")}
        try:
            cases = Cases(*(np.asarray(arrays[f"cases.{name}"]) for name in _CASES))
            duals = {name: weighted_of(arrays, f"dual.{name}") for name in sorted(names)}
            basis, error = weighted_of(arrays, "basis"), float(arrays["error"][0])
            return cls(model, basis, duals, np.asarray(arrays["places"]), error, cases)
        except KeyError as error_:
            raise Invalid(f"a local model that is to be enriched lacks the array {error_}") from None


_CASES = ("points", "coefficients", "norms", "gaps", "solved")


def weighted_arrays(name: str, basis: Weighted) -> dict[str, np.ndarray]:
    """A basis with its singular values as named arrays."""
    return {
        f"{name}.modes": basis.modes,
        f"{name}.sigma": basis.sigma,
        f"{name}.lost": np.array([basis.lost]),
    }


def weighted_of(arrays: Mapping[str, np.ndarray], name: str) -> Weighted:
    """What `weighted_arrays` gave; KeyError where one is missing."""
    lost = float(arrays[f"{name}.lost"][0])
    return Weighted(np.asarray(arrays[f"{name}.modes"]), np.asarray(arrays[f"{name}.sigma"]), lost)


def sines(cosines: np.ndarray) -> np.ndarray:
    """Sines of angles from their cosines, any shape; signs do not matter."""
    return np.asarray(np.sqrt(np.clip(1.0 - np.square(cosines), 0.0, 1.0)))


def project(basis: Weighted, columns: np.ndarray, matrix: Any) -> tuple[np.ndarray, float, float]:
    """Project all steps of a solution.

    Parameters
    ----------
    basis : Weighted
        Modes, shape (dof, n).
    columns : ndarray, shape (dof, step)
        The solution.
    matrix : sparse matrix, shape (dof, dof), or None
        Of the inner product.

    Returns
    -------
    coefficients : ndarray, shape (step, n)
    norm : float
        Of the solution.
    gap : float
        Relative error.
    """
    weighted = columns if matrix is None else matrix @ columns
    coefficients = weighted.T @ basis.modes
    norm = float(np.einsum("ij,ij->", columns, weighted)) ** 0.5
    rest = columns - basis.modes @ coefficients.T
    left = float(np.einsum("ij,ij->", rest, rest if matrix is None else matrix @ rest))
    return coefficients, norm, max(left, 0.0) ** 0.5 / norm if norm > 0 else 0.0


def sine_to_medoid(region: Region, coefficients: np.ndarray, norm: float) -> float:
    """Sine of the angle between a solution and the medoid of a region.

    Parameters
    ----------
    region : Region
    coefficients : ndarray, shape (step, n)
        Of the solution's projection on the region's basis.
    norm : float
        Of the solution.
    """
    medoid = region.cases.scaled[region.cases.medoid]
    return float(sines(np.array(coefficients.reshape(-1) @ medoid / norm)))


def error_table(regions: list[Region], matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of projecting every known case on every region's basis.

    Parameters
    ----------
    regions : list of Region
    matrix : sparse matrix or None
        Of the inner product.

    Returns
    -------
    points : ndarray, shape (case, parameter)
        Each case once, sorted.
    errors : ndarray, shape (case, region)
        For a region that a case is in, what is left of it; for others, estimated from the projection on
        the region that represents it best.

    Notes
    -----
    ``sqrt(gap^2 + |v - P v|^2)`` with the projection ``v`` on the best region: no solution is read. One
    product of (mode, dof) and (dof, mode) matrices of all regions together.
    """
    points, where = np.unique(np.concatenate([r.cases.points for r in regions]), axis=0, return_inverse=True)
    where = where.reshape(-1)
    own = np.full((len(points), len(regions)), np.inf)
    home: dict[int, tuple[int, int]] = {}
    at = 0
    for number, region in enumerate(regions):
        for case, gap in enumerate(region.cases.gaps):
            row = int(where[at])
            own[row, number] = gap
            if gap <= own[row].min():
                home[row] = number, case
            at += 1
    stacked = np.hstack([r.basis.modes for r in regions])
    products = stacked.T @ (stacked if matrix is None else matrix @ stacked)
    ends = np.cumsum([0, *(r.modes for r in regions)])
    errors = own.copy()
    for row, (number, case) in home.items():
        region = regions[number]
        part = region.cases.coefficients[case] / region.cases.norms[case]
        seen = part @ products[ends[number] : ends[number + 1]]
        size = float(np.square(part).sum())
        squares = np.add.reduceat(np.square(seen).sum(axis=0), ends[:-1])
        guess = np.sqrt(np.maximum(size - squares, 0.0) + region.cases.gaps[case] ** 2)
        errors[row] = np.where(np.isfinite(own[row]), own[row], guess)
    return points, errors
