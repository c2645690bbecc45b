"""Measures the figures that sciflow promises: ``python -m benchmarks [-k PATTERN]``.

Every module ``benchmarks/bench_<area>.py`` has generator functions ``bench_<group>()`` that yield
`benchmarks.figure.Figure`. A new one is found by its name. One line is printed for each figure::

    fno/step_1_thread: measured 1.34x target >= 1.3x ok
    fno/step_2_threads: measured 1.41x target >= 1.5x short
    fno/speed: not run (neuraloperator is missing: pip install neuraloperator==2.0.0)

The exit status is always 0: a figure that is short on a busy machine is no broken build. A function
raises `benchmarks.figure.NotRun` where something is missing. Rules of a fair figure: compare two
things in one process and one run, in turn (`benchmarks.figure.medians`), as a ratio; set the
threads, in a fresh process where a library reads them once; state what was compared in the note.

``-k PATTERN`` runs the groups whose ``area/group`` holds PATTERN.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterator

import benchmarks
from benchmarks.figure import Figure, NotRun, machine


def groups(pattern: str) -> Iterator[tuple[str, str, Callable[[], Iterator[Figure]]]]:
    """Area, group and function of every benchmark whose name holds `pattern`."""
    for info in pkgutil.iter_modules(benchmarks.__path__):
        if not info.name.startswith("bench_"):
            continue
        area = info.name.removeprefix("bench_")
        try:
            module = importlib.import_module(f"benchmarks.{info.name}")
        except ImportError as error:
            print(f"{area}: not run ({error})", flush=True)
            continue
        for name, function in list(vars(module).items()):
            group = name.removeprefix("bench_")
            if group != name and callable(function) and pattern in f"{area}/{group}":
                yield area, group, function


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="every figure with its target")
    parser.add_argument("-k", default="", metavar="PATTERN", help="only groups whose area/group holds it")
    pattern = parser.parse_args().k
    print(f"# {machine()}", flush=True)
    for area, group, function in groups(pattern):
        try:
            for figure in function():
                print(figure.line(area), flush=True)
        except NotRun as reason:
            print(f"{area}/{group}: not run ({reason})", flush=True)
        except Exception as error:  # one benchmark that breaks must not hide the others
            print(f"{area}/{group}: not run ({type(error).__name__}: {error})", flush=True)


if __name__ == "__main__":
    main()
