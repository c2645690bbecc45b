"""Stages as Prefect tasks: states, progress, tables and pictures in the UI; a server on loopback."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sciflow.artifact import Artifact
from sciflow.context import Event
from sciflow.errors import Failed, Invalid, Missing

if TYPE_CHECKING:
    from sciflow.flow import Work
    from sciflow.reporting import Document

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}
"""Environment that switches every kind of telemetry off."""
INTERVAL = 1.0
"""Seconds between two looks at a running stage's events."""
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
    from prefect.states import Completed

    made: list[Artifact] = []

    async def stage_task(**inputs: Artifact) -> Any:
        mirror = Mirror(work.stage.name)
        work.listener = mirror.queue.put
        following = asyncio.create_task(mirror.follow())
        try:
            artifact = await work.go()
            made.append(artifact)
        finally:
            following.cancel()
            await asyncio.wait([following])
            await mirror.close()
        if work.cached:
            return Completed(name="Cached", message=str(artifact.path), data=artifact)
        return artifact

    stage_task.__doc__ = (type(work.stage).__doc__ or "").strip()
    wrapped = task(
        stage_task,
        name=work.stage.name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=work.stage.retries,
        retry_condition_fn=_worth_retrying if work.stage.retries else None,
    )
    # Prefect recognises results by identity: passing the inputs draws the arrows in its timeline.
    result = await wrapped(**work.inputs)
    # A task that returns a state hands back the state itself.
    return result if isinstance(result, Artifact) else made[0]


async def _worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    try:
        await state.result()
    except (Invalid, Missing):
        return False
    except Exception:  # whatever else a stage raised may pass
        return True
    return False


class Mirror:
    """Shows a running stage's events in the Prefect UI.

    Parameters
    ----------
    stage : str
        Its name.
    """

    def __init__(self, stage: str) -> None:
        self.queue: SimpleQueue[Event] = SimpleQueue()
        self._stage = stage.replace("_", "-")
        self._artifact: Any = None
        self._metrics: list[tuple[int, dict[str, float]]] = []
        self._share = 0.0

    async def follow(self) -> None:
        """Mirror until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self._take(final=False)

    async def close(self) -> None:
        """Mirror what is left, and the learning curves as a table."""
        await self._take(final=True)
        if self._metrics:
            from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

            from sciflow.reporting import curves

            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(None, curves, self._metrics)
            await acreate_markdown_artifact(
                f"![learning curves]({picture})", key=f"{self._stage}-curves", description="Learning curves"
            )
            every = max(1, len(self._metrics) // 100)
            rows = [{"step": step, **values} for step, values in self._metrics[::every]]
            await acreate_table_artifact(rows, key=f"{self._stage}-metrics", description="Learning curves")

    async def _take(self, *, final: bool) -> None:
        latest: Event | None = None
        while True:
            try:
                event = self.queue.get_nowait()
            except Empty:
                break
            if event["event"] == "progress":
                latest = event
            elif event["event"] == "metric":
                self._metrics.append((event["step"], event["values"]))
            elif event["event"] == "log":
                from prefect.logging import get_run_logger

                level = logging.getLevelNamesMapping().get(event["level"], logging.INFO)
                get_run_logger().log(level, "%s", event["message"])
        if latest is not None and (self._artifact is not None or not final):
            await self._progress(latest)

    async def _progress(self, event: Event) -> None:
        from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

        percent = 100.0 * event["done"] / max(1, event["total"])
        text = f"{event['done']} of {event['total']} {event['what']}"
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(
                percent, key=f"{self._stage}-progress", description=text
            )
        else:
            await aupdate_progress_artifact(self._artifact, percent, description=text)


async def publish_report(title: str, document: Document, path: Path) -> None:
    """Show the main part of a report as a markdown artifact of the flow run."""
    from prefect.artifacts import acreate_markdown_artifact

    text = f"# {title}\n\n{document.markdown}\n\nWhole report: `{path}`\n"
    await acreate_markdown_artifact(text, key="report", description=title)


def home() -> Path:
    """Where the local server keeps its database: ``SCIFLOW_HOME``, else ``~/.sciflow``."""
    return Path(os.environ.get("SCIFLOW_HOME", "~/.sciflow")).expanduser()


def configured() -> bool:
    """Whether the user has told Prefect about a server."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    profiles = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml"
    return profiles.is_file() and "PREFECT_API_URL" in profiles.read_text()


def ensure_server(host: str = "127.0.0.1") -> str:
    """Use the configured server, or the local one, started if it is not running.

    Sets the environment; call it before Prefect is imported.

    Parameters
    ----------
    host : str
        Address to listen on. Anything but loopback is given a token.

    Returns
    -------
    str
        URL of the UI, empty if the server is the user's own.

    Raises
    ------
    Failed
        If it does not come up; the message ends with its log.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if configured():
        return ""
    os.environ["PREFECT_HOME"] = str(home() / "prefect")
    home().mkdir(parents=True, exist_ok=True)
    # Two runs that begin at once must not start two servers over one database.
    with (home() / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = server() or _start(host)
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
    import base64
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{known['url']}/api/health")
    if known.get("token"):
        request.add_header("Authorization", "Basic " + base64.b64encode(known["token"].encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port(host: str) -> int:
    for port in (4200, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failed(f"no free port on {host}")


def _start(host: str) -> dict[str, Any]:
    port = _free_port(host)
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    token = "" if host in ("127.0.0.1", "localhost", "::1") else f"sciflow:{secrets.token_urlsafe(18)}"
    # The recorder's batch settings are left alone: with READ_BATCH_SIZE=200 an idle server keeps a core busy.
    shown = host if host not in ("0.0.0.0", "::") else socket.gethostname()
    url = f"http://{shown}:{port}"
    # Without the second setting the pages of a server on another port ask port 4200 for their data.
    env = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_UI_API_URL": f"{url}/api"}
    if token:
        env["PREFECT_SERVER_API_AUTH_STRING"] = token
    log = folder / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
        )
    _STARTED.append(process)
    known = {"url": url, "pid": process.pid, "token": token}
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        if _healthy(known):
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
    import signal

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
