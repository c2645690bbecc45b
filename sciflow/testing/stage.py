"""What holds for every stage, without running it."""

from __future__ import annotations

import inspect
from typing import Any

from sciflow.component import canonical
from sciflow.errors import SciflowError
from sciflow.stage import Stage


def check_stage(stage: Stage) -> None:
    """Check what holds for every stage without running it.

    Raises
    ------
    AssertionError
        If the schemas, the identity or the refusal of unknown inputs are not as they must be.
    """
    from sciflow.schema import Schema

    output = getattr(stage, "output", None)
    assert isinstance(output, Schema), (
        f"{stage.name}: output is not a Schema but {output!r}; declare what it writes: "
        'output: ClassVar[Schema] = Schema("kind", {name: Field(axes, unit)})'
    )
    wrong = [name for name, schema in stage.inputs.items() if not isinstance(schema, Schema)]
    assert not wrong, (
        f"{stage.name}: inputs are not Schemas: {', '.join(wrong)}; declare the kind of artifact of each"
    )
    unknown = [name for name in stage.optional if name not in stage.inputs]
    assert not unknown, f"{stage.name}: optional names {', '.join(unknown)}, which is none of its inputs"
    assert canonical(stage.identity()) == canonical(stage.identity()), (
        f"{stage.name}: its identity changes from one call to the next, so its artifact is never found "
        "again; it is what decides the result, without times or chance"
    )
    nothing: Any = None
    try:
        stage.check({"no_such_input": nothing})
    except SciflowError as error:
        assert "no_such_input" in str(error), (
            f"{stage.name}: the refusal does not name the input: {error}; call super().check(inputs) first"
        )
    else:
        raise AssertionError(f"{stage.name} accepts an unknown input; call super().check(inputs) in check")
    parameters = inspect.signature(stage.run).parameters
    assert len(parameters) == 3, f"{stage.name}: run takes (inputs, out, ctx), has {list(parameters)}"
