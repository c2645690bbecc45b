"""The mean of several fitted models, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciflow.surrogate import Arrays, Model, Size


class Mean(Model):
    """Predicts the mean of several models.

    Parameters
    ----------
    models : sequence of Model
        With equal signatures; at least two.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = list(models)
        self.signature = self.models[0].signature

    def each(self, x: Arrays) -> dict[str, np.ndarray]:
        """What every model predicts.

        Parameters
        ----------
        x : mapping of str to ndarray, shape (batch, ...)
            As for `predict`.

        Returns
        -------
        dict of str to ndarray, shape (model, batch, ...)
            In the units of the outputs.
        """
        answers = [model.predict(x) for model in self.models]
        return {name: np.stack([a[name] for a in answers]) for name in answers[0]}

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; sums are in double precision."""
        return {k: v.mean(axis=0, dtype=np.float64).astype(v.dtype) for k, v in self.each(x).items()}

    def spread(self, x: Arrays) -> dict[str, np.ndarray]:
        """Standard deviation over the models (with one degree of freedom taken off); see `Model.spread`."""
        each = self.each(x).items()
        return {k: v.std(axis=0, ddof=1, dtype=np.float64).astype(v.dtype) for k, v in each}

    def state(self) -> Arrays:
        """See `Model.state`."""
        parts = [(i, model.state()) for i, model in enumerate(self.models)]
        return {f"model.{i}.{k}": v for i, state in parts for k, v in state.items()}

    def notes(self) -> Mapping[str, Any]:
        """See `Model.notes`; those of the first model, which is of the same kind as all others."""
        return self.models[0].notes()

    def size(self, x: Arrays) -> Size:
        """See `Model.size`; all models together."""
        sizes = [model.size(x) for model in self.models]
        return Size(sum(s.parameters for s in sizes), sum(s.operations for s in sizes))
