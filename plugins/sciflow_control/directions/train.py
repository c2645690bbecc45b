"""The ``train_directions`` stage: learns search directions on one operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.directions.domains import Box, Domain

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer

DIRECTIONS = Schema(
    "directions",
    {
        "ritz_values": Field(("mode",), "1", "float64", "of the operator that was trained on"),
        "history_updates": Field(("step",), "1", "int64", "updates after which the losses were noted"),
        "history_loss": Field(("step",), "1", "float64", "mean loss since the last note"),
        "history_valid": Field(("step",), "1", "float64", "loss of right-hand sides that were never seen"),
        "residuals_learned": Field(("iteration",), "1", "float64", "relative, of one that was never seen"),
        "residuals_cg": Field(
            ("iteration",), "1", "float64", "relative, of conjugate gradients for the same"
        ),
    },
)
_BOX = Box()
# Of the configuration, what changes neither weights nor history but on another machine.
_FREE = ("device", "checkpoint_every")


@dataclass(frozen=True)
class TrainDirections(Stage):
    """Trains a network to propose search directions for Poisson's equation; without any solution.

    On one rank. A killed training goes on from its last checkpoint with the same bits, on the same
    device and number of threads.

    Attributes
    ----------
    domain : Domain
        Of the one operator that is trained on; gives the number of dimensions.
    width : int
        Channels.
    layers : tuple of three int
        Convolutions on the grid, in a level of the coarse branch, and on the grid again.
    levels : int
        Levels of the coarse branch; 1 as published, more reach further.
    ritz : int
        Lanczos steps and so Ritz vectors; at most one for each cell.
    emphasis, emphasised : float
        Standard deviation of the coefficients in the lower part of the spectrum (1 above), and that part.
    batch, updates : int
        Right-hand sides of an update, and updates.
    learning_rate : float
        Of Adam at the beginning.
    schedule : {"cosine", "constant"}
        How it falls to zero; published: constant, 1e-4.
    report_every, checkpoint_every : int
        Updates between notes in the history, and between checkpoints, which are made after a note.
    precision : {"float32", "bfloat16"}
        Of the convolutions; weights and losses have single precision.
    device : {"auto", "cpu", "cuda"}
        Where it is computed.
    seed : int
        Of weights and right-hand sides.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    Lowers the mean of | b - A q (q.b) / (q.A q) |^2 with q = f(b), over b = sum_k c_k v_k of length one,
    v_k the Ritz vectors, c_k Gaussian numbers. Every update draws right-hand sides of its own, which are a
    function of seed and update.

    References
    ----------
    Kaneda et al., A Deep Conjugate Direction Method for Iteratively Solving Linear Systems, ICML 2023,
    arXiv:2205.10763, sections 4 and 5.
    """

    name: ClassVar[str] = "train_directions"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    output: ClassVar[Schema] = DIRECTIONS
    domain: Domain = _BOX
    width: int = 16
    layers: tuple[int, int, int] = (4, 6, 4)
    levels: int = 1
    ritz: int = 1024
    emphasis: float = 9.0
    emphasised: float = 0.55
    batch: int = 10
    updates: int = 2000
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    report_every: int = 50
    checkpoint_every: int = 200
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("width", "levels", "ritz", "batch", "updates", "report_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.layers) != 3 or min(self.layers) < 1:
            raise Invalid(f"layers are three numbers of at least 1, got {self.layers}")
        if not self.emphasis > 0 or not 0 <= self.emphasised <= 1:
            raise Invalid(
                "emphasis is positive and emphasised a part of the spectrum, "
                f"got {self.emphasis} and {self.emphasised}"
            )
        if not self.learning_rate > 0:
            raise Invalid(f"learning_rate must be positive, got {self.learning_rate}")

    @classmethod
    def example(cls) -> Self:
        """Learned within a second, too little to be of use."""
        return cls(Box((8, 8)), width=4, layers=(1, 1, 1), ritz=32, batch=4, updates=4, report_every=2)

    def identity(self) -> dict[str, object]:
        """Where it is computed and how often it is saved does not change the result."""
        return {name: value for name, value in self.to_json().items() if name not in _FREE}

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Train, keeping checkpoints, and store weights, losses and a comparison with CG.

        Raises
        ------
        Invalid
            On several ranks, or if a GPU is asked for that is not there.
        Diverged
            If losses are no longer finite.
        """
        from sciflow_control.directions.training import run

        run(self, out, ctx)
