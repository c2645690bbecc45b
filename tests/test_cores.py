"""Stages of one run share the cores of this machine: never more than there are, in the order they came."""

import asyncio
import importlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from importlib.util import spec_from_loader
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Cancelled, Field, Resources, Schema, Stage, run
from sciflow.cores import Cores, Inside
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.executors.slurm import Slurm
from sciflow.flow import Session, within
from sciflow.site import Place, Site
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow.work import Work
from tests.toys import Wave


def nothing():
    pass


def test_no_more_than_there_are_and_whoever_came_first_goes_first():
    cores, lock = Cores(3), threading.Lock()
    busy, most, begun = 0, 0, []

    def take(number, wish):
        nonlocal busy, most
        with cores.taken(wish, threading.Event(), nothing) as share:
            with lock:
                busy += share
                most = max(most, busy)
                begun.append(number)
            time.sleep(0.01)
            with lock:
                busy -= share

    threads = []
    for number, wish in enumerate((2, 2, 1, 9, 1, 1, 1, 3)):
        threads.append(threading.Thread(target=take, args=(number, wish)))
        threads[-1].start()
        time.sleep(0.002)
    for thread in threads:
        thread.join(20)
    assert most == 3
    assert busy == 0
    # Those that go at the same time may begin in any order; nobody overtakes one who waits for more.
    assert set(begun[:3]) == {0, 1, 2}
    assert begun[3] == 3
    assert begun[-1] == 7


def test_who_wishes_for_none_does_not_wait_and_who_waits_can_be_cancelled():
    cores, told = Cores(1), []
    stop = threading.Event()
    with cores.taken(1, threading.Event(), nothing):
        with cores.taken(0, threading.Event(), nothing) as share:
            assert share == 0
        stop.set()
        with (
            pytest.raises(Cancelled, match="the run was cancelled"),
            cores.taken(1, stop, lambda: told.append(1)),
        ):
            raise AssertionError("unreachable")
    assert told == [1]
    with cores.taken(1, threading.Event(), nothing) as share:
        assert share == 1


def share(tmp_path, stage, executor, resources, count=4):
    here = Session(Store(tmp_path), cores=Cores(count))
    return Work(stage, {}, executor, resources, here)._share()


def test_what_a_stage_takes(tmp_path):
    whole, members = Evaluate(), Simulate(Wave())
    assert share(tmp_path, whole, None, Resources()) == 0  # asked for nothing: as threads of the flow
    assert share(tmp_path, whole, Mpi(), Resources(threads=1)) == 1
    assert share(tmp_path, whole, Mpi(), Resources(ranks=2, threads=2)) == 4
    assert share(tmp_path, whole, Mpi(), Resources()) == 4  # a process with a thread for each core
    assert share(tmp_path, whole, Slurm(), Resources(threads=8)) == 0  # the scheduler counts
    assert share(tmp_path, members, None, Resources(parallel=2)) == 2
    assert share(tmp_path, members, None, Resources(ranks=3)) == 3
    assert share(tmp_path, members, None, Resources()) == 4
    assert share(tmp_path, members, Slurm(), Resources(parallel=9)) == 0


def test_threads_of_its_own_a_stage_has_in_a_process_of_its_own():
    site, stage = Site(), Evaluate()
    assert site.place(stage, None, None)[0] is None
    assert site.place(stage, None, Resources(threads=1))[0] == Mpi()
    assert site.place(stage, None, Resources(ranks=2))[0] == Mpi()
    assert site.place(stage, Local(), Resources(threads=1))[0] == Local()
    assert site.place(Simulate(Wave()), None, Resources(ranks=2, threads=1))[0] is None
    assert site.place(Design(problem=Wave()), None, Resources(threads=1))[0] is None
    with_flow = Site(stages={"evaluate": Place("driver")})
    assert with_flow.place(stage, None, Resources(threads=1))[0] is None
    assert Site(executor=Slurm()).place(stage, None, Resources(threads=1))[0] == Slurm()


@dataclass(frozen=True)
class Where(Stage):
    """Notes in which process it ran; waits for another one that is in this process."""

    name: ClassVar[str] = "toy_where"
    requires: ClassVar[tuple[str, ...]] = ()
    output: ClassVar[Schema] = Schema("where", {"pid": Field((), "1", "int64")})
    begun: ClassVar[threading.Event] = threading.Event()
    end: ClassVar[threading.Event] = threading.Event()
    number: int = 0

    def run(self, inputs, out, ctx):
        self.begun.set()
        assert self.end.wait(30)
        out.write("pid", np.array(os.getpid()), self.output["pid"])


@dataclass(frozen=True)
class Speaks(Where):
    """The same with MPI."""

    name: ClassVar[str] = "toy_speaks"
    requires: ClassVar[tuple[str, ...]] = ("mpi4py",)


@pytest.mark.parametrize("first", [Where(), Speaks()])
@pytest.mark.parametrize(("there", "second"), [(False, Where(1)), (False, Speaks(1)), (True, Where(1))])
def test_nothing_starts_mpi_beside_another_stage_of_this_process(tmp_path, monkeypatch, first, there, second):
    """What would have been beside it in this process is given to an executor of processes."""
    pytest.importorskip("mpi4py")
    for name in ("mpi4py.MPI", "petsc4py.PETSc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if there:
        monkeypatch.setitem(sys.modules, "petsc4py.PETSc", object())
    moved = []

    def submitted(work, out):
        moved.append(work.stage)
        out.write("pid", np.array(-1), Where.output["pid"])
        return {}

    monkeypatch.setattr(Work, "_submit", submitted)
    Where.begun.clear()
    Where.end.clear()

    async def flow():
        one = asyncio.create_task(run(first))
        while not Where.begun.is_set():
            await asyncio.sleep(0.01)
        # It ends before the first one only if it is not in this process.
        other = asyncio.create_task(run(second))
        await asyncio.wait([other], timeout=0.3)
        Where.end.set()
        return await one, await other

    with within(Session(Store(tmp_path))):
        one, _ = asyncio.run(flow())
    assert int(one.read("pid")) == os.getpid()
    apart = isinstance(second, Speaks) or (isinstance(first, Speaks) and not there)
    assert moved == ([second] if apart else [])


def test_a_place_in_this_process_is_given_back(monkeypatch):
    monkeypatch.setitem(sys.modules, "petsc4py.PETSc", object())
    inside = Inside()
    with inside.entered(True) as first, inside.entered(True) as second, inside.entered(False) as third:
        assert (first, second, third) == (True, False, True)
    with inside.entered(True) as again:
        assert again


class Starting:
    """Stands for mpi4py: finds its module, and looks around while that is imported."""

    def __init__(self, look):
        self.look = look

    def find_spec(self, name, path=None, target=None):
        return spec_from_loader(name, self) if name == "mpi4py.MPI" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        self.look()


def test_mpi_is_not_there_while_it_is_started(monkeypatch):
    """Python knows a module before its first line has run."""
    inside, safe = Inside(), []

    def look():
        with inside.entered(False) as found:
            safe.append((found, "mpi4py.MPI" in sys.modules))

    for name in ("mpi4py.MPI", "petsc4py.PETSc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    package = ModuleType("mpi4py")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setattr(sys, "meta_path", [Starting(look), *sys.meta_path])
    with inside.entered(True):
        importlib.import_module("mpi4py.MPI")
        look()
    del sys.modules["mpi4py.MPI"]
    assert safe == [(False, True), (True, True)]
