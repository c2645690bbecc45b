"""Spectral layers whose matrices are kept as factors: Tucker, CP and tensor trains, in real numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow_operators.fourier.ranks import KINDS, choose, sizes
from sciflow_operators.fourier.spectral import Spectral, SpectralConv, combine

NOMINAL = 16
"""Samples for which the cheaper way to multiply is chosen, so that the choice depends on no batch."""


def times(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """`torch.einsum` of two complex arrays that hold their parts in the last axis, shapes (..., 2)."""
    (ar, ai), (br, bi) = a.unbind(-1), b.unbind(-1)
    re = torch.einsum(equation, ar, br) - torch.einsum(equation, ai, bi)
    im = torch.einsum(equation, ar, bi) + torch.einsum(equation, ai, br)
    return torch.stack([re, im], dim=-1)


def apply(z: Tensor, weight: Tensor) -> Tensor:
    """Multiply with complex matrices.

    Parameters
    ----------
    z : Tensor, shape (mode, 2 * batch, channel)
        Real parts above imaginary parts.
    weight : Tensor, shape (mode, channel, other, 2) or (channel, other, 2) for all modes
    """
    return combine(torch.matmul(z, torch.cat(weight.unbind(-1), dim=-1)), weight.shape[-2])


def scale(z: Tensor, weight: Tensor) -> Tensor:
    """Multiply each channel with a complex number; `weight` has the shape (mode, channel, 2)."""
    re, im = torch.tensor_split(z, 2, dim=1)
    wr, wi = weight.unsqueeze(1).unbind(-1)
    return torch.cat([re * wr - im * wi, re * wi + im * wr], dim=1)


class Factorised(Spectral):
    """Multiplies each mode with a matrix that is a part of one factorised array for all modes.

    Parameters
    ----------
    channels_in, channels_out, modes
        See `Spectral`.
    rank : float or sequence of int
        See `sciflow_operators.fourier.ranks.choose`.

    Attributes
    ----------
    shape : tuple of int
        Of the full array: (channel in, channel out, *modes), complex.
    ranks : list of int
        Of the factorisation.
    parts : ParameterList
        Its arrays in the order of `sciflow_operators.fourier.ranks.sizes`, each with a last axis for the real
        and the imaginary part.
    direct : bool
        Whether a mode is multiplied with the factors one after the other and the full matrices are never
        made: where that needs fewer products for 16 samples.

    Notes
    -----
    The factors are complex (not real ones around a complex core), so that every complex array has its
    factorisation and weights can be exchanged with neuraloperator. Random factors are scaled so that the mean
    square of the full array is exactly that of a dense layer's distribution.
    """

    kind: str
    diagonal = False

    def __init__(
        self, channels_in: int, channels_out: int, modes: Sequence[int], rank: float | Sequence[int]
    ) -> None:
        super().__init__(channels_in, channels_out, modes)
        self.shape = (channels_in, channels_out, *self.kept)
        self.ranks = choose(self.kind, self.shape, rank)
        shapes = sizes(self.kind, self.shape, self.ranks)
        spreads = self._spreads()
        self.parts = nn.ParameterList(s * torch.randn(*n, 2) for n, s in zip(shapes, spreads, strict=True))
        self.direct = self._cheaper()
        with torch.no_grad():
            found = self.dense(self.kept).square().sum(dim=-1).mean()
            wanted = (2 / (channels_in + channels_out) / found).sqrt()
            for part in self.parts:  # all alike, so that one learning rate serves all
                part.mul_(wanted ** (1 / len(self.parts)))

    @abstractmethod
    def _spreads(self) -> list[float]:
        """Standard deviations of the random numbers of each array, up to a common factor."""

    @abstractmethod
    def _pieces(self, kept: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The product of three whose middle depends on the mode.

        Returns
        -------
        left : Tensor, shape (channel in, p, 2)
        middle : Tensor, shape (mode, p, q, 2), or (mode, p, 2) where it is diagonal
        right : Tensor, shape (q, channel out, 2), or None where ``q`` is the channel out
        """

    def _cheaper(self) -> bool:
        """Whether the pieces one after the other need fewer products than the full matrices."""
        full = self.channels_in * self.channels_out
        with torch.no_grad():
            left, _, right = self._pieces(self.kept)
        p, q = left.shape[1], self.channels_out if right is None else right.shape[0]
        inner = 0 if self.diagonal else p * q
        direct = self.channels_in * p + inner + (0 if right is None else q * self.channels_out)
        made = p * full + (0 if right is None else inner * self.channels_out)
        return direct <= full + made / NOMINAL

    def mix(self, z: Tensor, kept: tuple[int, ...]) -> Tensor:
        """See `Spectral.mix`."""
        if not self.direct:
            return apply(z, self.dense(kept))
        left, middle, right = self._pieces(kept)
        z = apply(z, left)
        z = scale(z, middle) if self.diagonal else apply(z, middle)
        return z if right is None else apply(z, right)

    def dense(self, kept: tuple[int, ...]) -> Tensor:
        """The matrices of the modes that a grid carries, shape (mode, channel in, channel out, 2)."""
        left, middle, right = self._pieces(kept)
        if self.diagonal:
            assert right is not None
            return times("ip,kpo->kio", left, times("kp,po->kpo", middle, right))
        return times("ip,kpo->kio", left, middle if right is None else times("kpq,qo->kpo", middle, right))

    def _modes(self, factors: Sequence[Tensor], kept: tuple[int, ...], axis: int) -> list[Tensor]:
        """Factors of the mode axes, cut to the modes that a grid carries."""
        return [f.narrow(axis, *self.span(i, kept)) for i, f in enumerate(factors)]


class Tucker(Factorised):
    """``R = core x_in A x_out B x_1 U_1 ... x_d U_d``: ranks (in, out, *modes); see `Factorised`."""

    kind = "tucker"

    def _spreads(self) -> list[float]:
        return [1.0, *(1 / math.sqrt(r) for r in self.ranks)]

    def _pieces(self, kept: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
        core, into, out, *factors = self.parts
        for factor in self._modes(factors, kept, 0):  # takes the first mode axis, appends it as the last
            core = times("pqr...,kr->pq...k", core, factor)
        return into, core.flatten(2, -2).movedim(2, 0), out.transpose(0, 1)


class CP(Factorised):
    """``R = sum_r w_r a_r o b_r o u_1r o ... o u_dr``: one rank; see `Factorised`."""

    kind = "cp"
    diagonal = True

    def _spreads(self) -> list[float]:
        return [1.0, *(1.0 for _ in self.shape)]

    def _pieces(self, kept: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
        middle, into, out, *factors = self.parts
        for factor in self._modes(factors, kept, 0):
            middle = times("...r,kr->...kr", middle, factor)
        return into, middle.flatten(0, -3), out.transpose(0, 1)


class TensorTrain(Factorised):
    """``R = G_in G_out G_1 ... G_d``: ranks between neighbours; see `Factorised`."""

    kind = "tt"

    def _spreads(self) -> list[float]:
        return [1.0, *(1 / math.sqrt(r) for r in self.ranks)]

    def _pieces(self, kept: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
        into, out, *cores = self.parts
        first, *others = self._modes(cores, kept, 1)
        for core in others:
            first = times("b...c,ckd->b...kd", first, core)
        modes = first.flatten(1, -3).squeeze(-2)  # (bond, mode, 2)
        return into.squeeze(0), times("pob,bk->kpo", out, modes), None


def spectral(
    channels_in: int,
    channels_out: int,
    modes: Sequence[int],
    factorisation: str = "dense",
    rank: float | Sequence[int] = 1.0,
) -> Spectral:
    """A spectral layer with random weights.

    Parameters
    ----------
    channels_in, channels_out, modes
        See `Spectral`.
    factorisation : {"dense", "tucker", "cp", "tt"}
        How its matrices are kept.
    rank : float or sequence of int
        See `sciflow_operators.fourier.ranks.choose`; not used by ``dense``.

    Raises
    ------
    Invalid
        If there is no such factorisation or the rank does not fit it.
    """
    if factorisation == "dense":
        return SpectralConv(channels_in, channels_out, modes)
    found = {cls.kind: cls for cls in (Tucker, CP, TensorTrain)}.get(factorisation)
    if found is None:
        raise Invalid(f"there is no factorisation {factorisation!r}; choose dense, {', '.join(KINDS)}")
    return found(channels_in, channels_out, modes, rank)
