"""A dictionary of models of POD and regression, fitted from samples: the numerics of `PODRegression`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow.samples import Samples, Signature
from sciflow.schema import Field
from sciflow.surrogate import Arrays, Model
from sciflow_rom.coordinates import Coordinates
from sciflow_rom.regress.affine import Affine, affine, better_normalised, flattened, relative_errors

if TYPE_CHECKING:
    from sciflow.context import Comm, Context
    from sciflow_rom.regress.pod_regression import PODRegression
    from sciflow_rom.regress.ranking import Ranker
    from sciflow_rom.regress.regression import Regression

_BATCH = 64
_MOST = 8192
"""Samples that a Gram matrix is made of at most."""


class Features:
    """The numbers that a model sees of its inputs.

    Parameters
    ----------
    signature : Signature
        Names and shapes of the inputs.
    logarithmic : sequence of str
        Inputs whose logarithm is taken.
    bases : mapping of str to Affine
        Of the inputs that are fields.
    """

    def __init__(self, signature: Signature, logarithmic: Sequence[str], bases: Mapping[str, Affine]) -> None:
        self.signature, self.logarithmic, self.bases = signature, logarithmic, bases

    def __call__(self, x: Arrays) -> np.ndarray:
        """Features of a batch, shape (batch, feature)."""
        columns = []
        for name in self.signature.inputs:
            rows = flattened(x[name])
            if name in self.logarithmic:
                if not (rows > 0).all():
                    raise Invalid(f"the input {name!r} has no logarithm: its least value is {rows.min()}")
                rows = np.log(rows)
            columns.append(self.bases[name].project(rows) if name in self.bases else rows)
        return np.hstack(columns).astype(np.float64)


class Dictionary(Model):
    """Local models with a ranker; see `sciflow_rom.regress.pod_regression.PODRegression`.

    Parameters
    ----------
    signature : Signature
    features : Features
    bases : sequence of mapping of str to Affine
        For each cluster, of each output.
    regressions : sequence of Regression
        For each cluster, to the coefficients of all outputs, in their order.
    ranker : Ranker or None
        None where there is one cluster.
    """

    def __init__(
        self,
        signature: Signature,
        features: Features,
        bases: Sequence[Mapping[str, Affine]],
        regressions: Sequence[Regression],
        ranker: Ranker | None,
    ) -> None:
        self.signature, self.features = signature, features
        self.bases, self.regressions, self.ranker = bases, regressions, ranker

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`."""
        return self.answer(self.features(x))

    def choose(self, features: np.ndarray) -> np.ndarray:
        """The cluster that answers, for each row of features; shape (batch,)."""
        if self.ranker is None:
            return np.zeros(len(features), dtype=np.int64)
        return np.array([int(np.argmin(self.ranker.rank(row))) for row in features], dtype=np.int64)

    def answer(self, features: np.ndarray, cluster: int | None = None) -> dict[str, np.ndarray]:
        """Outputs for features, shape (batch, feature), of the clusters that are chosen or of a given one."""
        chosen = self.choose(features) if cluster is None else np.full(len(features), cluster)
        out = {
            name: np.empty((len(features), int(np.prod(self.signature.shape(name)))), dtype=field.dtype)
            for name, field in self.signature.outputs.items()
        }
        for k in np.unique(chosen):
            rows = np.flatnonzero(chosen == k)
            coefficients = self.regressions[k].predict(features[rows])
            begin = 0
            for name, basis in self.bases[k].items():
                end = begin + basis.count
                out[name][rows] = basis.lift(coefficients[:, begin:end])
                begin = end
        return {n: v.reshape(len(v), *self.signature.shape(n)) for n, v in out.items()}

    def state(self) -> dict[str, np.ndarray]:
        """See `Model.state`."""
        arrays: dict[str, np.ndarray] = {}
        for name, basis in self.features.bases.items():
            arrays |= {f"input:{name}:mean": basis.mean, f"input:{name}:modes": basis.modes}
        for k, (bases, regression) in enumerate(zip(self.bases, self.regressions, strict=True)):
            for name, basis in bases.items():
                arrays |= {f"{k}:output:{name}:mean": basis.mean, f"{k}:output:{name}:modes": basis.modes}
                arrays |= {f"{k}:output:{name}:normalised": np.array(basis.normalised)}
            arrays |= {f"{k}:regression:{n}": v for n, v in regression.state().items()}
        if self.ranker is not None:
            arrays |= {f"selector:{n}": v for n, v in self.ranker.state().items()}
        return arrays


def load_dictionary(config: PODRegression, state: Arrays, signature: Signature) -> Dictionary:
    """Build the model from its arrays; see `sciflow.surrogate.Surrogate.load`.

    Raises
    ------
    Invalid
        If arrays are missing or do not fit the signature.
    """

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): np.asarray(v) for k, v in state.items() if k.startswith(prefix)}

    def basis(prefix: str, name: str, field: Field) -> Affine:
        arrays = below(f"{prefix}:{name}:")
        size = int(np.prod(signature.shape_of(field)))
        normalised = bool(arrays.pop("normalised", False))
        if {n: v.shape[:1] for n, v in arrays.items()} != {"mean": (size,), "modes": (size,)}:
            raise Invalid(f"the model has no mean and modes of {size} values for {name!r}")
        return Affine(arrays["mean"], arrays["modes"], normalised)

    count = 0
    while below(f"{count}:output:"):
        count += 1
    if not count:
        raise Invalid("the model holds no modes")
    fields = {n: basis("input", n, f) for n, f in signature.inputs.items() if f.axes}
    bases = [{n: basis(f"{k}:output", n, f) for n, f in signature.outputs.items()} for k in range(count)]
    regressions = [config.regressor.load(below(f"{k}:regression:")) for k in range(count)]
    ranker = config.selector.load(below("selector:")) if count > 1 else None
    return Dictionary(signature, Features(signature, config.logarithmic, fields), bases, regressions, ranker)


def fit_dictionary(config: PODRegression, samples: Samples, ctx: Context) -> Dictionary:
    """Fit modes, regressions and, with clusters, the selector; every rank gets the same model.

    Raises
    ------
    Invalid
        If a logarithm is asked for that does not exist, or a value is not finite.
    """
    signature = samples.signature
    unknown = [n for n in config.logarithmic if n not in signature.inputs]
    if unknown:
        raise Invalid(f"logarithmic names {unknown[0]!r}; the inputs are {', '.join(signature.inputs)}")
    x, y = gathered(samples, ctx.comm)
    fields = {}
    for name, field in signature.inputs.items():
        if field.axes:
            rows = np.log(x[name]) if name in config.logarithmic else x[name]
            fields[name] = affine(rows, config.features, config.tolerance)
    features = Features(signature, config.logarithmic, fields)
    seen = features(x)
    clusters = _clusters(config, y, seen, ctx)
    norms = {n: _normalised(config, rows, seen) for n, rows in y.items()}
    bases, regressions = [], []
    for k, members in enumerate(clusters):
        local = {
            n: affine(y[n][members], config.modes, config.tolerance, norms[n]) for n in signature.outputs
        }
        values = np.hstack([basis.project(y[n][members]) for n, basis in local.items()])
        bases.append(local)
        regressions.append(config.regressor.train(seen[members], values.astype(np.float64), ctx.rng(k)))
    model = Dictionary(signature, features, bases, regressions, None)
    if len(clusters) > 1:
        errors = np.stack([relative_errors(model.answer(seen, k), y) for k in range(len(clusters))], axis=1)
        model.ranker = config.selector.train(seen, errors, ctx.rng(len(clusters)))
    return load_dictionary(config, _of_first(model.state(), ctx.comm), signature)


def _normalised(config: PODRegression, rows: np.ndarray, seen: np.ndarray) -> bool:
    if config.scaling == "auto":
        return better_normalised(rows, seen, config.modes, config.tolerance)
    return config.scaling == "norm"


def _clusters(config: PODRegression, y: Arrays, seen: np.ndarray, ctx: Context) -> list[np.ndarray]:
    """Rows of the members of each cluster."""
    count = len(seen)
    if config.clusterer is None:
        return [np.arange(count)]
    gram = np.zeros((count, count))
    for rows in y.values():
        own = np.zeros((count, count))
        for begin in range(0, rows.shape[1], 8192):
            part = rows[:, begin : begin + 8192].astype(np.float64)
            own += part @ part.T
        gram += own / (own.trace() or 1.0)
    values, vectors = np.linalg.eigh(gram)
    keep = values > 1e-14 * values[-1]
    triangle = np.sqrt(values[keep])[:, None] * vectors[:, keep].T
    names = np.arange(count)
    coordinates = Coordinates(triangle, names, np.full(count, -1), seen, 1e-7, (False,) * seen.shape[1])
    found = config.clusterer.fit(coordinates, config.dissimilarity, ctx.rng(10**6))
    parts = [np.flatnonzero(found.labels == k) for k in range(len(found.medoids))]
    return [p for p in parts if len(p)]


def errors_of(model: Dictionary, samples: Samples, comm: Comm) -> float:
    """Mean relative error of a model over the samples of all ranks."""
    sums = np.zeros(2)
    for batch in samples.batches(_BATCH, seed=None):
        if len(batch):
            errors = relative_errors(model.predict(batch.x), {n: flattened(v) for n, v in batch.y.items()})
            sums += errors.sum(), len(errors)
    if comm.size > 1:
        mpi: Any = comm
        total = np.empty_like(sums)
        mpi.Allreduce(sums, total)
        sums = total
    return float(sums[0] / max(sums[1], 1.0))


def gathered(samples: Samples, comm: Comm) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All samples of all ranks on every rank, flattened.

    Returns
    -------
    x, y : dict of str to ndarray, shape (sample, dof)
        Inputs and outputs.

    Raises
    ------
    Invalid
        If there are none, or too many for matrices of their number squared.
    """
    signature = samples.signature
    shapes = {("x", n): signature.shape_of(f) for n, f in signature.inputs.items()}
    shapes |= {("y", n): signature.shape_of(f) for n, f in signature.outputs.items()}
    batches = [b for b in samples.batches(_BATCH, seed=None) if len(b)]
    found: dict[str, dict[str, np.ndarray]] = {"x": {}, "y": {}}
    for (side, name), shape in shapes.items():
        field = (signature.inputs if side == "x" else signature.outputs)[name]
        parts = [flattened((b.x if side == "x" else b.y)[name]) for b in batches]
        empty = np.empty((0, int(np.prod(shape))), dtype=field.dtype)
        found[side][name] = _everyone(np.concatenate([empty, *parts]), comm)
    if not all(len(v) for v in found["y"].values()):
        raise Invalid("there are no samples to fit to")
    count = len(next(iter(found["y"].values())))
    if count > _MOST:
        raise Invalid(
            f"{count} samples are too many for POD with regression, which takes {_MOST} at most. Leave the "
            "window out, so that a sample is a member, or take fewer members"
        )
    return found["x"], found["y"]


def _everyone(rows: np.ndarray, comm: Comm) -> np.ndarray:
    """Rows of all ranks, in the order of the ranks."""
    if comm.size == 1:
        return rows
    mpi: Any = comm
    counts = np.zeros(comm.size, dtype=np.int64)
    mpi.Allgather(np.array([len(rows)], dtype=np.int64), counts)
    whole = np.empty((int(counts.sum()), rows.shape[1]), dtype=rows.dtype)
    mpi.Allgatherv(np.ascontiguousarray(rows), [whole, counts * rows.shape[1]])
    return whole


def _of_first(state: dict[str, np.ndarray], comm: Comm) -> dict[str, np.ndarray]:
    """The arrays of the first rank: where an array lies in memory decides the last bits of products."""
    if comm.size == 1:
        return state
    mpi: Any = comm
    header = json.dumps([[n, str(v.dtype), v.shape] for n, v in state.items()]).encode()
    length = np.array([len(header)], dtype=np.int64)
    mpi.Bcast(length)
    text = np.zeros(int(length[0]), dtype=np.uint8)
    if comm.rank == 0:
        text[:] = np.frombuffer(header, dtype=np.uint8)
    mpi.Bcast(text)
    found = {}
    for name, dtype, shape in json.loads(bytes(text)):
        mine = state[name] if comm.rank == 0 else np.empty(shape, dtype=dtype)
        data = np.frombuffer(bytearray(np.ascontiguousarray(mine).tobytes()), dtype=np.uint8)
        mpi.Bcast(data)
        found[name] = data.view(dtype).reshape(shape)
    return found
