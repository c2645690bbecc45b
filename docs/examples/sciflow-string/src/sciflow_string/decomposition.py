"""The surrogate: dynamic mode decomposition, one linear step that is learned from what was seen."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow import Context, Invalid, Model, Report, Samples, Signature, Surrogate

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]


class Linear(Model):
    """A step that was learned, ``y = left (right x)``.

    Parameters
    ----------
    signature : Signature
        What it maps from and to.
    state : mapping of str to ndarray
        ``right``, shape (rank, input), and ``left``, shape (output, rank), without unit; ``scale_in`` and
        ``scale_out``, what inputs and outputs are divided by, one number for each of their values.
    """

    def __init__(self, signature: Signature, state: Arrays) -> None:
        self.signature = signature
        self._state = dict(state)

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`."""
        held = self._state
        rows = flat(self.signature.inputs, x) / held["scale_in"]
        values = (rows @ held["right"].T @ held["left"].T) * held["scale_out"]
        made, begin = {}, 0
        for name, field in self.signature.outputs.items():
            shape = self.signature.shape_of(field)
            end = begin + math.prod(shape)
            made[name] = values[:, begin:end].reshape(len(values), *shape).astype(field.dtype)
            begin = end
        return made

    def state(self) -> Arrays:
        """See `Model.state`."""
        return self._state

    def factors(self) -> np.ndarray:
        """By what each mode is multiplied in one step, largest first.

        Returns
        -------
        ndarray of complex, shape (rank,)

        Raises
        ------
        Invalid
            If what it gives is not what it takes, so that there is no second step.
        """
        import numpy as np

        held = self._state
        if list(self.signature.inputs) != list(self.signature.outputs):
            names = [", ".join(fields) for fields in (self.signature.inputs, self.signature.outputs)]
            raise Invalid(
                f"a step from {names[0]} to {names[1]} has no modes: train it with the same fields as inputs "
                "and outputs"
            )
        found = np.linalg.eigvals(held["right"] / held["scale_in"] * held["scale_out"] @ held["left"])
        return found[np.argsort(-np.abs(found), kind="stable")]


@dataclass(frozen=True)
class ModeDecomposition(Surrogate):
    """The linear map from one time level to the next that fits best, of a small rank.

    Attributes
    ----------
    rank : int
        Largest number of modes.
    tolerance : float
        Modes whose singular value is below so large a part of the first one's are left out.

    Raises
    ------
    Invalid
        If the rank is below 1 or the tolerance not from 0 to 1.

    Notes
    -----
    With samples as columns of X and Y and ``X = U S V^T``, cut to the rank, the map is ``(Y V S^-1) U^T``. It
    is exact where the equations are linear, its modes their eigenvectors; a singular value decomposition of
    all samples at once, so they must fit into memory. Each field is divided by its root mean square.

    References
    ----------
    J. H. Tu, C. W. Rowley, D. M. Luchtenburg, S. L. Brunton and J. N. Kutz, "On dynamic mode decomposition:
    theory and applications", J. Comput. Dyn. 1 (2014), algorithm 2.
    """

    name: ClassVar[str] = "mode_decomposition"
    rank: int = 60
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.tolerance < 1:
            raise Invalid(
                f"the rank is at least 1 and the tolerance from 0 to 1, got {self.rank} and {self.tolerance}"
            )

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`; one report, since it is fitted in one go."""
        import numpy as np

        signature = samples.signature
        if resume is not None:
            return self.load(resume, signature)
        batch = next(samples.batches(len(samples), seed=None))
        scale_in, scale_out = scales(signature.inputs, batch.x), scales(signature.outputs, batch.y)
        before = flat(signature.inputs, batch.x) / scale_in
        after = flat(signature.outputs, batch.y) / scale_out
        v, s, right = np.linalg.svd(before, full_matrices=False)
        kept = min(self.rank, max(1, int(np.sum(s > self.tolerance * s[0]))))
        left = after.T @ (v[:, :kept] / s[:kept])
        found = {"right": right[:kept], "left": left, "scale_in": scale_in, "scale_out": scale_out}
        model = Linear(signature, {name: np.ascontiguousarray(values) for name, values in found.items()})
        missed = np.linalg.norm(before @ right[:kept].T @ left.T - after) / (np.linalg.norm(after) or 1.0)
        yield Report(1, 1, {"train_error": float(missed), "rank": float(kept)}, model.state)
        return model

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        absent = [name for name in ("right", "left", "scale_in", "scale_out") if name not in state]
        if absent:
            raise Invalid(f"the state of a {self.name} has no {', '.join(absent)}")
        return Linear(signature, state)


def flat(names: Mapping[str, object], values: Arrays) -> np.ndarray:
    """Named arrays side by side, shape (batch, number)."""
    import numpy as np

    return np.concatenate([np.reshape(values[n], (len(values[n]), -1)).astype(float) for n in names], axis=1)


def scales(names: Mapping[str, object], values: Arrays) -> np.ndarray:
    """The root mean square of each field, once for each of its numbers, shape (number,)."""
    import numpy as np

    sizes = [float(np.sqrt(np.mean(np.square(values[n], dtype=float)))) or 1.0 for n in names]
    counts = [math.prod(np.shape(values[n])[1:]) for n in names]
    return np.repeat(sizes, counts)
