"""A polynomial by least squares, as a surrogate for sciflow."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow import Component, Context, Invalid, Model, Report, Samples, Signature, Surrogate, hookimpl

if TYPE_CHECKING:
    import numpy as np

sciflow_api = "1.0"


class TemplateNameModel(Model):
    """A polynomial that was fitted.

    Parameters
    ----------
    signature : Signature
        What it maps from and to.
    degree : int
        Highest power of each input.
    state : mapping of str to ndarray
        ``middle`` and ``scale`` of the inputs, shape (input,), any unit; ``weights``, shape (term, output).
    """

    def __init__(self, signature: Signature, degree: int, state: Mapping[str, np.ndarray]) -> None:
        self.signature, self.degree = signature, degree
        self._state = dict(state)

    def predict(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Model.predict`."""
        inputs = columns(self.signature.inputs, x)
        values = terms(inputs, self._state, self.degree) @ self._state["weights"]
        made, begin = {}, 0
        for name, field in self.signature.outputs.items():
            shape = self.signature.shape_of(field)
            end = begin + math.prod(shape)
            made[name] = values[:, begin:end].reshape(len(values), *shape).astype(field.dtype)
            begin = end
        return made

    def state(self) -> Mapping[str, np.ndarray]:
        """See `Model.state`."""
        return self._state


@dataclass(frozen=True)
class TemplateName(Surrogate):
    """Every output as a sum of powers of every input, by least squares.

    Attributes
    ----------
    degree : int
        Highest power of each input.

    Raises
    ------
    Invalid
        If the degree is below 1.

    Notes
    -----
    With n numbers in and m samples one dense least-squares problem of m rows and ``1 + degree n`` columns;
    the smallest weights where there are fewer samples than columns. There are no products of inputs.
    """

    name: ClassVar[str] = "template_name"
    degree: int = 2

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise Invalid(f"the degree is at least 1, got {self.degree}")

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Mapping[str, np.ndarray] | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`; one report, since it is fitted in one go."""
        import numpy as np

        if resume is not None:
            return self.load(resume, samples.signature)
        batch = next(samples.batches(len(samples), seed=None))
        inputs = columns(samples.signature.inputs, batch.x)
        outputs = columns(samples.signature.outputs, batch.y)
        spread = inputs.std(axis=0)
        state = {"middle": inputs.mean(axis=0), "scale": np.where(spread > 0, spread, 1.0)}
        rows = terms(inputs, state, self.degree)
        weights = np.linalg.lstsq(rows, outputs, rcond=None)[0]
        state["weights"] = np.ascontiguousarray(weights)
        missed = np.linalg.norm(rows @ weights - outputs) / (np.linalg.norm(outputs) or 1.0)
        model = TemplateNameModel(samples.signature, self.degree, state)
        yield Report(1, 1, {"train_error": float(missed)}, model.state)
        return model

    def load(self, state: Mapping[str, np.ndarray], signature: Signature) -> Model:
        """See `Surrogate.load`."""
        absent = [name for name in ("middle", "scale", "weights") if name not in state]
        if absent:
            raise Invalid(f"the state of a {self.name} has no {', '.join(absent)}")
        if len(state["weights"]) != 1 + self.degree * len(state["middle"]):
            raise Invalid(f"the state is not that of a {self.name} of degree {self.degree}")
        return TemplateNameModel(signature, self.degree, state)


def columns(names: Mapping[str, object], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Named arrays side by side, shape (batch, number)."""
    import numpy as np

    return np.concatenate([np.reshape(values[n], (len(values[n]), -1)).astype(float) for n in names], axis=1)


def terms(inputs: np.ndarray, state: Mapping[str, np.ndarray], degree: int) -> np.ndarray:
    """One, and the powers of the scaled inputs, shape (batch, 1 + degree * number)."""
    import numpy as np

    scaled = (inputs - state["middle"]) / state["scale"]
    return np.concatenate([np.ones((len(inputs), 1)), *(scaled**k for k in range(1, degree + 1))], axis=1)


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this package."""
    return [TemplateName]
