"""Policy: a small network of numpy that chooses values of a knob; stored as arrays, read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciflow.errors import Invalid
from sciflow.schema import Field
from sciflow.step_controller import Knob

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.store import Writer

CLIP = 10.0
"""Features are cut off at plus and minus this."""
KIND = "policy"
Layer = tuple[np.ndarray, np.ndarray]
"""Weights of shape (input, output) and what is added, of shape (output,); float32."""


def seen(told: tuple[float, ...] | float) -> np.ndarray:
    """Features in their order as a network is given them: float32, cut off; no number counts as -10."""
    x = np.array(told, np.float64, ndmin=1)
    np.fmax(x, -CLIP, x)
    return np.fmin(x, CLIP, x).astype(np.float32)


@dataclass(frozen=True)
class Signature:
    """What a policy is told and what it sets.

    Attributes
    ----------
    features : tuple of str
        In their order.
    knob : Knob
        What it was trained to set.
    values : tuple of float
        Levels, or the two ends of a range, in the knob's unit.
    chooses : {"level", "place"}
        Whether the outputs are the worths of the levels, or one place from -1 to 1 in the range's logarithm.
    activation : {"relu", "tanh"}
        Between the layers.
    order : tuple of int
        In which the layers are applied; one may come several times.
    """

    features: tuple[str, ...]
    knob: Knob
    values: tuple[float, ...]
    chooses: Literal["level", "place"]
    activation: Literal["relu", "tanh"]
    order: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """Read what `to_json` wrote."""
        tuples = (tuple(document[k]) for k in ("features", "values", "order"))
        features, values, order = tuples
        knob = Knob(**document["knob"])
        return cls(features, knob, values, document["chooses"], document["activation"], order)


class Policy:
    """A trained network.

    Parameters
    ----------
    signature : Signature
        What it is told and what it sets.
    layers : sequence of Layer
        In single precision. They are not copied, so that what changes them in place changes the policy.

    Raises
    ------
    Invalid
        If the layers do not fit each other or the signature.

    Notes
    -----
    A decision takes some microseconds for two layers of 64; nothing is changed by it, so that threads can
    share a policy.
    """

    def __init__(self, signature: Signature, layers: Sequence[Layer]) -> None:
        self.signature, self.layers = signature, tuple(layers)
        width = len(signature.features)
        wanted = len(signature.values) if signature.chooses == "level" else 1
        for number in signature.order:
            if not 0 <= number < len(layers):
                raise Invalid(f"layer {number} is to be applied, there are {len(layers)}")
            weights, bias = layers[number]
            if weights.shape != (width, len(bias)) or weights.dtype != np.float32 or bias.dtype != np.float32:
                raise Invalid(
                    f"layer {number} of the policy has weights of {weights.dtype} of shape {weights.shape} "
                    f"for {width} inputs and {len(bias)} outputs of {bias.dtype}"
                )
            width = len(bias)
        if width != wanted:
            raise Invalid(f"the policy has {width} outputs, it chooses among {wanted}")
        self._hidden = [layers[i] for i in signature.order[:-1]]
        self._last = layers[signature.order[-1]]
        self._in_order = itemgetter(*signature.features)
        self._relu, self._level = signature.activation == "relu", signature.chooses == "level"

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """What the network gives for one observation within the bounds.

        Parameters
        ----------
        x : ndarray, shape (feature,)
            float32.

        Returns
        -------
        ndarray, shape (level,) or (1,)
            float32.
        """
        for weights, bias in self._hidden:
            x = x.dot(weights)
            x += bias
            if self._relu:
                np.maximum(x, 0.0, out=x)
            else:
                np.tanh(x, x)
        weights, bias = self._last
        x = x.dot(weights)
        x += bias
        return x

    def act(self, x: np.ndarray) -> int | float:
        """The level, or the place from -1 to 1, for one observation; see `outputs`."""
        if self._level:
            return int(self.outputs(x).argmax())
        return min(1.0, max(-1.0, float(self.outputs(x)[0])))

    def place(self, told: Mapping[str, float]) -> float:
        """Where in the logarithm of the range the choice is, from 0 at its low end to 1.

        Parameters
        ----------
        told : mapping of str to float
            At least the features. One that is no number counts as -10, one too large as 10.
        """
        action = self.act(seen(self._in_order(told)))
        return action / (len(self.signature.values) - 1) if self._level else (action + 1) / 2

    def decide(self, told: Mapping[str, float]) -> float:
        """The value of the knob, in its unit; see `place`."""
        action, values = self.act(seen(self._in_order(told))), self.signature.values
        if self._level:
            return values[action]  # type: ignore[index]
        low, high = values
        return float(low * (high / low) ** ((action + 1) / 2))

    def copy(self) -> Policy:
        """One that shares no memory with this one."""
        return Policy(self.signature, [(np.array(w), np.array(b)) for w, b in self.layers])

    def write(self, out: Writer) -> None:
        """Store it among the arrays of an artifact, the signature among its attributes."""
        for i, (weights, bias) in enumerate(self.layers):
            axes = (f"neuron_{i}", f"neuron_{i + 1}")
            if weights.shape[0] != self._width(i):
                axes = (f"neuron_{i}_in", axes[1])
            out.write(f"weight_{i}", np.ascontiguousarray(weights), Field(axes, "1", "float32"))
            out.write(f"bias_{i}", bias, Field(axes[1:], "1", "float32"))
        out.describe(signature=self.signature.to_json(), layers=len(self.layers))

    def _width(self, layer: int) -> int:
        """Outputs of the layer before this one in their storage."""
        return len(self.layers[layer - 1][1]) if layer else self.layers[0][0].shape[0]


def load(path: Path | str, digest: str = "") -> Policy:
    """The policy of an artifact; needs no torch.

    Parameters
    ----------
    path : Path or str
        The artifact's directory.
    digest : str
        Its digest, or the beginning of it; empty: any.

    Raises
    ------
    NotFound
        If there is no artifact.
    Invalid
        If it is damaged, of another kind, or not the one that was asked for.
    """
    from sciflow.artifact import Artifact

    artifact = Artifact.open(path)
    if artifact.schema.kind != KIND:
        raise Invalid(f"{artifact.path} is a {artifact.schema.kind}, not a {KIND}: train one (TrainPolicy)")
    if not artifact.digest.startswith(digest):
        raise Invalid(
            f"{artifact.path} has the digest {artifact.digest}, asked for was {digest}: it was trained anew; "
            "name its digest, or leave it empty to take what is there"
        )
    artifact.verify(full=True)
    return read(artifact)


def read(artifact: Artifact) -> Policy:
    """The policy among the arrays of an artifact.

    Raises
    ------
    Invalid
        If arrays and signature do not fit.
    """
    about = artifact.attributes
    try:
        signature = Signature.from_json(about["signature"])
        count = int(about["layers"])
        layers = [(artifact.read(f"weight_{i}"), artifact.read(f"bias_{i}")) for i in range(count)]
    except (KeyError, TypeError, LookupError) as error:
        raise Invalid(f"{artifact.path} is no whole policy: {error!r}; train it again") from None
    if not all(np.isfinite(a).all() for layer in layers for a in layer):
        raise Invalid(f"{artifact.path} holds weights that are not finite; train it again")
    return Policy(signature, layers)
