"""``sciflow``: the command line; what each command does is in `sciflow.commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.commands import chosen_store

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

DESCRIPTION = (
    "Workflows for scientific machine learning: solvers over MPI, zarr between the stages, operators."
)
STOPPED = "told to stop; what was finished is kept, run again to go on"
"""What a run says that SIGTERM ended."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="sciflow", description=DESCRIPTION)
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    for name, text in (
        ("run", "run a flow"),
        ("plan", "show what a flow would run and what is there already, running nothing"),
    ):
        one = command(name, text)
        one.add_argument("flow", help="a file, file.py:name, or the name of a plugin's flow")
        one.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a parameter, as surrogate.epochs=20",
        )
        one.add_argument("--params", metavar="FILE", help="parameters from a JSON, TOML or YAML file")
        one.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")
        if name == "run":
            one.add_argument(
                "--site", metavar="NAME", help="where stages run: here, allocation, or a file hpc/NAME.toml"
            )
            one.add_argument(
                "--engine",
                choices=("auto", "prefect", "plain"),
                default="auto",
                help="auto: Prefect, or plain where no server can be had",
            )
    show = command("show", "show an artifact: fields, units, provenance")
    show.add_argument("artifact", help="its directory, or the start of its name in the store")
    show.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")
    show.add_argument("--verify", action="store_true", help="hash every file")
    doctor = command(
        "doctor", "check dolfinx, PETSc, MPI, Slurm, GPU, Prefect, BLAS and threads on this machine"
    )
    doctor.add_argument(
        "--site", metavar="NAME", help="try a site instead: a two-rank job, its files, versions"
    )
    doctor.add_argument("--store", metavar="DIR", help="where artifacts will be (default: sciflow-store)")
    from sciflow.commands import deliver, jobs, new_plugin, plugins, predict, serve, store

    plugins.add(commands)
    new_plugin.add(commands)

    serve.add(commands)
    jobs.add(commands)
    store.add(commands)
    deliver.add(commands)
    predict.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    top = parser()
    options = top.parse_args(arguments)
    if options.version:
        from sciflow.provenance import version_of

        print(version_of("sciflow"))
        return 0
    if options.command is None:
        top.print_help()
        return 0
    from sciflow.errors import Cancelled, SciflowError

    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": _run,
        "plan": _plan,
        "show": _show,
        "plugins": _plugins,
        "check": _plugins,
        "new-plugin": _new_plugin,
        "doctor": _doctor,
        "serve": _serve,
        "store": _store_actions,
        "deliver": _deliver,
        "jobs": _jobs,
        "predict": _predict,
        "export": _predict,
    }
    try:
        return actions[options.command](options)
    except (Cancelled, SciflowError) as error:
        print(f"sciflow: {error}", file=sys.stderr)
        return 143 if isinstance(error, Cancelled) else 1
    except KeyboardInterrupt:
        print("sciflow: interrupted; what was finished is kept, run again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if options.command in ("run", "serve"):
            raise
        # Who reads has seen enough, such as head; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _plugins(options: argparse.Namespace) -> int:
    from sciflow.commands.plugins import main as run

    return run(options)


def _new_plugin(options: argparse.Namespace) -> int:
    from sciflow.commands.new_plugin import main as run

    return run(options)


def _store_actions(options: argparse.Namespace) -> int:
    from sciflow.commands.store import main as run

    return run(options)


def _predict(options: argparse.Namespace) -> int:
    from sciflow.commands.predict import main as run

    return run(options)


def _jobs(options: argparse.Namespace) -> int:
    from sciflow.commands.jobs import main as run

    return run(options)


def _deliver(options: argparse.Namespace) -> int:
    from sciflow.commands.deliver import main as run

    return run(options)


def _prepare_engine(wish: str) -> str:
    """Decide on the engine before Prefect is imported; ``prefect``, ``plain`` or ``offline``."""
    from sciflow.errors import Failed
    from sciflow.server.engine import QUIET, ensure_server

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if wish == "plain":
        return "plain"
    try:
        url = ensure_server()
    except Failed as error:
        print(
            f"sciflow: no Prefect server ({str(error).splitlines()[0]}); going on without, the run is "
            "delivered by the next sciflow run or serve that finds one, or by sciflow deliver",
            file=sys.stderr,
        )
        return "offline"
    if url:
        print(f"Prefect UI: {url}   (stop it with: sciflow serve --stop)", file=sys.stderr)
    return "prefect"


def _run(options: argparse.Namespace) -> int:
    from sciflow import flow as engine
    from sciflow.component import plain
    from sciflow.console import Console
    from sciflow.loading import check_file, load_flow, parameters_of
    from sciflow.site import current

    if options.flow.endswith(".py"):
        check_file(Path(options.flow))
    if options.site:
        os.environ["SCIFLOW_SITE"] = options.site
    site = current()
    which = _prepare_engine(options.engine)
    if which == "prefect":
        # The terminal has lines of our own; everything is still logged to the Prefect API.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    found = load_flow(options.flow)
    parameters = parameters_of(found.fn, options.set, options.params)
    how = "prefect" if which == "prefect" else "plain"
    shown = Console()
    here = engine.Session(chosen_store(options), found.fn.__name__, plain(parameters), how, shown, site=site)
    here.note_source(found.fn)
    earlier = None
    if which != "plain":
        from sciflow.commands.deliver import keep

        earlier = keep(here, found, offline=which == "offline")
    try:
        with shown, engine.within(here):
            result = _awaited(found if which == "prefect" else found.fn, parameters)
    except BaseException as error:
        here.close(error)
        raise
    finally:
        if said := shown.summary():
            print(said, file=sys.stderr)
    here.close()
    if earlier is not None:
        earlier.join(5)
    if isinstance(result, Path):
        print(f"report: {result}")
    elif result is not None:
        print(result)
    return 0


def _awaited(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """What a flow returns; SIGTERM is the same error whoever takes it first, Prefect or we."""
    import asyncio

    from sciflow.errors import Cancelled

    try:
        return asyncio.run(_until_told(function, parameters))
    except BaseException as error:
        if type(error).__name__ == "TerminationSignal":  # of Prefect
            raise Cancelled(STOPPED) from None
        raise


async def _until_told(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Await a flow; SIGTERM, by which schedulers and servers end a process, cancels it."""
    import asyncio
    import signal

    from sciflow.errors import Cancelled

    task = asyncio.ensure_future(function(**parameters))
    told = False

    def stop() -> None:
        nonlocal told
        told = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if told:
            raise Cancelled(STOPPED) from None
        raise


def _plan(options: argparse.Namespace) -> int:
    import asyncio

    from sciflow import flow as engine
    from sciflow.console import Console
    from sciflow.loading import load_flow, parameters_of
    from sciflow.server.engine import QUIET

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    found = load_flow(options.flow)
    parameters = parameters_of(found.fn, options.set, options.params)
    here = engine.Session(
        chosen_store(options), found.fn.__name__, listener=Console(sys.stdout), planning=True
    )
    with engine.within(here):
        try:
            asyncio.run(found.fn(**parameters))
        except engine.PlanEnds as end:
            print(end)
    return 0


def _show(options: argparse.Namespace) -> int:
    from sciflow.care import resolve

    show(resolve(chosen_store(options), options.artifact), verify=options.verify)
    return 0


def show(artifact: Artifact, *, verify: bool) -> None:
    """Print fields, units and provenance of an artifact; with `verify` hash every file first."""
    import json

    from sciflow.terminal import table

    if verify:
        artifact.verify(full=True)
    print(f"{artifact.schema.kind}  {artifact.path}\ndigest  {artifact.digest}")
    print("every file has the published content\n" if verify else "")
    rows = [
        (
            name,
            " x ".join(f"{a} {n}" for a, n in zip(f.axes, artifact.array(name).shape, strict=True)),
            f.dtype,
            f.unit,
        )
        for name, f in artifact.schema.fields.items()
    ]
    print(table(("field", "axes", "type", "unit"), rows))
    p = artifact.provenance
    on = f" on {p['host']}" if "host" in p else ""
    print(f"\nmade by {p['stage']['component']}{on} in {p['end'] - p['start']:.2f} s")
    keys = ("stage", "inputs", "source", "versions", "commit", "seed", "resources")
    print(json.dumps({k: p[k] for k in keys if k in p}, indent=2))


def _doctor(options: argparse.Namespace) -> int:
    from sciflow import doctor

    found = doctor.checks()
    if options.site:
        from sciflow.site import load_site
        from sciflow.site_doctor import checks

        found = checks(load_site(options.site), chosen_store(options).root)
    from sciflow.terminal import painted

    bad = 0
    marks = {"ok": ("ok", "good"), "absent": ("--", "faint"), "bad": ("!!", "bad")}
    for check in found:
        bad += check.state == "bad"
        print(
            painted([marks[check.state], (f"  {check.name:<12} {check.found}", "")], sys.stdout), flush=True
        )
        for line in check.advice.splitlines():
            print(f"{'':17}{line}")
    return 1 if bad else 0


def _serve(options: argparse.Namespace) -> int:
    from sciflow.commands.serve import main as run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
