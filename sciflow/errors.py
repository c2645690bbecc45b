"""The errors sciflow raises on purpose, each also a builtin that callers may already catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SciflowError(Exception):
    """Base of every error that sciflow raises on purpose."""


class NotFound(SciflowError, LookupError):
    """A component, field, artifact or file that was asked for does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Invalid(SciflowError, ValueError):
    """A configuration, design, job file or artifact that cannot be accepted as it is."""


class Missing(SciflowError, ImportError):
    """Software that a component needs is not installed or does not import."""


class Failed(SciflowError, RuntimeError):
    """A stage, job or ensemble that was started did not end well."""


class Ended(Failed):
    """A job was ended from outside: by its time limit, for another job, with its node, for its memory.

    Parameters
    ----------
    message : str
        What happened, and what to do.
    cause : str
        As `sciflow.executor.Cause` names it.
    log : str
        The last lines of the job's log.
    """

    def __init__(self, message: str, cause: str, log: str = "") -> None:
        super().__init__(message)
        self.cause = cause
        self.log = log


class Diverged(SciflowError, ArithmeticError):
    """A solver or a training run left the finite numbers or did not converge."""


class Cancelled(SciflowError, RuntimeError):
    """The run was cancelled; what was finished is kept."""


LISTED = 24
"""Names that a message lists."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that helps somebody who mistyped a name.

    Parameters
    ----------
    name : str
        What was asked for.
    known : iterable of str
        What exists.

    Returns
    -------
    str
        ``"Did you mean 'x'? "`` where one is close, followed by the list of what exists, of which the
        closest `LISTED` if there are more.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    shown = names
    if len(names) > LISTED:
        close = difflib.get_close_matches(name, names, n=LISTED, cutoff=0.0)
        shown = sorted(close)
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{hint}There is: {', '.join(shown) if names else 'nothing'}{more}."
