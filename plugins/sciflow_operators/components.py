"""Entry point of the plugin: configurations only, torch is imported where they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sciflow.component import Component
from sciflow.hooks import hookimpl
from sciflow_operators.baselines.mlp import MLP
from sciflow_operators.baselines.mp_pde import MPPDE
from sciflow_operators.baselines.unet import UNet
from sciflow_operators.equino.equino import EquiNO
from sciflow_operators.fourier.fno import FNO
from sciflow_operators.fourier.multigrid import MultiGrid
from sciflow_operators.ode.neural_ode import NeuralODE
from sciflow_operators.poseidon.loss import RelativeL1
from sciflow_operators.poseidon.poseidon import Poseidon
from sciflow_operators.training.losses import Physics, RelativeL2, Sobolev, Spectral, Squared, Weighted
from sciflow_operators.training.residuals import BurgersStep, DarcyFlow, VorticityStep
from sciflow_operators.training.unroll import Once, Pushforward, RollOut
from sciflow_operators.uncertainty.ensemble import DeepEnsemble
from sciflow_operators.uncertainty.probconserv import Conserved
from sciflow_operators.wrappers.conditioned import Conditioned
from sciflow_operators.wrappers.refiner import Refiner
from sciflow_operators.wrappers.stagger import Stagger

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Comm
    from sciflow.surrogate import Arrays


sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [
        *(FNO, MultiGrid),
        *(MLP, MPPDE, UNet),
        *(Poseidon, RelativeL1),
        EquiNO,
        NeuralODE,
        *(Once, Pushforward, RollOut),
        *(Conserved, DeepEnsemble),
        *(Conditioned, Refiner, Stagger),
        *(RelativeL2, Squared, Sobolev, Spectral, Physics, Weighted),
        *(DarcyFlow, BurgersStep, VorticityStep),
    ]


@hookimpl
def sciflow_export(
    artifact: Artifact, path: Path, points: Sequence[int] | None, known: Arrays | None
) -> list[tuple[str, str]] | None:
    """Fitted networks as graphs of torch and ONNX."""
    if path.suffix not in (".pt2", ".onnx") or not _trained(artifact):
        return None
    from sciflow_operators.export.graphs import export

    return export(artifact, path, points, known)


def _trained(artifact: Artifact) -> bool:
    """Whether an artifact holds a network of this plugin's kind, of this or another distribution."""
    from sciflow.registry import registry
    from sciflow_operators.training.trained import Trained

    name = artifact.attributes.get("surrogate", {}).get("component", "")
    return issubclass(registry().find(name, kind="surrogate"), Trained)


@hookimpl
def sciflow_communicator(environ: Mapping[str, str]) -> Comm | None:
    """Ranks that torchrun started, over gloo."""
    from sciflow_operators.training.launch import ours

    # Decided without torch: every worker asks.
    launch = ours(environ)
    if launch is None:
        return None
    from sciflow_operators.training.distributed import communicator

    return communicator(launch)
