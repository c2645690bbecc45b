"""Delivery of outboxes to a Prefect server: every event once and in order, whatever stops in between.

What is sent is made harmless to send again, or the server is asked first:

- the flow run is made under an idempotency key, the run's own id;
- states of stages go as task-run events with ids derived from run and line: the server keeps the first;
- log lines and artifacts have no such key. Before a group of them is sent, ``outbox.delivered`` says that
  something is on its way, and after the server has answered it says how far the outbox is delivered. A
  deliverer that finds something on its way asks the server which of it arrived: log lines by their times,
  of which no two in a run are the same, artifacts by the number of their line.

The API takes no times for the states of a flow run: a server shows when the run was delivered, and the true
times in the state's message. Tasks and log lines have their true times.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sciflow.context import Event
from sciflow.server.api import BATCH, Away, Refused, Server, finite
from sciflow.server.outbox import DELIVERED, Line, Progress, alive, claimed, lines, undelivered

SETTLE = 1.0
"""Seconds that a server is given to end what a killed deliverer had asked of it."""
VERIFY = 20.0
"""Seconds that a server may take to record the states of tasks."""
REDRAWN = 15.0
"""Seconds between two pictures of the curves of a stage that is running."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
_NAMESPACE = uuid.UUID("6d0c3f8e-5b39-5c0e-9a1c-2f6f7c1d8a40")


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=round(seconds * 1e6))


def _micros(text: str) -> int:
    passed = datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)
    return passed // timedelta(microseconds=1)


@dataclass
class Task:
    """One stage of a run, as far as its outbox was read.

    Attributes
    ----------
    key : str
        Of the stage in this run.
    about : mapping
        Its first ``begin`` line.
    id : str
        Of the task run.
    states : list of dict
        Type, name, message, time and line number of its states.
    metrics : list of (int, dict)
        Steps of its learning curves.
    shown : str or None
        Id of its progress artifact.
    live : str or None
        Id of the artifact that shows its curves while it runs.
    drawn, drawn_at : int, float
        How many steps the curves there have, and when they were drawn.
    """

    key: str
    about: Event
    id: str
    states: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    shown: str | None = None
    live: str | None = None
    drawn: int = 0
    drawn_at: float = 0.0


class Delivery:
    """Sends what is undelivered of one run; make it inside `claimed`.

    Parameters
    ----------
    directory : Path
        Of the run.
    server : Server
        Open.
    live : bool
        The run goes on in this process, under Prefect, which sends the states itself.
    """

    def __init__(self, directory: Path, server: Server, *, live: bool = False) -> None:
        self.directory, self.server, self.live = directory, server, live
        self.progress = Progress.read(directory)
        self.sent = 0
        self._doubt = self.progress.sending or not (live or (directory / DELIVERED).exists())
        self._read = 0
        self._flow: Event = {}
        self._flow_run = ""
        self._tasks: dict[str, Task] = {}
        self._names: dict[str, int] = {}
        self._makers: dict[str, str] = {}
        self._logs: list[Event] = []
        self._shares: dict[str, Event] = {}
        self._last: Line | None = None
        self._end: Event | None = None
        self._own = True
        if self.progress.sending:
            time.sleep(SETTLE)

    def go(self) -> bool:
        """Send what has come since the last call; True if the run has ended and all of it is delivered.

        Raises
        ------
        Away
            If the server went away; make another `Delivery` later.
        """
        gone = not self.live and not alive(self.directory)
        for line in lines(self.directory, self._read):
            event = line.event
            if event["event"] not in ("log", "metric", "progress"):
                self._flush()
            self._learn(event)
            self._read = line.end
            self._last = line
            if line.end <= self.progress.offset:
                continue
            if event["event"] == "log":
                self._logs.append(event)
                if len(self._logs) >= BATCH:
                    self._flush()
            elif event["event"] == "progress":
                self._shares[event["task"]] = event
            elif event["event"] != "metric":
                with self._skipping(event):
                    self._step(event)
                self._acknowledge()
        self._flush()
        if self._end is None and gone and self._flow:
            self._crashed()
        return self._end is not None and self._finished(self._end)

    def _learn(self, event: Event) -> None:
        kind = event["event"]
        if kind == "flow":
            self._flow = event
            self._own = "flow_run_id" not in event
        elif kind == "done":
            self._end = event
        elif kind == "begin" and event["task"] not in self._tasks:
            given = event.get("task_run_id") or str(uuid.uuid5(_NAMESPACE, self._flow["run"] + event["task"]))
            number = self._names.get(event["stage"], 0)
            self._names[event["stage"]] = number + 1
            about = {"name": f"{event['stage']}-{number}", **event}
            self._tasks[event["task"]] = Task(event["task"], about, given)
        if kind == "begin":
            again = bool(self._tasks[event["task"]].states)
            self._state(event, "RUNNING", "Retrying" if again else "Running", "")
        elif kind == "metric":
            self._tasks[event["task"]].metrics.append((event["step"], event["values"]))
        elif kind == "end":
            self._makers[event["detail"]] = self._tasks[event["task"]].id
            self._state(event, *_final(event))

    def _state(self, event: Event, kind: str, name: str, message: str) -> None:
        state = {"type": kind, "name": name, "message": message, "time": event["time"], "n": event["n"]}
        self._tasks[event["task"]].states.append(state)

    def _step(self, event: Event) -> None:
        kind = event["event"]
        if kind == "flow":
            self._find_flow_run()
        elif kind == "begin":
            if self._own:
                self._send_state(self._tasks[event["task"]], -1)
        elif kind == "end":
            task = self._tasks[event["task"]]
            if task.metrics and event["state"] != "cached":
                self._curves(task, event)
            if self._own:
                self._send_state(task, -1)
        elif kind == "report":
            self._artifact(event, "report", "markdown", event["text"], event["title"])

    @contextlib.contextmanager
    def _skipping(self, event: Event) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            logging.getLogger("sciflow").warning("line %s of %s: %s", event["n"], self.directory, error)

    def _find_flow_run(self) -> str:
        about, given = self._flow, self._flow.get("flow_run_id")
        if not self._flow_run and given and self.server.ask("GET", f"/flow_runs/{given}") is not None:
            self._flow_run = given
        if not self._flow_run:
            # Another server than the one that ran it, or a new database.
            self._own = True
            flow = self.server.ask("POST", "/flows/", {"name": about["name"]})
            body = {
                "flow_id": flow["id"],
                "name": about.get("run_name") or self.directory.name,
                "parameters": about["parameters"],
                "tags": list(about.get("tags", ())),
                "idempotency_key": about["run"],
                "state": {"type": "RUNNING", "message": f"began {_when(about['start'])}"},
            }
            self._flow_run = self.server.ask("POST", "/flow_runs/", body)["id"]
        return self._flow_run

    def _send_state(self, task: Task, number: int) -> None:
        state, about = task.states[number], task.about
        upto = task.states[: len(task.states) + number + 1]
        first, last = upto[0]["time"], state["time"]
        final = state["type"] in FINAL
        inputs = {
            name: [{"input_type": "task_run", "id": self._makers[path]}]
            for name, path in about.get("inputs", {}).items()
            if path in self._makers
        }
        run = {
            "name": about["name"],
            "task_key": about.get("task_key") or f"sciflow.{about['stage']}",
            "dynamic_key": about.get("dynamic_key") or task.key,
            "task_inputs": inputs,
            "run_count": sum(s["type"] == "RUNNING" for s in upto),
            "expected_start_time": _when(first).isoformat(),
            "start_time": _when(first).isoformat(),
            "total_run_time": last - first if final else 0.0,
        }
        if final:
            run["end_time"] = _when(last).isoformat()
        resource = {
            "prefect.resource.id": f"prefect.task-run.{task.id}",
            "prefect.resource.name": about["name"],
            "prefect.state-name": state["name"],
            "prefect.state-type": state["type"],
            "prefect.state-timestamp": _when(last).isoformat(),
            "prefect.orchestration": "client",
        }
        before = task.states[number - 1]["type"] if len(upto) > 1 else None
        shown = {"type": state["type"], "name": state["name"], "message": state["message"]}
        event = {
            "id": str(uuid.uuid5(_NAMESPACE, f"{self._flow['run']}:{state['n']}")),
            "occurred": _when(last).isoformat(),
            "event": f"prefect.task-run.{state['name']}",
            "resource": resource,
            "related": [
                {
                    "prefect.resource.id": f"prefect.flow-run.{self._find_flow_run()}",
                    "prefect.resource.role": "flow-run",
                }
            ],
            "payload": {
                "intended": {"from": before, "to": state["type"]},
                "initial_state": None,
                "validated_state": {**shown, "state_details": {}, "data": None},
                "task_run": run,
            },
        }
        self.server.ask("POST", "/events", [event])
        self.sent += 1

    def _flush(self) -> None:
        """Send the log lines and the newest progress that were read, and note that they are delivered."""
        if self._last is None or self._last.end <= self.progress.offset:
            return
        if self._logs:
            with self._skipping(self._logs[0]):
                self._send_logs()
        for event in self._shares.values():
            with self._skipping(event):
                self._show_progress(event)
        self._shares.clear()
        self._acknowledge()

    def _send_logs(self) -> None:
        run = self._find_flow_run()
        batch = [self._log(run, e) for e in self._logs]
        self._logs = []
        if self._doubt:
            span = {"after_": batch[0]["timestamp"], "before_": batch[-1]["timestamp"]}
            these = {"flow_run_id": {"any_": [run]}, "timestamp": span}
            there = {
                (_micros(log["timestamp"]), log["message"])
                for log in self.server.all("/logs/filter", {"logs": these, "sort": "TIMESTAMP_ASC"})
            }
            batch = [b for b in batch if (_micros(b["timestamp"]), b["message"]) not in there]
        if batch:
            self._on_its_way()
            self.server.ask("POST", "/logs/", batch)
            self.sent += len(batch)

    def _log(self, run: str, event: Event) -> dict[str, Any]:
        return {
            "name": f"sciflow.{event['stage']}",
            "level": logging.getLevelNamesMapping().get(event["level"], logging.INFO),
            "message": event["message"].replace("\0", ""),
            "timestamp": _when(event["time"]).isoformat(),
            "flow_run_id": run,
            "task_run_id": self._tasks[event["task"]].id if "task" in event else None,
        }

    def _show_progress(self, event: Event) -> None:
        task = self._tasks[event["task"]]
        percent = 100.0 * event["done"] / max(1, event["total"])
        text = f"{event['done']} of {event['total']} {event['what']}"
        if event.get("figures"):
            text += "\n\n| | |\n| --- | --- |\n"
            text += "".join(f"| {name} | {value} |\n" for name, value in event["figures"].items())
        key = f"{task.about['stage'].replace('_', '-')}-progress"
        if task.shown is None:
            task.shown = self._artifact_there(key, task)
        if task.shown is None:
            task.shown = self._artifact(event, key, "progress", percent, text, task)
        else:
            body = {"data": percent, "description": text}
            self.server.ask("PATCH", f"/artifacts/{task.shown}", body)
            self.sent += 1
        last = max(task.drawn_at, task.about["time"])
        if self.live and len(task.metrics) > max(1, task.drawn) and time.time() - last > REDRAWN:
            self._show_curves(event, task)

    def _show_curves(self, event: Event, task: Task) -> None:
        """The learning curves so far, on one page that changes while the stage runs."""
        from sciflow.reporting import curves

        key = f"{task.about['stage'].replace('_', '-')}-live"
        picture, text = f"![learning curves]({curves(task.metrics)})", f"After {len(task.metrics)} reports"
        task.drawn, task.drawn_at = len(task.metrics), time.time()
        if task.live is None:
            task.live = self._artifact_there(key, task)
        if task.live is None:
            task.live = self._artifact(event, key, "markdown", picture, text, task)
        else:
            self.server.ask("PATCH", f"/artifacts/{task.live}", {"data": picture, "description": text})
            self.sent += 1

    def _curves(self, task: Task, event: Event) -> None:
        """The learning curves of a stage, as a picture and as a table."""
        from sciflow.reporting import curves

        stage = task.about["stage"].replace("_", "-")
        picture, text = f"![learning curves]({curves(task.metrics)})", "Learning curves"
        self._artifact(event, f"{stage}-curves", "markdown", picture, text, task)
        every = max(1, len(task.metrics) // 100)
        rows = [{"step": step, **values} for step, values in task.metrics[::every]]
        self._artifact(event, f"{stage}-metrics", "table", json.dumps(finite(rows)), text, task)

    def _artifact(
        self, event: Event, key: str, kind: str, data: Any, text: str, task: Task | None = None
    ) -> str | None:
        mark = f"{self._flow['run']}:{event['n']}"
        if self._doubt:
            there = self._artifact_there(key, task, mark)
            if there is not None:
                return there
        self._on_its_way()
        body = {
            "key": key, "type": kind, "data": data, "description": text, "metadata_": {"sciflow": mark},
            "flow_run_id": self._find_flow_run(), "task_run_id": task.id if task else None,
        }  # fmt: skip
        made = self.server.ask("POST", "/artifacts/", body)
        self.sent += 1
        return str(made["id"])

    def _artifact_there(self, key: str, task: Task | None, mark: str | None = None) -> str | None:
        body = {
            "artifacts": {"key": {"any_": [key]}},
            "flow_runs": {"id": {"any_": [self._find_flow_run()]}},
        }
        for found in self.server.all("/artifacts/filter", body):
            ours = mark is None or (found.get("metadata_") or {}).get("sciflow") == mark
            if ours and (task is None or found["task_run_id"] == task.id):
                return str(found["id"])
        return None

    def _on_its_way(self) -> None:
        if not self.progress.sending:
            self.progress = Progress(self.progress.offset, sending=True)
            self.progress.write(self.directory)

    def _acknowledge(self) -> None:
        assert self._last is not None
        self.progress = Progress(self._last.end)
        self.progress.write(self.directory)

    def _crashed(self) -> None:
        """End a run whose process is gone without saying how it ended."""
        end = self._last.event["time"] if self._last else self._flow["start"]
        text = "the process of the run ended without a word"
        for task in self._tasks.values():
            if task.states[-1]["type"] not in FINAL:
                state = {"type": "CRASHED", "name": "Crashed", "message": text, "time": end + 1e-6}
                task.states.append({**state, "n": f"{task.key}:gone"})
        self._end = {"event": "done", "state": "crashed", "reason": text, "time": end + 2e-6}

    def _finished(self, event: Event) -> bool:
        """Make sure of every task's state, then set the flow's; False if Prefect may still do so."""
        run = self.server.ask("GET", f"/flow_runs/{self._find_flow_run()}")
        if self.live:
            if not event.get("accepted"):
                return False
            self._complete_tasks()
        else:
            self._complete_tasks()
            if run["state_type"] not in FINAL:
                self._finish(event)
        self.progress = Progress(self._read, done=True)
        self.progress.write(self.directory)
        return True

    def _lacking(self) -> list[Task]:
        """Tasks whose last state the server has not got."""
        body = {"flow_runs": {"id": {"any_": [self._find_flow_run()]}}}
        there = {r["id"]: r["state_type"] for r in self.server.all("/task_runs/filter", body)}

        def known(task: Task) -> bool:
            state = there.get(task.id)
            return state == task.states[-1]["type"] if self._own else state in FINAL

        return [t for t in self._tasks.values() if not known(t)]

    def _complete_tasks(self) -> None:
        end = time.monotonic() + VERIFY
        again = time.monotonic()
        if self._own or self.live:
            # The states have just been sent; the server records them in its own time.
            again += VERIFY / 8
        while lacking := self._lacking():
            if time.monotonic() > end:
                raise Away(f"the server did not record the states of {len(lacking)} tasks")
            if time.monotonic() >= again:
                for task in lacking:
                    for number in range(-len(task.states), 0):
                        self._send_state(task, number)
                again = time.monotonic() + VERIFY / 4
            time.sleep(0.25)

    def _finish(self, event: Event) -> None:
        kind, name, message = _final(event)
        began, ended = (
            _when(self._flow["start"]),
            _when(event["ended"] if "ended" in event else event["time"]),
        )
        times = f"ran from {began:%Y-%m-%d %H:%M:%S} to {ended:%Y-%m-%d %H:%M:%S} UTC, delivered later"
        state = {"type": kind, "name": name, "message": f"{message} ({times})" if message else times}
        self.server.ask("POST", f"/flow_runs/{self._flow_run}/set_state", {"state": state, "force": True})
        self.sent += 1


def _final(event: Event) -> tuple[str, str, str]:
    """Type, name and message of the state that an ``end`` or ``done`` line stands for."""
    if "type" in event:
        return event["type"], event["name"], event.get("reason", "")
    kind = {
        "cached": ("COMPLETED", "Cached"),
        "computed": ("COMPLETED", "Completed"),
        "completed": ("COMPLETED", "Completed"),
        "failed": ("FAILED", "Failed"),
        "cancelled": ("CANCELLED", "Cancelled"),
        "crashed": ("CRASHED", "Crashed"),
    }[event["state"]]
    return *kind, event.get("reason") or event.get("detail", "")


def deliver(directory: Path) -> int | None:
    """Deliver one run as far as it has come; the number of things sent, None if another process does it.

    Raises
    ------
    Away
        If the server is not there or went away.
    """
    with claimed(directory) as mine:
        if not mine:
            return None
        if Progress.read(directory).done:
            return 0
        with Server() as server:
            delivery = Delivery(directory, server)
            delivery.go()
            return delivery.sent


def deliver_all(root: Path, besides: Path | None = None) -> None:
    """Deliver every run below a store; what goes wrong is logged, never raised."""
    log = logging.getLogger("sciflow")
    for directory in undelivered(root):
        if directory == besides:
            continue
        try:
            deliver(directory)
        except Away as error:
            log.warning("%s", error)
            return
        # Whatever one run's outbox holds must not keep the others from being delivered.
        except Exception as error:
            log.warning("%s could not be delivered: %r", directory, error)
