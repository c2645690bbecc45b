"""A plugin with a hook that does not exist."""

from sciflow import hookimpl


@hookimpl
def sciflow_componets():
    return []
