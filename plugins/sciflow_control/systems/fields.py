"""Random fields on the unit square, sampled by their waves."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import fft

Boundary = Literal["periodic", "neumann"]


def gaussian_field(
    points: int, alpha: float, tau: float, rng: np.random.Generator, boundary: Boundary = "periodic"
) -> np.ndarray:
    """A Gaussian field with covariance ``tau^(2 alpha - 2) (-Laplace + tau^2)^-alpha`` and mean zero.

    Parameters
    ----------
    points : int
        Along each side.
    alpha : float
        Smoothness, above 1: samples have fewer than ``alpha - 1`` derivatives.
    tau : float
        Inverse correlation length, 1/m.
    rng : numpy Generator
        ``2 points^2`` normal numbers with ``"periodic"``, half as many with ``"neumann"``.
    boundary : {"periodic", "neumann"}
        Of the Laplacian: Fourier waves, or cosines.

    Returns
    -------
    ndarray, shape (points, points)
        Values at (y, x), 1. The grid is ``i / points`` with ``"periodic"`` and the midpoints of as many
        intervals with ``"neumann"``.

    Notes
    -----
    ``u = sum_k tau^(alpha-1) (|w_k|^2 + tau^2)^(-alpha/2) xi_k phi_k`` with ``w = 2 pi k`` (Fourier, the real
    part of a sum with complex xi) or ``pi k`` (cosines), phi of mean square 1, xi standard normal; the
    constant is left out. The variance averaged over the square is the sum of the squared weights,
    `variance`.
    O(points^2 log points).

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021,
    appendix A.3; the data of its code and of the code of H. Wang et al., ICLR 2024, arXiv 2401.09516.
    """
    weights = _weights(points, alpha, tau, boundary)
    if boundary == "neumann":
        xi = rng.standard_normal((points, points))
        return np.asarray(fft.idctn(points * weights * xi, norm="ortho"))
    xi = rng.standard_normal((2, points, points))
    waves = weights * (xi[0] + 1j * xi[1])
    return np.asarray(fft.ifft2(waves).real * points**2)


def variance(points: int, alpha: float, tau: float, boundary: Boundary = "periodic") -> float:
    """Variance of `gaussian_field`, averaged over the square (the same everywhere with ``"periodic"``)."""
    return float(np.sum(_weights(points, alpha, tau, boundary) ** 2))


def _weights(points: int, alpha: float, tau: float, boundary: Boundary) -> np.ndarray:
    k = np.pi * np.arange(points) if boundary == "neumann" else 2 * np.pi * points * fft.fftfreq(points)
    weights = np.asarray(tau ** (alpha - 1) * (k[:, None] ** 2 + k**2 + tau**2) ** (-alpha / 2))
    weights[0, 0] = 0.0
    return weights
