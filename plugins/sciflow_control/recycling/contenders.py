"""Solvers for a sequence of systems, all called alike: Krylov methods of PETSc, recycling ones, factors."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from petsc4py import PETSc

from sciflow_control.recycling.deflated_cg import DeflatedCG
from sciflow_control.recycling.gcro_dr import GCRODR

_PREFIXES = itertools.count()
FACTORS = {"cholesky": ("cholmod", "mumps", "petsc"), "lu": ("superlu", "umfpack", "mumps", "petsc")}
"""Packages for a factorisation, the fastest for a few thousand unknowns first."""
REMEMBERED = 40
"""Earlier solutions that a first guess is taken from."""


@dataclass(frozen=True)
class Settings:
    """What all contenders share.

    Attributes
    ----------
    m, k : int
        Largest Krylov space of a cycle, and how much of it is carried on.
    blocks : int
        Of block Jacobi and additive Schwarz.
    tolerance : float
        Of the residual relative to the right-hand side.
    limit : int
        Iterations after which a solve has failed.
    symmetric : bool
        Whether the operators are symmetric and positive definite.
    """

    m: int
    k: int
    blocks: int
    tolerance: float
    limit: int
    symmetric: bool


def preconditioner(pc: Any, name: str, settings: Settings) -> None:
    """Set up which preconditioner a PC is.

    Parameters
    ----------
    pc : petsc4py.PETSc.PC
        Without operators yet.
    name : str
        As PETSc calls it. ``sor`` is one symmetric sweep with omega = 1; ``ilu`` and ``icc`` are without
        fill; the blocks of ``bjacobi`` and ``asm`` (overlap 1) are consecutive rows, each solved by ``ilu``.
    settings : Settings
        The number of blocks, and whether Schwarz's method must be symmetric.
    """
    pc.setType(name)
    if name == "asm":
        pc.setASMTotalSubdomains(settings.blocks)
        pc.setASMType(PETSc.PC.ASMType.BASIC if settings.symmetric else PETSc.PC.ASMType.RESTRICT)
    if name == "bjacobi":
        prefix = f"sequence_{next(_PREFIXES)}_"
        options = PETSc.Options(prefix)
        options["pc_bjacobi_blocks"] = settings.blocks
        pc.setOptionsPrefix(prefix)
        pc.setFromOptions()
        options.delValue("pc_bjacobi_blocks")


class Contender(ABC):
    """Solves the systems of a sequence one after the other.

    Attributes
    ----------
    iterations, products : int
        Of the last solve: as the method counts them, and multiplications with the operator.
    """

    iterations = products = 0

    @abstractmethod
    def solve(self, matrix: Any, b: Any, x: Any, same: bool) -> int:
        """Solve from a guess of zero, set-up included.

        Parameters
        ----------
        matrix : petsc4py.PETSc.Mat
            One object all along, whose values may have changed.
        b, x : petsc4py.PETSc.Vec
            Right-hand side, and where the solution goes.
        same : bool
            The values are those of the system before.

        Returns
        -------
        int
            PETSc's reason, positive if it converged.
        """


class Krylov(Contender):
    """A method of PETSc.

    Parameters
    ----------
    method : str
        ``gmres``, ``lgmres``, ``bcgs``, ``cg``, or ``cg_projected``: CG whose first guess is the best
        combination of earlier solutions, for one operator.
    name : str
        See `preconditioner`.
    settings : Settings
        Shared.

    References
    ----------
    P. F. Fischer, "Projection techniques for iterative solution of Ax = b with successive right-hand
    sides", Comput. Methods Appl. Mech. Eng. 163 (1998), for the first guess.
    """

    def __init__(self, method: str, name: str, settings: Settings) -> None:
        self.ksp = ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        ksp.setType(method.removesuffix("_projected"))
        ksp.setTolerances(rtol=settings.tolerance, atol=1e-300, max_it=settings.limit)
        if method in ("gmres", "lgmres"):
            ksp.setGMRESRestart(settings.m)
        if method == "cg_projected":
            ksp.setUseFischerGuess(1, REMEMBERED)
        if not method.startswith("cg"):
            ksp.setPCSide(PETSc.PC.Side.RIGHT)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        preconditioner(ksp.getPC(), name, settings)
        self._each = 2 if method == "bcgs" else 1

    def solve(self, matrix: Any, b: Any, x: Any, same: bool) -> int:
        """See `Contender`; a kept operator keeps its preconditioner."""
        self.ksp.setOperators(matrix)
        self.ksp.solve(b, x)
        self.iterations = self.ksp.getIterationNumber()
        self.products = self._each * self.iterations
        return int(self.ksp.getConvergedReason())


class Recycled(Contender):
    """GCRO-DR or deflated CG.

    Parameters
    ----------
    method : str
        ``gcro_dr`` or ``deflated_cg``; ``gcro_dr_alone`` carries nothing from system to system.
    name : str
        See `preconditioner`.
    settings : Settings
        Shared.
    """

    def __init__(self, method: str, name: str, settings: Settings) -> None:
        self._pc = PETSc.PC().create(PETSc.COMM_SELF)
        preconditioner(self._pc, name, settings)
        self._settings, self._alone = settings, method == "gcro_dr_alone"
        self._kind: Any = DeflatedCG if method == "deflated_cg" else GCRODR
        self._solver: Any = None

    def solve(self, matrix: Any, b: Any, x: Any, same: bool) -> int:
        """See `Contender`."""
        s = self._settings
        self._pc.setOperators(matrix)
        self._pc.setUp()
        if self._solver is None or self._alone:
            self._solver = self._kind(matrix, s.m, s.k)
        reason = self._solver.solve(
            matrix, self._pc.apply, b.array, x.array, tolerances=(s.tolerance, 0.0), limit=s.limit, same=same
        )
        self.iterations, self.products = self._solver.iterations, self._solver.products
        return int(reason)


class Direct(Contender):
    """A factorisation; the ordering is found once, as the pattern stays.

    Parameters
    ----------
    settings : Settings
        Cholesky's for symmetric operators.
    keeps : bool
        Keep the factors of a kept operator.
    """

    def __init__(self, settings: Settings, keeps: bool) -> None:
        self._settings, self._keeps = settings, keeps
        self._ksp: Any = None
        self.package = ""

    def solve(self, matrix: Any, b: Any, x: Any, same: bool) -> int:
        """See `Contender`."""
        if self._ksp is None:
            self._ksp = self._made(matrix)
        if not (same and self._keeps):
            matrix.stateIncrease()
            self._ksp.setOperators(matrix)
        self._ksp.solve(b, x)
        self.iterations = self.products = 0
        return int(self._ksp.getConvergedReason())

    def _made(self, matrix: Any) -> Any:
        """A solver with the first package that is there and takes the matrix."""
        kind = "cholesky" if self._settings.symmetric else "lu"
        for package in FACTORS[kind]:
            ksp = PETSc.KSP().create(PETSc.COMM_SELF)
            ksp.setType("preonly")
            pc = ksp.getPC()
            pc.setType(kind)
            pc.setFactorSolverType(package)
            ksp.setOperators(matrix)
            try:
                pc.setFactorSetUpSolverType()
            # PETSc was built without it.
            except PETSc.Error:
                ksp.destroy()
                continue
            self.package = package
            return ksp
        raise AssertionError("PETSc's own factorisation is always there")


def contender(method: str, name: str, settings: Settings) -> Contender:
    """The contender of a row of the table.

    Parameters
    ----------
    method : str
        One of `sciflow_control.recycling.trial.METHODS`.
    name : str
        Its preconditioner, unread for direct solvers.
    settings : Settings
        Shared.
    """
    if method.startswith("direct"):
        return Direct(settings, keeps=method == "direct_kept")
    if method.startswith(("gcro_dr", "deflated")):
        return Recycled(method, name, settings)
    return Krylov(method, name, settings)
