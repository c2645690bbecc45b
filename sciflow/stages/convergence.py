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

    Raises
    ------
    Invalid
        If `outputs_of` or `batch` has a value that it cannot have.
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
        paired(inputs["ensemble"], inputs["finer"], self.outputs_of)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Compare, a batch of members at a time."""
        pair = paired(inputs["ensemble"], inputs["finer"], self.outputs_of)
        out.write("members", pair.coarse.members, CONVERGENCE["members"])
        out.write("relative_l2", pair.differences(ctx, self.batch), CONVERGENCE["relative_l2"])
        out.describe(
            outputs=list(self.outputs_of),
            ensemble=inputs["ensemble"].digest,
            finer=inputs["finer"].digest,
            points={axis: len(a) for axis, (a, _) in pair.common.items()},
            finer_points={axis: len(values) for axis, values in pair.fine.signature.coordinates.items()},
        )


@dataclass(frozen=True)
class Paired:
    """Members of two ensembles at the points that both have; made by `paired`.

    Attributes
    ----------
    coarse, fine : Stored
        The same members of both.
    common : mapping of str to (ndarray, ndarray)
        For each axis the positions of its common points in the one and in the other.
    """

    coarse: Stored
    fine: Stored
    common: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def differences(self, ctx: Context, batch: int = 32) -> np.ndarray:
        """Relative L2 distance of each member from the finer one, the root mean square over the outputs.

        Parameters
        ----------
        ctx : Context
            Is told the progress.
        batch : int
            Members that are held in memory at once.

        Returns
        -------
        ndarray, shape (member,)
        """
        import numpy as np

        from sciflow.stages import metrics

        outputs, count = self.coarse.signature.outputs, len(self.coarse.members)
        rows: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
        for begin in range(0, count, batch):
            ctx.progress(begin, count, "members")
            pick = np.arange(begin, min(begin + batch, count))
            ours, theirs = self.coarse.take(pick).y, self.fine.take(pick).y
            for name, field in outputs.items():
                a, b = (
                    values[np.ix_(np.arange(len(pick)), *(self.common[axis][side] for axis in field.axes))]
                    for side, values in enumerate((ours[name], theirs[name]))
                )
                rows[name].append(metrics.relative_l2(a, b))
        ctx.progress(count, count, "members")
        errors = [np.concatenate(found) for found in rows.values()]
        return np.asarray(np.sqrt(np.mean(np.square(errors), axis=0)).reshape(-1))


def paired(
    ensemble: Artifact, finer: Artifact, outputs_of: tuple[str, ...], members: np.ndarray | None = None
) -> Paired:
    """Members that ended well in two ensembles of one design, and the points that both have.

    Parameters
    ----------
    ensemble, finer : Artifact
        Errors are relative to the second one.
    outputs_of : tuple of str
        Fields that are compared; ``"u[-1]"`` selects a time level.
    members : ndarray of int64, shape (member,), or None
        Only these; None: all that ended well in both.

    Raises
    ------
    Invalid
        If they hold other members, none of them ended well in both, or no point is common.
    """
    import numpy as np

    from sciflow.stored import Stored

    same_members([ensemble, finer])
    both = np.intersect1d(ensemble.members(), finer.members())
    if members is not None:
        both = np.intersect1d(both, members)
    if not len(both):
        raise Invalid(f"{ensemble.path} and {finer.path} have no member that ended well in both")
    coarse, fine = (Stored(one, (), outputs_of, both) for one in (ensemble, finer))
    ours, theirs = coarse.signature.coordinates, fine.signature.coordinates
    for name in outputs_of:
        a, b = (s.signature.outputs[name].axes for s in (coarse, fine))
        if a != b:
            raise Invalid(f"{name!r} has the axes {a} in one ensemble and {b} in the finer one")
    return Paired(coarse, fine, {axis: shared(axis, ours[axis], theirs[axis]) for axis in ours})


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
