"""What a solver job does: ask for members, solve them, send their levels, store them where asked to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.artifact.snapshot import Snapshot
from sciflow.artifact.writer import Writer
from sciflow.context import Context, exchange
from sciflow.errors import Cancelled, Diverged, Failed, Invalid
from sciflow.experience import FOLDER as EXPERIENCE
from sciflow.experience import Experience
from sciflow.problem import Problem, State
from sciflow.states import Assembler, Collector
from sciflow_online.sending import Aborted, Assigned, Client, Gone

if TYPE_CHECKING:
    from sciflow.artifact.member import Member

OK, FAILED = 1, 2


class Solver:
    """Computes the members that a trainer gives to one group of ranks.

    Parameters
    ----------
    problem : Problem
        The full-order model.
    client : Client
        In touch with the trainer.
    ensemble : Path or None
        An ensemble that is being written, which every member goes into as well.
    ctx : Context
        Of the job; its ranks are those of the solver.
    """

    def __init__(self, problem: Problem, client: Client, ensemble: Path | None, ctx: Context) -> None:
        self._problem, self._client, self._ctx = problem, client, ctx
        self._out = Writer.attach(ensemble) if ensemble is not None else None
        self._ensemble = ensemble
        # Beside the ensemble where there is one, so that it is sealed with what was learned.
        scratch = self._out.scratch if self._out is not None else ctx.scratch
        self._experience = Experience(scratch / EXPERIENCE if ctx.comm.rank == 0 else None)
        self._sending = 0.0

    def run(self) -> None:
        """Compute members until there are no more.

        Raises
        ------
        Gone
            If the trainer is not there any more.
        Cancelled
            If this job was told to stop; the member that was being computed is given to another.
        """
        while (assigned := self._client.next()) is not None:
            self._one(assigned)

    def _one(self, assigned: Assigned) -> None:
        begin = time.perf_counter()
        self._sending = 0.0
        reason, final = "", False
        try:
            self._solve(assigned, begin)
        except Aborted as error:
            reason = str(error)
        except (Diverged, Invalid) as error:
            reason, final = f"{type(error).__name__}: {error}", True
        except Cancelled:
            with contextlib.suppress(Failed):
                self._client.leave()
            raise
        except Gone:
            raise
        # A solver is foreign code; with several ranks the others may wait for this one, so the job ends.
        except Exception as error:
            if self._ctx.comm.size > 1:
                raise
            reason = f"{type(error).__name__}: {error}"
        if final and self._out is not None and self._ctx.comm.rank == 0:
            self._out.write_member(assigned.member, {}, self._record(reason, {}, begin))
        self._client.finish(reason, final=final)

    def _record(self, reason: str, metrics: Mapping[str, float], begin: float) -> dict[str, Any]:
        """What the ensemble keeps of a member: its seconds are of solving, without the trainer's pace."""
        return {
            "status": FAILED if reason else OK,
            "reason": reason,
            "metrics": dict(metrics),
            "seconds": time.perf_counter() - begin - self._sending,
            "ranks": self._ctx.comm.size,
        }

    def _solve(self, assigned: Assigned, begin: float) -> None:
        problem, ctx = self._problem, self._ctx
        mu = problem.parameters.checked(assigned.parameters)
        inner = Context(
            assigned.seed, ctx.scratch, ctx.comm, ctx.log, ctx.emit, cancelled=ctx.cancelled,
            stopping=ctx.stopping, experience=self._experience.of(assigned.member),
        )  # fmt: skip
        if self._out is None:
            self._stream(assigned, problem.solve(mu, inner), None)
            return
        if assigned.member in self._out.committed():
            self._stream(assigned, self._stored(assigned.member), None)
            return
        with self._fresh(assigned.member) as one:
            self._stream(assigned, problem.solve(mu, inner), one)
            one.commit({**self._record("", one.metrics, begin), **inner.experience.mention()})

    def _fresh(self, member: int) -> Member:
        """The member being written, from its beginning: every level is to be sent, too."""
        assert self._out is not None
        one = self._out.member(member, self._ctx.comm)
        if one.resume_from:
            one.drop()
            one = self._out.member(member, self._ctx.comm)
        return one

    def _stream(self, assigned: Assigned, states: Iterator[State], one: Member | None) -> None:
        """Send every state as it comes, and append it to the ensemble."""
        comm = self._ctx.comm
        assembler = Assembler(self._problem, comm) if one is not None else None
        for state in states:
            if one is not None and assembler is not None:
                values = assembler.take(state)
                if assembler.adaptive and comm.rank == 0:
                    values["time"] = np.asarray(state.time, dtype=float)
                one.append(values, metrics=state.metrics)
            if assigned.purpose != "test":
                self._send(state)
            self._ctx.check_together()
        if assembler is not None:
            assembler.finish()

    def _send(self, state: State) -> None:
        """`Client.send`, after which all ranks agree on how it went."""
        problem: Exception | None = None
        begin = time.perf_counter()
        try:
            self._client.send(state.time, state.fields)
        except (Aborted, Gone, Diverged, Invalid) as error:
            problem = error
        self._sending += time.perf_counter() - begin
        if self._ctx.comm.size == 1:
            if problem is not None:
                raise problem
            return
        word = "" if problem is None else type(problem).__name__
        said = exchange(self._ctx.comm, f"{word} {problem or ''}")
        if problem is not None:
            raise problem
        for text in said:
            kind, _, reason = text.partition(" ")
            if kind:
                raise {"Aborted": Aborted, "Gone": Gone, "Diverged": Diverged}.get(kind, Invalid)(reason)

    def _stored(self, member: int) -> Iterator[State]:
        """A member that an earlier attempt has stored whole, level by level."""
        assert self._ensemble is not None
        snapshot, problem = Snapshot(self._ensemble), self._problem
        which, zero = np.array([member]), np.array([0])
        sizes = problem.coordinates()
        adaptive = "step" in sizes
        levels = int(self._out.committed()[member].get("levels", 1)) if self._out is not None else 1
        gathers = {name: snapshot.gather(name) for name in problem.fields}
        times = snapshot.gather("time").read(which, zero, levels)[0] if adaptive else sizes.get("time", zero)
        for level in range(levels):
            fields = {}
            for name, gather in gathers.items():
                if self._ctx.comm.rank == 0 and (gather.layout.timed or level == 0):
                    fields[name] = gather.read(which, np.array([level if gather.layout.timed else 0]), 1)[
                        0, 0
                    ]
            yield State(float(times[level]), fields)


class BlockSolver(Solver):
    """Computes several members at once, for problems that are batched; one client for each of them.

    Parameters
    ----------
    problem : Problem
        With `solve_batch`.
    clients : list of Client
        As many as members are computed at once.
    seed : int
        Of the ensemble.
    ensemble, ctx
        See `Solver`; serial.
    """

    def __init__(
        self, problem: Problem, clients: list[Client], seed: int, ensemble: Path | None, ctx: Context
    ) -> None:
        super().__init__(problem, clients[0], ensemble, ctx)
        self._clients, self._seed = clients, seed

    def run(self) -> None:
        """See `Solver.run`."""
        while True:
            answers = [(client, client.ask()) for client in self._clients]
            given = [(c, a) for c, a in answers if isinstance(a, Assigned)]
            if given:
                self._block(given)
            elif all(a is None for _, a in answers):
                return
            else:
                time.sleep(max(a for _, a in answers if isinstance(a, float)))

    def _block(self, given: list[tuple[Client, Assigned]]) -> None:
        begin = time.perf_counter()
        known = self._out.committed() if self._out is not None else {}
        for client, assigned in [(c, a) for c, a in given if a.member in known]:
            self._client = client
            self._one(assigned)
        fresh = [(c, a) for c, a in given if a.member not in known]
        if fresh:
            self._fresh_block(fresh, begin)

    def _fresh_block(self, given: list[tuple[Client, Assigned]], begin: float) -> None:
        problem, ctx = self._problem, self._ctx
        mu = {n: np.array([a.parameters[n] for _, a in given]) for n in problem.parameters}
        mu["member"] = np.array([a.member for _, a in given], dtype=np.int64)
        inner = Context(self._seed, ctx.scratch, ctx.comm, ctx.log, ctx.emit, cancelled=ctx.cancelled)
        reasons: dict[int, str] = {}
        collector = Collector(problem, ctx.comm, len(given)) if self._out is not None else None
        broken = ""
        try:
            for state in problem.solve_batch(mu, inner):
                if collector is not None:
                    collector.add(state)
                self._send_each(given, state, reasons)
                ctx.check()
        except Cancelled:
            for client, _ in given:
                with contextlib.suppress(Failed):
                    client.leave()
            raise
        except Gone:
            raise
        # A solver is foreign code; the trainer decides whether its members are tried again.
        except Exception as error:
            broken = f"{type(error).__name__}: {error}"
        for i, (client, assigned) in enumerate(given):
            reason = reasons.get(i) or broken
            if collector is not None and self._out is not None and not broken:
                arrays = {name: values[i] for name, values in collector.arrays.items()}
                record = self._record(reason, {}, begin)
                self._out.write_member(assigned.member, {} if reason else arrays, record)
            client.finish(reason, final=bool(reasons.get(i)))

    def _send_each(self, given: list[tuple[Client, Assigned]], state: State, reasons: dict[int, str]) -> None:
        for i, (client, assigned) in enumerate(given):
            if i in reasons or assigned.purpose == "test":
                continue
            try:
                client.send(state.time, {n: np.asarray(v)[i] for n, v in state.fields.items()})
            except (Aborted, Diverged, Invalid) as error:
                reasons[i] = f"{type(error).__name__}: {error}"
