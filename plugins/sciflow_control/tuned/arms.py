"""Arms: the solvers that can be chosen, kept with their set-ups."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from petsc4py import PETSc

from sciflow.errors import Invalid, nearest
from sciflow_control.tuned.costs import WIDE, Size
from sciflow_control.tuned.library import set_omega
from sciflow_control.tuned.operator import Operator

GIVEN = "given"
"""The method that stands for the solver that was given."""
METHODS = ("cg", "gmres", "fgmres", "bcgs", "minres", "richardson", "fcg", "preonly")
PRECONDITIONERS = (
    "none", "jacobi", "bjacobi", "sor", "ssor", "eisenstat", "icc", "ilu", "asm", "gamg", "hypre",
)  # fmt: skip
DIRECT = ("cholesky", "lu")
RELAXED = ("sor", "ssor", "eisenstat")
_numbers = itertools.count()


@dataclass(frozen=True)
class Choice:
    """What an arm means.

    Attributes
    ----------
    method, preconditioner : str
        A direct solver is ``preonly`` with ``cholesky`` or ``lu``; the given one is ``given``.
    omega : float or None
        Of a relaxation; None: 1.
    """

    method: str
    preconditioner: str = ""
    omega: float | None = None

    @property
    def key(self) -> str:
        """Arms with the same key share a solver and its set-up."""
        return f"{self.method}+{self.preconditioner}" if self.preconditioner else self.method

    @property
    def name(self) -> str:
        """Of this arm alone."""
        return self.key if self.omega is None else f"{self.key}@{self.omega!r}"


def choice(values: Mapping[str, Any]) -> Choice:
    """Read the settings of an arm.

    Parameters
    ----------
    values : mapping
        ``{"method": "cg+ssor", "omega": 1.7}``, ``{"method": "cholesky"}``, ``{"method": "given"}``;
        ``{"omega": 1.7}`` alone is conjugate gradients with SSOR.

    Raises
    ------
    Invalid
        If a name is unknown or omega is outside (0, 2).
    """
    name = str(values.get("method", "cg+ssor"))
    unknown = set(values) - {"method", "omega"}
    if unknown:
        raise Invalid(f"an arm has the settings method and omega, not {', '.join(sorted(unknown))}")
    method, _, preconditioner = name.partition("+")
    if name in DIRECT:
        method, preconditioner = "preonly", name
    elif name != GIVEN:
        preconditioner = preconditioner or "none"
        if method not in METHODS:
            raise Invalid(f"no method {method!r} in the arm {name!r}. {nearest(method, METHODS)}")
        if preconditioner not in PRECONDITIONERS:
            hint = nearest(preconditioner, PRECONDITIONERS)
            raise Invalid(f"no preconditioner {preconditioner!r} in the arm {name!r}. {hint}")
    omega = values.get("omega")
    if omega is not None and not 0 < float(omega) < 2:
        raise Invalid(f"omega of the arm {name!r} must lie in (0, 2), got {omega}")
    return Choice(method, preconditioner, None if omega is None else float(omega))


def obstacle(wanted: Choice, ranks: int) -> str:
    """Why an arm cannot run here; empty if it can."""
    if wanted.method == GIVEN:
        return ""
    if wanted.preconditioner == "eisenstat" and ranks > 1:
        return f"PETSc's eisenstat works on one rank, here are {ranks}"
    if wanted.preconditioner in DIRECT and ranks > 1 and not packages(wanted.preconditioner, ranks):
        return f"this PETSc has no parallel {wanted.preconditioner}: build it with MUMPS or SuperLU_DIST"
    if wanted.preconditioner == "hypre" and not _has_hypre():
        return "this PETSc was built without hypre"
    return ""


def check(arms: Iterable[Mapping[str, Any]], ranks: int) -> None:
    """Refuse a space with arms that cannot run here.

    Raises
    ------
    Invalid
        Naming them with the reason, and those that can.
    """
    wanted = [choice(values) for values in arms]
    reasons = {w.key: obstacle(w, ranks) for w in wanted}
    if bad := {k: r for k, r in reasons.items() if r}:
        can = ", ".join(k for k, r in reasons.items() if not r) or "none of them"
        text = "; ".join(f"{k}: {r}" for k, r in bad.items())
        raise Invalid(f"arms that cannot run here: {text}. Leave them out of the space; these can: {can}")


@cache
def _has_hypre() -> bool:
    pc = PETSc.PC().create(PETSc.COMM_SELF)
    try:
        pc.setType("hypre")
    except PETSc.Error:
        return False
    finally:
        pc.destroy()
    return True


@cache
def packages(factor: str, ranks: int) -> tuple[str, ...]:
    """The packages that are there for ``cholesky`` or ``lu``, the best for large systems first."""
    serial = {"cholesky": ("cholmod", "mumps", "petsc"), "lu": ("umfpack", "mumps", "superlu", "petsc")}
    names = serial[factor] if ranks == 1 else ("mumps", "superlu_dist")
    return tuple(n for n in names if n == "petsc" or _factorises(factor, n))


def _factorises(factor: str, package: str) -> bool:
    """Whether it can, tried on one unknown."""
    one = PETSc.Mat().createAIJ((1, 1), csr=([0, 1], [0], [1.0]), comm=PETSc.COMM_SELF)
    pc = PETSc.PC().create(PETSc.COMM_SELF)
    try:
        pc.setOperators(one)
        pc.setType(factor)
        pc.setFactorSolverType(package)
        pc.setUp()
    except PETSc.Error:
        return False
    finally:
        pc.destroy()
        one.destroy()
    return True


@dataclass
class _Kept:
    """A solver, and the epoch of the operator that it was set up for; 0: none."""

    ksp: Any
    epoch: int = 0


class Arms:
    """The solvers beside a given one: one for each method and preconditioner, over the same operators.

    Attributes
    ----------
    operator : Operator
        What is known about the operators.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        The given one; only its communicator is kept.
    """

    def __init__(self, ksp: Any) -> None:
        self.operator = Operator()
        self._comm = ksp.getComm()
        self._kept: dict[str, _Kept] = {}
        self._given = 0
        self._shape = 0
        self._width = 0.0

    @classmethod
    def of(cls, ksp: Any) -> Arms:
        """Those that are kept with a given solver, from its first to its last use."""
        found = ksp.getAttr("sciflow_arms")
        if found is None:
            found = cls(ksp)
            ksp.setAttr("sciflow_arms", found)
        return found  # type: ignore[no-any-return]

    def look(self, ksp: Any) -> None:
        """Notice a new operator; collective, before every solve."""
        self.operator.look(ksp)
        if self.operator.shape != self._shape:
            self._shape, self._width = self.operator.shape, 0.0
            for kept in self._kept.values():
                kept.ksp.destroy()
            self._kept.clear()

    def size(self, ksp: Any, wide: bool) -> Size:
        """Sizes of the operator; with its width if a factorisation is among the arms. Collective."""
        mat = ksp.getOperators()[1]
        if wide and not self._width:
            self._width = _width(mat, self._comm)
        return Size(float(mat.getSize()[0]), _nonzeros(mat), self._width)

    def given(self, ksp: Any) -> Any:
        """The given solver, told to keep its set-up if the operator is the same.

        Returns
        -------
        petsc4py.PETSc.KSP
            After the solve, `settle` goes with it.
        """
        if self._given == self.operator.epoch:
            ksp.getPC().setReusePreconditioner(True)
        return ksp

    def settle(self, ksp: Any) -> None:
        """The given solver has solved: it is set up for this operator, and as it was otherwise."""
        ksp.getPC().setReusePreconditioner(False)
        self._given = self.operator.epoch

    def ready(self, wanted: Choice, ksp: Any) -> Any:
        """The solver of an arm with operators and omega, that will set itself up if that is not done.

        A solve that raises is followed by `drop`.

        Raises
        ------
        petsc4py.PETSc.Error
            From a preconditioner that cannot be made.
        """
        kept = self._kept.get(wanted.key)
        if kept is None:
            kept = self._kept[wanted.key] = _Kept(self._made(wanted, ksp))
        arm = kept.ksp
        # Where it is set up for another operator PETSc does it again in the solve; where the values were only
        # assembled once more it does not.
        arm.getPC().setReusePreconditioner(kept.epoch == self.operator.epoch)
        if kept.epoch != self.operator.epoch:
            arm.setOperators(*ksp.getOperators())
            kept.epoch = self.operator.epoch
        if wanted.preconditioner in RELAXED:
            self._relax(arm, 1.0 if wanted.omega is None else wanted.omega)
        return arm

    def drop(self, wanted: Choice) -> None:
        """Forget a solver that raised: nothing is known of what it left behind."""
        self._kept.pop(wanted.key, None)

    def _made(self, wanted: Choice, ksp: Any) -> Any:
        arm = PETSc.KSP().create(self._comm)
        arm.setOptionsPrefix(f"sciflow_arm_{next(_numbers)}_")
        arm.setType(wanted.method)
        arm.setOperators(*ksp.getOperators())
        pc, kind, ranks = arm.getPC(), wanted.preconditioner, self._comm.getSize()
        blocks = kind in ("icc", "ilu") and ranks > 1
        pc.setType("bjacobi" if blocks else "sor" if kind == "ssor" else kind)
        if blocks:
            _configured(arm, "sub_pc_type", kind)
        if kind == "hypre":
            pc.setHYPREType("boomeramg")
        if kind in DIRECT:
            pc.setFactorSolverType(self._package(kind, ksp))
        if kind == "sor":
            _configured(arm, "pc_sor_forward" if ranks == 1 else "pc_sor_local_forward")
        if wanted.method in ("gmres", "fgmres") and kind != "eisenstat":
            arm.setPCSide(PETSc.PC.Side.RIGHT)
        # The residual of eisenstat is that of a transformed system; its preconditioned norm is nearer.
        # PETSc's bcgs, on the right and once with a guess, adds that guess to all later solutions.
        plain = wanted.method not in ("minres", "preonly", "bcgs") and kind != "eisenstat"
        if wanted.method != "preonly":
            norm = PETSc.KSP.NormType
            arm.setNormType(norm.UNPRECONDITIONED if plain else norm.PRECONDITIONED)
        if wanted.method == "richardson":  # without a monitor PETSc hands all iterations to PCSOR, unchecked
            arm.setMonitor(_nothing)
        return arm

    def _package(self, kind: str, ksp: Any) -> str:
        there = packages(kind, self._comm.getSize())
        return "petsc" if "petsc" in there and self.size(ksp, True).width < WIDE else there[0]

    def _relax(self, arm: Any, omega: float) -> None:
        if not set_omega(arm.getPC(), omega):
            kind = arm.getPC().getType()
            _configured(arm, f"pc_{kind}_omega", omega)


def _nothing(ksp: Any, iteration: int, norm: float) -> None:
    """Watch, and do nothing."""


def _configured(ksp: Any, name: str, value: float | str = "") -> None:
    """Set what only an option can set, and leave no option behind."""
    options = PETSc.Options(ksp.getOptionsPrefix())
    options[name] = value
    ksp.getPC().setFromOptions()
    if name.startswith("sub_"):  # the blocks read it when they are made
        ksp.getPC().setUp()
    options.delValue(name)


def _nonzeros(mat: Any) -> float:
    """Over all ranks; that of a full row for a matrix that cannot tell."""
    try:
        return float(mat.getInfo(PETSc.Mat.InfoType.GLOBAL_SUM)["nz_used"]) or float(mat.getSize()[0])
    except PETSc.Error:  # a shell
        return float(mat.getSize()[0])


def _width(mat: Any, comm: Any) -> float:
    """Bandwidth after reordering, of the largest block of a rank; grows with the ranks as in space."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    ranks = comm.getSize()
    if mat.getType() not in ("seqaij", "mpiaij"):
        return float(mat.getSize()[0] ** (2 / 3))
    rows, columns, _ = (mat if ranks == 1 else mat.getDiagonalBlock()).getValuesCSR()
    graph = csr_matrix((np.ones(len(columns), np.int8), columns, rows))
    place = np.empty(graph.shape[0], dtype=np.int64)
    place[reverse_cuthill_mckee(graph)] = np.arange(graph.shape[0])
    row = np.repeat(np.arange(graph.shape[0]), np.diff(rows))
    widest = int(np.abs(place[row] - place[columns]).max(initial=1))
    if ranks == 1:
        return float(widest)
    everyone = np.empty(ranks, dtype=np.int64)
    comm.tompi4py().Allgather(np.array([widest]), everyone)
    return float(everyone.max() * ranks ** (2 / 3))
