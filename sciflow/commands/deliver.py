"""``sciflow deliver``: tell a Prefect server about runs that it missed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.commands import chosen_store

if TYPE_CHECKING:
    from threading import Thread

    from sciflow.flow import Session


def add(commands: Any) -> None:
    """Add the subcommand to a parser."""
    text = "tell the Prefect server about runs, or parts of runs, that it missed"
    one = commands.add_parser("deliver", help=text, description=text)
    one.add_argument("run", nargs="*", help="directories of runs (default: all of the store)")
    one.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")


def main(options: argparse.Namespace) -> int:
    """Deliver; 0 if nothing is left undelivered that could be delivered.

    Raises
    ------
    NotFound
        If a run that is named has nothing to deliver.
    """
    from sciflow.errors import NotFound
    from sciflow.server.engine import ensure_server
    from sciflow.server.outbox import OUTBOX, Progress, undelivered

    root = chosen_store(options).root
    runs = [_run(root, text) for text in options.run] or undelivered(root)
    for run in runs:
        if not (run / OUTBOX).is_file():
            raise NotFound(f"{run} has nothing to deliver: no {OUTBOX}")
    if not runs:
        print("nothing to deliver")
        return 0
    ensure_server()
    from sciflow.server.delivery import deliver

    for run in runs:
        sent = deliver(run)
        if sent is None:
            print(f"{run.name}  is being delivered by another process", flush=True)
            continue
        state = "delivered" if Progress.read(run).done else "delivered as far as it has come"
        print(f"{run.name}  {state}  ({sent} sent)", flush=True)
    return 0


def _run(root: Path, text: str) -> Path:
    from sciflow.errors import NotFound, nearest

    for path in (Path(text), root / "runs" / text):
        if path.is_dir():
            return path
    known = [p.name for p in (root / "runs").glob("*")]
    raise NotFound(f"no run {text!r} in {root}. {nearest(text, known)}")


def keep(here: Session, flow: Any, *, offline: bool) -> Thread | None:
    """Give a run an outbox; with a server, deliver in the background what earlier runs left.

    Parameters
    ----------
    here : Session
        The run that begins.
    flow : prefect.Flow
        The flow.
    offline : bool
        There is no server; the whole run goes into the outbox.

    Returns
    -------
    Thread or None
        Delivers what earlier runs left; whoever ends the process may give it some time.
    """
    from sciflow.server.forms import defaults_of, run_name
    from sciflow.server.outbox import Outbox

    here.outbox = Outbox(here.directory)
    if offline:
        name = run_name(flow.fn.__name__, here.parameters, defaults_of(flow.fn))
        here.outbox.begin(flow.name, here.parameters, here.start, run_name=name)
        return None
    from sciflow.server.following import in_background

    return in_background(here.store.root, here.directory)
