"""Which problem a fitted model stands for, and whether it can answer queries about a quantity of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.quantity import Grid, Quantity
from sciflow.samples import Signature

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.problem import Problem
    from sciflow.schema import Field

TIME = ("time", "step")
_SELECT = re.compile(r"([a-z][a-z0-9_]*)(?:\[(-?[0-9]+)\])?\Z")


def training_of(model: Artifact, given: Artifact | None) -> Artifact | None:
    """The ensemble that a model was fitted to: as given, or where its provenance says.

    Raises
    ------
    Invalid
        If another one is given.
    """
    from sciflow.artifact import Artifact

    if given is not None:
        if model.attributes.get("ensemble") != given.digest:
            raise Invalid(f"{model.path} was not trained on {given.path}")
        return given
    path = model.provenance.get("inputs", {}).get("ensemble", {}).get("path")
    if path is None or not Path(path).is_dir():
        return None
    found = Artifact.open(path, verify=False)
    return found if found.digest == model.attributes.get("ensemble") else None


def problem_of(model: Artifact, given: Problem | None, training: Artifact | None) -> Problem:
    """The full-order model that a fitted model stands for.

    Parameters
    ----------
    model : Artifact
        The fitted model.
    given : Problem or None
        Taken where it is there.
    training : Artifact or None
        The ensemble that it was fitted to.

    Raises
    ------
    Invalid
        If nothing says which it is, since the training ensemble was imported, or another one is given.
    """
    from sciflow.problem import Problem
    from sciflow.registry import registry

    stage = model.provenance.get("stage", {})
    documents = (
        None if training is None else training.attributes.get("problem"),
        model.attributes.get("surrogate", {}).get("problem"),
        stage.get("problem") if isinstance(stage, Mapping) else None,
    )
    known = next((d for d in documents if d), None)
    if given is not None:
        if known is not None and known["component"] != given.name:
            raise Invalid(f"{model.path} stands for {known['component']}, not for {given.name}")
        return given
    if known is not None:
        built = registry().build(known, kind="problem")
        assert isinstance(built, Problem)
        return built
    raise Invalid(
        f"{model.path} does not say which problem it stands for, so its doubtful answers cannot be solved in "
        "full; give the training ensemble as the input 'ensemble', or the problem in the configuration"
    )


@dataclass(frozen=True)
class Output:
    """Where a quantity finds its field among the outputs of a model.

    Attributes
    ----------
    name : str
        Of the output.
    level : int or None
        Of the time levels that the model predicts; None where it predicts one.
    """

    name: str
    level: int | None


def output_of(model: Artifact, signature: Signature, problem: Problem, quantity: Quantity) -> Output:
    """The output that holds the field and time level of a quantity.

    Raises
    ------
    NotFound
        If the problem has no such field, or the model does not predict it.
    Invalid
        If the time level does not exist, or the model predicts steps of a roll-out.
    """
    name, level = quantity.source
    if name not in problem.fields:
        raise NotFound(f"{problem.name} has no field {name!r}. {nearest(name, problem.fields)}")
    if model.attributes.get("window") or model.attributes.get("pairs"):
        raise Invalid(
            f"{model.path} predicts steps from earlier ones; a model that answers queries maps from the "
            "parameters alone: train it without window and pairs"
        )
    axes = problem.fields[name].axes
    count = len(problem.coordinates()[axes[0]]) if axes[:1] and axes[0] in TIME else 0
    if count and not -count <= level < count:
        raise Invalid(f"{name!r} has {count} time levels, the quantity asks for level {level}")
    for output, found in signature.outputs.items():
        match = _SELECT.match(output)
        if match is None or match.group(1) != name:
            continue
        if match.group(2) is None:
            return Output(output, level if found.axes[:1] and found.axes[0] in TIME else None)
        if not count or int(match.group(2)) % count == level % count:
            return Output(output, None)
    raise NotFound(
        f"{model.path} does not predict {name!r}{f' at level {level}' if count else ''}. "
        f"{nearest(name, signature.outputs)}"
    )


def check_parameters(model: Artifact, signature: Signature, problem: Problem) -> None:
    """Refuse a model whose inputs are not parameters of the problem.

    Raises
    ------
    Invalid
        Naming the inputs.
    """
    known = problem.parameters
    fields = [n for n, f in signature.inputs.items() if f.axes]
    if fields:
        raise Invalid(
            f"{model.path} maps from the fields {fields}, which a design does not hold; train a model with "
            f"inputs_of={tuple(known)}"
        )
    for name, one in signature.inputs.items():
        if name not in known:
            raise Invalid(f"{model.path} takes {name!r}, {problem.name} has no such parameter. "
                          f"{nearest(name, known)}")  # fmt: skip
        if one.unit != known[name].unit:
            raise Invalid(f"{model.path} takes {name!r} in {one.unit!r}, the problem in {known[name].unit!r}")


def grid_of(found: Field, coordinates: Mapping[str, Any], units: Mapping[str, str],
            periodic: tuple[str, ...]) -> Grid:  # fmt: skip
    """Where the values of one time level lie."""
    axes = tuple(a for a in found.axes if a not in TIME)
    lines = {a: np.asarray(coordinates[a], dtype=np.float64) for a in axes}
    return Grid(axes, lines, {a: units.get(a, "1") for a in axes}, periodic)
