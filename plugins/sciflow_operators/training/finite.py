"""Numbers that are not finite: in which field, of which member, at which time level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sciflow_operators.fields.channels import LEVELS

if TYPE_CHECKING:
    from sciflow.samples import Batch, Signature


def not_finite(batch: Batch, signature: Signature) -> str:
    """Where a batch first holds NaN or infinity, in words; empty if nowhere.

    Parameters
    ----------
    batch : Batch
        Training samples.
    signature : Signature
        Theirs.
    """
    sides = (("input", batch.x, signature.inputs), ("output", batch.y, signature.outputs))
    for side, (word, arrays, fields) in enumerate(sides):
        for name, values in arrays.items():
            finite = np.isfinite(values)
            if finite.all():
                continue
            sample, *place = (int(i) for i in np.argwhere(~finite)[0])
            what = f"the {word} {name!r} of {_whose(batch, sample)} is {values[(sample, *place)]}"
            axes = fields[name].axes if name in fields else ()
            if axes and axes[0] in LEVELS:
                level, *place = place
                axes = axes[1:]
                first = 0 if batch.levels is None else int(batch.levels[sample, side])
                what += f" at time level {first + level}"
            elif batch.levels is not None and batch.levels.any():
                what += f" at time level {int(batch.levels[sample, side])}"
            where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, place, strict=False))
            return f"{what}, point {where}" if where else what
    return ""


def whose(batch: Batch, most: int = 8) -> str:
    """The members of a batch, in words."""
    if batch.members is None:
        return f"{len(batch)} samples"
    members = np.unique(batch.members).tolist()
    more = f" and {len(members) - most} more" if len(members) > most else ""
    return f"member{'s' if len(members) > 1 else ''} {', '.join(map(str, members[:most]))}{more}"


def _whose(batch: Batch, sample: int) -> str:
    return f"sample {sample} of a batch" if batch.members is None else f"member {int(batch.members[sample])}"
