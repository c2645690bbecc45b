"""A plugin with a good component and one that leaves out what it must define."""

from dataclasses import dataclass
from typing import ClassVar

from acme_good import Decay

from sciflow import Parameter, ParameterSpace, Problem, hookimpl


@dataclass(frozen=True)
class Finished(Decay):
    """Goes down with the other: a plugin loads whole or not at all."""

    name: ClassVar[str] = "acme_finished"


@dataclass(frozen=True)
class Unfinished(Problem):
    """Has parameters and nothing else."""

    name: ClassVar[str] = "acme_unfinished"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(rate=Parameter(0.1, 2.0, "s-1"))


@hookimpl
def sciflow_components():
    return [Finished, Unfinished]
