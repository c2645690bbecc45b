"""The ``enrich`` stage: answers queries with a ROM-net and makes it larger where it cannot be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.errors import Invalid
from sciflow.registry import require
from sciflow.schema import Schema
from sciflow.stage import Stage
from sciflow.stages.design import DESIGN
from sciflow.stages.simulate import ENSEMBLE, points_of
from sciflow.stages.train import MODEL
from sciflow.step_controller import TakesSteps
from sciflow_rom.compress.compression import COMPRESSION
from sciflow_rom.regress.selectors import Neighbours, Selector

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_rom.net.romnet import RomNet

_NEAREST = Neighbours(3)


@dataclass(frozen=True)
class Enrich(Stage):
    """Answers the points of a design one after the other, and solves in full where the answer is in doubt.

    A query is solved by the full-order model where the upper bound of the error of the reduced solution
    exceeds the tolerance, where no local model converges, where it lies outside of everything that was
    solved so far and the indicator is not yet calibrated there, and now and then by lot. The solution
    then enters the local models that represent it best, or founds a new one; integration points are
    chosen anew from those that there were; the indicator gets it as a further test mode, and is
    calibrated with the error of the reduced answer, which is known now. A killed run goes on after the
    last full-order solution.

    Attributes
    ----------
    tolerance : float
        Relative error asked for, in the norm of the compression.
    budget : float
        Largest fraction of the queries that is solved in full. When it is used up, queries are answered
        by the reduced model and marked where they are not to be trusted.
    audit : float
        Probability with which a query is solved in full though its answer is believed; the errors of
        these answers say what the bounds are worth.
    coverage : float
        Probability, at least, with which the upper bound of the error is to hold.
    margin : float
        Factor on the bound until there are as many full-order solutions as `coverage` needs.
    ahead : int
        Queries that are known at the same time; the most doubtful of them are solved in full first, and
        the others asked again. With 1 each query is answered before the next one is known.
    together : int
        So many queries of those are solved in full at the same time, before the model is changed.
    modes : int
        Of a local basis, at most.
    truncation : float
        Part of the solutions of a region that truncation of its basis may leave, over `tolerance`.
    share : int
        Local models that a solution is added to.
    far : float
        Sine of the angle to every region's medoid beyond which a solution founds a new region.
    selector : Selector
        Ranks the local models, trained anew after each full-order solution.
    fields : bool
        Keep the unknown field of every answer.
    seed : int
        Decides which queries are audited.
    attempts : int
        How often a full-order solution is tried; see `sciflow.stages.simulate.Simulate`.
    """

    name: ClassVar[str] = "enrich"
    inputs: ClassVar[Mapping[str, Schema]] = {
        "model": MODEL,
        "ensemble": ENSEMBLE,
        "compression": COMPRESSION,
        "design": DESIGN,
    }
    output: ClassVar[Schema] = MODEL
    orchestrates: ClassVar[bool] = True
    tolerance: float = 0.03
    budget: float = 0.1
    audit: float = 0.01
    coverage: float = 0.9
    margin: float = 1.5
    ahead: int = 1
    together: int = 1
    modes: int = 40
    truncation: float = 0.1
    share: int = 2
    far: float = 0.6
    selector: Selector = _NEAREST
    fields: bool = True
    seed: int = 0
    attempts: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise Invalid(f"the tolerance is a relative error between 0 and 1, got {self.tolerance}")
        if not 0 <= self.budget <= 1 or not 0 <= self.audit <= 1:
            raise Invalid(f"budget and audit are fractions, got {self.budget} and {self.audit}")
        if not 0 < self.coverage < 1:
            raise Invalid(f"coverage is a probability below 1, got {self.coverage}")
        if self.margin < 1:
            raise Invalid(f"a margin is at least 1, got {self.margin}")
        if min(self.ahead, self.together, self.modes, self.share, self.attempts) < 1:
            raise Invalid("ahead, together, modes, share and attempts must be at least 1")
        if self.together > self.ahead:
            raise Invalid(
                f"together={self.together} queries cannot be solved at the same time if only "
                f"ahead={self.ahead} are known; set ahead to at least as many"
            )
        if not 0 < self.truncation < 1 or not 0 < self.far <= 1:
            raise Invalid(
                f"truncation lies between 0 and 1, far is a sine, got {self.truncation} and {self.far}"
            )
        if self.seed < 0:
            raise Invalid(f"the seed cannot be negative, got {self.seed}")

    def identity(self) -> dict[str, object]:
        """How often a solver is tried does not change the result."""
        config = self.to_json()
        del config["attempts"]
        return config

    def rom(self, model: Artifact) -> RomNet:
        """The configuration of the model.

        Raises
        ------
        Invalid
            If it is no ROM-net, or one without an indicator.
        """
        from sciflow.registry import registry
        from sciflow_rom.net.romnet import RomNet

        about = model.attributes.get("surrogate", {})
        if about.get("component") != RomNet.name:
            raise Invalid(
                f"{model.path} holds a {about.get('component', 'model without a surrogate')!r}; only a "
                f"ROM-net ({RomNet.name!r}, made by the stage build_rom) can be enriched"
            )
        rom = registry().build(about, kind="surrogate")
        assert isinstance(rom, RomNet)
        if rom.indicator_modes == 0:
            raise Invalid(
                f"{model.path} has no error indicator, so nothing says where it is to be enriched; build "
                "it with indicator_modes above 0"
            )
        return rom

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a model that is no ROM-net, a design of other parameters, and foreign snapshots."""
        super().check(inputs)
        rom = self.rom(inputs["model"])
        require(rom.problem)
        if isinstance(rom.problem, TakesSteps):
            rom.problem.check_stepping()
        points_of(inputs["design"], rom.problem)
        model, ensemble, compression = (inputs[n] for n in ("model", "ensemble", "compression"))
        if model.attributes.get("ensemble") != ensemble.digest:
            raise Invalid(f"{model.path} was not made of {ensemble.path}")
        if compression.attributes["ensemble"] != ensemble.digest:
            raise Invalid(f"{compression.path} was not made of {ensemble.path}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Answer every query, then store the model that this led to."""
        from sciflow_rom.adapt.enriching import Enrichment

        Enrichment(self, inputs, out, ctx).run()

    def work(
        self, payload: Mapping[str, Any], inputs: Mapping[str, Artifact], out: Writer, ctx: Context
    ) -> None:
        """Make the local models larger: one round, on ranks that share the mesh."""
        from sciflow_rom.adapt.enriching import grow

        grow(self, payload, inputs, out, ctx)
