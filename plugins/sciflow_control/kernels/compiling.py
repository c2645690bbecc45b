"""How kernels are compiled: once for a machine, and never in silence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit

WAIT = 1.0
"""Seconds after which a compilation is worth a line in the log."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile at the first call, keep the machine code beside the source or in the user's cache.

    Where neither can be written (a read-only installation without a home), every process compiles.
    """
    return _compiled(function)


def unchecked(function: Callable[..., Any]) -> Any:
    """`kernel` in which a quotient by 0 is infinite or no number, and no error."""
    return _compiled(function, error_model="numpy")


def reordered(function: Callable[..., Any]) -> Any:
    """`kernel` for sums whose terms may be taken in any order, several at once.

    For norms alone: their last bits then depend on the processor.
    """
    return _compiled(function, fastmath={"reassoc"})


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        return njit(nogil=True, **options)(function)


@contextmanager
def announced(log: logging.Logger) -> Iterator[None]:
    """Say that kernels are compiled, if what is done inside takes longer than that should."""
    timer = threading.Timer(
        WAIT, log.info, ["compiling the relaxation kernels; takes some seconds, once for this machine"]
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
