"""``sciflow predict`` and ``sciflow export``: a fitted model's answers to a file, and the model as a file."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.commands import chosen_store

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

FORMATS = (".safetensors", ".pt2", ".onnx")
KNOWN = 16
"""Training samples that an exported model is compared on."""


def add(commands: Any) -> None:
    """Add the subcommands to a parser."""
    text = "what a fitted model answers to the inputs in a file, or to an ensemble"
    predict = commands.add_parser("predict", help=text, description=text)
    predict.add_argument("model", help="its path, the start of its name, or @name")
    predict.add_argument(
        "input", nargs="?", help="named inputs in .npz, .json, .nc or .zarr, or an ensemble artifact"
    )
    predict.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        default="prediction.zarr",
        help="OUT.zarr or OUT.npz (default: %(default)s)",
    )
    predict.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an input that is one number"
    )
    predict.add_argument("--members", metavar="0,3,5-9", help="of the ensemble (default: all)")
    text = "a fitted model as a file: weights, a graph of torch, or ONNX; compared with the model"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("model", help="its path, the start of its name, or @name")
    export.add_argument("output", help=f"a file that ends in {', '.join(FORMATS)}")
    export.add_argument(
        "--points", metavar="128x128", help="grid of the graph (default: that of the training)"
    )
    export.add_argument("--inputs", metavar="ENSEMBLE", help="to compare on (default: the training ensemble)")
    for command in (predict, export):
        command.add_argument("--overwrite", action="store_true", help="replace a file that is there")
        command.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")


def main(options: argparse.Namespace) -> int:
    """Run a command; returns the exit code."""
    return _predict(options) if options.command == "predict" else _export(options)


def _free(text: str, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    """Where to write; refuses what is there already."""
    from sciflow.errors import Invalid, NotFound

    path = Path(text)
    if path.suffix not in suffixes:
        raise Invalid(f"{text!r}: the name must end in {' or '.join(suffixes)}")
    if path.exists() and not overwrite:
        raise Invalid(f"{path} is there already; give another name, or --overwrite")
    if not path.parent.is_dir():
        raise NotFound(f"there is no directory {path.parent}")
    return path


def _predict(options: argparse.Namespace) -> int:
    from sciflow import given as inputs
    from sciflow import predicting
    from sciflow.care import resolve
    from sciflow.errors import Invalid
    from sciflow.stages.train import load_model

    path = _free(options.output, (".zarr", ".npz"), options.overwrite)
    artifact = resolve(chosen_store(options), options.model)
    model = load_model(artifact)
    ensemble = _ensemble(options)
    axes = tuple(model.signature.coordinates)
    if ensemble is not None:
        given = inputs.of_ensemble(ensemble, artifact, model.signature, _members(options))
    elif options.members:
        raise Invalid("--members chooses from an ensemble; the input is none")
    elif options.input is None:
        given = inputs.Given("the command line", {})
    else:
        given = inputs.read(Path(options.input), axes)
    x = inputs.checked(given, model.signature, _numbers(options.set))
    count = len(next(iter(x.values())))
    about = {
        "model": artifact.digest,
        "surrogate": artifact.attributes["surrogate"]["component"],
        "input": given.where,
        **model.notes(),
    }
    parts = predicting.predictions(model, x, given.where)
    bad = _Finite()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        shapes = predicting.write(path, bad.watch(parts), count, model.signature, given, about)
    for text in dict.fromkeys(str(w.message) for w in said):
        print(f"sciflow: {text}", file=sys.stderr)
    for name, shape in shapes.items():
        print(f"{name}: {' x '.join(map(str, shape))}", file=sys.stderr)
    for name, samples in bad.counts.items():
        print(f"sciflow: {name!r} is not finite in {samples} of {count} samples", file=sys.stderr)
    print(path)
    return 0


class _Finite:
    """Counts the samples of which a prediction is not finite."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def watch(self, parts: Any) -> Any:
        """The same parts."""
        import numpy as np

        for part in parts:
            for name, values in part.items():
                bad = int((~np.isfinite(values.reshape(len(values), -1))).any(axis=1).sum())
                if bad:
                    self.counts[name] = self.counts.get(name, 0) + bad
            yield part


def _ensemble(options: argparse.Namespace) -> Artifact | None:
    """The input as an ensemble artifact, or None where it is a file."""
    from sciflow.care import resolve
    from sciflow.errors import Invalid

    text = options.input
    if text is None or (Path(text).exists() and not (Path(text) / "meta").is_dir()):
        return None
    if Path(text).suffix in (".npz", ".json", ".nc", ".zarr"):
        return None
    found = resolve(chosen_store(options), text)
    if found.schema.kind != "ensemble":
        raise Invalid(f"{found.path} is of kind {found.schema.kind}, no ensemble")
    return found


def _members(options: argparse.Namespace) -> list[int] | None:
    from sciflow.commands.store import _numbers as numbers

    return numbers(options.members) if options.members else None


def _numbers(settings: list[str]) -> dict[str, float]:
    """``NAME=VALUE`` as numbers."""
    from sciflow.errors import Invalid

    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise Invalid(f"--set {text}: write NAME=VALUE with a number") from None
        if not equals or found[name] - found[name] != 0:
            raise Invalid(f"--set {text}: write NAME=VALUE with a finite number")
    return found


def _export(options: argparse.Namespace) -> int:
    from sciflow.care import resolve
    from sciflow.errors import NotFound
    from sciflow.registry import registry

    path = _free(options.output, FORMATS, options.overwrite)
    artifact = resolve(chosen_store(options), options.model)
    if artifact.schema.kind != "model" or "surrogate" not in artifact.attributes:
        raise NotFound(f"{artifact.path} is of kind {artifact.schema.kind}; it holds no fitted surrogate")
    if path.suffix == ".safetensors":
        side = _free(str(path.with_suffix(".json")), (".json",), options.overwrite)
        rows: list[tuple[str, str]] | None = _weights(artifact, path, side)
    else:
        known = _known(artifact, options)
        rows = registry().manager.hook.sciflow_export(
            artifact=artifact, path=path, points=_points(options.points), known=known
        )
    if rows is None:
        name = artifact.attributes["surrogate"]["component"]
        raise NotFound(
            f"no plugin writes {name} as {path.suffix}; its weights can be had as .safetensors, its "
            "answers with sciflow predict"
        )
    for what, value in rows:
        print(f"{what}: {value}", file=sys.stderr)
    print(path)
    return 0


def _points(text: str | None) -> list[int] | None:
    from sciflow.errors import Invalid

    if text is None:
        return None
    parts = text.split("x")
    if not all(p.isdecimal() and int(p) > 1 for p in parts):
        raise Invalid(f"--points {text}: write 128 or 128x128, in the order of the fields' axes")
    return [int(p) for p in parts]


def _weights(artifact: Artifact, path: Path, side: Path) -> list[tuple[str, str]]:
    """The arrays and, beside them, what they belong to."""
    weights, about = artifact.file("model.safetensors"), artifact.file("model.json")
    document = {**json.loads(about.read_bytes()), "model": artifact.digest}
    for target, data in ((side, json.dumps(document, indent=1).encode()), (path, weights.read_bytes())):
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(data)
        part.replace(target)
    return [("signature and configuration", str(side))]


def _known(artifact: Artifact, options: argparse.Namespace) -> dict[str, np.ndarray] | None:
    """A few training inputs, where the ensemble is at hand."""
    import numpy as np

    from sciflow.care import resolve
    from sciflow.errors import Invalid
    from sciflow.given import of_ensemble
    from sciflow.samples import Signature

    if options.inputs:
        ensemble = resolve(chosen_store(options), options.inputs)
        if ensemble.schema.kind != "ensemble":
            raise Invalid(f"--inputs: {ensemble.path} is of kind {ensemble.schema.kind}, no ensemble")
        members = ensemble.members()[:KNOWN]
    else:
        found = _training(artifact, options)
        if found is None:
            print(
                "the training ensemble is not in this store: compared on random inputs alone", file=sys.stderr
            )
            return None
        ensemble, members = found, np.asarray(artifact.read("train_members")[:KNOWN])
    signature = Signature.from_json(artifact.attributes["signature"])
    inputs = of_ensemble(ensemble, artifact, signature, members.tolist()).arrays
    return {name: values[:KNOWN] for name, values in inputs.items()}


def _training(artifact: Artifact, options: argparse.Namespace) -> Artifact | None:
    """The ensemble a model was trained on, from its own store or the one that was named."""
    from sciflow.artifact import Artifact as Opened
    from sciflow.artifact.sealed import read_manifest
    from sciflow.errors import SciflowError

    digest = artifact.attributes.get("ensemble")
    folders = [chosen_store(options).root / "artifacts", artifact.path.parent]
    for path in (p for folder in folders for p in sorted(folder.glob("ensemble-*"))):
        try:
            if digest is not None and read_manifest(path)["digest"] == digest:
                return Opened.open(path)
        except SciflowError:
            continue
    return None
