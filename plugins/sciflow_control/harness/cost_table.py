"""The ``cost_table`` stage: every arm on every system of a sequence."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow_control.bandits.tuner import STATUSES
from sciflow_control.space import Relaxation, Space
from sciflow_control.systems.laplacian import ShiftedLaplacian
from sciflow_control.systems.system import System, Systems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.component import Component
    from sciflow.context import Context
    from sciflow.store import Writer

COST_TABLE = Schema(
    "cost_table",
    {
        "cost": Field(("system", "arm"), "1", "float64", "iterations until the tolerance, at least 1"),
        "seconds": Field(("system", "arm"), "s", "float64", "time of the solve, the shortest of the repeats"),
        "status": Field(("system", "arm"), "1", "uint8", f"0 to 2: {', '.join(STATUSES)}"),
        "features": Field(("system", "feature"), "any", "float64", "what is known before a solve"),
    },
)
SAVED = 5.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True)
class CostTable(Stage):
    """Solves every system of a sequence with every arm, so that tuners can be tried without solving again.

    Attributes
    ----------
    systems : Systems
        The sequence.
    space : Space
        The arms, each nothing but an ``omega``.
    method : {"sor", "ssor_cg"}
        What the omega goes into: SOR sweeps, or the SSOR preconditioner of conjugate gradients.
    count : int
        Systems.
    seed : int
        Of the sequence.
    repeats : int
        Solves of which the shortest time counts.
    max_it : int
        Iterations after which a solve has failed; their number is its cost.

    Raises
    ------
    Invalid
        If `count`, `repeats`, `max_it`, `method`, `systems` or `space` has a value that it cannot
        have.
    """

    name: ClassVar[str] = "cost_table"
    requires: ClassVar[tuple[str, ...]] = ("numba", "scipy")
    output: ClassVar[Schema] = COST_TABLE
    systems: Systems
    space: Space = Relaxation()
    method: Literal["sor", "ssor_cg"] = "sor"
    count: int = 1000
    seed: int = 0
    repeats: int = 1
    max_it: int = 10000

    def __post_init__(self) -> None:
        if min(self.count, self.repeats, self.max_it) < 1:
            raise Invalid(
                f"count={self.count}, repeats={self.repeats} and max_it={self.max_it} must be at least 1"
            )
        for arm in self.space.arms:
            if set(arm) != {"omega"}:
                raise Invalid(f"{self.method} takes arms like {{'omega': 1.5}}, got {dict(arm)}")
        if self.method == "ssor_cg" and not self.systems.symmetric:
            raise Invalid(f"conjugate gradients need symmetric systems; those of {self.systems.name} are not")

    @classmethod
    def example(cls) -> Self:
        """A small one."""
        return cls(ShiftedLaplacian(0.5, 1.5, size=4), Relaxation(count=4), count=5)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write the table; a killed run goes on behind the systems that it had saved."""
        import numpy as np

        from sciflow_control.kernels.compiling import announced

        saved = _Saved(out, len(self.space.arms))
        with announced(ctx.log):
            solve = self._solver()
        begun = noted = time.monotonic()
        for index, system in enumerate(self.systems.draw(self.count, self.seed)):
            if index < len(saved.rows):
                continue
            saved.rows.append(solve(system))
            saved.features.append(dict(system.features))
            now = time.monotonic()
            if now - noted > 0.5:
                noted = now
                rate = (index + 1) / (now - begun)
                ctx.progress(index + 1, self.count, "systems", {"systems": f"{rate:.3g} per s"})
            if now - saved.when > SAVED:
                saved.write()
        table = np.array(saved.rows)
        names = list(saved.features[0])
        out.write("cost", table[:, 0], COST_TABLE["cost"])
        out.write("seconds", table[:, 1], COST_TABLE["seconds"])
        out.write("status", table[:, 2].astype(np.uint8), COST_TABLE["status"])
        features = np.array([[row[name] for name in names] for row in saved.features]).reshape(self.count, -1)
        out.write("features", features, COST_TABLE["features"])
        out.describe(
            arms=[dict(arm) for arm in self.space.arms],
            features=names,
            sequence=label(self.systems),
            method=self.method,
        )
        ctx.progress(self.count, self.count, "systems")

    def _solver(self) -> Callable[[System], np.ndarray]:
        """A function that gives cost, seconds and status of every arm, shape (3, arm); compiled."""
        import numpy as np

        from sciflow_control.kernels import relaxation

        kernel = {"sor": relaxation.sor, "ssor_cg": relaxation.ssor_cg}[self.method]
        omegas = [float(arm["omega"]) for arm in self.space.arms]
        tol, ok, failed = self.systems.tolerance, STATUSES.index("ok"), STATUSES.index("failed")

        def solve(system: System) -> np.ndarray:
            a, found = system.matrix, np.empty((3, len(omegas)))
            for place, omega in enumerate(omegas):
                seconds = float("inf")
                for _ in range(self.repeats):
                    x = np.zeros_like(system.rhs) if system.guess is None else system.guess.copy()
                    begin = time.perf_counter()
                    done = kernel(a.indptr, a.indices, a.data, system.rhs, x, omega, tol, self.max_it)
                    seconds = min(seconds, time.perf_counter() - begin)
                end = ok if done.converged else failed
                found[:, place] = max(done.iterations, 1), seconds, end
            return found

        solve(next(self.systems.draw(1, self.seed)))
        return solve


class _Saved:
    """Rows that are done, kept in the scratch folder from one attempt to the next."""

    def __init__(self, out: Writer, arms: int) -> None:
        import numpy as np

        self._file, self._disk = out.scratch / "rows.npz", out.disk
        self.rows: list[Any] = []
        self.features: list[dict[str, float]] = []
        self.when = time.monotonic()
        if self._file.exists():
            with np.load(self._file) as kept:
                self.rows = list(kept["rows"])
                names = [str(n) for n in kept["names"]]
                self.features = [dict(zip(names, map(float, row), strict=True)) for row in kept["features"]]

    def write(self) -> None:
        """Keep what there is."""
        import numpy as np

        names = list(self.features[0])
        features = np.array([[row[n] for n in names] for row in self.features]).reshape(len(self.rows), -1)
        buffer = io.BytesIO()
        np.savez(buffer, rows=np.array(self.rows), names=np.array(names, dtype="U"), features=features)
        self._disk.replace(self._file, buffer.getvalue(), sync=False)
        self.when = time.monotonic()


def label(component: Component) -> str:
    """The name of a component and the settings that are not its defaults."""
    fields: Sequence[Any] = dataclasses.fields(component)  # type: ignore[arg-type]
    changed = [f.name for f in fields if getattr(component, f.name) != f.default]
    inside = ", ".join(f"{name}={_short(getattr(component, name))}" for name in changed)
    return component.name + (f"({inside})" if inside else "")


def _short(value: Any) -> str:
    return label(value) if dataclasses.is_dataclass(value) else str(value)  # type: ignore[arg-type]
