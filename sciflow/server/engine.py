"""Stages as Prefect tasks: states, progress, tables and pictures in the UI; a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import Artifact
from sciflow.context import Event
from sciflow.errors import Cancelled, Ended, Failed, Invalid, Missing, SciflowError
from sciflow.server.forms import defaults_of, generated, run_name
from sciflow.stage import label

if TYPE_CHECKING:
    from sciflow.flow import Session
    from sciflow.server.following import Live
    from sciflow.server.outbox import Outbox
    from sciflow.work import Work

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}
"""Environment that switches every kind of telemetry off."""
NAMES = {
    "time limit": "TimedOut",
    "out of memory": "OutOfMemory",
    "node failure": "NodeFailure",
    "preempted": "Preempted",
    "lost": "Lost",
}
"""Names of Prefect states by the cause of an end (`sciflow.executor.Cause`)."""
PATIENCE = 5.0
"""Seconds that the end of a flow waits for a server that does not answer."""
REACH = 2.0
"""Seconds within which a configured server must answer for a run to begin with it."""
_RUNNING: dict[str, tuple[Outbox, Live]] = {}
"""By flow run, what is delivered while it goes on."""
_GONE: set[str] = set()
"""Flow runs of this process that ended without the server."""
_STARTED: list[subprocess.Popen[bytes]] = []
"""Servers of this process; they outlive it."""
START_LIMIT = 120.0
"""Seconds that a server may take to answer on a busy machine."""


async def run_task(work: Work) -> Artifact:
    """Run one stage as a task of the current flow run.

    Raises
    ------
    SciflowError
        As the stage does; Prefect records the state before it passes on.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.context import TaskRunContext
    from prefect.logging import get_run_logger
    from prefect.states import Completed

    attach(work.here)
    _try_events_once()
    made: list[Artifact] = []
    broken: list[SciflowError] = []

    async def stage_task(**inputs: Artifact) -> Any:
        run, logger = TaskRunContext.get().task_run, get_run_logger()
        work.marks.update(
            task_run_id=str(run.id), name=run.name, task_key=run.task_key, dynamic_key=run.dynamic_key
        )

        def show(event: Event) -> None:
            if event["event"] == "log":
                level = logging.getLevelNamesMapping().get(event["level"], logging.INFO)
                # The server gets it from the outbox.
                logger.log(level, "%s", event["message"], extra={"send_to_api": False})

        work.listener = show
        try:
            artifact = await work.go()
        except (Ended, Cancelled) as error:
            broken.append(error)
            return state_of(error)
        made.append(artifact)
        if work.cached:
            return Completed(name="Cached", message=str(artifact.path), data=artifact)
        return artifact

    stage_task.__doc__ = (type(work.stage).__doc__ or "").strip()
    wrapped = task(
        stage_task,
        name=work.stage.name,
        task_run_name=label(work.stage).replace("{", "(").replace("}", ")"),
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=work.stage.retries,
        retry_condition_fn=_worth_retrying if work.stage.retries else None,
    )
    # Prefect recognises results by identity: passing the inputs draws the arrows in its timeline.
    await wrapped(**work.inputs)
    # A task that returns a state hands back the state itself.
    if not made:
        raise broken[-1]
    return made[-1]


def state_of(error: Ended | Cancelled) -> Any:
    """The state in which a job that was ended from outside leaves its stage and its flow."""
    from prefect.states import Cancelled as Stopped
    from prefect.states import Crashed
    from prefect.states import Failed as Bad

    if isinstance(error, Cancelled):
        return Stopped(message=str(error), data=error)
    text = f"{error}\n\nIts log ends:\n{error.log}" if error.log else str(error)
    name = NAMES.get(error.cause)
    # What is not the job's own fault is a crash to Prefect, whose rules for retries tell them apart.
    kind = Crashed if error.cause in ("node failure", "preempted", "lost") else Bad
    return kind(message=text, data=error, name=name) if name else kind(message=text, data=error)


def _renamed(state: Any) -> Any:
    """The final state of a flow that ended with its stage's error, named as that of the stage."""
    error = getattr(state.data, "result", state.data)
    if state.is_failed() and isinstance(error, Ended | Cancelled):
        return state_of(error)
    return state


async def _worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    try:
        await state.result()
    except (Invalid, Missing):
        return False
    except Exception:  # whatever else a stage raised may pass
        return True
    return False


def attach(here: Session) -> None:
    """Give a run of Prefect's an outbox, delivered while it goes on; nothing if it has one.

    The outbox, not the running stage, talks to the server: a server that goes away in the middle of a run
    is noticed by nobody but the thread that delivers. How the flow ended is decided by the flow: if the
    server does not take its final state within `PATIENCE` seconds, the run ends as it would have with the
    server, and the state is delivered later. Not guaranteed while the server is away: what Prefect itself
    does there (retries of the whole flow, pauses, limits of concurrency, cancelling from its pages, its own
    log lines such as "Beginning flow run").
    """
    from prefect.context import FlowRunContext

    from sciflow.server.following import Live
    from sciflow.server.outbox import Outbox

    context = FlowRunContext.get()
    if context is None or context.flow_run is None or (here.outbox is not None and here.outbox.begun):
        return
    run = context.flow_run
    name = run.name
    if generated(name) and context.flow.flow_run_name is None:
        name = run_name(context.flow.fn.__name__, here.parameters, defaults_of(context.flow.fn))
    if here.outbox is None:
        here.outbox = Outbox(here.directory)
    start = run.start_time.timestamp() if run.start_time else here.start
    here.outbox.begin(
        context.flow.name,
        here.parameters,
        start,
        run_name=name,
        tags=list(run.tags),
        flow_run_id=str(run.id),
    )
    live = Live(here.directory, str(run.id), lambda: here.cancel("in the Prefect UI"), name)
    live.start()
    _keep_outcomes()
    _give_up_logs()
    # Prefect logs every event that it could not send, in full; they come from the outbox.
    # Its logging is set up again and again, which undoes levels but not filters.
    logging.getLogger("prefect._internal.concurrency").addFilter(_worth_saying)
    _RUNNING[str(run.id)] = (here.outbox, live)


def _try_events_once() -> None:
    """Make Prefect's events client give up at once: it tries every event for seven seconds, also at exit."""
    from prefect.events.worker import EventsWorker

    for worker in list(EventsWorker._instances.values()):
        client = getattr(worker, "_client", None)
        if client is not None and hasattr(client, "_reconnection_attempts"):
            client._reconnection_attempts = 1


def _worth_saying(record: logging.LogRecord) -> bool:
    return "'EventsWorker' failed" not in record.getMessage()


def _give_up_logs() -> None:
    """Let Prefect drop its own log lines when the server is away: it would try for a minute, also at exit."""
    from prefect.logging.handlers import APILogWorker

    async def _handle_batch(self: Any, items: list[dict[str, Any]]) -> None:
        # Whatever goes wrong with a log line must not reach the run.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(0.5 if _GONE else PATIENCE):
                await self._client.create_logs(items)

    APILogWorker._handle_batch = _handle_batch


def _keep_outcomes() -> None:
    """Let the end of a flow run be what the flow came to, also when the server does not answer."""
    import httpx
    from prefect.flow_engine import AsyncFlowRunEngine

    original = AsyncFlowRunEngine.set_state
    if original.__module__ == __name__:
        return

    async def set_state(self: Any, state: Any, force: bool = False) -> Any:
        """As Prefect's, but with our names of ends, and not waiting for a server that is away."""
        state = _renamed(state) if state.is_final() else state
        outbox, live = _RUNNING.get(str(self.flow_run.id), (None, None))
        if outbox is None or live is None or not state.is_final() or self.short_circuit:
            return await original(self, state, force=force)
        accepted, ended = True, time.time()
        _try_events_once()
        try:
            async with asyncio.timeout(PATIENCE):
                got = await original(self, state, force=force)
        except (httpx.HTTPError, TimeoutError):
            accepted, got = False, state
            run = self.flow_run
            run.state, run.state_name, run.state_type = state, state.name, state.type
            await self.call_hooks(state)
            _GONE.add(str(run.id))
        if got.is_final():
            _RUNNING.pop(str(self.flow_run.id))
            how = {"type": got.type.value, "name": got.name, "reason": got.message or ""}
            outbox.add({"event": "done", "accepted": accepted, "ended": ended, **how})
            outbox.close()
            await asyncio.to_thread(live.stop, PATIENCE)
        return got

    AsyncFlowRunEngine.set_state = set_state


def home() -> Path:
    """Where the local server keeps its database: ``SCIFLOW_HOME``, else ``~/.sciflow``."""
    return Path(os.environ.get("SCIFLOW_HOME", "~/.sciflow")).expanduser()


def configured() -> bool:
    """Whether the user has told Prefect about a server."""
    return bool(configured_url())


def configured_url() -> str:
    """The API of the server that the user has told Prefect about, empty if there is none."""
    import tomllib

    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    profiles = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml"
    try:
        document = tomllib.loads(profiles.read_text())
        active = os.environ.get("PREFECT_PROFILE", document.get("active", ""))
        return str(document.get("profiles", {}).get(active, {}).get("PREFECT_API_URL", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def reachable(url: str) -> bool:
    """Whether a Prefect API answers within `REACH` seconds, be it that it wants a password."""
    import threading
    import urllib.error
    import urllib.request

    answered: list[bool] = []

    def look() -> None:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=REACH):
                answered.append(True)
        except urllib.error.HTTPError as error:
            answered.append(error.code < 500)
        except (OSError, ValueError):
            answered.append(False)

    # Looking up a name knows no time limit; the thread is left behind.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(REACH)
    return answered == [True]


def _refuse_a_second() -> None:
    """Raise if the local server is there but does not answer: two over one database harm it."""
    try:
        known = json.loads((home() / "server.json").read_text())
    except (OSError, ValueError):
        return
    if _ours(known["pid"]) and not _healthy(known):
        raise Failed(f"the local Prefect server at {known['url']} does not answer")


def ensure_server(host: str = "127.0.0.1", *, token: bool = False) -> str:
    """Use the configured server, or the local one, started if it is not running.

    Sets the environment; call it before Prefect is imported.

    Parameters
    ----------
    host : str
        Address to listen on. Anything but loopback is given a token.
    token : bool
        Give it one on loopback too, where other people are on the same machine.

    Returns
    -------
    str
        URL of the UI, empty if the server is the user's own.

    Raises
    ------
    Failed
        If the configured one does not answer within `REACH` seconds, or the local one does not come up;
        then the message ends with its log.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if configured():
        url = configured_url()
        if url and not reachable(url):
            raise Failed(f"the Prefect server at {url} does not answer")
        return ""
    os.environ["PREFECT_HOME"] = str(home() / "prefect")
    home().mkdir(parents=True, exist_ok=True)
    # Two runs that begin at once must not start two servers over one database.
    with (home() / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = server()
        if running is None:
            _refuse_a_second()
            running = _start(host, token=token)
    os.environ["PREFECT_API_URL"] = f"{running['url']}/api"
    if running.get("token"):
        os.environ["PREFECT_API_AUTH_STRING"] = running["token"]
    return str(running["url"])


def server() -> dict[str, Any] | None:
    """The local server that is running, as its ``url``, ``pid`` and ``token``; None if none is."""
    try:
        known: dict[str, Any] = json.loads((home() / "server.json").read_text())
    except (OSError, ValueError):
        return None
    return known if _ours(known["pid"]) and _healthy(known) else None


def _ours(pid: int) -> bool:
    try:
        return b"prefect" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _healthy(known: Mapping[str, Any]) -> bool:
    return _answer(known, "health") is not None


def _answer(known: Mapping[str, Any], path: str) -> Any:
    """What a server says to a request, None if nothing."""
    import base64
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{known['url']}/api/{path}")
    if known.get("token"):
        request.add_header("Authorization", "Basic " + base64.b64encode(known["token"].encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return json.loads(answer.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _free_port(host: str, first: int = 4200) -> int:
    for port in (first, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failed(f"no free port on {host}")


def _start(host: str, *, token: bool = False) -> dict[str, Any]:
    """Start a server on a port of its own.

    Another one that is started at the same moment may take the port between its choice and its use, and
    would answer for this one: then another port is tried.
    """
    for first in (4200, 0, 0):
        known = _launch(host, _free_port(host, first), token=token)
        if known is not None:
            return known
    raise Failed(f"other programs took every port on {host} that the Prefect server was to listen on")


def _launch(host: str, port: int, *, token: bool) -> dict[str, Any] | None:
    """A server on a port; None where the one that answers there has another home."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    alone = host in ("127.0.0.1", "localhost", "::1") and not token
    key = "" if alone else f"sciflow:{secrets.token_urlsafe(18)}"
    # The recorder's batch settings are left alone: with READ_BATCH_SIZE=200 an idle server keeps a core busy.
    shown = host if host not in ("0.0.0.0", "::") else socket.gethostname()
    url = f"http://{shown}:{port}"
    # Without the second setting the pages of a server on another port ask port 4200 for their data.
    env = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_UI_API_URL": f"{url}/api"}
    if key:
        env["PREFECT_SERVER_API_AUTH_STRING"] = key
    log = folder / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
        )
    _STARTED.append(process)
    known = {"url": url, "pid": process.pid, "token": key}
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        if _healthy(known):
            settings = _answer(known, "admin/settings")
            if settings is not None and settings.get("home") != str(folder / "prefect"):
                os.killpg(process.pid, signal.SIGKILL)
                return None
            file = folder / "server.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(known))
            return known
        time.sleep(0.25)
    process.kill()
    from sciflow.jobs import tail

    raise Failed(
        f"the Prefect server did not start; its log {log} ends:\n{tail(log, 10)}\nTry --engine plain."
    )


def stop_server() -> bool:
    """Stop the local server; False if none was running."""
    running = server()
    if running is None:
        return False
    os.killpg(running["pid"], signal.SIGTERM)
    for _ in range(100):
        if not _ours(running["pid"]):
            break
        time.sleep(0.1)
    (home() / "server.json").unlink(missing_ok=True)
    for process in _STARTED:
        process.poll()
    return True
