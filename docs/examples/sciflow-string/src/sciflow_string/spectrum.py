"""The stage: tones of what a mode decomposition learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow import Artifact, Context, Field, Invalid, Schema, Stage, Writer
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, load_model

if TYPE_CHECKING:
    import numpy as np

FIELDS = {
    "frequency": Field(("mode",), "s-1", "float64", "periods in a second"),
    "decay": Field(("mode",), "s-1", "float64", "the amplitude falls by exp(-decay time)"),
}


@dataclass(frozen=True)
class Spectrum(Stage):
    """Frequency and decay of the tones of a model, from low to high.

    Attributes
    ----------
    count : int
        How many are kept at most.

    Raises
    ------
    Invalid
        If none is to be kept.

    Notes
    -----
    A mode that one step of length dt multiplies by z has the decay ``-log |z| / dt`` and the frequency
    ``arg z / (2 pi dt)``; of each conjugate pair the one with a positive frequency is kept. Tones above
    ``1 / (2 dt)`` cannot be told from lower ones.
    """

    name: ClassVar[str] = "string_spectrum"
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL, "ensemble": ENSEMBLE}
    output: ClassVar[Schema] = Schema("string_spectrum", FIELDS)
    light: ClassVar[bool] = True
    count: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise Invalid(f"at least one tone is kept, got count={self.count}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """See `Stage.run`.

        Raises
        ------
        Invalid
            If the model is no mode decomposition, or none of one field's step.
        """
        from sciflow_string.decomposition import Linear

        model = load_model(inputs["model"])
        if not isinstance(model, Linear):
            raise Invalid(f"{inputs['model'].path} is no mode decomposition but a {type(model).__name__}")
        times = inputs["ensemble"].read("time")
        frequency, decay = tones(model.factors(), float(times[1] - times[0]))
        out.write("frequency", frequency[: self.count], FIELDS["frequency"])
        out.write("decay", decay[: self.count], FIELDS["decay"])


def tones(factors: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Tones of the factors of one step.

    Parameters
    ----------
    factors : ndarray of complex, shape (mode,)
        By what each mode is multiplied.
    step : float
        Time of one step, s.

    Returns
    -------
    two ndarray, shape (tone,)
        Frequencies, s-1, from low to high, and decays, s-1.
    """
    import numpy as np

    up = factors[factors.imag > 0]
    frequency = np.angle(up) / (2 * np.pi * step)
    order = np.argsort(frequency, kind="stable")
    return frequency[order], (-np.log(np.abs(up)) / step)[order]
