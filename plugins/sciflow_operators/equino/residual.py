"""The networks, and the constitutive residual that they are trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sciflow_operators.baselines.mlp_net import MLPNet

if TYPE_CHECKING:
    from sciflow.reduction import Law
    from sciflow_operators.equino.correctors import Material
    from sciflow_operators.equino.equino import EquiNO
    from sciflow_operators.equino.modes import Modes

NETS = ("fluctuation", "stress")
"""The two networks, in this order."""


def networks(config: EquiNO, components: int) -> nn.ModuleDict:
    """Random weights, from torch's global generator; double precision."""
    pairs = zip(NETS, config.counts, strict=True)
    made = {name: MLPNet(components, count, config.width, config.layers) for name, count in pairs}
    return nn.ModuleDict(made).double()


class Respond(torch.autograd.Function):
    """A law of plain numpy as a function that torch can differentiate once."""

    @staticmethod
    def forward(ctx: Any, strain: Tensor, law: Law) -> Tensor:
        """Stress at points, shape (point, component)."""
        values = strain.detach().numpy()
        stress, tangent, _ = law(values, np.zeros((len(values), 0)), 0)
        # A law may give views of constants, which torch does not take.
        ctx.save_for_backward(torch.from_numpy(np.require(tangent, requirements=["C", "W"])))
        return torch.from_numpy(np.require(stress, requirements=["C", "W"]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient, shape (point, component), times the tangent that the law gave."""
        (tangent,) = ctx.saved_tensors
        return torch.einsum("qi,qij->qj", grads[0], tangent), None


class Residual:
    """How far the law at the strain that one network gives is from the stress that the other gives.

    Parameters
    ----------
    modes : Modes
        Of the cell.
    chosen : ndarray of int64, shape (point,)
        Integration points at which it is evaluated.
    material : callable
        The law at points.
    size : float
        Mean square of the stresses of the training solutions in the metric.

    Notes
    -----
    For macroscopic strains E and coefficients b, c

        loss = (1 / size) sum_q w_q |L_q^-1 (C_q(E + Phi_e b) - Phi_s c)|^2,

    with weights that add up to 1 for the points that were chosen. Cost for n strains and k points: the law
    at n k points, 6 n k c (r + r_s) operations, n k c^2 numbers of memory.
    """

    def __init__(self, modes: Modes, chosen: np.ndarray, material: Material, size: float) -> None:
        def flat(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[chosen].reshape(-1, values.shape[2]).T.copy())

        self._material, self._points = material, modes.points[chosen]
        self._laws: dict[int, Law] = {}
        self._strains, self._stress = flat(modes.strains), flat(modes.stress)
        weights = modes.metric.weights[chosen]
        scale = np.sqrt(weights / weights.sum() / size)
        self._white = torch.from_numpy(modes.metric.inverse[chosen] * scale[:, None, None])

    def __call__(self, strain: Tensor, fluctuation: Tensor, stress: Tensor) -> Tensor:
        """Relative square of the residual of every strain.

        Parameters
        ----------
        strain : Tensor, shape (n, component)
            Macroscopic.
        fluctuation, stress : Tensor, shape (n, mode)
            Coefficients.

        Returns
        -------
        Tensor, shape (n,)
        """
        n, (count, size) = len(strain), self._white.shape[:2]
        if n not in self._laws:
            self._laws[n] = self._material(np.tile(self._points, (n, 1)))
        local = (fluctuation @ self._strains).reshape(n, count, size) + strain[:, None]
        given: Tensor = Respond.apply(local.reshape(-1, size), self._laws[n])  # type: ignore[no-untyped-call]
        apart = given.reshape(n, -1) - stress @ self._stress
        white = torch.einsum("qij,nqj->nqi", self._white, apart.reshape(n, count, size))
        return white.square().sum(dim=(1, 2))
