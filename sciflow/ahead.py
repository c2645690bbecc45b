"""Ahead: an iterator that is run in a thread, so that reading overlaps with what is done with it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 0.1
"""Seconds after which a thread that waits for room looks whether it is still wanted."""


class _End:
    """The last thing in the queue: the source is exhausted, or failed."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def ahead(source: Iterator[T], depth: int) -> Iterator[T]:
    """Run an iterator in a thread of its own, at most `depth` items before they are asked for.

    Parameters
    ----------
    source : iterator
        Advanced in the thread alone.
    depth : int
        Items that are kept ready; they take as much memory. 0 starts no thread.

    Yields
    ------
    The items of `source`, in its order. What `source` raises is raised here, after the items before it.

    Notes
    -----
    The thread begins with the first item that is asked for and ends with this generator: when it is
    exhausted, closed or dropped, or an exception leaves the loop over it. It does not keep the process
    alive. Whatever `source` holds is released in its thread.
    """
    if depth < 1:
        yield from source
        return
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    unwanted = threading.Event()
    thread = threading.Thread(target=_produce, args=(source, ready, unwanted), name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item  # a batch is as large as those in the queue: hold none while waiting
    finally:
        unwanted.set()
        # Python may collect a forgotten loop in any thread, this one among them.
        if thread is not threading.current_thread():
            thread.join()


def _produce(source: Iterator[T], ready: queue.Queue[T | _End], unwanted: threading.Event) -> None:
    try:
        try:
            for item in source:
                if not _put(item, ready, unwanted):
                    return
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
        _put(_End(), ready, unwanted)
    # Whatever it is, it belongs to whom asks for the next item.
    except BaseException as error:
        _put(_End(error), ready, unwanted)


def _put(item: T | _End, ready: queue.Queue[T | _End], unwanted: threading.Event) -> bool:
    """Wait for room; whether the item is still wanted."""
    while not unwanted.is_set():
        try:
            ready.put(item, timeout=_PAUSE)
            return True
        except queue.Full:
            continue
    return False
