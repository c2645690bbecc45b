"""A trained network as it is stored and asked for directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciflow.artifact import Artifact
from sciflow.errors import Invalid
from sciflow_control.directions.network import Directions
from sciflow_control.directions.poisson import Poisson

if TYPE_CHECKING:
    from sciflow_control.directions.train import TrainDirections

WEIGHTS, ABOUT, KIND = "model.safetensors", "model.json", "directions"


def pick_device(wish: str) -> torch.device:
    """The device to compute on.

    Raises
    ------
    Invalid
        If a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if wish == "cuda" and not there:
        raise Invalid("device 'cuda' was asked for, torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if there and wish != "cpu" else "cpu")


def network(config: TrainDirections) -> Directions:
    """A network with random weights, a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Directions(len(config.domain.points), config.width, config.layers, config.levels)


def proposing(
    net: Directions, operator: Poisson, precision: str = "float32"
) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a map from residuals to directions on the grid of an operator.

    Parameters
    ----------
    net : Directions
        On its device.
    operator : Poisson
        Of as many axes, on a grid of any size.
    precision : {"float32", "bfloat16"}
        Of the convolutions. A direction need not be exact; where the processor computes with bfloat16,
        three axes are an order of magnitude faster.

    Returns
    -------
    callable
        Of arrays of float64 on the grid, zero outside. The residual is brought to length one in double
        precision first: the network works in single precision, which ends at 1e-38.

    Raises
    ------
    Invalid
        If the network was trained in another number of dimensions.
    """
    if operator.cells.ndim != net.dimension:
        raise Invalid(
            f"these directions were learned in {net.dimension} dimensions, the grid has "
            f"{operator.cells.ndim}: {operator.cells.shape}"
        )
    weight = next(net.parameters())
    mask = operator.mask(weight)
    half = precision == "bfloat16"
    # Of a single small sample with three axes torch computes convolutions with a loop that takes four
    # times as long as oneDNN, which it takes for two samples.
    copies = 2 if operator.cells.ndim == 3 and weight.device.type == "cpu" and not half else 1

    def propose(r: np.ndarray) -> np.ndarray:
        length = float(np.linalg.norm(r))
        if not 0 < length < np.inf:
            return np.zeros_like(r)
        with torch.inference_mode(), torch.autocast(weight.device.type, torch.bfloat16, enabled=half):
            one = torch.from_numpy(r / length)[None, None].to(weight)
            one = torch.cat([one] * copies)
            found: np.ndarray = net(one, mask)[0, 0].double().cpu().numpy()
        return found

    return propose


def load(path: Path | str, digest: str = "", device: str = "cpu") -> Directions:
    """The network of a ``directions`` artifact.

    Parameters
    ----------
    path : Path or str
        The artifact's directory.
    digest : str
        Its digest, or the beginning of it; empty: any.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    NotFound
        If there is no artifact.
    Invalid
        If it is damaged, of another kind, or not the one that was asked for.
    """
    artifact = Artifact.open(path)
    if artifact.schema.kind != KIND:
        raise Invalid(
            f"{artifact.path} is a {artifact.schema.kind}, not {KIND}: train some (TrainDirections)"
        )
    if not artifact.digest.startswith(digest):
        raise Invalid(
            f"{artifact.path} has the digest {artifact.digest}, asked for was {digest}: it was trained anew; "
            "name its digest, or leave it empty to take what is there"
        )
    return restore(json.loads(artifact.file(ABOUT).read_bytes()), artifact.file(WEIGHTS).read_bytes(), device)


def restore(about: dict[str, Any], data: bytes, device: str) -> Directions:
    """A network of its description and its weights as safetensors.

    Raises
    ------
    Invalid
        If they do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as weights

    net = Directions(about["dimension"], about["width"], about["layers"], about["levels"])
    try:
        net.load_state_dict(weights(data))
    except (RuntimeError, SafetensorError) as error:
        raise Invalid(f"the weights do not fit a network of {about}: {error}") from None
    return net.to(pick_device(device)).eval()
