"""A solver of any number of ranks sends what one of one rank would; the same tests on one rank."""

from collections import deque

import numpy as np
import pytest

from sciflow import Context, Diverged, Field, Parameter, ParameterSpace, Part, Problem, Share, State
from sciflow.worker import communicator
from sciflow_online.intake import Intake, Recipe
from sciflow_online.sending import Client
from sciflow_online.solver import Solver
from sciflow_online.transport import Link, Message
from sciflow_online.wire import Header, Kind, entries, text

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
POINTS, LEVELS = 11, 3


class Ranked(Problem):
    """u(t, x) = a t + x, given in one of the ways in which ranks may give a field."""

    name = "ranked"
    parameters = ParameterSpace(a=Parameter(0.0, 9.0, "m"))
    fields = {"u": Field(("time", "x"), "K", "float64"), "q": Field(("x",), "W")}

    def __init__(self, way, bad_rank=-1):
        self.way, self.bad_rank = way, bad_rank

    def coordinates(self):
        return {"time": np.arange(1.0, LEVELS + 1), "x": np.arange(float(POINTS))}

    def mine(self, rank, size):
        """Positions of a rank; of different numbers, none of the canonical order if scattered."""
        if self.way == "range":
            cuts = [0, *(POINTS * (r + 1) // size - (r + 1 < size) for r in range(size))]
            return np.arange(cuts[rank], cuts[rank + 1])
        # Backwards, so that it is not in one piece on one rank either.
        return np.random.default_rng(5).permutation(POINTS)[::-1][rank::size]

    def solve(self, mu, ctx):
        rank, size = ctx.comm.rank, ctx.comm.size
        x, where = np.arange(float(POINTS)), self.mine(rank, size)
        for t in range(1, LEVELS + 1):
            u = mu["a"] * t + x
            if t == 2 and rank == self.bad_rank:
                u = u + np.nan
            if self.way == "root":
                fields = {"u": u} if rank == 0 else {}
            elif self.way == "part":
                fields = {"u": Part(where, u[where])}
            else:
                fields = {"u": Share(u[where], None if self.way == "range" else where)}
            if t == 1 and rank == 0:
                fields["q"] = mu["a"] * x
            yield State(float(t), fields)


class Told(Link):
    """Answers as trainers would, each rank for itself, and keeps what was sent."""

    def __init__(self, recipe, trainers, members):
        self.recipe, self.trainers = recipe, trainers
        self.sent, self.inbox = [], deque()
        self.left = deque(members)

    def answer(self, trainer, kind, said=None, **head):
        self.inbox.append(Message(trainer, Header(kind, **head), text(said or {})))

    def send(self, trainer, header, payload=b""):
        # What is not in one piece cannot travel.
        data = memoryview(payload).cast("B").tobytes() if len(payload) else b""
        self.sent.append((trainer, header, data))
        if header.kind == Kind.HELLO:
            said = {
                f"field{i}": f"{f.name} {f.dtype.name} {int(f.timed)} {f.size}"
                for i, f in enumerate(self.recipe.fields)
            }
            said |= {
                "session": "s",
                "trainers": self.trainers,
                "credits": 2,
                "heartbeat": 1e9,
                "spread": self.recipe.spread,
            }
            self.answer(
                trainer,
                Kind.WELCOME,
                said | {"fields": len(self.recipe.fields), "parameters": 1, "parameter0": "a"},
            )
        elif header.kind == Kind.ASK:
            if not self.left:
                self.answer(trainer, Kind.BYE)
                return
            member = self.left.popleft()
            self.answer(
                trainer, Kind.MEMBER, {"seed": 1, "purpose": "train", "p0": repr(member + 0.5)}, member=member
            )
        elif header.kind == Kind.DATA:
            self.answer(trainer, Kind.CREDIT, count=1)
        elif header.kind == Kind.FINISH:
            self.answer(trainer, Kind.FINISHED, member=header.member)

    def receive(self, timeout):
        return self.inbox.popleft() if self.inbox else None

    def close(self):
        pass


def solved(problem, recipe, comm, *, trainers=1, gather="owner", members=(0, 1, 2)):
    """Everything that each rank sent, by rank, on all ranks."""
    link = Told(recipe, trainers, members)
    client = Client(link, "word", "g", comm, patience=5.0, gather=gather)
    Solver(problem, client, None, Context(comm=comm)).run()
    sent = [(t, h.pack(), p) for t, h, p in link.sent]
    return comm.allgather(sent) if comm.size > 1 else [sent]


def samples(recipe, everything, trainers):
    from sciflow_online.wire import unpack

    found = {}
    for trainer in range(trainers):
        intake = Intake(recipe, 3, trainer, trainers)
        for member in range(3):
            intake.begin(member, 0, np.array([member + 0.5]))
        for rank, sent in enumerate(everything):
            for at, head, payload in sent:
                header = unpack(head)
                if at != trainer:
                    continue
                if header.kind == Kind.INDEX:
                    intake.place(rank, header, payload)
                elif header.kind == Kind.DATA:
                    assert header.ranks == len(everything)
                    for s in intake.add(rank, header, payload):
                        assert (s.member, s.number) not in found
                        found[s.member, s.number] = {k: np.array(v) for k, v in s.arrays.items()}
    return found


@pytest.mark.parametrize("trainers", [1, 2, 3])
@pytest.mark.parametrize("gather", ["owner", "root"])
@pytest.mark.parametrize("way", ["part", "share", "range", "root"])
@pytest.mark.parametrize("window", [(0, 1), (1, 1), None])
def test_what_the_ranks_send_together_is_the_field(way, gather, trainers, window):
    problem = Ranked(way)
    inputs = ("a", "q", "time") if window == (0, 1) else ("u",) if window else ("a",)
    recipe = Recipe(problem, inputs, ("u",), window)
    everything = solved(problem, recipe, COMM, trainers=trainers, gather=gather)
    found = samples(recipe, everything, trainers)
    per_member = {(0, 1): LEVELS, (1, 1): LEVELS - 1, None: 1}[window]
    assert sorted(found) == [(m, s) for m in range(3) for s in range(per_member)]
    x = np.arange(float(POINTS))
    for (member, number), arrays in found.items():
        times = np.arange(1.0, LEVELS + 1) if window is None else np.array([number + 1.0 + window[0]])
        exact = (member + 0.5) * times[:, None] + x
        assert np.array_equal(np.atleast_2d(arrays["y:u"]), exact)
    ranks_with_data = {r for r, sent in enumerate(everything) for _, h, _ in sent if h[6] == Kind.DATA}
    whole = gather == "root" or way == "root" or SIZE == 1
    assert ranks_with_data == ({0} if whole else set(range(SIZE)))


def test_positions_are_announced_once_to_each_trainer():
    problem = Ranked("share")
    recipe = Recipe(problem, ("a", "time"), ("u",), (0, 1))
    mine = solved(problem, recipe, COMM, trainers=2)[RANK]
    announced = [t for t, h, _ in mine if h[6] == Kind.INDEX]
    assert sorted(announced) == [0, 1]


@pytest.mark.parametrize("bad", [0, SIZE - 1])
def test_a_value_that_is_not_finite_on_one_rank_ends_the_member_on_all(bad):
    problem = Ranked("part", bad)
    recipe = Recipe(problem, ("a", "time"), ("u",), (0, 1))
    everything = solved(problem, recipe, COMM)
    from sciflow_online.wire import unpack

    for rank, sent in enumerate(everything):
        ends = [(unpack(h), entries(p)) for _, h, p in sent if h[6] == Kind.FINISH]
        assert [h.member for h, _ in ends] == [0, 1, 2], "all go on with the next one, together"
        assert all(said["status"] == "failed" and said["final"] == "1" for _, said in ends), rank
        assert all("not finite at time level 1" in said["reason"] for _, said in ends), rank


def test_a_solver_that_diverges_is_told_so_by_every_rank():
    class Diverging(Ranked):
        def solve(self, mu, ctx):
            yield next(super().solve(mu, ctx))
            raise Diverged("residual 1e9")

    problem = Diverging("range")
    recipe = Recipe(problem, ("a", "time"), ("u",), (0, 1))
    for sent in solved(problem, recipe, COMM, members=[1]):
        (said,) = [entries(p) for _, h, p in sent if h[6] == Kind.FINISH]
        assert said["reason"] == "Diverged: residual 1e9"
