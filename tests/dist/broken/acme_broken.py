"""A plugin whose own dependency is not there."""

import a_module_that_nobody_has  # noqa: F401
