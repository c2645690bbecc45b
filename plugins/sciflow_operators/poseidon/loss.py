"""The loss that Poseidon is trained with; torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow_operators.training.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from sciflow_operators.training.target import Target


@dataclass(frozen=True)
class RelativeL1(Loss):
    """Mean absolute error over the mean absolute value, of each output field, averaged over the fields.

    Notes
    -----
    ``mean_f |u_f - v_f|_1 / |v_f|_1`` for the fields ``f`` of a sample, in the fields' units. A sample
    whose field is below a thousandth of its typical size is divided by that bound instead.

    References
    ----------
    M. Herde et al., "Poseidon: efficient foundation models for PDEs", NeurIPS 2024, arXiv:2405.19101.
    """

    name: ClassVar[str] = "relative_l1"

    def __call__(self, predicted: Tensor, truth: Tensor, x: Tensor, target: Target) -> Tensor:
        """See `Loss.__call__`."""
        import torch

        from sciflow_operators.training.target import FLOOR

        errors = []
        for a, b, size in zip(
            torch.split(predicted, target.groups, -1),
            torch.split(truth, target.groups, -1),
            target.typical,
            strict=True,
        ):
            least = max(FLOOR * size, torch.finfo(b.dtype).tiny)
            errors.append((a - b).abs().flatten(1).mean(1) / b.abs().flatten(1).mean(1).clamp_min(least))
        return torch.stack(errors).mean(dim=0)
