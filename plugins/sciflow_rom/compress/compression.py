"""The ``compress`` stage: from the fields of an ensemble to the coordinates of its snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sciflow.errors import Invalid, SciflowError, nearest
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import split

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_rom.coordinates import Coordinates

COLUMNS = ("member", "level")
PRODUCTS = ("euclidean", "l2", "h1")
_MEMBERS = Field(("sample",), "1", "int64")
COMPRESSION = Schema(
    "compression",
    {
        "triangle": Field(("mode", "snapshot"), "any", "float64", "R of the snapshots, S = Q R"),
        "members": Field(("snapshot",), "1", "int64", "member of each snapshot"),
        "levels": Field(("snapshot",), "1", "int64", "time level of each snapshot; -1 all"),
        "points": Field(("snapshot", "parameter"), "any", "float64", "parameters of its member"),
        "train_members": _MEMBERS,
        "valid_members": _MEMBERS,
        "test_members": _MEMBERS,
    },
)


@dataclass(frozen=True)
class Compress(Stage):
    """Reads every snapshot of a field once and keeps their coordinates in an orthonormal basis.

    All later steps (clusters, bases, errors) are computed from these; the snapshots are read once
    more, when bases are lifted.

    Attributes
    ----------
    field : str
        Of the ensemble.
    columns : {"member", "level"}
        ``member``: all time levels of a member are one snapshot. ``level``: each is one.
    product : {"euclidean", "l2", "h1"}
        Inner product: of the numbers as they are, of functions in space (with `columns`
        ``"member"`` in space and time), or of functions and their gradients.
    tolerance : float
        Smallest relative error that later steps may ask for. From 1e-6 on, inner products are
        computed, which costs least; below, orthogonal transformations.
    train, valid : float
        Fractions of the members, as in `Train`: with its seed, the same members. All are compressed.
    seed : int
        Of the split.

    Raises
    ------
    Invalid
        If `train`, `valid`, `tolerance`, `columns` or `product` has a value that it cannot have.
    """

    name: ClassVar[str] = "compress"
    inputs: ClassVar[Mapping[str, Schema]] = {"ensemble": ENSEMBLE}
    output: ClassVar[Schema] = COMPRESSION
    field: str
    columns: Literal["member", "level"] = "member"
    product: Literal["euclidean", "l2", "h1"] = "l2"
    tolerance: float = 1e-6
    train: float = 0.8
    valid: float = 0.05
    seed: int = 0

    @classmethod
    def example(cls) -> Compress:
        """A field by its name."""
        return cls(field="u")

    def __post_init__(self) -> None:
        if not (0 < self.train < 1 and 0 < self.valid < 1 and self.train + self.valid < 1):
            raise Invalid(
                "train and valid are fractions that leave some members for the test, "
                f"got {self.train} and {self.valid}"
            )
        for chosen, known in ((self.columns, COLUMNS), (self.product, PRODUCTS)):
            if chosen not in known:
                raise Invalid(f"{chosen!r} is not known. {nearest(chosen, known)}")
        if not 0 < self.tolerance < 1:
            raise Invalid(f"the tolerance is relative and lies between 0 and 1, got {self.tolerance}")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a field that is not there, cannot be columns or does not have the product."""
        super().check(inputs)
        from sciflow_rom.compress.metrics import product_of
        from sciflow_rom.compress.snapshots import Snapshots

        ensemble = inputs["ensemble"]
        members = ensemble.members()
        split(members, self.train, self.valid, self.seed)
        Snapshots(ensemble, self.field, members, self.columns)
        product_of(ensemble, self.field, self.product, self.columns)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Compress and store; on any number of ranks, of which the first one writes."""
        from sciflow_rom.compress.factor import factorise
        from sciflow_rom.compress.metrics import product_of
        from sciflow_rom.compress.snapshots import Snapshots

        ensemble = inputs["ensemble"]
        members = ensemble.members()
        snapshots = Snapshots(ensemble, self.field, members, self.columns, ctx.comm)
        product = product_of(ensemble, self.field, self.product, self.columns)
        found = factorise(snapshots, product, tolerance=self.tolerance, ctx=ctx, kept=out.scratch)
        _refuse_zeros(found.triangle, snapshots.members)
        if ctx.comm.rank:
            return
        floor = max(found.floor, snapshots.floor)
        ctx.log.info(
            "%d snapshots of %d values compressed (%s); singular values below %.1e of the largest are noise",
            snapshots.columns, snapshots.rows, found.method, floor,
        )  # fmt: skip
        values = {
            "triangle": found.triangle,
            "members": snapshots.members,
            "levels": snapshots.levels,
            "points": ensemble.read("parameters")[snapshots.members],
        }
        parts = split(members, self.train, self.valid, self.seed)
        values |= dict(zip(("train_members", "valid_members", "test_members"), parts, strict=True))
        for name, array in values.items():
            out.write(name, array, COMPRESSION[name])
        out.describe(
            **{k: self.to_json()[k] for k in ("field", "columns", "product", "tolerance")},
            ensemble=ensemble.digest,
            method=found.method,
            floor=floor,
            rows=snapshots.rows,
            unit=snapshots.field.unit,
            parameters=ensemble.attributes["parameters"],
            logarithmic=_logarithmic(ensemble),
        )


def load_coordinates(artifact: Artifact) -> Coordinates:
    """The coordinates in a ``compression``, of all its members.

    Raises
    ------
    Invalid
        If it is another kind of artifact.
    """
    from sciflow_rom.coordinates import Coordinates

    reasons = COMPRESSION.accepts(artifact.schema)
    if reasons:
        raise Invalid(f"{artifact.path}: {'; '.join(reasons)}")
    about = artifact.attributes
    return Coordinates(
        artifact.read("triangle"),
        artifact.read("members"),
        artifact.read("levels"),
        artifact.read("points"),
        float(about["floor"]),
        tuple(about["logarithmic"]),
    )


def _refuse_zeros(triangle: Any, members: Any) -> None:
    """Refuse members of which every snapshot is zero: they have no direction.

    Raises
    ------
    Invalid
        On every rank, with the members.
    """
    import numpy as np

    alive = np.abs(triangle).max(axis=0) > 0
    dead = sorted(set(members.tolist()) - set(members[alive].tolist()))
    if dead:
        raise Invalid(
            f"members {dead[:10]}{' and others' if len(dead) > 10 else ''} ({len(dead)} in all) are zero "
            "everywhere and have no angle to others; leave their parameters out of the design"
        )


def _logarithmic(ensemble: Artifact) -> list[bool]:
    """Which parameters the problem spreads in the logarithm; none where it is not installed."""
    from sciflow.problem import Problem
    from sciflow.registry import registry

    names: list[str] = ensemble.attributes["parameters"]
    try:
        problem = registry().build(ensemble.attributes["problem"], kind="problem")
    except (SciflowError, KeyError):
        return [False] * len(names)
    assert isinstance(problem, Problem)
    return [problem.parameters[n].log for n in names]
