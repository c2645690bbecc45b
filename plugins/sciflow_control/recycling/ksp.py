"""RecyclingKSP: stands in for a PETSc solver and carries a space from one solve to the next."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from petsc4py import PETSc

from sciflow.errors import Invalid, Missing, nearest
from sciflow_control.recycling.blocks import Reduction
from sciflow_control.recycling.deflated_cg import DeflatedCG
from sciflow_control.recycling.gcro_dr import GCRODR
from sciflow_control.recycling.preconditioners import check, preconditioner

METHODS: dict[str, Any] = {"gcro_dr": GCRODR, "deflated_cg": DeflatedCG}
REFRESH = {"gcro_dr": None, "deflated_cg": 10}
ENOUGH = 3
"""After so many failures in a row the given solver goes on alone."""


def check_sizes(method: str, m: int, k: int, refresh: int | None) -> None:
    """Refuse sizes that make no space.

    Raises
    ------
    Invalid
        Naming the setting.
    """
    if method not in METHODS:
        raise Invalid(f"no method {method!r}. {nearest(method, METHODS)}")
    if m < 2 or k < 0 or k >= m:
        raise Invalid(f"a cycle of m vectors, at least 2, carries 0 to m - 1 of them; got m={m}, k={k}")
    if refresh is not None and refresh < (1 if method == "gcro_dr" else 0):
        raise Invalid(f"{method}: refresh={refresh} is no number of cycles or systems")


class RecyclingKSP:
    """A KSP whose solves learn from the ones before.

    Two lines in an existing program::

        from sciflow_control.recycling.ksp import RecyclingKSP

        ksp = RecyclingKSP(ksp)

    Everything but `solve` and what it tells is that of the given solver.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        With operators and tolerances. It is what solves where recycling fails: from where that came
        to, with the same tolerances.
    method : {"gcro_dr", "deflated_cg"}
        The second for symmetric positive definite operators and preconditioners.
    m, k : int
        Vectors in a cycle and vectors that are carried. See `GCRODR` and `DeflatedCG`.
    preconditioner : str
        ``"own"``: that of `ksp`; else a key of `SETTINGS`.
    refresh : int or None
        Cycles (`GCRODR`) or systems (`DeflatedCG`, 0 never) between two choices of the space; None:
        see `GCRODR`, 10 systems.
    hpddm : bool or None
        Leave GCRO-DR to KSPHPDDM. None: where PETSc has it.
    log : logging.Logger or None
        Where failures are told.

    Attributes
    ----------
    products : int
        Products with the operator in the last solve, those for the space included.
    fell_back : bool
        Whether the given solver had to finish the last solve.

    Raises
    ------
    Invalid
        If sizes make no space, or the preconditioner does not fit the method.
    Missing
        If HPDDM or the preconditioner is asked for and PETSc was built without.

    Notes
    -----
    The norm that is compared with the tolerances is that of the residual itself, relative to the
    right-hand side.
    """

    def __init__(
        self,
        ksp: Any,
        method: str = "gcro_dr",
        *,
        m: int = 40,
        k: int = 20,
        preconditioner: str = "own",
        refresh: int | None = None,
        hpddm: bool | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        check_sizes(method, m, k, refresh)
        check(preconditioner, method)
        self._ksp, self._method, self._name = ksp, method, preconditioner
        self._sizes = (m, k, REFRESH[method] if refresh is None else refresh)
        self._log = log or logging.getLogger("sciflow")
        has = bool(PETSc.Sys.hasExternalPackage("hpddm"))
        if hpddm and not has:
            raise Missing("this PETSc was built without HPDDM; leave hpddm out to use our own GCRO-DR")
        self._hpddm = (has if hpddm is None else hpddm) and method == "gcro_dr" and k > 0
        self._solver: Any = None
        self._pc: Any = None
        self._waiting: Mapping[str, np.ndarray] | None = None
        self._seed: np.ndarray | None = None
        self._seen: tuple[int, int] | None = None
        self._print = np.nan
        self._failures = 0
        self.products = self._iterations = self._reason = 0
        self._residual = 0.0
        self.fell_back = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ksp, name)

    def getIterationNumber(self) -> int:  # noqa: N802 - PETSc's name
        """Iterations of the last solve, with those of the given solver where it had to finish."""
        return self._iterations

    def getConvergedReason(self) -> int:  # noqa: N802
        """Why the last solve ended, as PETSc numbers it."""
        return self._reason

    def getResidualNorm(self) -> float:  # noqa: N802
        """That of the last solve."""
        return self._residual

    def space(self) -> np.ndarray:
        """This rank's rows of the carried space, shape (local row, at most k)."""
        return self._made().space() if not self._hpddm else np.zeros((self._rows(), 0))

    def seed(self, space: np.ndarray) -> None:
        """Begin with this space instead of none.

        Parameters
        ----------
        space : ndarray, shape (local row, c)
            This rank's rows, in the unit of the solution; the first k columns are taken.

        Raises
        ------
        Invalid
            If it is not finite or has other rows than the operator; on every rank alike.
        """
        space = np.asarray(space, dtype=np.float64)
        fits = space.ndim == 2 and len(space) == self._rows() and bool(np.isfinite(space).all())
        bad = Reduction(self._ksp.getComm()).sum(np.array([0.0 if fits else 1.0]))[0]
        if bad:
            raise Invalid(
                f"a space of shape {space.shape} does not fit an operator with {self._rows()} rows on this "
                "rank, or is not finite"
            )
        if not self._hpddm:
            self._made().seed(space)
            self._seen, self._print = None, np.nan

    def knowledge(self) -> dict[str, np.ndarray]:
        """What another sequence of like operators can begin with: the space, and how best to carry it."""
        if self._hpddm:
            return {}
        state = self._made().state()
        return {k: v for k, v in state.items() if k not in ("image", "overlap")}

    def learn(self, knowledge: Mapping[str, np.ndarray]) -> None:
        """Begin with what `knowledge` gave on the same rank, of the same method and sizes.

        Raises
        ------
        Invalid
            If it is of something else.
        """
        space = knowledge["space"]
        new = {"image": np.zeros_like(space), "operator": np.array([np.nan]), "failures": np.array([0])}
        self.restore({**knowledge, **new})
        self._made().stale()

    def state(self) -> dict[str, np.ndarray]:
        """This rank's arrays; after `restore` the solves go on with the same bits."""
        if self._hpddm:
            return {}
        found = dict(self._made().state())
        return {**found, "operator": np.array([self._print]), "failures": np.array([self._failures])}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` gave on this rank.

        Raises
        ------
        Invalid
            If it is of another operator, method or number of ranks.
        """
        if self._hpddm or not state:
            return
        try:
            fits = len(state["space"]) == self._rows()
            if fits:
                self._made().restore(state)
            self._print, self._failures = float(state["operator"][0]), int(state["failures"][0])
        except (KeyError, ValueError) as error:
            raise Invalid(f"this is no state of {self._method} with m={self._sizes[0]}: {error}") from None
        if not fits:
            raise Invalid(
                f"a state of {len(state['space'])} rows for an operator of {self._rows()} on this rank"
            )
        self._seen = None

    def _rows(self) -> int:
        return int(self._ksp.getOperators()[0].getLocalSize()[0])

    def _made(self) -> Any:
        """The method with its memory, made when the operator's layout is known."""
        if self._solver is None:
            m, k, refresh = self._sizes
            self._solver = METHODS[self._method](self._ksp.getOperators()[0], m, k, refresh)
        return self._solver

    def solve(self, b: Any, x: Any) -> None:
        """Solve with the present operators; collective; see `petsc4py.PETSc.KSP.solve`."""
        self.fell_back = False
        guess = bool(self._ksp.getInitialGuessNonzero())
        if not guess:
            x.zeroEntries()
        self._iterations = self.products = 0
        if self._failures >= ENOUGH:
            self._finish(b, x, guess)
            return
        if self._hpddm:
            self._by_hpddm(b, x, guess)
        else:
            self._by_own(b, x)
        if self._reason > 0:
            self._failures = 0
            return
        self._failures += 1
        if self._failures == ENOUGH:
            self._log.warning(
                "recycling failed %d times in a row (reason %d): the given solver goes on alone",
                ENOUGH, self._reason,
            )  # fmt: skip
        self._finish(b, x, guess)

    def _by_own(self, b: Any, x: Any) -> None:
        matrix, _ = self._ksp.getOperators()
        solver = self._made()
        begin = x.getArray(readonly=True).copy()
        values = begin.copy()
        same = self._same(matrix, solver.size)
        try:
            apply = self._applied(matrix)
            rtol, atol, _, limit = self._ksp.getTolerances()
            solver.solve(
                matrix,
                apply,
                b.getArray(readonly=True),
                values,
                tolerances=(rtol, atol),
                limit=limit,
                same=same,
            )
            self._reason, self._iterations, self.products = solver.reason, solver.iterations, solver.products
            self._residual = solver.history[-1]
        # PETSc raises on all ranks of the communicator, for example for a zero pivot.
        except PETSc.Error as error:
            self._log.warning("recycling: %s", error)
            self._reason = -11
        finite = Reduction(matrix.getComm()).sum(np.array([float(not np.isfinite(values).all())]))[0] == 0
        if self._reason < 0 and self._reason != -3:
            solver.size, self._print, self._seen = 0, np.nan, None
        x.getArray()[:] = values if finite else begin
        x.stateIncrease()

    def _same(self, matrix: Any, size: int) -> bool:
        """Whether the operator is that of the last solve, by value: its action on a fixed vector."""
        seen = (int(matrix.handle), int(matrix.stateGet()))
        if seen == self._seen:
            return True
        first, count = matrix.getOwnershipRange()[0], matrix.getLocalSize()[0]
        v, w = matrix.createVecs()
        at = np.arange(first + 1, first + count + 1, dtype=np.float64)
        v.setArray(np.cos(at * at * 0.7))
        matrix.mult(v, w)
        mine = np.array([w.getArray(readonly=True) @ np.cos(at * 1.3)])
        found = float(Reduction(matrix.getComm()).sum(mine)[0])
        v.destroy()
        w.destroy()
        same, self._print, self._seen = found == self._print, found, seen
        return same and size > 0

    def _applied(self, matrix: Any) -> Any:
        """``apply(v, z)`` of the preconditioner, set up for the present operators."""
        if self._name == "own":
            pc = self._ksp.getPC()
            self._ksp.setUp()
        else:
            if self._pc is None:
                self._pc = preconditioner(self._name, matrix.getComm())
            pc = self._pc
            pc.setOperators(*self._ksp.getOperators())
            pc.setUp()
        null = matrix.getNullSpace()
        if not null.handle:
            return pc.apply

        def apply(v: Any, z: Any) -> None:
            pc.apply(v, z)
            null.remove(z)

        return apply

    def _by_hpddm(self, b: Any, x: Any, guess: bool) -> None:
        """KSPHPDDM keeps its space itself."""
        if self._solver is None:
            self._solver = hpddm_solver(self._ksp, *self._sizes[:2])
            if self._name != "own":
                self._pc = preconditioner(self._name, self._ksp.getComm())
        solver = self._solver
        solver.setOperators(*self._ksp.getOperators())
        solver.setPC(self._ksp.getPC() if self._name == "own" else self._pc)
        solver.setInitialGuessNonzero(guess)
        rtol, atol, divtol, limit = self._ksp.getTolerances()
        solver.setTolerances(rtol, atol, divtol, limit)
        solver.solve(b, x)
        self._reason, self._iterations = int(solver.getConvergedReason()), int(solver.getIterationNumber())
        self.products, self._residual = self._iterations, float(solver.getResidualNorm())

    def _finish(self, b: Any, x: Any, guess: bool) -> None:
        """The given solver, from the present iterate if it can."""
        ksp = self._ksp
        self.fell_back = True
        starts = ksp.getType() != "preonly"
        ksp.setInitialGuessNonzero(starts)
        try:
            ksp.solve(b, x)
        finally:
            ksp.setInitialGuessNonzero(guess)
        self._reason = int(ksp.getConvergedReason())
        self._iterations += int(ksp.getIterationNumber())
        self.products += int(ksp.getIterationNumber())
        self._residual = float(ksp.getResidualNorm())


def hpddm_options(m: int, k: int) -> dict[str, str]:
    """What makes a KSPHPDDM do GCRO-DR(m, k), without the prefix."""
    return {
        "ksp_type": "hpddm",
        "ksp_hpddm_type": "gcrodr",
        "ksp_hpddm_variant": "right",
        "ksp_hpddm_recycle": str(k),
        "ksp_gmres_restart": str(m),
    }


def hpddm_solver(ksp: Any, m: int, k: int) -> Any:
    """A KSPHPDDM beside a solver, set by `hpddm_options`."""
    prefix = f"{ksp.getOptionsPrefix() or ''}recycling_"
    options = PETSc.Options(prefix)
    for name, value in hpddm_options(m, k).items():
        options[name] = value
    solver = PETSc.KSP().create(ksp.getComm())
    solver.setOptionsPrefix(prefix)
    solver.setFromOptions()
    return solver
