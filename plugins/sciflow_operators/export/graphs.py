"""Fitted networks as graphs of torch (``.pt2``) and ONNX, compared with the model before they are kept."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciflow.errors import Failed, Invalid, Missing
from sciflow.surrogate import Arrays
from sciflow_operators.export.mapped import Mapped, graph_names
from sciflow_operators.training.fitted import Fitted

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

TOLERANCE = 1e-5
"""Largest difference between graph and model, relative to the largest value of a field."""
LARGEST = 2**20
"""Samples of one batch that a graph is made for; torch wants a bound."""
ABOUT = "sciflow"
"""Key under which a graph carries what it is, as JSON."""
OPSET = 18
"""Of ONNX: what PyTorch's exporter writes without conversion."""

PROTOBUF = 1_900_000_000
"""Bytes of weights that fit into one file of ONNX, whose format ends at 2 GiB."""

Replay = Callable[[Arrays], dict[str, np.ndarray]]


def export(
    artifact: Artifact, path: Path, points: Sequence[int] | None, known: Arrays | None
) -> list[tuple[str, str]]:
    """Write a model as a graph, if it answers as the model does.

    Parameters
    ----------
    artifact : Artifact
        Of kind ``model``, fitted by this plugin.
    path : Path
        Ends in ``.pt2`` or ``.onnx``.
    points : sequence of int or None
        The grid that the graph is for; None takes that of the training samples.
    known : mapping of str to ndarray, shape (batch, ...), or None
        Training inputs, for a further comparison.

    Returns
    -------
    list of (str, str)
        What was found, for the user.

    Raises
    ------
    Invalid
        If the model cannot be a graph.
    Missing
        If a package for ONNX is missing.
    Failed
        If the graph's answers differ by more than `TOLERANCE`; nothing is kept then.
    """
    write = {".pt2": write_torch, ".onnx": write_onnx}[path.suffix]
    model = _on_processor(artifact)
    mapped = Mapped(model, points).eval()
    about = _about(artifact, model, mapped)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with quiet(), torch.no_grad():
            replay = write(mapped, part, about)
            rows = list(_compared(mapped, replay, known))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    for end, names in (("inputs", about["graph_inputs"]), ("outputs", about["graph_outputs"])):
        rows.append((end, ", ".join(f"{name} = {found}" for name, found in names.items())))
    return rows


def _on_processor(artifact: Artifact) -> Fitted:
    """The model with its weights in the host's memory."""
    from sciflow.registry import registry, require
    from sciflow_operators.training.trained import Trained

    config = registry().build(artifact.attributes["surrogate"], kind="surrogate")
    require(config)
    if not isinstance(config, Trained):
        raise Invalid(f"{artifact.path}: {config.name} is no network that this plugin can export")
    model = config.replace(device="cpu").open(artifact)
    if not isinstance(model, Fitted):
        raise Invalid(f"{artifact.path}: {config.name} is no single network; export one of its parts")
    # What a graph answers is then a plain array to its user.
    model.net.requires_grad_(False)
    return model


def _about(artifact: Artifact, model: Fitted, mapped: Mapped) -> dict[str, Any]:
    """What a graph carries with it: where it comes from, and what its inputs and outputs are."""
    signature = model.signature
    inputs, outputs = graph_names(signature.inputs, signature.outputs)
    return {
        "model": artifact.digest,
        "surrogate": artifact.attributes["surrogate"],
        "signature": signature.to_json(),
        "points": list(mapped.points),
        "graph_inputs": dict(zip(signature.inputs, inputs, strict=True)),
        "graph_outputs": dict(zip(signature.outputs, outputs, strict=True)),
        **model.notes(),
    }


def _trace(mapped: Mapped) -> tuple[torch.export.ExportedProgram, tuple[torch.Tensor, ...]]:
    """The graph with a batch of any size."""
    # Of three samples: a graph of one would be for one alone.
    arguments = tuple(mapped.random(3, 0).values())
    batch = torch.export.Dim("batch", min=1, max=LARGEST)
    shapes = (tuple({0: batch} for _ in arguments),)
    try:
        return torch.export.export(mapped, arguments, dynamic_shapes=shapes, strict=False), arguments
    # torch raises many kinds of errors here; to the user they mean the same.
    except Exception as error:
        first = str(error).strip().splitlines()
        raise Invalid(
            f"torch.export cannot follow {mapped.model[0].config.name}: {type(error).__name__}: "
            f"{first[0] if first else ''}"
        ) from error


def write_torch(mapped: Mapped, path: Path, about: dict[str, Any]) -> Replay:
    """Write a graph of torch; returns how the file answers."""
    program, _ = _trace(mapped)
    torch.export.save(program, path, extra_files={f"{ABOUT}.json": json.dumps(about)})
    module = torch.export.load(path).module()

    def replay(x: Arrays) -> dict[str, np.ndarray]:
        found = module(*(torch.from_numpy(x[name]) for name in about["graph_inputs"]))
        return {name: v.numpy() for name, v in zip(about["graph_outputs"], found, strict=True)}

    return replay


def write_onnx(mapped: Mapped, path: Path, about: dict[str, Any]) -> Replay:
    """Write ONNX; returns how the file answers in onnxruntime.

    Raises
    ------
    Missing
        If a package for it is missing.
    Invalid
        If the weights are larger than such a file may be.
    """
    absent = [n for n in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(n) is None]
    if absent:
        raise Missing(
            f"a model becomes an ONNX file with {', '.join(absent)}, which this Python does not have: "
            "pip install 'sciflow[onnx]', or export to .pt2"
        )
    size = sum(p.numel() * p.element_size() for p in mapped.net.parameters())
    if size > PROTOBUF:
        raise Invalid(
            f"the weights are {size / 1e9:.1f} GB and an ONNX file holds {PROTOBUF / 1e9:.1f} GB at most; "
            "export to .pt2"
        )
    import onnx
    import onnxruntime

    program, arguments = _trace(mapped)
    names = [list(about[key].values()) for key in ("graph_inputs", "graph_outputs")]
    made: Any = torch.onnx.export(
        program, arguments, dynamo=True, input_names=names[0], output_names=names[1], opset_version=OPSET,
        verbose=False,
    )  # fmt: skip
    document = made.model_proto
    _name_batch(document)
    document.metadata_props.add(key=ABOUT, value=json.dumps(about))
    onnx.checker.check_model(document)
    onnx.save(document, str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def replay(x: Arrays) -> dict[str, np.ndarray]:
        found = session.run(names[1], {about["graph_inputs"][n]: v for n, v in x.items()})
        return dict(zip(about["graph_outputs"], found, strict=True))

    return replay


def _name_batch(document: Any) -> None:
    """Call the free axis ``batch``; torch names it after an internal symbol."""
    graph = document.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")


def _compared(mapped: Mapped, replay: Replay, known: Arrays | None) -> Iterator[tuple[str, str]]:
    """Differences between graph and model; refuses one that is too large."""
    tests: dict[str, Arrays] = {
        f"random inputs, batch of {batch}": {n: v.numpy() for n, v in mapped.random(batch, 1).items()}
        for batch in (1, 5)
    }
    shapes = mapped.shapes()
    if known is not None and all(np.shape(v)[1:] == shapes[n] for n, v in known.items()):
        count = len(next(iter(known.values())))
        tests[f"{count} training inputs"] = {n: np.asarray(v, dtype=np.float32) for n, v in known.items()}
    for what, x in tests.items():
        apart = difference(replay(x), mapped.model[0].predict(x))
        if not apart <= TOLERANCE:
            raise Failed(
                f"the graph's answers to {what} differ from the model's by {apart:.2g} of the largest value, "
                f"more than {TOLERANCE:g}; nothing was written"
            )
        yield what, f"{apart:.1e} relative difference"


def difference(found: Arrays, wanted: Arrays) -> float:
    """Largest difference over the largest value of a field, the worst of all fields; NaN where one is."""
    apart = []
    for name, values in wanted.items():
        largest = float(np.abs(values).max()) or 1.0
        apart.append(float(np.abs(found[name] - values).max()) / largest)
    return float(np.max(apart))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says about torchvision and its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
