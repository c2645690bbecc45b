"""Stage: reads artifacts, writes one artifact."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid, nearest
from sciflow.schema import Schema

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer


class Stage(Component):
    """One step of a flow.

    Attributes
    ----------
    inputs : mapping of str to Schema
        The artifacts it reads, by the name a flow passes them under.
    optional : tuple of str
        Names among `inputs` that a flow may leave out.
    output : Schema
        What it writes.
    retries : int
        How often it is tried again after a failure that was not `Invalid`.
    orchestrates : bool
        Whether `run` stays with the flow and starts jobs of its own through ``ctx.executor``; any
        other stage is itself the job that an executor runs.
    light : bool
        Takes so little that it runs with the flow, also where other stages are jobs of a cluster.
    """

    kind: ClassVar[str] = "stage"
    inputs: ClassVar[Mapping[str, Schema]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    output: ClassVar[Schema]
    retries: ClassVar[int] = 0
    orchestrates: ClassVar[bool] = False
    light: ClassVar[bool] = False

    @abstractmethod
    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Do the work.

        Parameters
        ----------
        inputs : mapping of str to Artifact
            Verified, with the schemas of `inputs`.
        out : Writer
            Published when this returns; what is already in it after a kill is kept for the
            next attempt.
        ctx : Context
            Communicator, seed, scratch, log, progress.
        """

    def work(
        self, payload: Mapping[str, Any], inputs: Mapping[str, Artifact], out: Writer, ctx: Context
    ) -> None:
        """Do a part of the work in a job that `run` started; only for stages that orchestrate.

        Parameters
        ----------
        payload : mapping
            Plain JSON, of the job (``JobSpec("work", ...)``).
        inputs, out
            As in `run`; the driver publishes.
        ctx : Context
            Of the job; collective over ``ctx.comm``.
        """
        raise NotImplementedError(f"{self.name} starts jobs of its own and must define work")

    def identity(self) -> dict[str, object]:
        """What decides the result: the part of the configuration that enters the digest.

        A field that changes only where or how fast the stage runs (a job count) is left out by
        overriding this.
        """
        return self.to_json()

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Refuse inputs that are missing (unless `optional`), unknown or of the wrong schema.

        Raises
        ------
        Invalid
            Naming the input, its path and every reason.
        """
        for name in inputs:
            if name not in self.inputs:
                raise Invalid(f"stage {self.name!r} has no input {name!r}. {nearest(name, self.inputs)}")
        for name, schema in self.inputs.items():
            if name not in inputs:
                if name in self.optional:
                    continue
                raise Invalid(f"stage {self.name!r} needs the input {name!r}, a {schema.kind} artifact")
            reasons = schema.accepts(inputs[name].schema)
            if reasons:
                raise Invalid(
                    f"stage {self.name!r}, input {name!r} ({inputs[name].path}): {'; '.join(reasons)}"
                )


def label(stage: Stage, inputs: Mapping[str, Any] | None = None) -> str:
    """The stage and what it is about, as ``simulate heat`` or ``evaluate fno``.

    Parameters
    ----------
    stage : Stage
        With its configuration, whose first component is named.
    inputs : mapping of str to Artifact, optional
        Where the configuration has none, the surrogate of the input ``model`` is named.
    """
    about = [
        value.name
        for value in (getattr(stage, f.name) for f in dataclasses.fields(stage))  # type: ignore[arg-type]
        if isinstance(value, Component)
    ]
    model = (inputs or {}).get("model")
    # What is only planned has no attributes yet.
    if not about and hasattr(type(model), "attributes"):
        about = [model.attributes.get("surrogate", {}).get("component", "")]  # type: ignore[union-attr]
    return " ".join([stage.name, *about[:1]]).strip()
