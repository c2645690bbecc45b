"""The ``rollout`` stage: a model of time steps fed with its own predictions, until it ends or goes astray."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, load_model, samples_of

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.artifact.member import Member
    from sciflow.context import Context
    from sciflow.samples import Signature
    from sciflow.stages.stepping import History, Step, Stepper
    from sciflow.store import Writer
    from sciflow.stored import Stored

_CURVE = ("sample", "time")
ROLLOUT = Schema(
    "rollout",
    {
        "members": Field(("sample",), "1", "int64"),
        "time": Field(("time",), "any", "float64", "of the levels that are predicted"),
        "since": Field(("time",), "any", "float64", "time since the last level that was known"),
        "kept": Field(("sample",), "1", "int64", "levels until the guard stopped the member"),
        "relative_l2": Field(_CURVE, "1", "float64"),
        "vrmse": Field(_CURVE, "1", "float64"),
        "pearson": Field(_CURVE, "1", "float64", "correlation with the truth over the points"),
        "persistence": Field(_CURVE, "1", "float64", "relative L2 error of the last level known"),
        "time_below": Field(("sample", "threshold"), "any", "float64", "until the correlation is below"),
        "fell_below": Field(("sample", "threshold"), "1", "uint8", "0: not yet, the time is a lower bound"),
    },
)
THRESHOLDS = (0.8, 0.9, 0.95)
"""Correlations below which a roll-out counts as lost."""
WINDOWS = ((6, 12), (13, 30))
"""Steps over which The Well averages the VRMSE of roll-outs: from the first on, below the second."""


@dataclass(frozen=True)
class Rollout(Stage):
    """Predicts trajectories step after step from their first levels, and compares with the truth.

    Takes a model of a window (k, l), whose next step is fed the k last levels, or a model of pairs of
    levels, which leaps. Predictions are stored as they come, ``predicted_NAME``; a roll-out that was killed
    goes on where it was. A member whose prediction is not finite or too large is stopped: its levels
    until there are kept, and it is marked.

    Attributes
    ----------
    members : {"test", "all"}
        As in `Evaluate`.
    start : int
        First time level that the model is fed.
    levels : int or None
        Predict so many; ``None`` goes on to the end of the trajectories.
    leads : tuple of int
        For a model of pairs: levels that its steps leap, in turn, from the first again after the last.
    direct : bool
        For a model of pairs: leap to each of those levels from the first one.
    limit : float
        Stop a member whose root mean square exceeds so many times the largest in training.
    batch : int
        Members that are rolled out together.

    Raises
    ------
    Invalid
        If `start`, `levels`, `leads`, `limit` or `batch` has a value that it cannot have.

    References
    ----------
    R. Ohana et al., "The Well", NeurIPS 2024 (windows of the VRMSE); P. Lippe et al., "PDE-Refiner",
    NeurIPS 2023, section 4 (time until the correlation is lost); M. Herde et al., "Poseidon", NeurIPS
    2024 (leaps of equal and of listed lead times).
    """

    name: ClassVar[str] = "rollout"
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL, "ensemble": ENSEMBLE, "training": ENSEMBLE}
    optional: ClassVar[tuple[str, ...]] = ("training",)
    output: ClassVar[Schema] = ROLLOUT
    members: Literal["test", "all"] = "test"
    start: int = 0
    levels: int | None = None
    leads: tuple[int, ...] = (1,)
    direct: bool = False
    limit: float = 10.0
    batch: int = 16

    def __post_init__(self) -> None:
        check_choices(self)
        if self.start < 0:
            raise Invalid(f"start is a time level from 0 on, got {self.start}")
        if self.levels is not None and self.levels < 1:
            raise Invalid(f"at least one level is predicted, got levels={self.levels}")
        if not self.leads or min(self.leads) < 1:
            raise Invalid(f"leads are numbers of time levels from 1 on, got {self.leads}")
        if not self.limit > 1:
            raise Invalid(f"limit must be above 1, else the truth itself is stopped; got {self.limit}")
        if self.batch < 1:
            raise Invalid(f"at least one member is rolled out at once, got batch={self.batch}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls()

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse models without time steps, members seen in training and too short trajectories."""
        super().check(inputs)
        about = inputs["model"].attributes
        if about.get("window") is None and about.get("pairs") is None:
            raise Invalid(f"{inputs['model'].path} has no time steps: train with window=(k, l) or pairs")
        if about.get("pairs") is None and (self.direct or self.leads != (1,)):
            raise Invalid(f"{inputs['model'].path} knows no lead times: leads and direct are for pairs")
        seen = about.get("ensemble")
        if "training" in inputs and inputs["training"].digest != seen:
            raise Invalid(f"{inputs['model'].path} was not trained on {inputs['training'].path}")
        if self.members == "all" and inputs["ensemble"].digest == seen:
            raise Invalid(
                "the model was trained on members of this ensemble; roll it out with members='test'"
            )
        if self.members == "all" and "training" in inputs:
            from sciflow.stages.evaluate import refuse_seen

            refuse_seen(inputs["model"], inputs["training"], inputs["ensemble"])
        if self.members == "test" and seen is None:
            raise Invalid(f"{inputs['model'].path} left no stored member out; take members='all'")
        from sciflow.samples import Signature

        signature = Signature.from_json(about["signature"])
        samples = samples_of(inputs["model"], signature, inputs["ensemble"], self._chosen(inputs))
        self._steps(inputs, signature)
        self._first(samples)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Roll out the members a batch at a time, then score them one by one."""
        import numpy as np

        from sciflow.stages.rollout_score import score
        from sciflow.stages.stepping import Stepper

        model = load_model(inputs["model"])
        samples = samples_of(inputs["model"], model.signature, inputs["ensemble"], self._chosen(inputs))
        steps = self._steps(inputs, model.signature)
        levels = [level for step in steps for level in step.levels]
        bounds = self._bounds(inputs, model.signature)
        self._create(inputs["ensemble"], model.signature, len(levels), out)
        moving = [n for n in model.signature.inputs if n in _moving(inputs["ensemble"])]
        stepper = Stepper(model, moving, self.direct)
        first = self._first(samples)
        out.recover()
        for begin in range(0, len(first), self.batch):
            ctx.progress(begin, len(first), "members")
            done = out.committed()
            picks = [
                p for p in first[begin : begin + self.batch] if int(samples.sample_members[p]) not in done
            ]
            if picks:
                self._roll(stepper, samples, np.array(picks), steps, bounds, out, ctx)
        ctx.progress(len(first), len(first), "members")
        score(inputs["ensemble"], model.signature, samples, first, levels, out)
        out.describe(
            model=inputs["model"].digest,
            ensemble=inputs["ensemble"].digest,
            outputs=list(model.signature.outputs),
            thresholds=list(THRESHOLDS),
            bounds=bounds,
        )

    def _chosen(self, inputs: Mapping[str, Artifact]) -> np.ndarray | None:
        return inputs["model"].read("test_members") if self.members == "test" else None

    def _steps(self, inputs: Mapping[str, Artifact], signature: Signature) -> list[Step]:
        """The steps that lead from the first levels to the end."""
        from sciflow.stages.stepping import pair_steps, window_steps

        ensemble, about = inputs["ensemble"], inputs["model"].attributes
        for name in signature.outputs:
            if "time" not in ensemble.schema[name].axes:
                raise Invalid(f"{ensemble.path}: {name!r} has no time levels that all members share")
        times = ensemble.read("time")
        known = 1 if about["window"] is None else about["window"][0]
        end = len(times) if self.levels is None else self.start + known + self.levels
        if end > len(times):
            raise Invalid(
                f"{self.levels} levels after the first {self.start + known} are more than the trajectories "
                f"have ({len(times)})"
            )
        if about["window"] is not None:
            steps = window_steps((known, about["window"][1]), self.start, end, times)
        else:
            steps = pair_steps(self.leads, self.start, end, times, self.direct)
        if not steps:
            raise Invalid(f"trajectories of {len(times)} levels leave nothing to predict after {self.start}")
        return steps

    def _first(self, samples: Stored) -> np.ndarray:
        """The sample of each member that begins at the first level."""
        import numpy as np

        levels = samples.sample_levels
        first = np.flatnonzero(levels[:, 0] == self.start)
        members, place = np.unique(samples.sample_members[first], return_index=True)
        if not len(members):
            raise Invalid(f"no member has a sample that begins at the time level {self.start}")
        return np.asarray(first[place])

    def _bounds(self, inputs: Mapping[str, Artifact], signature: Signature) -> dict[str, float]:
        """Largest root mean square that is let through, by output."""
        import numpy as np

        from sciflow.stages.stepping import sizes
        from sciflow.stored import Stored

        model, ensemble = inputs["model"], inputs["ensemble"]
        seen = inputs.get("training", ensemble)
        known = model.attributes.get("ensemble") == seen.digest
        reference = Stored(
            seen, (), tuple(signature.outputs), model.read("train_members") if known else self._chosen(inputs)
        )
        largest = dict.fromkeys(signature.outputs, 0.0)
        for batch in reference.batches(4, seed=None):
            largest = {n: max(v, float(sizes(batch.y[n]).max())) for n, v in largest.items()}
        # What was zero throughout has no size; only what is not finite is then too large.
        most = float(np.finfo(np.float64).max)
        return {name: self.limit * value if value > 0 else most for name, value in largest.items()}

    def _create(self, ensemble: Artifact, signature: Signature, levels: int, out: Writer) -> None:
        """The arrays of the predictions, one file for each member."""
        for name, field in signature.outputs.items():
            axes = tuple(axis for axis in field.axes if axis != "lead")
            shape = [len(signature.coordinates[axis]) for axis in axes]
            members = len(ensemble.read("status"))
            kept = Field(("member", "time", *axes), field.unit, field.dtype)
            out.create(f"predicted_{name}", kept, (members, levels, *shape), member=True)

    def _roll(
        self,
        stepper: Stepper,
        samples: Stored,
        picks: np.ndarray,
        steps: list[Step],
        bounds: Mapping[str, float],
        out: Writer,
        ctx: Context,
    ) -> None:
        """Roll out some members together, from where an earlier attempt left them."""
        from sciflow.stages.stepping import whole_levels

        still, history = stepper.begin(samples.take(picks).x)
        with ExitStack() as stack:
            active, at, history = _open(samples.sample_members[picks], steps, history, out, stack)
            for step in steps[at:]:
                ctx.check()
                predicted, coming = stepper.take(still, history, step)
                keep = whole_levels(predicted, bounds)
                for row, one in enumerate(active):
                    # One that is a step ahead of the others has these levels.
                    if one.level == step.place:
                        notes = {f"before:{n}": v[row] for n, v in history.items()}
                        notes |= {f"now:{n}": v[row] for n, v in coming.items()}
                        _append(one, {n: v[row, : keep[row]] for n, v in predicted.items()}, step, notes)
                goes_on = keep == len(step.levels)
                for one in (one for one, on in zip(active, goes_on, strict=True) if not on):
                    _end(one, "stopped", out)
                active = [one for one, on in zip(active, goes_on, strict=True) if on]
                still = {n: v[goes_on] for n, v in still.items()}
                history = {n: v[goes_on] for n, v in coming.items()}
                if not active:
                    break
            for one in active:
                _end(one, "whole", out)


def _moving(ensemble: Artifact) -> set[str]:
    """Fields of the members that have time levels."""
    fields = ensemble.schema.fields.items()
    return {name for name, field in fields if field.axes[:2] == ("member", "time")}


def _append(
    one: Member, values: Mapping[str, np.ndarray], step: Step, notes: Mapping[str, np.ndarray]
) -> None:
    """Append the levels of one step, and after the last what the next step needs."""
    for level in range(len(next(iter(values.values())))):
        last = level == len(step.levels) - 1
        one.append(
            {f"predicted_{n}": v[level] for n, v in values.items()},
            restart=(lambda: notes) if last else None,
        )


def _end(one: Member, how: str, out: Writer) -> None:
    """Commit a member; one that was stopped at its first level has no files."""
    if one.level:
        one.commit({"status": 1, "end": how})
        return
    one.drop()
    out.write_member(one.member, {}, {"status": 1, "end": how, "levels": 0})


def _open(
    members: np.ndarray, steps: list[Step], history: History, out: Writer, stack: ExitStack
) -> tuple[list[Member], int, History]:
    """Begin or go on with members: the step that is to be taken next, and what it is fed.

    After a kill some members may be one step ahead of the others. If notes were lost they all begin
    again.
    """
    import numpy as np

    active = [stack.enter_context(out.member(int(m))) for m in members]
    least = min(one.resume_from for one in active)
    at = next((i for i, step in enumerate(steps) if step.place == least), len(steps))
    ahead = least + len(steps[at].levels) if at < len(steps) else least
    if all(one.resume_from in (least, ahead) for one in active):
        rows = []
        for row, one in enumerate(active):
            if one.restart is None:
                rows.append({n: v[row] for n, v in history.items()})
            else:
                side = "now" if one.resume_from == least else "before"
                rows.append({n: one.restart.arrays[f"{side}:{n}"] for n in history})
        return active, at, {n: np.stack([row[n] for row in rows]) for n in history}
    for one in active:
        one.drop()
    return [stack.enter_context(out.member(int(m))) for m in members], 0, history
