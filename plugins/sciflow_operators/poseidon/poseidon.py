"""Configuration of Poseidon's network; torch is imported where it is used."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow.surrogate import Arrays, Model, Report, Surrogate
from sciflow_operators.fields.port import Port
from sciflow_operators.poseidon.architecture import SIZES, Architecture
from sciflow_operators.poseidon.loss import RelativeL1
from sciflow_operators.training.losses import Loss
from sciflow_operators.training.trained import Gridded

if TYPE_CHECKING:
    from torch import nn

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Poseidon(Gridded):
    """Scalable operator transformer (scOT), from nothing or from published weights.

    Attributes
    ----------
    size : {"T", "S", "B", "L"}
        A published size: 21, 40, 158 or 629 million weights.
    architecture : Architecture or None
        Sizes of its own instead.
    weights : str
        A local directory with ``config.json`` and ``model.safetensors`` in the published layout, or the
        artifact of a fitted model, read when a training starts; empty for random weights. A fitted model
        does not need it again.
    sha256 : str
        Of the weights. Where it is empty that of the file is taken when the configuration is made, so
        that other weights are another configuration.
    licence : str
        Of the weights; logged, and kept with every model that is trained from them.
    horizon_time : float
        Lead time that counts as 1, in s; 0 takes the largest of the training samples.
    embedding_factor, norm_factor : float
        Learning rates of embedding and recovery, and of the norms that know the time, over that of the
        rest, where training starts from `weights`.

    Notes
    -----
    Fields on a square grid with two axes. A scalar input ``lead_time`` conditions every norm; other
    scalars are constant fields. Without it the time is 1 (steady problems). See `Trained` for the
    training; the defaults are those of Poseidon's pre-training.
    """

    name: ClassVar[str] = "poseidon"
    dimensions: ClassVar[tuple[int, ...]] = (2,)
    size: Literal["T", "S", "B", "L"] = "T"
    architecture: Architecture | None = None
    weights: str = ""
    sha256: str = ""
    licence: str = "CC-BY-NC-4.0 (non-commercial)"
    horizon_time: float = 0.0
    embedding_factor: float = 10.0
    norm_factor: float = 10.0
    batch: int = 40
    learning_rate: float = 5e-4
    weight_decay: float = 1e-6
    schedule: Literal["onecycle", "cosine"] = "cosine"
    loss: Loss = RelativeL1()
    clip: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon_time < 0:
            raise Invalid(f"horizon_time cannot be negative, got {self.horizon_time}")
        if self.embedding_factor <= 0 or self.norm_factor <= 0:
            raise Invalid("embedding_factor and norm_factor must be positive")
        if self.sha256 and not self.weights:
            raise Invalid("sha256 names the weights of a directory: say which, with weights")
        if self.weights and not self.sha256:
            from sciflow_operators.poseidon.published import sha256

            object.__setattr__(self, "sha256", sha256(self.weights))

    @property
    def sizes(self) -> Architecture:
        """The sizes of the network."""
        return self.architecture or SIZES[self.size]

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        small = Architecture(points=16, patch=2, width=8, depths=(2, 1), heads=(2, 2), skips=(1, 0), window=4)
        return cls(
            architecture=small,
            epochs=3,
            batch=4,
            learning_rate=2e-3,
            threads=1,
            device="cpu",
            horizon_time=1.0,
        )

    def module(self, port: Port) -> nn.Module:
        """See `Gridded.module`."""
        from sciflow_operators.poseidon.net import PoseidonNet

        return PoseidonNet(self, port)

    def starting_from(self, start: Artifact) -> Surrogate:
        """See `Surrogate.starting_from`: another fitted Poseidon of these sizes.

        Raises
        ------
        Invalid
            If it is of another kind, or there are `weights` to begin with already.
        """
        import hashlib

        if self.weights:
            raise Invalid("there are two sets of weights to begin with: leave out weights, or the model")
        about = start.attributes.get("surrogate", {})
        if about.get("component") != self.name:
            raise Invalid(f"{start.path} holds a {about.get('component')}; poseidon begins with a poseidon")
        notes = start.attributes.get("notes", {})
        licence = notes.get("licence", "that of the data it learned from")
        digest = hashlib.sha256(start.file("model.safetensors").read_bytes()).hexdigest()
        return self.replace(weights=str(start.path), sha256=digest, licence=licence)

    def groups(self, net: nn.Module) -> list[tuple[list[nn.Parameter], float, float]]:
        """See `Trained.groups`; norms, biases and factors do not decay."""
        from sciflow_operators.poseidon.blocks import TimeNorm
        from sciflow_operators.poseidon.scot import Embed, Recover

        ends, norms = (self.embedding_factor, self.norm_factor) if self.weights else (1.0, 1.0)
        of_ends, of_norms = (
            {id(p) for part in net.modules() if isinstance(part, kind) for p in part.parameters()}
            for kind in ((Embed, Recover), TimeNorm)
        )
        kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in net.named_parameters():
            factor = ends if id(p) in of_ends else norms if id(p) in of_norms else 1.0
            # The biases of query and value are the rows of one array.
            decay = float(p.ndim > 1 and id(p) not in of_norms and not name.endswith("bias"))
            kinds.setdefault((factor, decay), []).append(p)
        return [(parameters, factor, decay) for (factor, decay), parameters in kinds.items()]

    def fit(
        self, samples: Samples, valid: Samples, ctx: Context, resume: Arrays | None = None
    ) -> Generator[Report, None, Model]:
        """See `Surrogate.fit`."""
        from sciflow_operators.poseidon.horizon import longest, noted

        config = self
        if not self.horizon_time and "lead_time" in samples.signature.inputs:
            time = longest(samples, ctx.comm) if resume is None else noted(resume)
            config = self.replace(horizon_time=time)
        return (yield from super(Poseidon, config).fit(samples, valid, ctx, resume))
