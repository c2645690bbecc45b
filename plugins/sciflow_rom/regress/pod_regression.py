"""POD with regression: a reduced model of any ensemble that asks nothing of its equations."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow.registry import require
from sciflow.surrogate import Arrays, Model, Report, Surrogate
from sciflow_rom.clusters.clusterers import Clusterer, Dissimilarity, Sine
from sciflow_rom.regress.regressors import GaussianProcess, Polynomial, Regressor
from sciflow_rom.regress.selectors import ErrorRegression, Selector

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Samples, Signature

_PROCESS, _SINE, _ERRORS = GaussianProcess(), Sine(), ErrorRegression()


@dataclass(frozen=True)
class PODRegression(Surrogate):
    """Modes of the outputs, and a regression from the inputs to their coefficients.

    An input field counts with its first coefficients. With a `clusterer` it is a dictionary of such models,
    one for each cluster of the training members, and a selector that chooses between them.

    Attributes
    ----------
    regressor : Regressor
        From features to coefficients.
    modes : int
        Largest number of modes of each output, in each cluster.
    tolerance : float
        The fewest modes are taken that leave at most this much of the training members' variation about
        their mean, relative in the Frobenius norm.
    scaling : {"auto", "norm", "none"}
        ``norm``: modes are those of outputs divided by their norm, whose logarithm is learned beside the
        coefficients: for outputs whose size differs much between members. ``auto`` leaves members out and
        takes, for each output, what predicts them better.
    features : int
        Largest number of features of each input field.
    logarithmic : tuple of str
        Inputs whose logarithm is a feature.
    clusterer : Clusterer or None
        Makes clusters of the outputs; None for one model.
    dissimilarity : Dissimilarity
        What makes members unlike.
    selector : Selector
        Chooses the cluster.

    Notes
    -----
    See ``docs/methods/pod-regression.md``. Fitted in one go, without iterations that could be resumed.
    """

    name: ClassVar[str] = "pod_regression"
    regressor: Regressor = _PROCESS
    modes: int = 30
    tolerance: float = 1e-3
    scaling: Literal["auto", "norm", "none"] = "auto"
    features: int = 8
    logarithmic: tuple[str, ...] = ()
    clusterer: Clusterer | None = None
    dissimilarity: Dissimilarity = _SINE
    selector: Selector = _ERRORS

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(regressor=Polynomial(1), modes=4, features=4)

    def __post_init__(self) -> None:
        if self.modes < 1 or self.features < 1 or not 0 <= self.tolerance < 1:
            raise Invalid(
                "modes and features are at least 1 and the tolerance in [0, 1); got "
                f"{self.modes}, {self.features} and {self.tolerance}"
            )

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`; one report."""
        from sciflow_rom.regress.dictionary import errors_of, fit_dictionary

        for part in (self.regressor, *(() if self.clusterer is None else (self.clusterer, self.selector))):
            require(part)
        if resume is not None:
            return self.load(resume, samples.signature)
        model = fit_dictionary(self, samples, ctx)
        metrics = {"train_error": errors_of(model, samples, ctx.comm)}
        if len(valid):
            metrics["valid_error"] = errors_of(model, valid, ctx.comm)
        yield Report(1, 1, metrics, model.state)
        return model

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`."""
        from sciflow_rom.regress.dictionary import load_dictionary

        return load_dictionary(self, state, signature)
