"""What the trainer job does: receives, trains, keeps checkpoints, and writes the model."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.artifact.disk import Disk
from sciflow.context import exchange
from sciflow.jobs import replace_json
from sciflow.stages.design import scale
from sciflow.stages.train import store_model, tensors
from sciflow_online.live import Held, Live
from sciflow_online.reception import Reception
from sciflow_online.roster import Roster, Standing
from sciflow_online.terms import TRAIN, Plan, Terms

if TYPE_CHECKING:
    from sciflow.context import Comm, Context
    from sciflow.store import Writer
    from sciflow.surrogate import Arrays, Model
    from sciflow_online.components import OnlineTrain
    from sciflow_online.transport import Server

ADDRESS, FINISHED = "address.json", "finished.json"
"""Files in the folder of a run: where the trainer is, and that it is through."""
GONE = "gone"
"""Folder there, with a file for each group whose job has ended."""
SHIFTED, SPREAD = 1.0, 3.0
"""Change of mean, in spreads, and of spread, as a factor, from which scales no longer fit."""
GOODBYE = 10.0
"""Seconds that solvers have to ask once more and hear that there is no more work."""


class Steerer:
    """Lets a controller choose the points of training members from the losses of those before.

    Parameters
    ----------
    stage : OnlineTrain
        With `steering`.
    seed : int
        Of the controller's generator.

    Attributes
    ----------
    roster : Roster or None
        Tells which members are through.
    losses : ndarray, shape (member, 2)
        Sum of the losses of its samples, each over the mean of its batch, and how many.
    """

    def __init__(self, stage: OnlineTrain, seed: int) -> None:
        assert stage.steering is not None
        self._controller, self._space = stage.steering, stage.space
        self._state: Any = self._controller.init(np.random.default_rng([seed, 5]))
        self._tokens: dict[int, int] = {}
        self._observed: set[int] = set()
        self.roster: Roster | None = None
        self.losses = np.zeros((0, 2))

    def __call__(self, member: int) -> np.ndarray:
        """The point of a member that is about to begin."""
        self._observe()
        features = {"dimension": float(len(self._space)), "member": float(member)}
        proposal, self._state = self._controller.propose(self._state, features)
        self._tokens[member] = proposal.token
        unit = np.array([[float(proposal.values[f"u{i}"]) for i in range(len(self._space))]])
        return np.asarray(scale(np.clip(unit, 0.0, 1.0), self._space)[0])

    def _observe(self) -> None:
        """Hand on what is known of members that are through."""
        assert self.roster is not None
        for member, token in self._tokens.items():
            standing = self.roster.standing[member]
            if member in self._observed or standing < Standing.DONE:
                continue
            total, count = self.losses[member] if member < len(self.losses) else (0.0, 0.0)
            if standing == Standing.FAILED:
                self._state = self._controller.observe(self._state, token, 0.0, "failed")
            elif count:
                self._state = self._controller.observe(self._state, token, float(total / count), "ok")
            else:
                continue
            self._observed.add(member)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        return {
            "state": _listed(self._state),
            "tokens": {str(m): t for m, t in self._tokens.items()},
            "observed": sorted(self._observed),
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take up what `to_json` gave."""
        self._state = _unlisted(document["state"])
        self._tokens = {int(m): t for m, t in document["tokens"].items()}
        self._observed = set(document["observed"])


def _listed(value: Any) -> Any:
    """A controller's state as JSON; arrays with their type."""
    if isinstance(value, np.ndarray):
        return {"__array__": str(value.dtype), "shape": list(value.shape), "values": value.ravel().tolist()}
    if isinstance(value, Mapping):
        return {k: _listed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _unlisted(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "__array__" in value:
            return np.array(value["values"], dtype=value["__array__"]).reshape(value["shape"])
        return {k: _unlisted(v) for k, v in value.items()}
    return [_unlisted(v) for v in value] if isinstance(value, list) else value


class Kept:
    """Checkpoints of all trainer ranks: one moment on all of them, or none.

    Parameters
    ----------
    folder : Path
        Where they are.
    comm : Comm
        The trainer ranks.
    """

    def __init__(self, folder: Path, comm: Comm) -> None:
        self._folder, self._comm = folder, comm
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"online-{number:06d}-{self._comm.rank}.safetensors"

    def save(self, number: int, notes: Mapping[str, Any], arrays: Arrays) -> None:
        """Write this rank's part; the older moments go when all ranks have written theirs; collective."""
        text = np.frombuffer(json.dumps(notes).encode(), dtype=np.uint8)
        Disk().replace(self._path(number), tensors({"notes": text, **arrays}))
        self._comm.barrier()
        for old in self._folder.glob(f"online-*-{self._comm.rank}.safetensors"):
            if old != self._path(number):
                old.unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The newest moment that every rank can read, or None; collective."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        mine: dict[int, dict[str, np.ndarray]] = {}
        for path in sorted(self._folder.glob(f"online-*-{self._comm.rank}.safetensors"))[-3:]:
            try:
                mine[int(path.name.split("-")[1])] = load(path.read_bytes())
            except (OSError, ValueError, SafetensorError):
                path.unlink(missing_ok=True)
        said = exchange(self._comm, " ".join(map(str, mine)))
        common = set.intersection(*({int(n) for n in text.split()} for text in said))
        if not common:
            return None
        arrays = mine[max(common)]
        return json.loads(bytes(arrays.pop("notes"))), arrays


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


class Trainer:
    """One trainer rank.

    Parameters
    ----------
    stage : OnlineTrain
        What to train, on what, how.
    points : ndarray, shape (member, parameter)
        Of the design.
    server : Server
        The transport's end.
    endpoints : list of str
        Of all trainer ranks, for solvers that have to find them.
    folder : Path
        Of the run.
    ctx : Context
        Its ranks are those of the trainer.
    token : str
        Without it no solver is let in.
    """

    def __init__(
        self, stage: OnlineTrain, points: np.ndarray, server: Server, endpoints: list[str], folder: Path,
        ctx: Context, token: str = "",
    ) -> None:  # fmt: skip
        self._stage, self._folder, self._ctx = stage, folder, ctx
        self._first = ctx.comm.rank == 0
        self._server = server
        self.session = uuid.uuid4().hex
        recipe, comm = stage.recipe(), ctx.comm
        policy, purposes = stage.reservoir, stage.purposes(len(points))
        # More rows than there will be samples would only wait for them.
        most = min(policy.capacity, int((purposes == TRAIN).sum()) * recipe.samples)
        capacity = max(1, math.ceil(most / comm.size))
        rng = np.random.default_rng([stage.seed, 3, comm.rank])
        self._buffer = policy.open(recipe.slabs(), rng, capacity)
        self._steerer = Steerer(stage, stage.seed) if stage.steering is not None and self._first else None
        plan = Plan(np.array(points, dtype=np.float64), purposes, self._steerer)
        terms = Terms(
            token, self.session, endpoints, stage.credits, stage.heartbeat, 60 * stage.patience,
            stage.seed, folder / GONE, stage.minimum,
        )  # fmt: skip
        lanes = stage.lanes if stage.order == "fixed" else 0
        roster = Roster(stage.begin_order(purposes), stage.attempts, lanes) if self._first else None
        self.reception = Reception(server, recipe, self._buffer, plan, terms, roster, ctx, lanes)
        self._held = Held(self.reception)
        epochs = stage.surrogate.epochs
        repeats = stage.uses
        self._live = Live(
            self.reception,
            self._buffer,
            self._held,
            repeats,
            epochs,
            ctx,
            reuse=policy.reuse,
            fixed=stage.order == "fixed",
        )
        self._live.note = self._wait_note
        if self._steerer is not None:
            self._steerer.roster = roster
        self._kept = Kept(folder / "checkpoints", comm)
        self._history: list[dict[str, float]] = []
        self._saved = time.monotonic()
        self._totals: dict[str, int] = {}

    # -- running -----------------------------------------------------------------------------

    def run(self) -> Model:
        """Train; collective.

        Raises
        ------
        Failed
            If no member came through.
        """
        resume = self._resume()
        batch = max(1, getattr(self._stage.surrogate, "batch", 1) // self._ctx.comm.size)
        self._live.begin(batch)
        fit = self._stage.surrogate.fit(self._live, self._held, self._ctx, resume)
        while True:
            try:
                report = next(fit)
            except StopIteration as end:
                model: Model = end.value
                break
            self._live.share_losses()
            if self._steerer is not None:
                self._steerer.losses = self._live.losses
            self._told(report.epoch, report.epochs, report.metrics)
            due = time.monotonic() - self._saved >= self._stage.checkpoint_seconds
            if self._agreed(due) and report.epoch < report.epochs:
                self._save(report.epoch, report.checkpoint())
        self._live.serve()
        self._totals = self._live.totals()
        return model

    def _agreed(self, due: bool) -> bool:
        """What rank 0 decides; each has a clock of its own."""
        return exchange(self._ctx.comm, "1" if due else "")[0] == "1"

    def _told(self, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        row = {**metrics, **self._live.figures()}
        self._history.append(row)
        if self._first:
            self._ctx.metric(epoch, **row)
            self._ctx.progress(epoch, epochs, f"reports, {self._line()}", self._figures())
        else:
            self._ctx.check()

    def _line(self) -> str:
        f = self._live.figures()
        roster = self.reception.roster
        total = len(roster.standing) if roster is not None else 0
        failed = f", {f['members_failed']:.0f} failed" if f["members_failed"] else ""
        return (
            f"{f['members_done']:.0f}/{total} members, {f['members_running']:.0f} running{failed}, reservoir "
            f"{100 * f['reservoir_fill']:.0f} %, idle {100 * f['trainer_idle']:.0f} %, blocked "
            f"{100 * f['solvers_blocked']:.0f} %"
        )

    def _wait_note(self, what: str) -> None:
        done, total = len(self._history), self._stage.surrogate.epochs
        self._ctx.progress(done, total, f"reports, waiting for {what}, {self._line()}", self._figures())

    def _figures(self) -> dict[str, str]:
        """What is worth watching, for the Prefect UI."""
        f, total = self._live.figures(), len(self.reception.roster.standing) if self.reception.roster else 0
        last = self._history[-1] if self._history else {}
        return {
            "members done, running, failed": (
                f"{f['members_done']:.0f} of {total}, {f['members_running']:.0f}, {f['members_failed']:.0f}"
            ),
            "members computed again": f"{f['resubmitted']:.0f}",
            "samples received": f"{f['received']:.0f} ({f['received_per_second']:.3g} a second)",
            "samples drawn": f"{f['drawn']:.0f} ({f['drawn_per_second']:.3g} a second)",
            "reservoir": (
                f"{100 * f['reservoir_fill']:.0f} % full, {f['reservoir_unseen']:.0f} not yet used, mean "
                f"{f['reservoir_uses_mean']:.1f} uses, mean age {f['reservoir_age_mean']:.0f} arrivals"
            ),
            "the trainer waited": f"{100 * f['trainer_idle']:.1f} % of its time",
            "solvers waited for the trainer": f"{100 * f['solvers_blocked']:.1f} % of their time",
            **{k.replace("_", " "): f"{last[k]:.4g}" for k in ("train_loss", "valid_error") if k in last},
        }

    # -- checkpoints -------------------------------------------------------------------------

    def _save(self, epoch: int, fitted: Arrays) -> None:
        notes: dict[str, Any] = {"epoch": epoch, "history": self._history}
        if self.reception.roster is not None:
            notes["roster"] = self.reception.roster.to_json()
        if self._steerer is not None:
            notes["steering"] = self._steerer.to_json()
        arrays = {f"fit:{k}": np.asarray(v) for k, v in fitted.items()}
        for name, part in (("reception", self.reception), ("buffer", self._buffer), ("live", self._live)):
            arrays |= {f"{name}:{k}": v for k, v in part.state().items()}
        self._kept.save(epoch, notes, arrays)
        self._saved = time.monotonic()

    def _resume(self) -> dict[str, np.ndarray] | None:
        found = self._kept.latest()
        if found is None:
            return None
        notes, arrays = found
        self._history = notes["history"]
        self._ctx.log.info("training goes on after report %d", notes["epoch"])
        for name, part in (("reception", self.reception), ("buffer", self._buffer), ("live", self._live)):
            part.restore(_part(arrays, f"{name}:"))
        if self.reception.roster is not None:
            self.reception.roster.restore(notes["roster"])
        if self._steerer is not None:
            self._steerer.restore(notes["steering"])
            self._steerer.losses = self._live.losses
        return _part(arrays, "fit:")

    # -- the end -----------------------------------------------------------------------------

    def write(self, model: Model, out: Writer) -> None:
        """Write the model and what is to be known of its training; of rank 0."""
        stage, reception = self._stage, self.reception
        from sciflow.schema import Field
        from sciflow.stages.train import MODEL

        roster = reception.roster
        assert roster is not None
        good = [m for m, s in roster.standing.items() if s == Standing.DONE]
        purposes = reception.plan.purposes
        for purpose, name in enumerate(MODEL):
            members = np.array(sorted(m for m in good if purposes[m] == purpose), dtype=np.int64)
            out.write(name, members, MODEL[name])
        space = stage.problem.parameters
        out.write("points", reception.plan.points, Field(("member", "parameter"), "any", "float64"))
        uses = self._buffer.uses_histogram()
        out.write(
            "uses", uses, Field(("use",), "1", "int64", "samples that were used so often; last: or more")
        )
        store_model(stage.surrogate, model, self._history, out)
        out.describe(
            window=None if stage.window is None else list(stage.window),
            parameters=list(space),
            parameter_units=[p.unit for p in space.values()],
            failures={str(m): r for m, r in roster.reasons.items() if roster.standing[m] == Standing.FAILED},
            online={
                "problem": stage.problem.to_json(),
                "reservoir": stage.reservoir.to_json(),
                "steering": stage.steering.to_json() if stage.steering is not None else None,
                "uses": stage.uses,
                "resubmitted": roster.resubmitted,
                "drift": {name: list(found) for name, found in self._drift().items()},
                **self._totals,
            },
        )

    def _drift(self) -> dict[str, tuple[float, float]]:
        """`Live.drift`, with a warning where the scales that training began with did not fit."""
        found = self._live.drift()
        for name, (shift, spread) in found.items():
            if shift > SHIFTED or not 1 / SPREAD < spread < SPREAD:
                self._ctx.log.warning(
                    "%s: the stream has its mean %.1f spreads away from the samples that scales were taken "
                    "of and %.1f times their spread; take more validation members or a larger threshold",
                    name[2:], shift, spread,
                )  # fmt: skip
        return found

    def end(self) -> None:
        """Tell all solvers, now and later, that there is no more work."""
        if self._first:
            replace_json(self._folder / FINISHED, {"samples": self.reception.tally.samples})
            self.reception.goodbye(GOODBYE)
        self._server.close()

    def dismiss(self) -> None:
        """Tell all solvers that this trainer ends before its work is done; another may follow."""
        self.reception.dismiss()
        self._server.close()
