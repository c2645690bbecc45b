"""A plugin that takes the name of another's component."""

from dataclasses import dataclass
from typing import ClassVar

from acme_good import Decay

from sciflow import hookimpl


@dataclass(frozen=True)
class Twin(Decay):
    """Another decay."""

    name: ClassVar[str] = "acme_decay"


@hookimpl
def sciflow_components():
    return [Twin]
