"""Learned directions as the linear solver of a problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.linear_solver import LinearSolver, Solving
from sciflow_control.directions.domains import Box, Domain

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

_BOX = Box()


@dataclass(frozen=True)
class LearnedDirections(LinearSolver):
    """Flexible conjugate gradients with the directions that a trained network proposes.

    For systems with one unknown for each cell inside of a domain, in C order, on one rank. Where it does
    not converge, the problem's own solver goes on from the better of start and last iterate; after three
    such failures in a row it solves alone. On a processor this is slower than every classical method, by
    one or two orders of magnitude; see the page on learned directions.

    Attributes
    ----------
    model : str
        Directory of a ``directions`` artifact.
    domain : Domain
        That the unknowns belong to; as many dimensions as the training had, any size and shape.
    model_digest : str
        Of the artifact, or the beginning of it; empty: whatever is there.
    previous : int
        Directions that a new one is made conjugate to.
    iterations : int
        After so many it is given up.
    precision : {"float32", "bfloat16"}
        Of the convolutions; bfloat16 is faster on processors that compute with it, and as good.
    device : {"auto", "cpu", "cuda"}
        Where the network is computed.

    Raises
    ------
    Invalid
        If `model`, `previous` or `iterations` has a value that it cannot have.
    """

    name: ClassVar[str] = "learned_directions"
    requires: ClassVar[tuple[str, ...]] = ("torch", "petsc4py")
    model: str
    domain: Domain = _BOX
    model_digest: str = ""
    previous: int = 2
    iterations: int = 100
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.model:
            raise Invalid(
                "model is the directory of a directions artifact, made by the stage train_directions"
            )
        for name in ("previous", "iterations"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def example(cls) -> Self:
        """A configuration; whether the artifact is there is looked at when it is used."""
        return cls("artifacts/directions-0123456789abcdef")

    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """See `LinearSolver.wrap`.

        Raises
        ------
        NotFound
            If there is no artifact.
        Invalid
            If it is damaged, of another kind or digest, learned in another number of dimensions, if the
            system does not fit the domain, or on several ranks.
        """
        from sciflow_control.directions.model import load, proposing
        from sciflow_control.directions.poisson import Poisson
        from sciflow_control.directions.preconditioner import DirectionsPC, DirectionsSolving, alone

        alone(ksp.getComm().size)
        operator = Poisson.of(self.domain)
        net = load(self.model, self.model_digest, self.device)
        pc = DirectionsPC(proposing(net, operator, self.precision), operator)
        failures = int(restart["failures"]) if restart else 0
        return DirectionsSolving(ksp, pc, self.previous, self.iterations, failures)
