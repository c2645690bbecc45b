"""The ``convergence`` stage: how far a solver is from itself on a finer grid, the floor of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow.stored import Stored

CONVERGENCE = Schema(
    "convergence",
    {
        "members": Field(("sample",), "1", "int64"),
        "relative_l2": Field(("sample",), "1", "float64", "difference over the finer solution"),
    },
)


@dataclass(frozen=True)
class Convergence(Stage):
    """Compares an ensemble with the same members solved more finely.

    No model of the ensemble can be trusted to be closer to the truth than the ensemble itself, so this
    number belongs beside every error. Both ensembles come from one design and one seed, and the finer
    problem has every point of the coarser grid or at least some of them.

    Attributes
    ----------
    outputs_of : tuple of str
        Fields that are compared; ``"u[-1]"`` selects a time level.
    batch : int
        Members that are held in memory at once.
    """

    name: ClassVar[str] = "convergence"
    inputs: ClassVar[Mapping[str, Schema]] = {"ensemble": ENSEMBLE, "finer": ENSEMBLE}
    output: ClassVar[Schema] = CONVERGENCE
    outputs_of: tuple[str, ...]
    batch: int = 32

    def __post_init__(self) -> None:
        if not self.outputs_of:
            raise Invalid("name at least one field to compare")
        if self.batch < 1:
            raise Invalid(f"at least one member is compared at once, got batch={self.batch}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("u",))

    def identity(self) -> dict[str, object]:
        """How many members are held at once does not change the result."""
        return {k: v for k, v in self.to_json().items() if k != "batch"}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse ensembles whose members are not the same, or whose grids share no points."""
        super().check(inputs)
        self._pair(inputs)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Compare, a batch of members at a time."""
        import numpy as np

        from sciflow.stages import metrics

        coarse, fine, common = self._pair(inputs)
        members = coarse.members
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs_of}
        for begin in range(0, len(members), self.batch):
            ctx.progress(begin, len(members), "members")
            pick = np.arange(begin, min(begin + self.batch, len(members)))
            ours, theirs = coarse.take(pick).y, fine.take(pick).y
            for name in self.outputs_of:
                axes = coarse.signature.outputs[name].axes
                a, b = (
                    values[np.ix_(np.arange(len(pick)), *(common[axis][side] for axis in axes))]
                    for side, values in enumerate((ours[name], theirs[name]))
                )
                rows[name].append(metrics.relative_l2(a, b))
        ctx.progress(len(members), len(members), "members")
        errors = [np.concatenate(found) for found in rows.values()]
        out.write("members", members, CONVERGENCE["members"])
        out.write(
            "relative_l2", np.sqrt(np.mean(np.square(errors), axis=0)).reshape(-1), CONVERGENCE["relative_l2"]
        )
        out.describe(
            outputs=list(self.outputs_of),
            ensemble=inputs["ensemble"].digest,
            finer=inputs["finer"].digest,
            points={axis: len(a) for axis, (a, _) in common.items()},
            finer_points={axis: len(values) for axis, values in fine.signature.coordinates.items()},
        )

    def _pair(
        self, inputs: Mapping[str, Artifact]
    ) -> tuple[Stored, Stored, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Both as samples of the members that both have, and the points they share along each axis."""
        import numpy as np

        from sciflow.stored import Stored

        same_members([inputs["ensemble"], inputs["finer"]])
        both = np.intersect1d(inputs["ensemble"].members(), inputs["finer"].members())
        if not len(both):
            raise Invalid(
                f"{inputs['ensemble'].path} and {inputs['finer'].path} have no member that ended well in both"
            )
        coarse, fine = (Stored(inputs[name], (), self.outputs_of, both) for name in ("ensemble", "finer"))
        ours, theirs = coarse.signature.coordinates, fine.signature.coordinates
        for name in self.outputs_of:
            a, b = (s.signature.outputs[name].axes for s in (coarse, fine))
            if a != b:
                raise Invalid(f"{name!r} has the axes {a} in one ensemble and {b} in the finer one")
        return coarse, fine, {axis: shared(axis, ours[axis], theirs[axis]) for axis in ours}


def same_members(ensembles: Sequence[Artifact]) -> None:
    """Refuse ensembles that were not made from one design and one seed.

    Parameters
    ----------
    ensembles : sequence of Artifact
        The first one is what the others are compared with.

    Raises
    ------
    Invalid
        Naming the two that differ, and in what.
    """
    import numpy as np

    first = ensembles[0]
    for other in ensembles[1:]:
        for name, what in (("parameters", "design"), ("seed", "seed")):
            a, b = first.read(name), other.read(name)
            if not np.array_equal(a, b):
                raise Invalid(
                    f"{first.path} and {other.path} hold different members: their {name} differ; give both "
                    f"the same {what}"
                )


def shared(axis: str, coarse: np.ndarray, fine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the coordinates that two grids have in common.

    Parameters
    ----------
    axis : str
        For the message.
    coarse, fine : ndarray, shape (n,) and (m,)
        Increasing.

    Returns
    -------
    two ndarray of int64, shape (k,)
        Positions in each, in one order.

    Raises
    ------
    Invalid
        If they have no point in common.
    """
    import numpy as np

    near = np.clip(np.searchsorted(fine, coarse), 1, max(1, len(fine) - 1))
    near = np.where(np.abs(fine[near - 1] - coarse) < np.abs(fine[near % len(fine)] - coarse), near - 1, near)
    near = near % len(fine)
    spread = np.ptp(fine) if len(fine) > 1 else 1.0
    same = np.abs(fine[near] - coarse) <= 1e-6 * spread / max(1, len(fine) - 1)
    if not same.any():
        raise Invalid(
            f"the two grids have no point of {axis!r} in common ({len(coarse)} and {len(fine)} points); "
            "take a finer grid that contains the coarser one"
        )
    return np.flatnonzero(same), near[same]
