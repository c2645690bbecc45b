"""Flows in the Prefect UI: a work pool for each site, deployments, and the worker on this machine."""

from __future__ import annotations

import ctypes
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Failed, Invalid, NotFound, nearest

if TYPE_CHECKING:
    from sciflow.site import Site

QUERY = "2"
"""Seconds between two looks of the worker for runs that somebody started."""
PATIENCE = 60.0
"""Seconds that a worker gets to end its runs when it is told to leave."""


@dataclass(frozen=True)
class Offer:
    """A flow and where it comes from.

    Attributes
    ----------
    flow : prefect.Flow
        The flow.
    file : Path
        That defines it.
    origin : str
        Of a plugin's flow its distribution; else empty.
    """

    flow: Any
    file: Path
    origin: str = ""

    @property
    def name(self) -> str:
        """Of the function."""
        return str(self.flow.fn.__name__)


def offers(files: Sequence[Path]) -> list[Offer]:
    """The flows in files, then those of installed plugins.

    Raises
    ------
    NotFound, Missing, Invalid
        If one of the files is wrong. A plugin's is reported by `plugin_flows` and left out.
    """
    from sciflow.loading import flows_in, plugin_flows

    found = [Offer(flow, file.resolve()) for file in files for flow in flows_in(file).values()]
    for label, file in plugin_flows():
        found += [Offer(flow, file, label) for flow in flows_in(file).values()]
    return found


def schedules_of(texts: Sequence[str], found: Sequence[Offer]) -> dict[str, str]:
    """Checked schedules, from ``FLOW=CRON``.

    Raises
    ------
    Invalid
        If one is not written like that, or is no cron expression.
    NotFound
        If there is no such flow.
    """
    from prefect.client.schemas.schedules import CronSchedule

    schedules = {}
    for text in texts:
        name, equals, cron = text.partition("=")
        if not equals:
            raise Invalid(f'--schedule {text}: write FLOW="MINUTE HOUR DAY MONTH WEEKDAY"')
        names = [offer.name for offer in found]
        if name not in names:
            raise NotFound(f"--schedule {text}: there is no flow {name!r}. {nearest(name, names)}")
        try:
            CronSchedule(cron=cron)
        except ValueError:
            raise Invalid(f"--schedule {text}: {cron!r} is no cron expression, such as '0 3 * * *'") from None
        schedules[name] = cron
    return schedules


def pool_name(site: Site) -> str:
    """Of the work pool of a site."""
    return f"sciflow-{site.name}"


def register(
    found: Sequence[Offer], site: Site, environment: Mapping[str, str], schedules: Mapping[str, str]
) -> list[str]:
    """Create or update the work pool of a site and a deployment in it for each flow.

    Parameters
    ----------
    found : sequence of Offer
        The flows.
    site : Site
        Where their stages run; so many runs at a time as it says.
    environment : mapping
        Of the runs.
    schedules : mapping of str to str
        Cron expressions by flow; a deployment without one loses the one it had.

    Returns
    -------
    list of str
        Names of the deployments, ``flow/site``.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    names = []
    with get_client(sync_client=True) as client:
        pool = pool_name(site)
        about = site.description or f"the site {site.name}"
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(
                WorkPoolCreate(
                    name=pool, type="process", description=about, concurrency_limit=site.flows,
                    base_job_template=template,
                )
            )  # fmt: skip
        except ObjectAlreadyExists:
            update = WorkPoolUpdate(description=about, concurrency_limit=site.flows)
            client.update_work_pool(pool, update)
        for offer in found:
            names.append(_deploy(client, offer, site, environment, schedules.get(offer.name, "")))
    return names


def _deploy(client: Any, offer: Offer, site: Site, environment: Mapping[str, str], cron: str) -> str:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.utilities.callables import parameter_schema

    from sciflow.provenance import version_of
    from sciflow.server.forms import form

    flow = offer.flow
    defaults = {n: p.default for n, p in inspect.signature(flow.fn).parameters.items()}
    schema = form(parameter_schema(flow).model_dump(), offer.name, defaults)
    doc = (flow.fn.__doc__ or "").strip()
    deployment = f"{site.name} ({offer.origin})" if offer.origin else site.name
    tags = [site.name, offer.origin.partition(" ")[0] or offer.file.stem]
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=deployment,
        version=version_of("sciflow"),
        description=f"{doc.partition('Args:')[0].strip()}\n\nStages run on: {site.description or site.name}.",
        work_pool_name=pool_name(site),
        tags=sorted({tag for tag in tags if tag}),
        entrypoint=f"{offer.file}:{offer.name}",
        parameter_openapi_schema=schema,
        enforce_parameter_schema=True,
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(Path.cwd())}}],
        # A pipe to the worker would break with it, and the next word of a run would end the run.
        job_variables={"env": dict(environment), "working_dir": str(Path.cwd()), "stream_output": False},
        schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron=cron))] if cron else [],
        paused=False,
    )
    return f"{flow.name}/{deployment}"


def environment_of(site_text: str, store: Path) -> dict[str, str]:
    """What the runs of a site get: the site, the store, and where Python finds what this process finds."""
    site = str(Path(site_text).resolve()) if site_text.endswith(".toml") else site_text
    env = {"SCIFLOW_SITE": site, "SCIFLOW_STORE": str(store)}
    for name in ("PYTHONPATH", "SCIFLOW_SITES", "SCIFLOW_HOME", "SLURM_CONF"):
        if os.environ.get(name):
            env[name] = os.environ[name]
    return env


def _leave_with_parent() -> None:
    """In a child: be killed when the process that started it is gone, however that went.

    Told to end, a Prefect worker ends its runs; killed, it leaves them alone.
    """
    death_signal = 1
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def work(site: Site) -> int:
    """Run the worker of a site until this process is told to end; returns the worker's exit code.

    Runs that it started go on when it is killed; told to end (Ctrl-C, SIGTERM), it ends them first.

    Raises
    ------
    Failed
        If it ends by itself.
    """
    env = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": QUERY}
    prefect = [sys.executable, "-m", "prefect"]
    command = [*prefect, "worker", "start", "--type", "process", "--pool", pool_name(site)]
    process = subprocess.Popen(command, env=env, preexec_fn=_leave_with_parent)  # noqa: PLW1509
    stopping = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True
        process.send_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while process.poll() is None:
        if stopping:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            break
        time.sleep(0.2)
    process.wait()
    if not stopping:
        raise Failed(f"the Prefect worker of {pool_name(site)} ended with code {process.returncode}")
    return 0
