"""The ``cluster`` stage: training members in groups that share a reduced basis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid
from sciflow.registry import require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_rom.clusters.clusterers import Clusterer, Clustering, Dissimilarity, KMedoids, Sine
from sciflow_rom.compress.compression import COMPRESSION

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_rom.coordinates import Coordinates

_MEMBERS = Field(("sample",), "1", "int64", "members that were grouped")
CLUSTERING = Schema(
    "clustering",
    {
        "members": _MEMBERS,
        "labels": Field(("sample",), "1", "int64", "the cluster of each member"),
        "medoids": Field(("cluster",), "1", "int64", "position in members of the one in the middle"),
        "basis_members": Field(("cluster", "sample"), "1", "bool", "whose snapshots make the basis"),
        "to_medoids": Field(("sample", "cluster"), "any", "float32", "dissimilarity to each medoid"),
        "dissimilarity": Field(("sample", "other_sample"), "any", "float32"),
        "history": Field(("step",), "any", "float64", "what the method lowers"),
        "other_members": Field(("other",), "1", "int64", "members that were left out of the training"),
        "other_labels": Field(("other",), "1", "int64", "their clusters, by the same dissimilarity"),
        "other_to_medoids": Field(("other", "cluster"), "any", "float32"),
    },
)
_SINE, _MEDOIDS = Sine(), KMedoids(8)


@dataclass(frozen=True)
class Cluster(Stage):
    """Groups the training members of a compressed ensemble; reads no snapshot.

    Attributes
    ----------
    dissimilarity : Dissimilarity
        What makes members unlike.
    clusterer : Clusterer
        How they are grouped.
    overlap : float
        How many of the nearest members of other clusters also make the basis of a cluster, as a fraction
        of its members; 0 for none.
    seed : int
        Decides every random choice.

    Raises
    ------
    Invalid
        If `overlap` has a value that it cannot have.
    """

    name: ClassVar[str] = "cluster"
    inputs: ClassVar[Mapping[str, Schema]] = {"compression": COMPRESSION}
    output: ClassVar[Schema] = CLUSTERING
    dissimilarity: Dissimilarity = _SINE
    clusterer: Clusterer = _MEDOIDS
    overlap: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 1:
            raise Invalid(f"overlap is a fraction between 0 and 1, got {self.overlap}")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse more clusters than there are training members."""
        super().check(inputs)
        from sciflow_rom.clusters.clusterers import check_clusters

        require(self.clusterer)
        check_clusters(self.clusterer.clusters, len(inputs["compression"].read("train_members")))

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Group the members, on every rank the same; rank 0 writes."""
        import numpy as np

        from sciflow_rom.clusters.clusterers import overlapping
        from sciflow_rom.compress.compression import load_coordinates

        compression = inputs["compression"]
        train = compression.read("train_members")
        others = np.concatenate([compression.read("valid_members"), compression.read("test_members")])
        whole = load_coordinates(compression)
        known, new = whole.of(train), whole.of(others)
        found = self.clusterer.fit(known, self.dissimilarity, np.random.default_rng(self.seed))
        ctx.progress(1, 2, "grouping members")
        matrix = self.dissimilarity.matrix(known)
        labels = self.clusterer.assign(found, known, self.dissimilarity, new)
        groups = np.zeros((found.clusters, len(train)), dtype=np.bool_)
        for cluster, rows in enumerate(overlapping(found, matrix[:, found.medoids], self.overlap)):
            groups[cluster, rows] = True
        values = {
            "members": members_of(known),
            "labels": found.labels,
            "medoids": found.medoids,
            "basis_members": groups,
            "to_medoids": matrix[:, found.medoids],
            "dissimilarity": matrix,
            "history": found.history,
            "other_members": members_of(new),
            "other_labels": labels,
            "other_to_medoids": self.dissimilarity.to(known, found.medoids, new),
        }
        if ctx.comm.rank == 0:
            for name, array in values.items():
                out.write(name, array.astype(CLUSTERING[name].dtype), CLUSTERING[name])
            out.describe(
                compression=compression.digest,
                dissimilarity_of=self.dissimilarity.to_json(),
                clusterer=self.clusterer.to_json(),
                overlap=self.overlap,
                loss=found.loss,
            )
        ctx.progress(2, 2, "grouping members")


def members_of(coordinates: Coordinates) -> np.ndarray:
    """Members of coordinates, one for each of their groups."""
    import numpy as np

    return coordinates.members[np.array([g[0] for g in coordinates.groups], dtype=np.int64)]


def load_clustering(artifact: Artifact) -> Clustering:
    """The groups in a ``clustering`` artifact; rows are positions in its field ``members``."""
    return Clustering(
        artifact.read("labels"),
        artifact.read("medoids"),
        float(artifact.attributes["loss"]),
        artifact.read("history"),
    )


def basis_rows(artifact: Artifact) -> list[np.ndarray]:
    """Positions in ``members`` of those whose snapshots make the basis of each cluster, overlap included."""
    import numpy as np

    return [np.flatnonzero(row) for row in artifact.read("basis_members")]
