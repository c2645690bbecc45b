"""``sciflow serve``: flows as forms in the Prefect UI, run by a worker on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sciflow.commands import chosen_store


def add(commands: Any) -> None:
    """Add the command to the command line."""
    text = "offer flows in the Prefect UI, and run what is started there"
    serve = commands.add_parser("serve", help=text, description=text)
    serve.add_argument("flows", nargs="*", help="files (default: flows/*.py and those of plugins)")
    serve.add_argument("--site", default="here", metavar="NAME", help="where stages run (default: here)")
    serve.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")
    serve.add_argument(
        "--schedule",
        action="append",
        default=[],
        metavar="FLOW=CRON",
        help="run a flow by itself, as heat_fno='0 3 * * *'",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address of the server; not loopback: asks for a token"
    )
    serve.add_argument(
        "--token", action="store_true", help="ask for a token on loopback too, on a shared machine"
    )
    serve.add_argument("--stop", action="store_true", help="stop the local server instead")


def main(options: argparse.Namespace) -> int:
    """Register the flows, then run the worker until it is told to end.

    Raises
    ------
    NotFound
        If there are no flow files.
    """
    from sciflow.server import engine

    if options.stop:
        print("stopped" if engine.stop_server() else "no local Prefect server was running")
        return 0
    from sciflow.site import load_site

    site = load_site(options.site)
    store = chosen_store(options)
    url = engine.ensure_server(options.host, token=options.token)
    from sciflow.errors import NotFound
    from sciflow.server import serving
    from sciflow.server.following import keep_delivering

    found = serving.offers([Path(f) for f in options.flows] or sorted(Path("flows").glob("*.py")))
    if not found:
        raise NotFound("no flow files: name some, or start this where there is a flows/ directory")
    schedules = serving.schedules_of(options.schedule, found)
    names = serving.register(found, site, serving.environment_of(options.site, store.root), schedules)
    keep_delivering(store.root)
    print(f"Prefect UI: {url or os.environ['PREFECT_API_URL']}", flush=True)
    if url and os.environ.get("PREFECT_API_AUTH_STRING"):
        print(f"  it asks for the token in {engine.home() / 'server.json'}")
    for name in names:
        cron = schedules.get(name.partition("/")[0].replace("-", "_"), "")
        print(f"  {name}{f', scheduled {cron}' if cron else ''}")
    print(f"{len(names)} flows, {site.flows} at a time on the site {site.name}; Ctrl-C ends", flush=True)
    return serving.work(site)
