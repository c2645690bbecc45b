"""The ``calibrate`` stage: bands around predictions that hold the truth as often as they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL, load_model, samples_of

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Batch
    from sciflow.store import Writer
    from sciflow.surrogate import Arrays, Model

_MEMBERS = Field(("sample",), "1", "int64")
_SHARE = Field(("output",), "1", "float64")
CALIBRATION = Schema(
    "calibration",
    {
        "calibration_members": _MEMBERS,
        "measured_members": _MEMBERS,
        "coverage": _SHARE,
        "relative_width": _SHARE,
    },
)
Band = Literal["field", "point", "function"]


@dataclass(frozen=True)
class Calibrate(Stage):
    """Split-conformal bands around the predictions of any model, and how often they hold the truth.

    Some members that training has not seen decide how wide the band must be; the others are there to
    measure its coverage. What is promised holds for any model and any distribution of members, over the
    draw of the calibration members and one new member of the same distribution.

    Attributes
    ----------
    members : {"test", "valid", "all"}
        ``test``: of the members that training left out, the part `part` calibrates and the rest measures.
        ``valid``: the validation members calibrate and the test members measure; not for a model that
        chose its weights by the validation error. ``all``: as ``test``, with every member of an ensemble
        that training has not seen.
    part : float
        Of ``test`` and ``all``.
    alpha : float
        Share that may be outside.
    band : {"field", "point", "function"}
        ``field``: one width; of all values of new members a share of ``1 - alpha`` is inside. ``point``:
        a width for each point, and the same at each of them. ``function``: one width, with which a new
        prediction has the share ``1 - delta`` of its values inside with probability ``1 - alpha``.
    delta : float
        Of ``function``; 0 asks for all its values.
    scaled : bool
        Make the band proportional to the model's spread (`Model.spread`), where it gives one.
    seed : int
        Decides which members calibrate.

    Notes
    -----
    See `sciflow.stages.conformal`. A member with several samples (a window) counts once.

    References
    ----------
    Z. Ma et al., "Calibrated uncertainty quantification for operator learning via conformal prediction",
    TMLR 2024, arXiv:2402.01960 (the two levels of ``function``).
    """

    name: ClassVar[str] = "calibrate"
    inputs: ClassVar[Mapping[str, Schema]] = {"model": MODEL, "ensemble": ENSEMBLE}
    output: ClassVar[Schema] = CALIBRATION
    members: Literal["test", "valid", "all"] = "test"
    part: float = 0.5
    alpha: float = 0.1
    band: Band = "field"
    delta: float = 0.0
    scaled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("part", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise Invalid(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.delta < 1:
            raise Invalid(f"delta must be at least 0 and below 1, got {self.delta}")
        if self.delta and self.band != "function":
            raise Invalid(f"delta belongs to band='function', the band is {self.band!r}")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse members that training has seen."""
        super().check(inputs)
        model, ensemble = inputs["model"], inputs["ensemble"]
        seen = model.attributes.get("ensemble")
        if self.members == "all" and ensemble.digest == seen:
            raise Invalid(
                "the model was trained on members of this ensemble; calibrate it with members='test' or "
                "'valid'"
            )
        if self.members != "all" and ensemble.digest != seen:
            raise Invalid(
                f"{model.path} was not trained on {ensemble.path}; calibrate it on that ensemble with "
                "members='all'"
            )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Find the widths and measure their coverage."""
        import numpy as np

        artifact, ensemble = inputs["model"], inputs["ensemble"]
        model = load_model(artifact)
        first, second = self._parts(artifact, ensemble)
        told, kept = (samples_of(artifact, model.signature, ensemble, m) for m in (first, second))
        ctx.progress(0, 2, "calibration")
        factors, scaled = self.widths(model, told.all(), told.sample_members)
        calibration = Calibration(self.band, self.alpha, self.delta, scaled, factors, artifact.digest)
        ctx.progress(1, 2, "calibration")
        rows = measure(calibration, model, kept.all(), kept.sample_members)
        ctx.progress(2, 2, "calibration")
        out.write("calibration_members", first, _MEMBERS)
        out.write("measured_members", second, _MEMBERS)
        for name, values in rows.items():
            out.write(name, np.array(values), CALIBRATION[name])
        for name, factor in factors.items():
            field = model.signature.outputs[name]
            unit = "1" if scaled else field.unit
            out.write(_stored(name), factor, Field(field.axes if factor.ndim else (), unit, "float64"))
        out.describe(
            model=artifact.digest,
            ensemble=ensemble.digest,
            outputs=list(factors),
            band=self.band,
            alpha=self.alpha,
            delta=self.delta,
            scaled=scaled,
        )

    def _parts(self, model: Artifact, ensemble: Artifact) -> tuple[np.ndarray, np.ndarray]:
        """Members that calibrate, and members that measure."""
        import numpy as np

        from sciflow.stages.conformal import least

        if self.members == "valid":
            parts = model.read("valid_members"), model.read("test_members")
        else:
            there = model.read("test_members") if self.members == "test" else ensemble.members()
            order = np.random.default_rng(self.seed).permutation(there)
            count = min(max(1, round(self.part * len(order))), len(order) - 1)
            parts = np.sort(order[:count]), np.sort(order[count:])
        if len(parts[0]) < least(self.alpha) or not len(parts[1]):
            raise Invalid(
                f"there are {len(parts[0])} members to calibrate and {len(parts[1])} to measure; alpha="
                f"{self.alpha:g} needs {least(self.alpha)} and 1. Leave more members out of the training, or "
                "simulate others and calibrate with members='all'"
            )
        return parts

    def widths(self, model: Model, batch: Batch, members: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """Half width of the band of every output, and whether it is in units of the model's spread.

        Parameters
        ----------
        model : Model
            Any.
        batch : Batch
            Samples that it has not seen.
        members : ndarray of int, shape (sample,)
            Which member each is of.

        Returns
        -------
        widths : dict of str to ndarray
            Of shape (), with ``point`` of the shape of one sample.
        scaled : bool

        Raises
        ------
        Invalid
            If there are too few members, or too many predictions are not finite.
        """
        import numpy as np

        from sciflow.stages import conformal

        predicted = model.predict(batch.x)
        spread = model.spread(batch.x) if self.scaled else None
        found = {}
        for name, truth in batch.y.items():
            scales = conformal.scale(None if spread is None else spread[name], truth)
            ratio = conformal.ratios(predicted[name] - truth, scales)
            owner = members
            if self.band == "function":
                ratio = conformal.all_but(ratio, self.delta)
            elif self.band == "field":
                owner = np.repeat(members, ratio[0].size)
                ratio = ratio.ravel()
            found[name] = conformal.quantile(ratio, owner, self.alpha)
            if not np.isfinite(found[name]).all():
                raise Invalid(
                    f"more than {100 * self.alpha:g} % of the predictions of {name!r} are not finite, or the "
                    "model says there that it is sure: no band can be promised"
                )
        return found, spread is not None


@dataclass(frozen=True)
class Calibration:
    """How wide the band around a model's predictions is.

    Attributes
    ----------
    band, alpha, delta
        What is promised; see `Calibrate`.
    scaled : bool
        Whether `factors` are in units of the model's spread.
    factors : mapping of str to ndarray
        Half width of each output: shape (), with ``point`` that of one sample; in its unit or 1.
    model : str
        Digest of the model artifact; empty where there is none.
    """

    band: Band
    alpha: float
    delta: float
    scaled: bool
    factors: Mapping[str, np.ndarray]
    model: str = ""

    def around(self, model: Model, x: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Predictions with their bands.

        Parameters
        ----------
        model : Model
            The one that was calibrated.
        x : mapping of str to ndarray, shape (batch, ...)
            Its inputs.

        Returns
        -------
        dict of str to (ndarray, ndarray, ndarray), each of shape (batch, ...)
            Lower end, prediction, upper end, in the unit of the output.

        Raises
        ------
        Invalid
            If the model gives no spread and the band is in units of it, or a band with a width for each
            point meets another grid.
        """
        from sciflow.stages import conformal

        predicted = model.predict(x)
        spread = model.spread(x) if self.scaled else None
        if self.scaled and spread is None:
            raise Invalid("these bands are in units of the model's spread, and this model gives none")
        made = {}
        for name, factor in self.factors.items():
            values = predicted[name]
            if factor.ndim and factor.shape != values.shape[1:]:
                raise Invalid(
                    f"the band of {name!r} has a width for each point of {factor.shape}, the prediction has "
                    f"{values.shape[1:]}; calibrate with band='field' or 'function' for other grids"
                )
            half = factor * conformal.scale(None if spread is None else spread[name], values)
            made[name] = (values - half, values, values + half)
        return made

    def doubt(self, model: Model, x: Arrays) -> np.ndarray:
        """Half width of the band over the prediction, both as norms; see `Model.doubt`.

        Parameters
        ----------
        model : Model
            The one that was calibrated.
        x : mapping of str to ndarray, shape (batch, ...)
            Its inputs.

        Returns
        -------
        ndarray of float64, shape (batch,)
            With ``band="function"`` and ``delta=0`` at least the relative error, with the probability of
            the band for a new member of the same distribution; with the others a scale of it.

        Raises
        ------
        Invalid
            As `around` does.
        """
        from sciflow.surrogate import relative_size

        bands = self.around(model, x)
        half = {name: (high - low) / 2 for name, (low, _, high) in bands.items()}
        return relative_size(half, {name: middle for name, (_, middle, _) in bands.items()})


def measure(
    calibration: Calibration, model: Model, batch: Batch, members: np.ndarray
) -> dict[str, list[float]]:
    """How often the truth is where a band says, and how wide the band is.

    Parameters
    ----------
    calibration : Calibration
        Of the model.
    model : Model
        Any.
    batch : Batch
        Samples of members that neither training nor calibration has seen.
    members : ndarray of int, shape (sample,)
        Which member each is of.

    Returns
    -------
    dict of str to list of float, one number for each output
        ``coverage``: the share that `alpha` speaks of. ``relative_width``: mean half width over the root
        mean square of the truth.
    """
    import numpy as np

    from sciflow.stages.conformal import SLACK, mean_over_members

    rows: dict[str, list[float]] = {"coverage": [], "relative_width": []}
    for name, (low, _, high) in calibration.around(model, batch.x).items():
        truth = np.asarray(batch.y[name], dtype=np.float64)
        inside = ((low <= truth) & (truth <= high)).reshape(len(truth), -1).mean(axis=1)
        if calibration.band == "function":
            inside = inside >= 1 - calibration.delta - SLACK
        rows["coverage"].append(mean_over_members(inside, members))
        size = np.sqrt(np.mean(truth**2)) or 1.0
        rows["relative_width"].append(float(np.mean(high - low) / 2 / size))
    return rows


def load_calibration(artifact: Artifact) -> Calibration:
    """The bands in a ``calibration`` artifact.

    Raises
    ------
    Invalid
        If it is none.
    """
    about = artifact.attributes
    if artifact.schema.kind != "calibration":
        raise Invalid(f"{artifact.path} is a {artifact.schema.kind}, not a calibration")
    factors = {name: artifact.read(_stored(name)) for name in about["outputs"]}
    return Calibration(
        about["band"], about["alpha"], about["delta"], about["scaled"], factors, about["model"]
    )


def _stored(name: str) -> str:
    """Name of an output's width in the artifact."""
    return "width_" + name.replace("[", "_").replace("]", "").replace("-", "m")
