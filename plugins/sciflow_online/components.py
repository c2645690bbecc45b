"""Entry point of the plugin: configurations only; numpy, zmq and MPI are imported where they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sciflow.component import Component
from sciflow.controller import Controller
from sciflow.errors import Invalid, Missing, nearest
from sciflow.executor import Resources
from sciflow.guess import TakesGuess
from sciflow.hooks import hookimpl
from sciflow.problem import Parameter, ParameterSpace, Problem, State
from sciflow.registry import require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.design import DESIGN
from sciflow.stages.simulate import points_of
from sciflow.stages.train import MODEL, split
from sciflow.step_controller import TakesSteps
from sciflow.surrogate import Surrogate
from sciflow_online.comparison import Compare
from sciflow_online.reservoirs import FIFO, FIRO, KeepHard, Reservoir, ReservoirPolicy
from sciflow_online.steering import Breed, SobolSteering

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_online.intake import Recipe

_RESERVOIR, _ONE = Reservoir(), Resources()


@dataclass(frozen=True)
class OnlineTrain(Stage):
    """Fits a surrogate to a problem while its solvers run; nothing has to be stored in between.

    The same problem, surrogate, fields and split as with `Simulate` and `Train`: with equal seeds the
    training, validation and test members are the same ones. Solvers send every time level as it is
    computed; a reservoir mixes them; the training loop draws from it.

    Attributes
    ----------
    problem : Problem
        The full-order model.
    surrogate : Surrogate
        What to fit. Its ``epochs`` are the reports that the training is cut into.
    inputs_of, outputs_of : tuple of str
        As in `Train`; with a window also ``"time"``, that of the first output level.
    window : tuple of int or None
        ``(k, l)``: a sample is `k` consecutive time levels (0 for none) and the `l` that follow.
        ``None`` makes a sample of a whole member.
    train, valid : float
        Fractions of the design. Validation members are computed first; the rest is computed only with
        `keep`.
    reservoir : ReservoirPolicy
        How samples are kept and drawn.
    repeats : float
        How often each sample is drawn on average; 0 takes the ``epochs`` of the surrogate, as a
        training on stored samples would use each of them. Once, for reservoirs that use samples once.
    steering : Controller or None
        Chooses the points of training members while training goes on; None takes them from the design.
    order : {"arrival", "fixed"}
        ``fixed`` takes samples in an order that does not depend on which solver is quicker: the
        result, and going on after a kill, are the same to the bit. Solvers then wait for each other.
    lanes : int
        For the fixed order: how many solvers there are.
    keep : bool
        Also store every member in an ensemble: without steering, the one that `Simulate` would make of
        this problem, seed and design.
    seed : int
        Of the members, the split and the training.
    transport : {"zmq", "mpi"}
        ``zmq``: trainer and solvers are jobs of their own. ``mpi``: ranks of one job, which a crash of
        one of them ends.
    attempts : int
        How often a member is tried.
    minimum : float
        Smallest fraction of members that must succeed, in [0, 1].
    credits : int
        Messages that a solver rank may have under way to a trainer rank.
    heartbeat : float
        Seconds between two signs of life of a solver.
    patience : float
        Minutes within which a new time level must come from a solver.
    checkpoint_seconds : float
        Shortest time between two checkpoints, s.
    gather : {"auto", "owner", "root"}
        Every rank of a solver sends its part, or its root gathers them first; ``auto`` decides by size.
    listen : str
        Address that the trainer listens on; empty takes loopback where all jobs are on this machine,
        and the node's own where they are not. Nobody gets in without the token of the run.
    trainer : Resources
        What the trainer gets; what the flow asks for is for each solver.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.
    """

    name: ClassVar[str] = "online_train"
    inputs: ClassVar[Mapping[str, Schema]] = {"design": DESIGN}
    output: ClassVar[Schema] = MODEL
    orchestrates: ClassVar[bool] = True
    problem: Problem
    surrogate: Surrogate
    inputs_of: tuple[str, ...]
    outputs_of: tuple[str, ...]
    window: tuple[int, int] | None = None
    train: float = 0.8
    valid: float = 0.05
    reservoir: ReservoirPolicy = _RESERVOIR
    repeats: float = 0.0
    steering: Controller | None = None
    order: Literal["arrival", "fixed"] = "arrival"
    lanes: int = 1
    keep: bool = False
    seed: int = 0
    transport: Literal["zmq", "mpi"] = "zmq"
    attempts: int = 2
    minimum: float = 0.9
    credits: int = 8
    heartbeat: float = 5.0
    patience: float = 10.0
    checkpoint_seconds: float = 60.0
    gather: Literal["auto", "owner", "root"] = "auto"
    listen: str = ""
    trainer: Resources = _ONE

    def __post_init__(self) -> None:
        if not (0 < self.train < 1 and 0 < self.valid < 1 and self.train + self.valid < 1):
            raise Invalid(f"train and valid are fractions below one in all, got {self.train}, {self.valid}")
        if not self.inputs_of or not self.outputs_of:
            raise Invalid("name at least one input and one output field")
        if min(self.lanes, self.attempts, self.credits) < 1:
            raise Invalid("lanes, attempts and credits must be at least 1")
        if self.repeats < 0 or self.checkpoint_seconds < 0:
            raise Invalid("repeats and checkpoint_seconds cannot be negative")
        if self.repeats and not self.reservoir.reuse and self.repeats != 1:
            raise Invalid(
                f"the reservoir {self.reservoir.name!r} uses each sample once; repeats={self.repeats:g} does "
                "not go with it"
            )
        if min(self.heartbeat, self.patience) <= 0:
            raise Invalid("heartbeat and patience must be positive")
        if not 0 <= self.minimum <= 1:
            raise Invalid(f"minimum is a fraction between 0 and 1, got {self.minimum}")
        if self.order == "fixed" and self.trainer.ranks > 1:
            raise Invalid("a fixed order needs a single trainer rank")
        if self.order == "fixed" and self.steering is not None:
            raise Invalid("steering follows the losses as they come; it does not go with a fixed order")

    @property
    def uses(self) -> float:
        """How often each sample is drawn on average."""
        return self.repeats or (float(self.surrogate.epochs) if self.reservoir.reuse else 1.0)

    @property
    def space(self) -> ParameterSpace:
        """What is steered in."""
        return self.problem.parameters

    def identity(self) -> dict[str, object]:
        """What is learned; not where, over what, how patiently, or how often it is saved."""
        config = self.to_json()
        for name in (
            "transport", "attempts", "minimum", "credits", "heartbeat", "patience", "checkpoint_seconds",
            "gather", "listen", "trainer",
        ):  # fmt: skip
            del config[name]
        return config

    def recipe(self) -> Recipe:
        """How samples are made.

        Raises
        ------
        NotFound
            If a field or parameter does not exist.
        Invalid
            If fields and window do not fit.
        """
        from sciflow_online.intake import Recipe

        return Recipe(self.problem, self.inputs_of, self.outputs_of, self.window)

    def purposes(self, count: int) -> np.ndarray:
        """What each member is for: `TRAIN`, `VALID` or `TEST`; the same split as that of `Train`."""
        import numpy as np

        found = np.zeros(count, dtype=np.int64)
        for purpose, members in enumerate(split(np.arange(count), self.train, self.valid, self.seed)):
            found[members] = purpose
        return found

    def begin_order(self, purposes: np.ndarray) -> list[int]:
        """Members in the order in which they are begun, by purposes of shape (member,): validation first."""
        import numpy as np

        order = [1, 0, 2] if self.keep else [1, 0]
        return [int(m) for purpose in order for m in np.flatnonzero(purposes == purpose)]

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse fields that the problem does not have, and a design of other parameters.

        Raises
        ------
        Missing
            If the transport is not installed.
        """
        super().check(inputs)
        require(self.problem)
        require(self.surrogate)
        if isinstance(self.problem, TakesSteps):
            self.problem.check_stepping()
        if isinstance(self.problem, TakesGuess):
            self.problem.check_guess()
        points_of(inputs["design"], self.problem)
        self.recipe()
        if self.transport == "zmq":
            from importlib.util import find_spec

            if find_spec("zmq") is None:
                raise Missing("the transport 'zmq' needs pyzmq: pip install 'sciflow[online]'")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Start trainer and solvers, look after them, and publish the ensemble if there is one."""
        from sciflow_online.launch import Launch

        Launch(self, inputs["design"], out, ctx).run()

    def work(
        self, payload: Mapping[str, Any], inputs: Mapping[str, Artifact], out: Writer, ctx: Context
    ) -> None:
        """Be the trainer, a solver, or both."""
        from sciflow_online.roles import work

        work(self, payload, inputs["design"], out, ctx)


@dataclass(frozen=True)
class Program(Problem):
    """A solver in any language, started for every member, that sends its levels itself.

    The program uses the C library, the Fortran module or the Python client of this package: it asks for
    its parameters, sends every level and says when it is through. Stored or streamed, it is a full-order
    model like any other.

    Attributes
    ----------
    command : tuple of str
        What is started, ``("mpirun", "-n", "4", "./heat")``; no shell reads it.
    space : mapping of str to Parameter
        Its parameters, in the order in which it gets them.
    axes : mapping of str to (float, float, int)
        First and last coordinate of every axis, and how many there are, evenly spaced.
    sends : mapping of str to Field
        The fields that it sends; the axis ``time`` comes first where there is one.
    units : mapping of str to str
        Of the axes; ``s`` for time and ``m`` for space where nothing is said.
    periodic_axes : tuple of str
        Along which the domain is periodic.
    directory : str
        Where it is started; empty for the directory of the run's process.
    patience : float
        Minutes without a new level after which it is given up.
    order : tuple of str
        Of the parameters; empty takes that of `space`, which a file of names would not keep.

    Raises
    ------
    Invalid
        If `command`, `space`, `sends`, `order`, `axes` or `patience` has a value that it cannot have.
    """

    name: ClassVar[str] = "program"
    requires: ClassVar[tuple[str, ...]] = ("zmq",)
    command: tuple[str, ...]
    space: Mapping[str, Parameter]
    axes: Mapping[str, tuple[float, float, int]]
    sends: Mapping[str, Field]
    units: Mapping[str, str] = field(default_factory=dict)
    periodic_axes: tuple[str, ...] = ()
    directory: str = ""
    patience: float = 10.0
    order: tuple[str, ...] = ()

    @classmethod
    def example(cls) -> Self:
        """The heat equation of ``client/examples/heat.py`` on a small grid, for conformance checks."""
        import sys
        from pathlib import Path

        source = Path(__file__).parent / "client" / "examples" / "heat.py"
        return cls(
            command=(sys.executable, str(source), "8", "3"),
            space={"amplitude": Parameter(1.0, 2.0, "K"), "diffusivity": Parameter(0.1, 1.0, "m2 s-1")},
            axes={"time": (0.01, 0.03, 3), "y": (0.125, 0.875, 7), "x": (0.125, 0.875, 7)},
            sends={
                "temperature": Field(("time", "y", "x"), "K", "float64"),
                "initial": Field(("y", "x"), "K"),
            },
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        if not self.command:
            raise Invalid("a program needs a command")
        if not self.space or not self.sends:
            raise Invalid("a program has at least one parameter and sends at least one field")
        object.__setattr__(self, "order", tuple(self.order or self.space))
        if sorted(self.order) != sorted(self.space):
            raise Invalid(f"order names {', '.join(self.order)}, the parameters are {', '.join(self.space)}")
        for name, kind in self.sends.items():
            for axis in kind.axes:
                if axis not in self.axes:
                    raise Invalid(f"field {name!r} has the axis {axis!r}. {nearest(axis, self.axes)}")
        for axis, (first, last, count) in self.axes.items():
            if count < 1 or (count > 1 and not first < last):
                raise Invalid(f"axis {axis!r} runs from {first} to {last} in {count} points")
        if self.patience <= 0:
            raise Invalid(f"patience must be positive, got {self.patience}")

    @property
    def parameters(self) -> ParameterSpace:  # type: ignore[override]
        """See `Problem`."""
        return ParameterSpace(**{name: self.space[name] for name in self.order})

    @property
    def fields(self) -> Mapping[str, Field]:  # type: ignore[override]
        """See `Problem`."""
        return self.sends

    @property
    def periodic(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Problem`."""
        return tuple(self.periodic_axes)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        return {axis: np.linspace(first, last, count) for axis, (first, last, count) in self.axes.items()}

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        return {**super().axis_units(), **self.units}

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If the program says that it failed, or sends something that cannot be right.
        Failed
            If it ends before its time; with the end of what it printed.
        Missing
            If it cannot be started.
        """
        from sciflow_online.program import solve

        return solve(self, mu, ctx)


sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [OnlineTrain, Compare, Program, FIFO, FIRO, Reservoir, KeepHard, SobolSteering, Breed]


@hookimpl
def sciflow_report(artifact: Artifact) -> list[tuple[str, str]] | None:
    """What a report says of a model that was trained online, and of a comparison."""
    from sciflow_online import comparison, report

    return comparison.sections(artifact) or report.sections(artifact)
