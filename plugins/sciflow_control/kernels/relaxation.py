"""SOR, and CG preconditioned by SSOR, on matrices in CSR."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.kernels.compiling import kernel


class Relaxed(NamedTuple):
    """How a solve ended.

    Attributes
    ----------
    iterations : int
        Until the stopping rule held, or those that were allowed.
    residual : float
        Norm of the residual of what is in `x`, over the norm that the tolerance refers to.
    converged : bool
        Whether it is below the tolerance.
    """

    iterations: int
    residual: float
    converged: bool


@kernel
def _residual(indptr: Any, indices: Any, data: Any, b: Any, x: Any, r: Any) -> float:
    total = 0.0
    for i in range(b.size):
        s = b[i]
        for p in range(indptr[i], indptr[i + 1]):
            s -= data[p] * x[indices[p]]
        r[i] = s
        total += s * s
    return math.sqrt(total)


@kernel
def _places(indptr: Any, indices: Any, data: Any, at: Any) -> int:
    """Where the diagonal entries are; the first row without one, out of order or out of bounds, or -1."""
    for i in range(at.size):
        at[i] = -1
        if indptr[i] < 0 or indptr[i + 1] > indices.size or indptr[i + 1] <= indptr[i]:
            return i
        if indices[indptr[i]] < 0 or indices[indptr[i + 1] - 1] >= at.size:
            return i
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] == i and data[p] != 0.0:
                at[i] = p
            if p > indptr[i] and indices[p] <= indices[p - 1]:
                return i
        if at[i] < 0:
            return i
    return -1


@kernel
def _sweep(indptr: Any, indices: Any, data: Any, b: Any, x: Any, weight: Any) -> float:
    total = 0.0
    for i in range(b.size):
        s = b[i]
        for p in range(indptr[i], indptr[i + 1]):
            s -= data[p] * x[indices[p]]
        x[i] += weight[i] * s
        total += s * s
    return math.sqrt(total)


@kernel
def _below(indptr: Any, indices: Any, data: Any, at: Any, x: Any, lower: Any) -> None:
    for i in range(x.size):
        lower[i] = 0.0
        for p in range(indptr[i], at[i]):
            lower[i] += data[p] * x[indices[p]]


@kernel
def _lagged(
    indptr: Any, indices: Any, data: Any, at: Any, b: Any, x: Any, weight: Any, lower: Any, before: Any
) -> float:
    """One sweep; the norm of the residual that x had before it, for nothing.

    `lower` holds the products with the part below the diagonal, of the x before this sweep (in) and after
    it (out); `before` takes the x before it.
    """
    total = 0.0
    for i in range(b.size):
        low, rest = 0.0, b[i] - data[at[i]] * x[i]
        for p in range(at[i] + 1, indptr[i + 1]):
            rest -= data[p] * x[indices[p]]
        for p in range(indptr[i], at[i]):
            low += data[p] * x[indices[p]]
        was = rest - lower[i]
        total += was * was
        lower[i] = low
        before[i] = x[i]
        x[i] += weight[i] * (rest - low)
    return math.sqrt(total)


@kernel
def _sor(
    indptr: Any, indices: Any, data: Any, at: Any, b: Any, x: Any, weight: Any, tol: float, max_it: int
) -> tuple[int, float]:
    lower, before = np.empty(b.size), np.empty(b.size)
    start = _residual(indptr, indices, data, b, x, before)
    if start == 0.0:
        return 0, 0.0
    _below(indptr, indices, data, at, x, lower)
    k = 0
    while True:
        norm = _lagged(indptr, indices, data, at, b, x, weight, lower, before)
        if norm < tol * start or k == max_it or not math.isfinite(norm):
            x[:] = before
            true = _residual(indptr, indices, data, b, x, before)
            if true < tol * start or k == max_it or not math.isfinite(true):
                return k, true / start
            # The sums were rounded the other way: take the sweep again and go on.
            _below(indptr, indices, data, at, x, lower)
            _lagged(indptr, indices, data, at, b, x, weight, lower, before)
        k += 1


@kernel
def _precondition(
    indptr: Any, indices: Any, data: Any, at: Any, weight: Any, omega: float, r: Any, z: Any
) -> None:
    """`weight` is omega over the diagonal."""
    n = r.size
    for i in range(n):
        s = 0.0
        for p in range(indptr[i], at[i]):
            s += data[p] * z[indices[p]]
        z[i] = weight[i] * (r[i] / omega - s)
    for i in range(n - 1, -1, -1):
        s = 0.0
        for p in range(indptr[i + 1] - 1, at[i], -1):
            s += data[p] * z[indices[p]]
        z[i] -= weight[i] * s
    for i in range(n):
        z[i] *= omega * (2.0 - omega)


@kernel
def _curvature(indptr: Any, indices: Any, data: Any, z: Any, beta: float, p: Any, q: Any) -> float:
    """The next direction p, its product q with the matrix, and p.q."""
    for i in range(p.size):
        p[i] = z[i] + beta * p[i]
    total = 0.0
    for i in range(p.size):
        s = 0.0
        for t in range(indptr[i], indptr[i + 1]):
            s += data[t] * p[indices[t]]
        q[i] = s
        total += s * p[i]
    return total


@kernel
def _step(alpha: float, p: Any, q: Any, x: Any, r: Any) -> float:
    total = 0.0
    for i in range(x.size):
        x[i] += alpha * p[i]
        r[i] -= alpha * q[i]
        total += r[i] * r[i]
    return math.sqrt(total)


@kernel
def _ssor_cg(
    indptr: Any, indices: Any, data: Any, at: Any, b: Any, x: Any, omega: float, tol: float, max_it: int
) -> tuple[int, float]:
    n = b.size
    weight = np.empty(n)
    for i in range(n):
        weight[i] = omega / data[at[i]]
    r, z, p, q = np.empty(n), np.empty(n), np.zeros(n), np.empty(n)
    scale = math.sqrt(np.dot(b, b))
    if scale == 0.0:
        x[:] = 0.0
        return 0, 0.0
    norm = _residual(indptr, indices, data, b, x, r)
    rho = math.inf
    for k in range(max_it):
        if norm <= tol * scale:
            norm = _residual(indptr, indices, data, b, x, r)
            if norm <= tol * scale:
                return k, norm / scale
        _precondition(indptr, indices, data, at, weight, omega, r, z)
        last, rho = rho, np.dot(r, z)
        curvature = _curvature(indptr, indices, data, z, rho / last, p, q)
        # Not positive definite, or not finite.
        if not curvature > 0.0:
            return k, norm / scale
        norm = _step(rho / curvature, p, q, x, r)
    return max_it, _residual(indptr, indices, data, b, x, r) / scale


def _checked(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, b: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Places of the diagonal entries of a system that can be relaxed."""
    n = len(b)
    if len(indptr) != n + 1 or x.shape != b.shape:
        raise Invalid(f"a matrix of {len(indptr) - 1} rows with {n} right-hand sides and {len(x)} unknowns")
    if len(indices) != len(data):
        raise Invalid(f"a matrix with {len(indices)} columns for {len(data)} entries")
    if not data.dtype == b.dtype == x.dtype == np.float64:
        raise Invalid(f"relaxation works in float64, got {data.dtype}, {b.dtype} and {x.dtype}")
    at = np.empty(n, dtype=indices.dtype)
    row = _places(indptr, indices, data, at)
    if row >= 0:
        raise Invalid(
            f"row {row} has no diagonal entry, or its columns are not sorted (sort_indices) "
            f"or not among {n}: the matrix must be square"
        )
    return at


def _omega(omega: float) -> float:
    if not 0 < omega < 2:
        raise Invalid(f"omega must lie in (0, 2), got {omega}")
    return float(omega)


def sweep(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
    omega: float,
    count: int = 1,
) -> float:
    """Forward sweeps of SOR, in place.

    Parameters
    ----------
    indptr, indices, data : ndarray, shapes (n + 1,), (nonzero,), (nonzero,)
        A square matrix in CSR, every row sorted and with its diagonal entry.
    b, x : ndarray, shape (n,), float64
        Right-hand side; unknowns, overwritten.
    omega : float
        In (0, 2).
    count : int
        Sweeps; the matrix is looked through once before the first.

    Returns
    -------
    float
        The free residual of the last sweep, see Notes.

    Raises
    ------
    Invalid
        If a diagonal entry is missing, a row not sorted, omega not in (0, 2), or shapes or types do not fit.

    Notes
    -----
    Row i is updated by ``omega s_i / a_ii``, where ``s_i`` is its residual at that moment: rows above it have
    their new values already. The norm of s needs no further work, so it is returned. It is not the residual
    of any iterate but ``s = (I + omega L D^-1)^-1 r``, r the residual before the sweep and A = L + D + U. It
    falls at the same rate, and is smaller or larger by a factor of at most ``||I + omega L D^-1||`` or the
    norm of its inverse. `sor` stops by the residual itself.
    """
    at = _checked(indptr, indices, data, b, x)
    weight, free = _omega(omega) / data[at], math.nan
    for _ in range(count):
        free = float(_sweep(indptr, indices, data, b, x, weight))
    return free


def sor(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
    omega: float,
    tol: float = 1e-8,
    max_it: int = 10000,
) -> Relaxed:
    """Solve by successive over-relaxation, in place.

    Parameters
    ----------
    indptr, indices, data : ndarray, shapes (n + 1,), (nonzero,), (nonzero,)
        A square matrix in CSR, every row sorted and with its diagonal entry.
    b, x : ndarray, shape (n,), float64
        Right-hand side; first guess, overwritten by the solution.
    omega : float
        In (0, 2).
    tol : float
        Stops at the first iterate with ``||r_k|| < tol ||r_0||``.
    max_it : int
        Sweeps at most.

    Returns
    -------
    Relaxed
        Relative to the first residual.

    Raises
    ------
    Invalid
        If a diagonal entry is missing, a row not sorted, omega not in (0, 2), or shapes or types do not fit.

    Notes
    -----
    ``x_k+1 = x_k + (D/omega + L)^-1 (b - A x_k)``. The rule needs the residual of an iterate, and that of a
    row is free in the next sweep: the products with the part above the diagonal meet x_k there, those with
    the part below met it in the last sweep and were kept. So a solve of k iterations costs k + 1 sweeps and
    one product, with which the residual is confirmed before it stops; memory for two more vectors.

    References
    ----------
    D. M. Young, Iterative Solution of Large Linear Systems, 1971, chapter 3.
    M. Khodak et al., Learning to Relax, ICLR 2024, arXiv:2310.02246 (the stopping rule).
    """
    at = _checked(indptr, indices, data, b, x)
    done, left = _sor(indptr, indices, data, at, b, x, _omega(omega) / data[at], float(tol), int(max_it))
    return Relaxed(int(done), float(left), bool(left < tol or left == 0.0))


def ssor_cg(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
    omega: float,
    tol: float = 1e-8,
    max_it: int = 10000,
) -> Relaxed:
    """Solve by conjugate gradients with the SSOR preconditioner, in place.

    Parameters
    ----------
    indptr, indices, data : ndarray, shapes (n + 1,), (nonzero,), (nonzero,)
        A symmetric positive definite matrix in CSR, every row sorted.
    b, x : ndarray, shape (n,), float64
        Right-hand side; first guess, overwritten by the solution.
    omega : float
        In (0, 2).
    tol : float
        Stops when ``||r_k|| <= tol ||b||``, confirmed with the true residual.
    max_it : int
        Iterations at most.

    Returns
    -------
    Relaxed
        Relative to the right-hand side; 0 iterations where the guess is good enough.

    Raises
    ------
    Invalid
        If a diagonal entry is missing, a row not sorted, omega not in (0, 2), or shapes or types do not fit.

    Notes
    -----
    ``M = (D + omega L) D^-1 (D + omega L)^T / (omega (2 - omega))``. An iteration costs a product, a forward
    and a backward sweep: about two products. It ends early, not converged, where the matrix is not positive
    definite along a direction.

    References
    ----------
    O. Axelsson, Iterative Solution Methods, 1994, section 7.
    """
    at = _checked(indptr, indices, data, b, x)
    done, left = _ssor_cg(indptr, indices, data, at, b, x, _omega(omega), float(tol), int(max_it))
    return Relaxed(int(done), float(left), bool(left <= tol))
