"""The ``export_best`` stage: the best of several compared models, in a format that other programs read."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import check_choices
from sciflow.errors import Invalid, NotFound, SciflowError, nearest
from sciflow.schema import Schema
from sciflow.stage import Stage
from sciflow.stages.side_by_side import SIDE_BY_SIDE
from sciflow.stages.simulate import ENSEMBLE
from sciflow.stages.train import MODEL

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow.surrogate import Arrays

EXPORT = Schema("export", {})
WEIGHTS = ".safetensors"
"""What every model can be written as: its arrays, and ``.json`` beside them that says what they are."""
KNOWN = 8
"""Training inputs that a written model is compared on."""


@dataclass(frozen=True)
class ExportBest(Stage):
    """Chooses a model from a table of `SideBySide` and writes it in an open format.

    The artifact's files are ``model`` with the suffix of the format, and for arrays ``model.json``, which
    says what they belong to. A format that no plugin can write the model in is passed over, as is one
    whose file answers otherwise than the model.

    Attributes
    ----------
    models : tuple of str
        What the models are called in the table, and the inputs here.
    criterion : {"error_mean", "error_median", "error_p95", "query_seconds", "break_even_whole"}
        Column whose least value is the best.
    longest : float
        Models whose answer takes longer, in s, are left out; 0 leaves none out.
    largest : float
        Models with a larger mean error are left out; 0 leaves none out.
    formats : tuple of str
        Suffixes in the order in which they are tried, before the arrays alone.

    Raises
    ------
    Invalid
        If there are no models, a bound is negative, or a format is no suffix.
    """

    name: ClassVar[str] = "export_best"
    optional: ClassVar[tuple[str, ...]] = ("ensemble",)
    output: ClassVar[Schema] = EXPORT
    models: tuple[str, ...]
    criterion: Literal["error_mean", "error_median", "error_p95", "query_seconds", "break_even_whole"] = (
        "error_mean"
    )
    longest: float = 0.0
    largest: float = 0.0
    formats: tuple[str, ...] = (".onnx", ".pt2")

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.models:
            raise Invalid("there is nothing to choose from: name the models")
        if min(self.longest, self.largest) < 0:
            raise Invalid("longest and largest are bounds, or 0 for none; they cannot be negative")
        for suffix in self.formats:
            if not suffix.startswith(".") or not suffix[1:].isalnum():
                raise Invalid(f"a format is a suffix such as '.onnx', got {suffix!r}")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(("a", "b"))

    @property
    def inputs(self) -> Mapping[str, Schema]:  # type: ignore[override]
        """The table, the models, and the ensemble whose members a written model is tried on."""
        return {"comparison": SIDE_BY_SIDE, "ensemble": ENSEMBLE, **dict.fromkeys(self.models, MODEL)}

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse models that are not in the table.

        Raises
        ------
        NotFound
            If the table has no model of a name.
        Invalid
            If it has another one under that name.
        """
        super().check(inputs)
        compared = inputs["comparison"].attributes["models"]
        for name in self.models:
            if name not in compared:
                raise NotFound(f"the table has no model {name!r}. {nearest(name, compared)}")
            made = inputs["comparison"].provenance.get("inputs", {}).get(name, {}).get("digest")
            if made not in (None, inputs[name].digest):
                raise Invalid(f"{inputs[name].path} is not what the table calls {name}")

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Choose, write, and note which and why."""
        name, reason = self.choose(inputs["comparison"])
        model = inputs[name]
        known = _known(model, inputs.get("ensemble"))
        ctx.progress(0, 1, f"{name} as a file")
        passed, checks, suffix = [], [("what it is", "arrays, without a program that reads them")], WEIGHTS
        for tried in self.formats:
            try:
                found, files = _written(model, tried, known)
            except (SciflowError, ImportError) as error:
                passed.append(f"{tried}: {error}")
                continue
            if found is None:
                passed.append(f"{tried}: no plugin writes a {model.attributes['surrogate']['component']} so")
                continue
            checks, suffix = found, tried
            for file, data in files.items():
                out.write_file(file, data)
            break
        else:
            about = {**json.loads(model.file("model.json").read_bytes()), "model": model.digest}
            out.write_file(f"model{WEIGHTS}", model.file("model.safetensors").read_bytes())
            out.write_file("model.json", json.dumps(about, indent=1, sort_keys=True).encode())
        for text in passed:
            ctx.log.info("not written as %s", text)
        ctx.progress(1, 1, f"{name} as a file")
        out.describe(
            chosen=name, reason=reason, format=suffix, file=f"model{suffix}", model=model.digest,
            checks=[list(pair) for pair in checks], passed_over=passed,
            surrogate=model.attributes["surrogate"]["component"],
        )  # fmt: skip

    def choose(self, table: Artifact) -> tuple[str, str]:
        """The best model and why, in words.

        Parameters
        ----------
        table : Artifact
            Of kind ``side_by_side``.

        Returns
        -------
        name, reason : str

        Raises
        ------
        Invalid
            If the bounds leave no model.
        """
        names: list[str] = table.attributes["models"]
        wanted: list[str] = [self.criterion, "query_seconds", "error_mean"]
        columns = {c: table.read(c) for c in dict.fromkeys(wanted)}
        values = {n: {c: float(v[i]) for c, v in columns.items()} for i, n in enumerate(names)}
        bounds = {"query_seconds": self.longest, "error_mean": self.largest}
        said = {
            "query_seconds": f"answers within {self.longest:g} s",
            "error_mean": f"at most {self.largest:g}",
        }
        bound = {c: most for c, most in bounds.items() if most}
        kept = [n for n in self.models if all(values[n][c] <= most for c, most in bound.items())]
        kept = [n for n in kept if not math.isnan(values[n][self.criterion])]
        if not kept:
            rows = "; ".join(
                f"{n}: {values[n]['error_mean']:.3g} in {values[n]['query_seconds']:.3g} s"
                for n in self.models
            )
            raise Invalid(
                f"no model keeps to the bounds longest={self.longest:g}, largest={self.largest:g}: {rows}"
            )
        best = min(kept, key=lambda n: (values[n][self.criterion], values[n]["query_seconds"]))
        of = f"{len(kept)} of {len(self.models)} models"
        within = f" with {' and '.join(said[c] for c in bound)}" if bound else ""
        return best, f"the least {self.criterion} ({values[best][self.criterion]:.3g}) of {of}{within}"


def _written(
    model: Artifact, suffix: str, known: Arrays | None
) -> tuple[list[tuple[str, str]] | None, dict[str, bytes]]:
    """What a plugin says of a file that it wrote, None where none does, and the files."""
    from sciflow.registry import registry

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        found = registry().manager.hook.sciflow_export(artifact=model, path=path, points=None, known=known)
        return found, {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def _known(model: Artifact, ensemble: Artifact | None) -> Arrays | None:
    """A few training inputs of a model, where there is the ensemble."""
    from sciflow.samples import Signature
    from sciflow.stages.train import samples_of

    if ensemble is None or ensemble.digest != model.attributes.get("ensemble"):
        return None
    signature = Signature.from_json(model.attributes["signature"])
    samples = samples_of(model, signature, ensemble, model.read("train_members")[:KNOWN])
    return samples.take(range(min(KNOWN, len(samples)))).x
