"""Right-hand sides to train on: random combinations of the Ritz vectors of one operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TINY = 1e-10
"""Of a new Lanczos vector, relative to the operator: below it the space is invariant."""


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenvectors.

    Attributes
    ----------
    values : ndarray, shape (mode,)
        Increasing.
    vectors : Tensor, shape (mode, n)
        Of unit length and orthogonal.
    """

    values: np.ndarray
    vectors: Tensor


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, count: int, seed: int) -> Ritz:
    """Ritz values and vectors of a symmetric operator.

    Parameters
    ----------
    product : callable
        A v for a vector of shape (n,).
    start : Tensor, shape (n,)
        Of double precision; decides the device.
    count : int
        Steps, at most n.
    seed : int
        Of vectors that go on where the space has become invariant (an operator with multiple eigenvalues).

    Notes
    -----
    beta_{j+1} v_{j+1} = A v_j - alpha_j v_j - beta_j v_{j-1}, made orthogonal to all before twice; the Ritz
    vectors are V s for the eigenvectors s of the tridiagonal matrix. O(count^2 n) operations and
    O(count n) memory: for grids of modest size.

    References
    ----------
    B. N. Parlett, The Symmetric Eigenvalue Problem, chapter 13.
    """
    n, steps = len(start), min(count, len(start))
    basis = start.new_zeros((steps, n))
    alpha, beta = np.zeros(steps), np.zeros(steps)
    v, scale = start / start.norm(), 0.0
    for j in range(steps):
        basis[j] = v
        w = product(v)
        alpha[j] = float(v @ w)
        scale = max(scale, float(w.norm()))
        w = _orthogonal(w, basis[: j + 1])
        beta[j] = float(w.norm())
        if beta[j] <= TINY * scale and j + 1 < steps:
            beta[j] = 0.0
            fresh = np.random.default_rng([seed, j]).standard_normal(n)
            w = _orthogonal(torch.from_numpy(fresh).to(start), basis[: j + 1])
        v = w / w.norm().clamp_min(torch.finfo(w.dtype).tiny)
    inner = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    values, vectors = np.linalg.eigh(inner)
    return Ritz(values, torch.from_numpy(np.ascontiguousarray(vectors.T)).to(start) @ basis)


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        w = w - basis.T @ (basis @ w)
    return w


def coefficients(count: int, modes: int, emphasis: float, part: float, seed: int, update: int) -> np.ndarray:
    """Gaussian numbers, larger in the lower part of the spectrum.

    Parameters
    ----------
    count, modes : int
        Right-hand sides and Ritz vectors.
    emphasis : float
        Standard deviation in the lower part; it is 1 above.
    part : float
        Of the modes that are the lower part.
    seed, update : int
        The numbers are a function of these.

    Returns
    -------
    ndarray, shape (count, modes)
    """
    c = np.random.default_rng([seed, update]).standard_normal((count, modes))
    c[:, : math.ceil(part * modes)] *= emphasis
    return c
