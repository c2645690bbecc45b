"""A plugin whose component is not frozen."""

from acme_good import Decay

from sciflow import hookimpl


class Thawed(Decay):
    """No dataclass."""

    name = "acme_thawed"


@hookimpl
def sciflow_components():
    return [Thawed]
