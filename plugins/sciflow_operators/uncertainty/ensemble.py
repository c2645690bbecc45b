"""Configuration of deep ensembles: several models of one kind, told apart by their seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.problem import member_seed
from sciflow.surrogate import Arrays, Model, Report, Surrogate

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context
    from sciflow.samples import Samples, Signature


@dataclass(frozen=True, kw_only=True)
class DeepEnsemble(Surrogate):
    """Several models fitted to the same samples from different seeds; their mean is predicted.

    How far they are apart is the spread that the model offers (`Model.spread`).

    Attributes
    ----------
    inner : Surrogate
        What is fitted; any surrogate whose seed decides something.
    size : int
        How many models, at least 2.

    Raises
    ------
    Invalid
        If `size` has a value that it cannot have.

    Notes
    -----
    The models are fitted one after the other, each in ``inner.epochs`` reports. A checkpoint holds the
    finished ones and the checkpoint of the one at work, so that a resumed training gives the same bits
    if that of `inner` does. Time and memory of everything are `size` times those of one model.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive uncertainty
    estimation using deep ensembles", NeurIPS 2017, section 2.4.
    """

    name: ClassVar[str] = "deep_ensemble"
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    inner: Surrogate
    size: int = 4

    def __post_init__(self) -> None:
        if self.size < 2:
            raise Invalid(f"an ensemble has at least 2 models, got size {self.size}; use its inner model")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        from sciflow_operators.baselines.mlp import MLP

        return cls(inner=MLP.example(), size=2)

    @property
    def epochs(self) -> int:  # type: ignore[override]
        """Reports of all fits together."""
        return self.size * self.inner.epochs

    @property
    def horizon(self) -> int:
        """See `Surrogate.horizon`; that of the inner model."""
        return self.inner.horizon

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`; model ``i`` is fitted with a seed that depends on ``ctx.seed`` and i.

        Raises
        ------
        Invalid
            Also if a checkpoint is not one of an ensemble of this size.
        """
        from sciflow_operators.uncertainty.mean import Mean

        done, going = self._resumed(resume)
        models = [self.inner.load(state, valid.signature) for state in done]
        for i in range(len(models), self.size):
            mine = dataclasses.replace(ctx, seed=member_seed(ctx.seed, i))
            fit = self.inner.fit(samples, valid, mine, going)
            going = None
            while True:
                try:
                    report = next(fit)
                except StopIteration as end:
                    models.append(end.value)
                    break
                yield self._report(report, models)
        return Mean(models)

    def _report(self, report: Report, models: list[Model]) -> Report:
        """One epoch of one model as an epoch of all."""
        finished = list(models)

        def keep() -> Arrays:
            arrays = {f"going.{k}": v for k, v in report.checkpoint().items()}
            for i, model in enumerate(finished):
                arrays |= {f"model.{i}.{k}": v for k, v in model.state().items()}
            return arrays

        epoch = len(finished) * self.inner.epochs + report.epoch
        return dataclasses.replace(report, epoch=epoch, epochs=self.epochs, checkpoint=keep)

    def _resumed(self, resume: Arrays | None) -> tuple[list[Arrays], Arrays | None]:
        """States of the finished models, and the checkpoint of the one at work."""
        if resume is None:
            return [], None
        states = parts(resume)
        going = {k.removeprefix("going."): v for k, v in resume.items() if k.startswith("going.")}
        if not going or len(states) >= self.size:
            raise Invalid(f"this is no checkpoint of a deep_ensemble of {self.size} models")
        return states, going

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        from sciflow_operators.uncertainty.mean import Mean

        states = parts(state)
        if len(states) != self.size:
            raise Invalid(f"these arrays are of {len(states)} models, this deep_ensemble has {self.size}")
        return Mean([self.inner.load(s, signature) for s in states])


def parts(arrays: Arrays) -> list[Arrays]:
    """The arrays of each model, by its number in ``model.0.weight`` and so on.

    Raises
    ------
    Invalid
        If a model is missing before the last one.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        word, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if word == "model" and number.isdecimal():
            found.setdefault(int(number), {})[name] = values
    if sorted(found) != list(range(len(found))):
        raise Invalid(f"models {sorted(found)} are there, some before the last are missing")
    return [found[i] for i in sorted(found)]
