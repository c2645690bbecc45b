"""A measured figure beside its target, and how ratios are measured."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class NotRun(Exception):
    """A benchmark that cannot run here, with the reason and what to do about it."""


@dataclass(frozen=True)
class Figure:
    """One number with its target.

    Attributes
    ----------
    name : str
        What was measured, without the area.
    measured, target : float
        In `unit`.
    unit : str
        Written behind the numbers: ``x`` for a ratio, ``%``, ``s``.
    better : {">=", "<="}
        On which side of the target the number should be.
    note : str
        Conditions, such as the plain times behind a ratio.
    """

    name: str
    measured: float
    target: float
    unit: str = "x"
    better: str = ">="
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the target is met."""
        return self.measured >= self.target if self.better == ">=" else self.measured <= self.target

    def line(self, area: str) -> str:
        """The one line that is printed."""
        number = f"measured {self.measured:.3g}{self.unit} target {self.better} {self.target:g}{self.unit}"
        note = f" ({self.note})" if self.note else ""
        return f"{area}/{self.name}: {number} {'ok' if self.ok else 'short'}{note}"


def medians(runs: Mapping[str, Callable[[], object]], repeats: int, warm: int = 2) -> dict[str, float]:
    """Median wall time of several things, measured in turn.

    Parameters
    ----------
    runs : mapping of str to callable
        Called one after the other in every round, so that a disturbance meets all of them.
    repeats : int
        Rounds that count.
    warm : int
        Rounds before them that do not.

    Returns
    -------
    dict of str to float
        Seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(warm + repeats):
        for name, call in runs.items():
            begin = time.perf_counter()
            call()
            if round_ >= warm:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """Processor, cores this process may use, load and Python."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    model = names[0] if names else platform.processor() or "unknown processor"
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, load {load:.1f}, Python {platform.python_version()}"
