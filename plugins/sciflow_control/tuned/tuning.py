"""Tuning: solves systems with arms that a tuner chooses, within limits, the safe arm behind them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from petsc4py import PETSc

from sciflow.controller import Controller
from sciflow.errors import Invalid
from sciflow_control.tuned.arms import GIVEN, Arms, Choice, check, choice
from sciflow_control.tuned.attempt import Goal, Outcome, Workspace, attempt
from sciflow_control.tuned.book import Book, positive
from sciflow_control.tuned.costs import COSTS, Price, Size, price
from sciflow_control.tuned.history import pack, unpack
from sciflow_control.tuned.limits import Case, budget

TIGHT = 1e-10
"""Relative residual of arms that stand in for a direct solver, whose own tolerance says nothing."""
GAINED = 0.5
"""Of the digits, that an arm must have gained for the safe arm to go on from there. What an arm leaves can be
harder for it than what it starts from: a smooth residual turns rough."""
BRIEF = 2.5e6
"""Nonzeros times products of a solve that takes about 20 decisions of 50 us."""
LONGEST = 16
_TEXT = 1024


@dataclass(frozen=True)
class Solved:
    """How the last solve ended: what a KSP would answer, and how it came to it.

    Attributes
    ----------
    reason : int
        PETSc's.
    iterations : int
        Of arm and safe arm together.
    residual : float
        Norm at the end.
    work : float
        In products with the operator, set-ups included.
    arm : str
        What was chosen; ``given`` if nothing was.
    status : str
        Of the choice.
    onwards : bool
        Whether the given solver went on from what an arm left.
    """

    reason: int
    iterations: int
    residual: float
    work: float
    arm: str
    status: str
    onwards: bool = False


@dataclass(frozen=True)
class Plan:
    """What rank 0 decided, for all ranks.

    Attributes
    ----------
    wanted : Choice
        The arm; the given solver if nothing was chosen, or nothing fits.
    room : float
        Work that it may spend on iterations.
    setup : float
        Work of its set-up.
    factor : float
        Of its tolerance.
    chosen : bool
        Whether a tuner waits for the outcome.
    floor : float
        What a chosen arm that is not tried would have cost at least; 0 if it is tried.
    once : float
        Of the work of its set-up, what the next operator of this pattern will not need.
    """

    wanted: Choice
    room: float = 0.0
    setup: float = 0.0
    factor: float = 1.0
    chosen: bool = False
    floor: float = 0.0
    once: float = 0.0


@dataclass(frozen=True)
class Rules:
    """Settings of a tuning, as `TunedKSP` explains them.

    Raises
    ------
    Invalid
        If `cost`, `limit`, `hold` or `rtol` has a value that it cannot have.
    """

    cost: str = "work"
    limit: float = 2.0
    seed: int = 0
    rtol: float | None = None
    hold: int = 0
    amortise: bool = False

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise Invalid(f"cost {self.cost!r} is not one of {', '.join(COSTS)}")
        if not 1 < self.limit < math.inf:
            raise Invalid(f"the limit must be greater than 1, the safe arm alone, got {self.limit}")
        if self.hold < 0:
            raise Invalid(f"a decision is held for 0 (automatic) or more solves, got {self.hold}")
        if self.rtol is not None and not 0 < self.rtol < 1:
            raise Invalid(f"rtol must lie in (0, 1), got {self.rtol}")


class Tuning:
    """See `sciflow_control.tuned.ksp.TunedKSP`."""

    def __init__(self, ksp: Any, tuner: Controller, rules: Rules) -> None:
        values = getattr(tuner, "arms", ())
        check(values, ksp.getComm().getSize())
        self.ksp, self.rules = ksp, rules
        self.comm = ksp.getComm()
        self.root = self.comm.getRank() == 0
        self.arms = Arms.of(ksp)
        self.book = Book(tuner, rules.seed)
        self.last: Solved | None = None
        self._wants_size = "log_n" in tuner.ranges
        self._wide = any(choice(v).method == "preonly" for v in values)
        self._seen = (0, 0)
        self._digest = ""
        self.size = Size(1.0, 1.0, 0.0)
        self._space: Workspace | None = None
        self._prices: dict[tuple[str, str], Price] = {}
        self._setting_up = 0.0

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> Solved:
        """Solve with the operator that the given solver holds; collective."""
        begin = time.perf_counter()
        changed = self.look()
        goal = self.goal(b, x)
        if goal is None:  # nothing to choose: the given solver says what is wrong, or has nothing to do
            self.last = self.safely(b, x)
            return self.last
        known = {**features, **self.own_features()}
        digits = max(math.log10(goal.start / goal.target), 0.3)
        case = Case(known, digits, self.arms.operator.mass)
        plan = self._agreed(case, changed)
        outcome, failed = None, True
        if plan.wanted.method != GIVEN and not plan.floor:
            outcome = self.tried(plan, goal, b)
            failed = outcome.status != "ok"
        if failed:
            solved = self._fallen(b, x, goal, outcome)
        else:
            assert outcome is not None
            assert self._space is not None
            self._space.x.copy(x)
            reason = int(PETSc.KSP.ConvergedReason.CONVERGED_RTOL)
            solved = Solved(reason, outcome.iterations, outcome.residual, 0.0, "", "ok")
        self.last = self._told(plan, case, outcome, solved, time.perf_counter() - begin)
        return self.last

    def look(self) -> int:
        """What changed since the last solve: 0 nothing, 1 values, 2 the pattern; collective."""
        self.arms.look(self.ksp)
        operator = self.arms.operator
        now = (operator.epoch, operator.shape)
        changed, pattern = now != self._seen, now[1] != self._seen[1]
        if self.book.inherited and self._seen == (0, 0):
            pattern = False
        if changed and self._digest:  # the first solve after a restart
            mine = operator.digest()
            changed = self._any(mine != self._digest)
            pattern = self._any(mine.split()[0] != self._digest.split()[0])
        if now != self._seen:
            wide = self._wide or self.ksp.getPC().getType() in ("lu", "cholesky")
            size = self.arms.size(self.ksp, wide)
            if size != self.size:
                self.size = size
                self._prices.clear()
        self._seen, self._digest = now, ""
        self.book.turn(changed, pattern)
        return changed + pattern

    def goal(self, b: Any, x: Any) -> Goal | None:
        """When the system is solved; None where there is nothing for an arm to do. Collective."""
        rhs = float(b.norm())
        if not 0 < rhs < math.inf:
            return None
        rtol, atol, _, _ = self.ksp.getTolerances()
        if self.rules.rtol is not None:
            rtol = self.rules.rtol
        elif self.ksp.getType() == "preonly":
            rtol = min(rtol, TIGHT)
        target = max(rtol * rhs, atol)
        nonzero = bool(self.ksp.getInitialGuessNonzero())
        self.begin(b, x if nonzero else None)
        if not nonzero:
            return Goal(target, rhs, rhs, False)
        assert self._space is not None
        start = self._space.residual(self.ksp.getOperators()[0])
        return Goal(target, rhs, start, True) if target < start < math.inf else None

    def begin(self, b: Any, x: Any | None) -> None:
        """Take copies of the right-hand side and of the start, None: zero."""
        if self._space is None or self._space.b.getSizes() != b.getSizes():
            self._space = Workspace(b)
        b.copy(self._space.b)
        if x is None:
            self._space.x.set(0.0)
        else:
            x.copy(self._space.x)

    def own_features(self) -> dict[str, float]:
        """What is known of a solve without being told."""
        found = {"ranks": float(self.comm.getSize())}
        if self._wants_size:
            found["log_n"] = math.log10(self.size.unknowns)
        return found

    def safe_price(self) -> Price:
        """Of the given solver."""
        return self.price(self.ksp.getType(), self.ksp.getPC().getType())

    def price(self, method: str, preconditioner: str) -> Price:
        """Of a solver for the operator, which is asked for several times in every solve."""
        found = self._prices.get((method, preconditioner))
        if found is None:
            found = self._prices[method, preconditioner] = price(method, preconditioner, self.size)
        return found

    def _agreed(self, case: Case, changed: int) -> Plan:
        """What rank 0 decides, on every rank; collective."""
        plan = self._planned(case, changed) if self.root else Plan(Choice(GIVEN))
        if self.comm.getSize() == 1:
            return plan
        text = np.zeros(_TEXT, dtype=np.uint8)
        if self.root:
            data = json.dumps(asdict(plan)).encode()
            text[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        self.comm.tompi4py().Bcast(text, root=0)
        found = json.loads(text.tobytes().rstrip(b"\0"))
        return Plan(**{**found, "wanted": Choice(**found["wanted"])})

    def _planned(self, case: Case, changed: int) -> Plan:
        """The arm and what it may spend; on rank 0."""
        book = self.book
        if book.reference.due():
            return Plan(Choice(GIVEN))
        held = book.decide(case.features)
        if held is None:
            return Plan(Choice(GIVEN))
        try:
            wanted = choice(held.values)
        except Invalid as error:  # a controller whose settings are none
            book.warn("choose", error)
            book.held = None
            return Plan(Choice(GIVEN))
        if wanted.method == GIVEN:
            return Plan(wanted, chosen=True)
        return self._limited(wanted, case, changed)

    def _limited(self, wanted: Choice, case: Case, changed: int) -> Plan:
        """What a chosen arm may spend, if anything; on rank 0."""
        book, safe = self.book, self.safe_price()
        program = (0.0, safe.numeric, safe.setup)[changed]
        pending = book.setup(GIVEN, safe)[1]
        room = budget(self.rules.limit, book.reference.least(case), program, pending)
        cost = self.price(wanted.method, wanted.preconditioner)
        which, setup = book.setup(wanted.key, cost)
        once = max(setup - cost.numeric, 0.0) if which == 2 and changed < 2 else 0.0
        floor = setup + cost.iteration + cost.check
        if self.rules.amortise:
            credit = book.credit(wanted.key, cost)
            if floor - once <= room < floor and not credit:
                return Plan(Choice(GIVEN))  # the decision stands until the set-up is amortised
            room += credit
        if floor > room:
            return Plan(Choice(GIVEN), chosen=True, floor=floor)
        factor = book.factors.get(wanted.name, first_factor(wanted))
        return Plan(wanted, room - setup, setup, factor, True, once=once)

    def tried(self, plan: Plan, goal: Goal, b: Any) -> Outcome:
        """The outcome of the arm, the same on every rank; collective."""
        assert self._space is not None
        outcome = Outcome("failed", 0, 0.0, math.nan, plan.factor)
        raised, self._setting_up = False, 0.0
        try:
            begin = time.perf_counter()
            arm = self.arms.ready(plan.wanted, self.ksp)
            arm.setUp()
            self._setting_up = time.perf_counter() - begin
            cost = self.price(plan.wanted.method, plan.wanted.preconditioner)
            outcome = attempt(arm, self._space, goal, cost, plan.room, plan.factor)
        except Exception:  # PETSc or an arm in Python: whatever it was, the safe arm solves
            raised = True
        if self._any(raised):
            self.arms.drop(plan.wanted)
            self._space = Workspace(b)
            return Outcome("failed", 0, plan.room, math.nan, plan.factor)
        return outcome

    def safely(self, b: Any, x: Any) -> Solved:
        """The given solver as it is, but for a set-up that it has already."""
        ksp = self.arms.given(self.ksp)
        try:
            ksp.solve(b, x)
        finally:
            self.arms.settle(ksp)
        return Solved(
            int(ksp.getConvergedReason()),
            int(ksp.getIterationNumber()),
            float(ksp.getResidualNorm()),
            0.0,
            GIVEN,
            "ok",
        )

    def _fallen(self, b: Any, x: Any, goal: Goal, outcome: Outcome | None) -> Solved:
        """The given solver, from what the arm left if that is worth more than the start."""
        worth = goal.start * (goal.target / goal.start) ** GAINED
        usable = outcome is not None and outcome.residual <= worth
        if not usable or self.ksp.getType() == "preonly":
            return self.safely(b, x)
        assert self._space is not None
        x.copy(self._space.r)
        self._space.x.copy(x)
        nonzero = self.ksp.getInitialGuessNonzero()
        self.ksp.setInitialGuessNonzero(True)
        try:
            solved = self.safely(b, x)
        except PETSc.Error:  # its user asked for errors
            solved = None
        finally:
            self.ksp.setInitialGuessNonzero(nonzero)
        if solved is not None and solved.reason > 0:
            return replace(solved, onwards=True)
        self._space.r.copy(x)
        again = self.safely(b, x)
        wasted = 0 if solved is None else solved.iterations
        return replace(again, iterations=again.iterations + wasted, onwards=True)

    def _told(
        self,
        plan: Plan,
        case: Case,
        outcome: Outcome | None,
        solved: Solved,
        seconds: float,
    ) -> Solved:
        """Account for a solve, and tell the tuner; collective."""
        book, safe, key = self.book, self.safe_price(), plan.wanted.key
        setup, work, iterations, took = 0, 0.0, solved.iterations, math.nan
        fell = plan.chosen and plan.wanted.method != GIVEN and (outcome is None or outcome.status != "ok")
        if outcome is not None:
            cost = self.price(plan.wanted.method, plan.wanted.preconditioner)
            setup, charge = book.setup(key, cost)
            book.done(key)
            work += charge + outcome.work
            book.factors[plan.wanted.name] = outcome.factor
        if outcome is None or outcome.status != "ok":
            which, charge = book.setup(GIVEN, safe)
            setup = max(setup, which)
            book.done(GIVEN)
            taken = safe.iteration * solved.iterations
            work += charge + taken
            iterations += outcome.iterations if outcome is not None else 0
            if solved.reason > 0 and not solved.onwards:
                took = taken
        if took >= 0:
            book.reference.note(case, took)
        else:
            book.reference.spend(work)
        book.pay(work)
        seconds = self.most(seconds)
        status = "ok" if outcome is None else outcome.status
        if plan.floor:
            status = "censored"
        if self.root:
            # A tuner learns what an arm will cost, not what is paid once.
            lasting = seconds - self._setting_up * plan.once / plan.setup if plan.once else seconds
            cost_ = {
                "work": max(work - plan.once, plan.floor),
                "iterations": max(iterations, 1),
                "seconds": lasting,
            }
            if plan.floor > work > 0:
                cost_["seconds"] *= plan.floor / work
            row = {
                "cost": positive(float(cost_[self.rules.cost])), "work": work, "iterations": iterations,
                "seconds": seconds, "fell_back": float(fell or bool(plan.floor)), "setup": setup, "solves": 1,
            }  # fmt: skip
            hold = self.rules.hold or min(LONGEST, math.ceil(BRIEF / (self.size.nonzeros * max(work, 1.0))))
            if plan.chosen:
                book.outcome(status, row, hold, case, took, plan.floor > 0)
            elif took >= 0:
                book.unchosen(row, case, took)
        return Solved(solved.reason, iterations, solved.residual, work, key, status)

    def _any(self, mine: bool) -> bool:
        """Whether it holds on any rank; collective."""
        return bool(self.most(float(mine)))

    def most(self, mine: float) -> float:
        """The largest over the ranks; collective."""
        if self.comm.getSize() == 1:
            return mine
        everyone = np.empty(self.comm.getSize())
        self.comm.tompi4py().Allgather(np.array([mine]), everyone)
        return float(everyone.max())

    def restart(self) -> dict[str, np.ndarray]:
        """What goes on from here with the same decisions, on this rank."""
        book = self.book.to_json() if self.root else None
        return {"tuned": pack({"book": book, "digest": self.arms.operator.digest()})}

    def resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `restart`."""
        document = unpack(state["tuned"])
        if self.root and document["book"] is not None:
            self.book.load(document["book"])
        self._digest, self._seen = document["digest"], (-1, -1)


def first_factor(wanted: Choice) -> float:
    """Of the tolerance of an arm of which nothing is known: eisenstat stops by a norm that is too kind."""
    return 0.25 if wanted.preconditioner == "eisenstat" else 1.0
