"""Factors of trained dense weights."""

from __future__ import annotations

import copy
import string
from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.errors import Invalid
from sciflow_operators.fourier.factors import Factorised, spectral
from sciflow_operators.fourier.layers import Block, FNONet
from sciflow_operators.fourier.spectral import SpectralConv

SWEEPS = 50
"""Rounds of alternating least squares for CP."""


def factorise(net: FNONet, factorisation: str, rank: float | Sequence[int]) -> FNONet:
    """A copy of a dense network whose spectral weights are factorised, to be used or trained on.

    Parameters
    ----------
    net : FNONet
        With dense weights.
    factorisation : {"tucker", "cp", "tt"}
        See `FNO`.
    rank : float or sequence of int
        See `sciflow_operators.fourier.ranks.choose`.

    Returns
    -------
    FNONet

    Raises
    ------
    Invalid
        If the weights are factorised already, or the rank does not fit them.

    Notes
    -----
    Tucker by the higher-order singular value decomposition, trains by successive ones: the squared error is
    at most the sum of the squared singular values that are left out, over the axes or bonds. CP by
    alternating least squares from random factors of a fixed seed.

    References
    ----------
    L. De Lathauwer, B. De Moor and J. Vandewalle, "A multilinear singular value decomposition", SIAM J.
    Matrix Anal. Appl. 21(4), 2000. I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput.
    33(5), 2011.
    """
    result = copy.deepcopy(net)
    for block in result.blocks:
        assert isinstance(block, Block)
        conv = block.conv
        if not isinstance(conv, SpectralConv):
            raise Invalid("the weights of this network are factorised already")
        with torch.random.fork_rng(devices=[]):  # its random weights are replaced at once
            made = spectral(conv.channels_in, conv.channels_out, conv.modes, factorisation, rank)
        if not isinstance(made, Factorised):
            raise Invalid(f"{factorisation} is no factorisation; choose tucker, cp or tt")
        whole = full(conv).to("cpu", torch.complex128)  # where the random factors of CP are
        parts = {"tucker": tucker, "cp": cp, "tt": train}[factorisation](whole, made.ranks)
        with torch.no_grad():
            for target, values in zip(made.parts, parts, strict=True):
                target.copy_(torch.view_as_real(values.resolve_conj()))
        block.conv = made.to(conv.weight)
    return result


def full(conv: SpectralConv) -> Tensor:
    """A dense weight as a complex array of shape (channel in, channel out, *modes)."""
    w = conv.weight.detach()
    n = conv.channels_out
    z = torch.complex(w[..., :n].contiguous(), w[..., n:].contiguous())
    return z.permute(1, 2, 0).reshape(conv.channels_in, n, *conv.kept)


def _unfold(whole: Tensor, axis: int) -> Tensor:
    return whole.movedim(axis, 0).flatten(1)


def tucker(whole: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Core and factors of a tensor, any shape, by the truncated higher-order singular value decomposition."""
    factors = []
    for axis, r in enumerate(ranks):
        u, _, _ = torch.linalg.svd(_unfold(whole, axis), full_matrices=False)
        # An axis longer than all others together has fewer singular vectors than points.
        factors.append(torch.nn.functional.pad(u[:, :r], (0, max(0, r - u.shape[1]))))
    core = whole
    for factor in factors:  # takes the first axis, appends it as the last
        core = torch.tensordot(core, factor.conj(), dims=([0], [0]))
    return [core, *factors]


def train(whole: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Cores of the tensor train of a tensor of any shape by successive singular value decompositions."""
    cores, rest, before = [], whole, 1
    for n, r in zip(whole.shape[:-1], ranks, strict=True):
        u, s, v = torch.linalg.svd(rest.reshape(before * n, -1), full_matrices=False)
        more = max(0, r - len(s))
        u, rest = u[:, :r], s[:r, None] * v[:r]
        cores.append(torch.nn.functional.pad(u, (0, more)).reshape(before, n, r))
        rest, before = torch.nn.functional.pad(rest, (0, 0, 0, more)), r
    return [*cores, rest.reshape(before, whole.shape[-1], 1)]


def cp(whole: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Weights and factors of a sum of products for a tensor of any shape by alternating least squares."""
    (rank,) = ranks
    draw = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, rank, dtype=whole.dtype, generator=draw) for n in whole.shape]
    axes = string.ascii_lowercase[: whole.ndim]
    for _ in range(SWEEPS):
        for i in range(whole.ndim):
            others = [f.conj() for j, f in enumerate(factors) if j != i]
            names = [f"{a}r" for j, a in enumerate(axes) if j != i]
            right = torch.einsum(f"{axes},{','.join(names)}->{axes[i]}r", whole, *others)
            gram = _gram(others)
            # Nearly parallel factors are usual; the smallest shift keeps the system solvable.
            gram = gram + 1e-10 * gram.diagonal().abs().mean() * torch.eye(rank, dtype=whole.dtype)
            factors[i] = torch.linalg.solve(gram.mT, right.mT).mT
    return [torch.ones(rank, dtype=whole.dtype), *factors]


def _gram(conjugated: Sequence[Tensor]) -> Tensor:
    """Products of the columns of a Khatri-Rao product, from its conjugated factors."""
    result = torch.ones((), dtype=conjugated[0].dtype)
    for f in conjugated:
        result = result * (f.conj().mT @ f)
    return result
