"""Delivering in threads: of a run while it goes on, and of what earlier runs left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sciflow.server.api import Server
from sciflow.server.delivery import Delivery, deliver_all
from sciflow.server.outbox import claimed

CANCEL = 0.5
"""Seconds between two looks at whether a run was cancelled."""
INTERVAL = 0.7
"""Seconds between two looks at the outbox of a run that goes on."""
AGAIN = 5.0
"""Seconds until a server that is away is tried again."""
LOOK = 60.0
"""Seconds between two looks of a serving process at a store."""


class Live(threading.Thread):
    """Delivers the outbox of a run that Prefect runs in this process, while it goes on.

    Nothing that goes wrong here reaches the run: what could not be sent is still in the outbox.

    Parameters
    ----------
    directory : Path
        Of the run.
    flow_run_id : str
        The run, as the server knows it.
    on_cancel : callable
        Called once if somebody cancels the run on the server.
    name : str
        The run is given this name.
    """

    def __init__(self, directory: Path, flow_run_id: str, on_cancel: Callable[[], None], name: str) -> None:
        super().__init__(name=f"delivery of {directory.name}", daemon=True)
        self._directory = directory
        self._flow_run_id = flow_run_id
        self._on_cancel = on_cancel
        self._run_name = name
        self._looked = time.monotonic()
        self._told = False
        self._stop_asked = threading.Event()
        self._away = False

    def run(self) -> None:
        """Deliver until `stop`."""
        with claimed(self._directory) as mine:
            while mine and not self._over():
                try:
                    with Server() as server:
                        self._follow(Delivery(self._directory, server, live=True), server)
                    return
                # A thread has nobody to raise to; the outbox is delivered later.
                except Exception as error:
                    logging.getLogger("sciflow").debug("%r", error)
                    self._away = True
                    self._stop_asked.wait(AGAIN)

    def _look(self, server: Server) -> None:
        """Ask now and then whether the run was cancelled."""
        if self._told or time.monotonic() - self._looked < CANCEL:
            return
        self._looked = time.monotonic()
        run = server.ask("GET", f"/flow_runs/{self._flow_run_id}") or {}
        if run.get("state_type") in ("CANCELLING", "CANCELLED"):
            self._told = True
            self._on_cancel()

    def _follow(self, delivery: Delivery, server: Server) -> None:
        server.ask("PATCH", f"/flow_runs/{self._flow_run_id}", {"name": self._run_name})
        while True:
            last = self._stop_asked.is_set()
            if delivery.go() or last:
                return
            self._away = False
            self._look(server)
            self._stop_asked.wait(INTERVAL)

    def _over(self) -> bool:
        return self._stop_asked.is_set() and self._away

    def stop(self, seconds: float) -> None:
        """Deliver the rest and end; give up after so many seconds, or at once where the server is away."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(seconds)


def in_background(root: Path, besides: Path | None = None) -> threading.Thread:
    """Deliver every run below a store in a thread that does not keep the process from ending."""
    thread = threading.Thread(target=deliver_all, args=(root, besides), name="delivery", daemon=True)
    thread.start()
    return thread


def keep_delivering(root: Path) -> None:
    """Look for what is undelivered below a store every `LOOK` seconds, as long as the process lives."""

    def look() -> None:
        while True:
            deliver_all(root)
            time.sleep(LOOK)

    threading.Thread(target=look, name="delivery", daemon=True).start()
