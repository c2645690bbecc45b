"""Refinement of a prediction by noise that is added and predicted: objective and prediction.

The outputs, scaled to mean 0 and spread 1, are ``y``. Refinement ``k = 0 ... K`` adds noise of variance
``beta_k = v^(k/K)`` for the smallest variance ``v``; from the last to the first, the powers of the signal
multiply::

    a_k = (1 - beta_k) (1 - beta_(k+1)) ... (1 - beta_K),      y_k = sqrt(a_k) y + sqrt(1 - a_k) e

with unit noise ``e``. ``a_0 = 0``: the first pass sees no signal, and here zeros in place of noise. The
network gives ``w_k = sqrt(1 - a_k) y - sqrt(a_k) e``, which is the plain prediction ``y`` for k = 0 and
nearly the noise for k = K (the velocity of diffusion models with its sign changed). Then
``y = sqrt(a_k) y_k + sqrt(1 - a_k) w_k``, and the state of the next refinement is drawn from the Gaussian
that ``y`` and ``y_k`` imply for it.

References
----------
P. Lippe et al., "PDE-Refiner", NeurIPS 2023, arXiv:2308.05732, appendix C; J. Ho, A. Jain and P. Abbeel,
"Denoising diffusion probabilistic models", NeurIPS 2020, equation 7; T. Salimans and J. Ho, "Progressive
distillation for fast sampling of diffusion models", ICLR 2022, section 4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.surrogate import Arrays
from sciflow_operators.fields.channels import before
from sciflow_operators.training.fitted import PREDICT, Fitted, torch_threads

if TYPE_CHECKING:
    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels, Scale
    from sciflow_operators.wrappers.refiner import Refiner


def schedule(steps: int, variance: float) -> tuple[list[float], list[float]]:
    """Variances of the added noise and powers of the signal.

    Parameters
    ----------
    steps : int
        K, at least 1.
    variance : float
        Smallest variance.

    Returns
    -------
    beta, signal : list of float, length K + 1
        ``beta_k`` from 1 to `variance`, ``a_k`` from 0 to ``1 - variance``.
    """
    beta = [variance ** (k / steps) for k in range(steps + 1)]
    signal = [math.prod(1 - b for b in beta[k:]) for k in range(steps + 1)]
    return beta, signal


class Refined(Fitted):
    """A trained refiner; see the module.

    Parameters
    ----------
    config : Refiner
        Its configuration.
    signature, layout, net, scales
        See `Fitted`.
    """

    config: Refiner

    def __init__(
        self,
        config: Refiner,
        signature: Signature,
        layout: Channels,
        net: nn.Module,
        scales: tuple[Scale, Scale],
    ) -> None:
        super().__init__(config, signature, layout, net, scales)
        self.steps = config.steps
        self.passes = config.steps + 1
        self.beta, self.signal = schedule(max(1, config.steps), config.variance)

    def _pass(self, x: Tensor, noised: Tensor, level: Tensor) -> Tensor:
        """One pass of the network over scaled inputs; `level` is k of each sample, shape (batch,)."""
        place = (2 * level / self.steps - 1).view(-1, *(1,) * (x.ndim - 1)).expand(*x.shape[:-1], 1)
        return self.call(torch.cat([x, noised, place.to(x.dtype)], dim=-1))

    def objective(self, x: Tensor, y: Tensor, draw: torch.Generator, progress: float) -> Tensor:
        """Mean square of the error of ``w_k`` at a k drawn for each sample; see `Fitted.objective`."""
        if not self.steps:
            return super().objective(x, y, draw, progress)
        mean_in, spread_in, mean, spread = self._scaling
        change = (y - before(self.layout, x) - mean) / torch.where(spread > 0, spread, 1.0)
        level = torch.randint(self.steps + 1, (len(x),), generator=draw)
        power = torch.tensor(self.signal, dtype=torch.float64)[level]
        shape = (-1, *(1,) * (x.ndim - 1))
        left, added = (v.sqrt().to(x).view(shape) for v in (power, 1 - power))
        noise = torch.randn(y.shape, generator=draw).to(x)
        first = (level == 0).to(x.device).view(shape)
        noised = left * change + added * noise.masked_fill(first, 0.0)
        wanted = added * change - left * noise
        error = self._pass((x - mean_in) / spread_in, noised, level.to(x.device)) - wanted
        losses: Tensor = error.square().flatten(1).mean(dim=1)
        return losses

    def apply(self, x: Tensor) -> Tensor:
        """See `Fitted.apply`; ``steps + 1`` passes of the network."""
        return self.refine(x, 0)

    def refine(self, x: Tensor, number: int) -> Tensor:
        """A prediction with noise of its own.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
            In the fields' units.
        number : int
            Decides the noise.

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        if not self.steps:
            return super().apply(x)
        mean_in, spread_in, mean, spread = self._scaling
        scaled = (x - mean_in) / spread_in
        shape = (1, *x.shape[1:-1], len(mean))
        draw = torch.Generator().manual_seed(number)
        y = torch.zeros(len(x), *shape[1:], dtype=x.dtype, device=x.device)
        for k in range(self.steps + 1):
            signal, noise = self.signal[k], 1 - self.signal[k]
            w = self._pass(scaled, y, torch.full((len(x),), float(k), device=x.device))
            clean = math.sqrt(signal) * y + math.sqrt(noise) * w
            if k == self.steps:
                break
            to_clean, to_noised, deviation = following(self.beta[k], signal, self.signal[k + 1])
            y = to_clean * clean + to_noised * y + deviation * torch.randn(shape, generator=draw).to(x)
        return torch.add(torch.addcmul(mean, clean, spread), before(self.layout, x))

    def samples(self, x: Arrays, count: int) -> dict[str, np.ndarray]:
        """Predictions that differ by their noise alone.

        Parameters
        ----------
        x : mapping of str to ndarray, shape (batch, ...)
            As for `predict`.
        count : int
            How many.

        Returns
        -------
        dict of str to ndarray, shape (count, batch, ...)
        """
        values = torch.from_numpy(self.layout.stack(x, self.layout.inputs))
        found = []
        with torch.no_grad(), torch_threads(self.config.threads):
            for number in range(1, count + 1):
                parts = torch.split(values, PREDICT)
                made = torch.cat([self.refine(part.to(self.device), number).cpu() for part in parts])
                found.append(self.layout.unstack(made.numpy()))
        return {name: np.stack([f[name] for f in found]) for name in found[0]}

    def spread(self, x: Arrays) -> dict[str, np.ndarray] | None:
        """Standard deviation over `Refiner.draws` predictions; None without refinement."""
        if not self.steps:
            return None
        return {k: v.std(axis=0, ddof=1) for k, v in self.samples(x, self.config.draws).items()}


def following(beta: float, signal: float, after: float) -> tuple[float, float, float]:
    """The Gaussian of the next, less noised state.

    Parameters
    ----------
    beta, signal : float
        ``beta_k`` and ``a_k``.
    after : float
        ``a_(k+1)``.

    Returns
    -------
    to_clean, to_noised, deviation : float
        Its mean is ``to_clean y + to_noised y_k``.
    """
    noise = 1 - signal
    return (
        math.sqrt(after) * beta / noise,
        math.sqrt(1 - beta) * (1 - after) / noise,
        math.sqrt((1 - after) / noise * beta),
    )
