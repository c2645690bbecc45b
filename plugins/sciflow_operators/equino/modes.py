"""The offline side: fluctuation modes and their strains, stress modes, what no modes can represent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow.homogenisation import CellProblem
    from sciflow.reduction import Integrals
    from sciflow.samples import Samples
    from sciflow_operators.equino.equino import Norm

SPANNED = 1e-7
"""Smallest singular value of a mode, relative to the largest; what is below is rounding."""
AGREE = 1e-3
"""Largest relative difference of stored stresses from those of the law at the stored fluctuation."""
TAKE = 64
"""Samples that are read at once."""


@dataclass(frozen=True)
class Solutions:
    """Solved cells, with strains and stresses at all integration points.

    Attributes
    ----------
    macroscopic : ndarray, shape (member, component)
        Strain, 1.
    fluctuation : ndarray, shape (member, dof)
    strains : ndarray, shape (member, point, component)
        Of the fluctuation alone.
    stress : ndarray, shape (member, point, component)
        What the law gives in the total strain.
    homogenised : ndarray, shape (member, component)
        Means of `stress`.
    """

    macroscopic: np.ndarray
    fluctuation: np.ndarray
    strains: np.ndarray
    stress: np.ndarray
    homogenised: np.ndarray

    def __len__(self) -> int:
        return len(self.macroscopic)


@dataclass(frozen=True)
class Metric:
    """Products of strains and of stresses over the cell.

    Attributes
    ----------
    root : ndarray, shape (point, component, component)
        Lower triangles L with ``L L^T`` the stiffness at zero strain, or unit matrices.
    weights : ndarray, shape (point,)
        Parts of the cell; the sum is 1.

    Notes
    -----
    With ``C = L L^T`` the product of strains is the energy, the mean of ``e : C : e``, that of stresses
    the complementary energy, the mean of ``s : C^-1 : s``. For a linear law the square of the residual
    ``s - C e`` is then the sum of the squared errors of a compatible ``e`` and an equilibrated ``s``
    (Prager and Synge): neither can hide behind the other.

    References
    ----------
    W. Prager, J. L. Synge, "Approximations in elasticity based on the concept of function space",
    Quart. Appl. Math. 5, 1947.
    """

    root: np.ndarray
    weights: np.ndarray

    @cached_property
    def inverse(self) -> np.ndarray:
        """Inverses of `root`."""
        return np.asarray(np.linalg.inv(self.root))

    def strain(self, values: np.ndarray) -> np.ndarray:
        """Strains, shape (n, point, component), as vectors with the product of numbers."""
        return self._flat(self.root.transpose(0, 2, 1), values)

    def stress(self, values: np.ndarray) -> np.ndarray:
        """Stresses, shape (n, point, component), as vectors with the product of numbers."""
        return self._flat(self.inverse, values)

    def _flat(self, factors: np.ndarray, values: np.ndarray) -> np.ndarray:
        scaled = factors * np.sqrt(self.weights)[:, None, None]
        return np.asarray(np.einsum("qij,nqj->nqi", scaled, values).reshape(len(values), -1))


@dataclass(frozen=True)
class Modes:
    """Modes of a cell problem.

    Attributes
    ----------
    fluctuation : ndarray, shape (dof, mode)
    strains : ndarray, shape (point, component, mode)
        Of the fluctuation modes; orthonormal in the metric.
    stress : ndarray, shape (point, component, stress mode)
        Orthonormal in the metric.
    points : ndarray, shape (point, dimension)
        Coordinates, for the law.
    metric : Metric
    """

    fluctuation: np.ndarray
    strains: np.ndarray
    stress: np.ndarray
    points: np.ndarray
    metric: Metric

    def coefficients(self, solutions: Solutions) -> tuple[np.ndarray, np.ndarray]:
        """Projections of solutions, shape (member, mode) and (member, stress mode)."""
        metric = self.metric
        strains = metric.strain(solutions.strains) @ metric.strain(self.strains.transpose(2, 0, 1)).T
        stress = metric.stress(solutions.stress) @ metric.stress(self.stress.transpose(2, 0, 1)).T
        return strains, stress

    def floors(self, solutions: Solutions) -> dict[str, float]:
        """Relative errors of the best that the modes can do for some solutions, all of them together.

        Returns
        -------
        dict of str to float
            ``fluctuation_floor`` (of its strain) and ``stress_floor``.
        """
        strains = np.square(self.metric.strain(solutions.strains)).sum()
        stress = np.square(self.metric.stress(solutions.stress)).sum()
        kept = [float(np.square(part).sum()) for part in self.coefficients(solutions)]
        parts = [
            max(0.0, 1 - a / max(float(b), 1e-300)) for a, b in zip(kept, (strains, stress), strict=True)
        ]
        return {"fluctuation_floor": parts[0] ** 0.5, "stress_floor": parts[1] ** 0.5}


def metric_of(problem: CellProblem, integrals: Integrals, norm: Norm) -> Metric:
    """The metric of a cell.

    Raises
    ------
    Invalid
        If the stiffness at zero strain is not symmetric and positive definite.
    """
    count, size = len(integrals.weights), len(problem.components)
    weights = integrals.weights / integrals.weights.sum()
    if norm == "stress":
        return Metric(np.broadcast_to(np.eye(size), (count, size, size)).copy(), weights)
    zero = np.zeros((count, size))
    stiffness = problem.material(integrals.points)(zero, np.zeros((count, 0)), 0)[1]
    try:
        if not np.allclose(stiffness, stiffness.transpose(0, 2, 1), atol=1e-8 * np.abs(stiffness).max()):
            raise np.linalg.LinAlgError
        return Metric(np.linalg.cholesky(stiffness), weights)
    except np.linalg.LinAlgError:
        raise Invalid(
            f"the stiffness of {problem.name} at zero strain is not symmetric and positive definite: it "
            "gives no energy to measure in; use norm='stress'"
        ) from None


def solutions_of(problem: CellProblem, integrals: Integrals, samples: Samples) -> Solutions:
    """All samples, with the stresses that the law gives at their fluctuations.

    Raises
    ------
    Invalid
        If the samples have no fluctuation, other inputs than the strain, or values that are not finite,
        are of another mesh, or are not what the law gives.
    """
    _check_signature(problem, samples)
    read = [(b.x, b.y) for b in samples.batches(TAKE, seed=None)]
    if not read:
        empty = np.zeros((0, len(integrals.weights), len(problem.components)))
        dofs = samples.signature.shape(problem.unknown)[0]
        return Solutions(empty[:, 0], np.zeros((0, dofs)), empty, empty, empty[:, 0])
    x = {n: np.concatenate([a[n] for a, _ in read]).astype(np.float64) for n in problem.components}
    y = {n: np.concatenate([b[n] for _, b in read]).astype(np.float64) for n in samples.signature.outputs}
    macroscopic = np.stack([x[n].reshape(-1) for n in problem.components], axis=1)
    fluctuation = y[problem.unknown]
    for name, values in (("strains", macroscopic), *y.items()):
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if bad.any():
            raise Invalid(f"{name} of sample {int(np.argmax(bad))} of {len(bad)} are not finite")
    strains = integrals.strains(fluctuation.T[integrals.rows]).transpose(2, 0, 1)
    law, history = problem.material(integrals.points), problem.start(len(integrals.weights))
    pairs = zip(strains, macroscopic, strict=True)
    stress = np.stack([law(e + mean, history, 0)[0] for e, mean in pairs])
    homogenised = np.einsum("q,nqc->nc", integrals.weights / integrals.weights.sum(), stress)
    found = Solutions(macroscopic, fluctuation, strains, stress, homogenised)
    _check_stresses(problem, found, y)
    return found


def _check_signature(problem: CellProblem, samples: Samples) -> None:
    inputs, outputs = samples.signature.inputs, samples.signature.outputs
    known = (problem.unknown, *problem.dual, "homogenised")
    if set(inputs) != set(problem.components) or any(f.axes for f in inputs.values()):
        raise Invalid(
            f"EquiNO maps from the macroscopic strain: inputs_of={problem.components}, got {tuple(inputs)}"
        )
    if problem.unknown not in outputs or any(name not in known for name in outputs):
        raise Invalid(
            f"EquiNO needs {problem.unknown!r} among outputs_of and knows {known}, got {tuple(outputs)}"
        )
    for name in outputs:
        there, wanted = samples.signature.shape(name), problem.shape(name)
        if there != wanted:
            raise Invalid(
                f"{name!r} of the samples has the shape {there}, that of {problem.name} here {wanted}: they "
                "are of another mesh"
            )


def _check_stresses(problem: CellProblem, found: Solutions, stored: dict[str, np.ndarray]) -> None:
    for name, values in (("stress", found.stress), ("homogenised", found.homogenised)):
        if name not in stored:
            continue
        apart = np.linalg.norm(values - stored[name]) / max(float(np.linalg.norm(values)), 1e-300)
        if not apart <= AGREE:
            raise Invalid(
                f"the stored {name!r} differs by {apart:.1e} from what the law of {problem.name} gives at "
                "the stored fluctuation: the samples are of another configuration or not converged"
            )


def modes_of(
    problem: CellProblem, integrals: Integrals, solutions: Solutions, counts: tuple[int, int], norm: Norm
) -> Modes:
    """Modes of solutions, the most important first.

    Parameters
    ----------
    problem, integrals
        Of the solutions.
    solutions : Solutions
    counts : tuple of int
        Modes of the fluctuation and of the stress.
    norm : {"energy", "stress"}
        See `EquiNO.norm`.

    Raises
    ------
    Invalid
        If there are fewer solutions than modes, or they span fewer.

    Notes
    -----
    Singular vectors of the strains and the stresses in the metric, with one weight for each solution.
    Every stress of a solution is in equilibrium, and so are combinations of them: the modes. Cost
    O(point member^2).
    """
    metric = metric_of(problem, integrals, norm)
    if len(solutions) < max(counts):
        raise Invalid(
            f"{len(solutions)} samples cannot give {max(counts)} modes; solve more, or ask for fewer modes"
        )
    first = _combine(metric.strain(solutions.strains), counts[0], "fluctuations")
    second = _combine(metric.stress(solutions.stress), counts[1], "stresses")
    return Modes(
        solutions.fluctuation.T @ first,
        np.tensordot(solutions.strains, first, axes=(0, 0)),
        np.tensordot(solutions.stress, second, axes=(0, 0)),
        np.asarray(integrals.points, dtype=np.float64),
        metric,
    )


def _combine(white: np.ndarray, count: int, what: str) -> np.ndarray:
    """Factors that make `count` orthonormal modes of the rows, shape (member, count)."""
    left, values, _ = np.linalg.svd(white, full_matrices=False)
    spanned = int((values > SPANNED * values[0]).sum()) if values[0] > 0 else 0
    if spanned < count:
        raise Invalid(
            f"the {what} of {len(white)} samples span {spanned} modes, {count} were asked for; solve cells "
            "for more strains, or ask for fewer modes"
        )
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    return np.asarray((left * signs)[:, :count] / values[:count])
