"""ROM-net as a surrogate and the ``build_rom`` stage that fits it; the numerics are elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid
from sciflow.problem import Problem
from sciflow.registry import require
from sciflow.schema import Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL
from sciflow.surrogate import Arrays, Model, Report, Surrogate
from sciflow_rom.clusters.clustering import CLUSTERING
from sciflow_rom.compress.compression import COMPRESSION
from sciflow_rom.points.cubatures import EmpiricalCubature, HyperReduction
from sciflow_rom.regress.selectors import ErrorRegression, Selector

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.reduction import Reducible
    from sciflow.samples import Samples, Signature
    from sciflow.store import Writer
    from sciflow_rom.net.online_slice import RomModel

_POINTS, _PROBE, _SELECTOR = EmpiricalCubature(), EmpiricalCubature(5e-3), ErrorRegression()


@dataclass(frozen=True)
class RomNet(Surrogate):
    """A dictionary of local reduced-order models: Galerkin projection on a basis for each cluster.

    A query is answered by the local models that the selector ranks first; where there are two or more, the
    one with the smallest error indicator counts.

    Attributes
    ----------
    problem : Reducible
        Whose weak form is reduced.
    modes : int
        Of each local basis, at most; fewer for a cluster that spans less.
    tolerance : float
        Part of a cluster's snapshots, scaled to unit norm, that its basis may leave: fewer modes where
        they suffice; 0 takes `modes`.
    hyper_reduction : HyperReduction
        How the integration points of each local model are chosen.
    selector : Selector
        Ranks clusters by the parameters of a query.
    top : int
        Local models that are solved for a query; 1 leaves the choice to the selector alone.
    indicator_modes : int
        Modes of all training snapshots that residuals are tested with; 0 builds no indicator, and needs
        ``top=1``.
    indicator_points : HyperReduction
        How the integration points of the indicator are chosen.
    coverage : float
        Probability, at least, with which the upper bound of the error holds.
    calibration : int
        Members that the indicator is calibrated with: those for validation, and where these are fewer,
        training members that are then in no basis (a fifth of the training members at most).
    states : int
        Training states for which the integration points of a cluster are chosen, at most about so many.
    newton_tolerance : float
        Of the online solver, relative; see `sciflow_rom.net.galerkin.solve`.
    iterations : int
        Most iterations of a step.
    dual_tolerance : float
        Part of the dual snapshots of a cluster that their modes may leave.
    """

    name: ClassVar[str] = "rom_net"
    problem: Problem
    modes: int = 8
    tolerance: float = 0.0
    hyper_reduction: HyperReduction = _POINTS
    selector: Selector = _SELECTOR
    top: int = 2
    indicator_modes: int = 24
    indicator_points: HyperReduction = _PROBE
    coverage: float = 0.9
    calibration: int = 20
    states: int = 64
    newton_tolerance: float = 1e-5
    iterations: int = 25
    dual_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("modes", "top", "states", "iterations"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("indicator_modes", "calibration"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")
        if not 0 < self.coverage < 1:
            raise Invalid(f"coverage is a probability below 1, got {self.coverage}")
        if (
            not 0 <= self.tolerance < 1
            or not 0 < self.dual_tolerance < 1
            or not 0 < self.newton_tolerance < 1
        ):
            raise Invalid(
                "tolerances are relative and below 1, got "
                f"{self.tolerance}, {self.dual_tolerance} and {self.newton_tolerance}"
            )
        if self.top > 1 and self.indicator_modes == 0:
            raise Invalid(f"top={self.top} needs an indicator to choose by; set indicator_modes or top=1")

    @property
    def reducible(self) -> Reducible:
        """The problem.

        Raises
        ------
        Invalid
            If it does not offer its weak form, or not in this configuration.
        """
        from sciflow.reduction import Reducible

        if not isinstance(self.problem, Reducible):
            raise Invalid(
                f"the problem {self.problem.name!r} does not offer its weak form "
                "(sciflow.reduction.Reducible), so it cannot be projected on a basis; where the "
                "physics is closed, fit a regression of the coefficients instead"
            )
        self.problem.check_reducible()
        return self.problem

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """Refuse: a ROM-net is made of compressed snapshots and clusters, by the stage ``build_rom``.

        Raises
        ------
        Invalid
            Always.
        """
        raise Invalid(
            "a ROM-net is not fitted to samples: compress and cluster the ensemble, then run the stage "
            "build_rom (BuildRom) with both; it gives a model like any other"
        )

    def load(self, state: Arrays, signature: Signature) -> Model:
        """See `Surrogate.load`: the online slice, which solves; fields need the artifact."""
        from sciflow_rom.net.online_slice import from_state

        return from_state(self, state, signature)

    def open(self, artifact: Artifact) -> RomModel:
        """See `Surrogate.open`: the online slice, and modes that are read when a field is asked for."""
        from sciflow_rom.net.building import open_model

        return open_model(self, artifact)


@dataclass(frozen=True)
class BuildRom(Stage):
    """Builds the local models of a ROM-net from compressed and clustered snapshots.

    Collective over the ranks, which share the mesh; each chooses the integration points of its own part.
    A killed run goes on with the cluster that it was at.

    Attributes
    ----------
    surrogate : RomNet
        What to build.
    seed : int
        Decides what is random in the training of the selector, and who is held out for calibration.
    """

    name: ClassVar[str] = "build_rom"
    inputs: ClassVar[Mapping[str, Schema]] = {
        "ensemble": ENSEMBLE,
        "compression": COMPRESSION,
        "clustering": CLUSTERING,
    }
    output: ClassVar[Schema] = MODEL
    surrogate: RomNet
    seed: int = 0

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse inputs that do not belong together, and a problem without a weak form."""
        super().check(inputs)
        from sciflow.provenance import components_in

        for part in components_in(self.surrogate):
            require(part)
        problem = self.surrogate.reducible
        ensemble, compression, clustering = (inputs[n] for n in self.inputs)
        if ensemble.attributes.get("problem") != problem.to_json():
            raise Invalid(
                f"{ensemble.path} is an ensemble of {ensemble.attributes.get('problem')}, the model is one "
                f"of {problem.to_json()}"
            )
        if compression.attributes["ensemble"] != ensemble.digest:
            raise Invalid(f"{compression.path} was not made of {ensemble.path}")
        if clustering.attributes["compression"] != compression.digest:
            raise Invalid(f"{clustering.path} was not made of {compression.path}")
        if compression.attributes["field"] != problem.unknown:
            raise Invalid(
                f"{compression.path} holds the field {compression.attributes['field']!r}; compress "
                f"{problem.unknown!r}, the unknown of {problem.name}"
            )
        if "time" in problem.fields[problem.unknown].axes and compression.attributes["columns"] != "level":
            raise Invalid(
                f"{compression.path} has one snapshot per member; a reduced model in space needs one for "
                "each time level: compress with columns='level'"
            )
        for point in ensemble.read("parameters")[ensemble.members()].tolist():
            problem.check_reducible(dict(zip(problem.parameters, point, strict=True)))

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Build, cluster by cluster, then calibrate and store."""
        from sciflow_rom.net.building import build

        build(self, inputs, out, ctx)
