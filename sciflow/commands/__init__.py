"""What `sciflow` does for each of its larger commands; `sciflow.cli` reads the words."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sciflow.store import Store


def chosen_store(options: argparse.Namespace) -> Store:
    """The store that was named on the command line, or else the default one."""
    from sciflow.flow import default_store
    from sciflow.store import Store

    return Store(options.store) if options.store else default_store()
