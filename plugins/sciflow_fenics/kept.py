"""Meshes, forms and solvers kept for the next member on the same communicator."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from itertools import count
from typing import Any, TypeVar

from mpi4py import MPI

T = TypeVar("T")

LIMIT = 4
"""Configurations kept for each communicator; the one not used for longest goes first."""

_kept: dict[int, OrderedDict[Hashable, Any]] = {}
_freed: list[int] = []
_token = count()


@cache
def _keyval() -> int:
    """The MPI attribute that names a communicator; a handle would be given out again after a free."""
    return int(MPI.Comm.Create_keyval(delete_fn=lambda comm, keyval, token: _freed.append(token)))


def kept(comm: Any, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` builds, built once for each communicator and key.

    All ranks of a communicator see the same calls in the same order, so that they agree on what
    is built anew and what is dropped: building a mesh is collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The communicator it is built on.
    key : hashable
        The configuration.
    make : callable
        Builds it; collective over `comm`.

    Returns
    -------
    object
        The same one for the same key, until `LIMIT` others have been asked for.
    """
    while _freed:
        _kept.pop(_freed.pop(), None)
    token = comm.Get_attr(_keyval())
    if token is None:
        token = next(_token)
        comm.Set_attr(_keyval(), token)
    systems = _kept.setdefault(token, OrderedDict())
    if key not in systems:
        systems[key] = make()
    systems.move_to_end(key)
    while len(systems) > LIMIT:
        systems.popitem(last=False)
    found: T = systems[key]
    return found
