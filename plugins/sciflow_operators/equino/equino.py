"""Configuration of EquiNO, the surrogate of a cell problem; numpy and torch are imported where used."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.problem import Problem
from sciflow.surrogate import Arrays, Report, Surrogate

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.homogenisation import CellProblem
    from sciflow.samples import Samples, Signature
    from sciflow_operators.equino.model import EquinoModel

Corrector = Literal["none", "newton", "magic"]
Norm = Literal["energy", "stress"]


@dataclass(frozen=True, kw_only=True)
class EquiNO(Surrogate):
    """Equilibrium neural operator: fluctuation and stress of a cell from its macroscopic strain.

    Two networks give the coefficients of fluctuation modes and of stress modes. Every stress mode is in
    equilibrium, so what is predicted is; the networks learn, without labels, that the law of the material
    turns the strain into the stress. Solutions are needed for the modes alone. Fitted by the stage
    ``train`` with ``inputs_of`` the components of the strain and ``outputs_of`` the fluctuation, perhaps
    with ``"stress"`` and ``"homogenised"``.

    Attributes
    ----------
    problem : CellProblem
        Whose solutions the samples are; its law is evaluated, and to fit also its weak form.
    modes : int
        Of the fluctuation.
    stress_modes : int
        Of the stress; 0 takes as many as `modes`.
    norm : {"energy", "stress"}
        What modes are orthonormal in and residuals are measured in: the energy at zero strain, or strain
        and stress as they are.
    scaling : {"mode", "global"}
        Whether each coefficient has its own mean and spread, or all of a network share one.
    degree : int
        Of the polynomial in the strain that coefficients are counted from, fitted to the solutions; 0 is
        the mean. The correctors begin with it where there is no network.
    network : bool
        Whether there are networks; without, the polynomial and a corrector answer, and `epochs` is 1.
    width, layers : int
        Of each network's hidden layers.
    epochs : int
        Rounds of training; strains for the residual are drawn anew for each.
    polish : int
        The last rounds, that use L-BFGS instead of Adam.
    points : int
        Macroscopic strains in each round.
    batch : int
        Strains per step of Adam.
    sampler : {"lhs", "sobol", "random"}
        How strains are drawn within the range of the samples.
    loss_points : int
        Integration points of the cell at which the residual is evaluated, drawn anew for each round; 0
        takes all.
    learning_rate : float
        The largest of Adam; falls along a cosine.
    iterations : int
        Of L-BFGS, in each round.
    corrector : {"none", "newton", "magic"}
        What follows the networks in an answer: nothing, Newton's method for the fluctuation coefficients
        with all integration points, or with a few.
    corrections : int
        Steps of the corrector.
    magic_points : int
        Integration points of the corrector ``magic``.
    threads : int
        Torch threads; 0 takes all cores this process may use, or ``OMP_NUM_THREADS`` if that is fewer.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    Equation, cost, measured accuracy: docs/methods/equino.md.

    References
    ----------
    H. Eivazi, J.-A. Tröger, S. Wittek, S. Hartmann, A. Rausch, "EquiNO: a physics-informed neural
    operator for multiscale simulations", J. Comput. Phys., 2026, 114745, arXiv:2504.07976 (equilibrated
    stress modes, the residual as a loss).
    """

    name: ClassVar[str] = "equino"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    problem: Problem
    modes: int = 16
    stress_modes: int = 0
    norm: Norm = "energy"
    scaling: Literal["mode", "global"] = "mode"
    degree: int = 3
    network: bool = True
    width: int = 48
    layers: int = 3
    epochs: int = 200
    polish: int = 0
    points: int = 512
    batch: int = 32
    sampler: Literal["lhs", "sobol", "random"] = "lhs"
    loss_points: int = 256
    learning_rate: float = 1e-2
    iterations: int = 50
    corrector: Corrector = "none"
    corrections: int = 1
    magic_points: int = 64
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("modes", "width", "layers", "epochs", "points", "batch", "iterations", "corrections"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("stress_modes", "degree", "polish", "loss_points", "threads"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")
        check_choices(self)
        if not 0 < self.learning_rate < math.inf:
            raise Invalid(f"learning_rate must be positive, got {self.learning_rate}")
        if self.polish > self.epochs:
            raise Invalid(f"polish={self.polish} of epochs={self.epochs}: only rounds that there are")
        if self.magic_points < max(self.modes, self.stress_modes):
            raise Invalid(
                f"magic_points={self.magic_points} cannot tell {max(self.modes, self.stress_modes)} modes "
                "apart; take at least as many"
            )
        if not self.network and self.epochs != 1:
            raise Invalid("without a network there is nothing to train: set epochs=1 and polish=0")

    @property
    def cell(self) -> CellProblem:
        """The problem.

        Raises
        ------
        Invalid
            If it is no steady cell problem without history.
        """
        from sciflow.homogenisation import CellProblem

        problem = self.problem
        if not isinstance(problem, CellProblem):
            raise Invalid(
                f"the problem {problem.name!r} is no cell problem (sciflow.homogenisation.CellProblem): "
                "EquiNO needs a weak form, a law in the total strain and macroscopic strains as parameters"
            )
        if len(problem.steps()) != 1 or problem.start(1).shape[1]:
            raise Invalid(
                f"{problem.name} has {len(problem.steps())} steps and {problem.start(1).shape[1]} history "
                "variables; EquiNO maps strains to stresses and takes elastic cells alone"
            )
        return problem

    @property
    def counts(self) -> tuple[int, int]:
        """Modes of the fluctuation and of the stress."""
        return self.modes, self.stress_modes or self.modes

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, EquinoModel]:
        """See `Surrogate.fit`; on one rank.

        Raises
        ------
        Invalid
            Also if the samples are no solutions of the problem, or too few for the modes.
        """
        from sciflow_operators.equino.training import fit

        return fit(self, samples, valid, ctx, resume)

    def load(self, state: Arrays, signature: Signature) -> EquinoModel:
        """See `Surrogate.load`; needs numpy alone."""
        from sciflow_operators.equino.model import from_state

        return from_state(self, state, signature)
