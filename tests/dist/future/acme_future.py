"""A plugin for hooks that do not exist yet."""

from sciflow import hookimpl

sciflow_api = "1.7"


@hookimpl
def sciflow_components():
    return []
