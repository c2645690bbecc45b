"""The fitted ROM-net: chooses a local model from the parameters, solves it, says how far to trust it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Diverged, Invalid, NotFound, nearest
from sciflow.surrogate import Arrays, Model
from sciflow_rom.net.galerkin import Load, Response, solve
from sciflow_rom.net.indicator import Calibration, indicate
from sciflow_rom.net.space import Space
from sciflow_rom.net.tables import LocalModel, pack, unpack

if TYPE_CHECKING:
    from sciflow.reduction import Reducible
    from sciflow.samples import Signature
    from sciflow_rom.net.romnet import RomNet
    from sciflow_rom.regress.ranking import Ranker

Modes = Callable[[str, int], np.ndarray]
"""Opens modes: of the field (``"basis"``) or of a dual field, for a cluster."""


@dataclass(frozen=True)
class Trajectory:
    """The answer to one query, not lifted to the mesh.

    Attributes
    ----------
    cluster : int
        The local model that gave it.
    coefficients : ndarray, shape (step, mode)
        Of its modes.
    times : ndarray, shape (step,)
        Ends of the steps, in the problem's unit.
    estimate, upper : float
        Estimate of the relative error, and a bound that holds with the coverage of the calibration; NaN
        for a model without indicator, infinite where it cannot be told.
    flags : tuple of str
        Why the answer should be used with care; empty if nothing is known against it.
    iterations : ndarray of int64, shape (step,)
        Evaluations of the law.
    tried : tuple of int
        Clusters that were solved.
    response : Response
        With stress and history at the points of the cubature.
    """

    cluster: int
    coefficients: np.ndarray
    times: np.ndarray
    estimate: float
    upper: float
    flags: tuple[str, ...]
    iterations: np.ndarray
    tried: tuple[int, ...]
    response: Response


_SPACE = ("logarithmic", "mean", "spread", "low", "high")
_CALIBRATION = ("factor", "bound", "coverage", "members")


class RomModel(Model):
    """A dictionary of local reduced models with a selector.

    Parameters
    ----------
    config : RomNet
        Its configuration.
    signature : Signature
        From the parameters to the unknown field.
    local : list of LocalModel
        One for each cluster.
    ranker : Ranker
        Scores of the clusters, lower is better.
    space : Space
        Scaling and bounds of the parameters.
    calibration : Calibration
        Of the indicator.
    mesh : str
        Fingerprint of the mesh that the modes belong to.
    modes : callable or None
        Opens modes when a field is asked for; None where only the online slice is there.
    """

    def __init__(
        self,
        config: RomNet,
        signature: Signature,
        local: list[LocalModel],
        ranker: Ranker,
        space: Space,
        calibration: Calibration,
        mesh: str,
        modes: Modes | None = None,
    ) -> None:
        self.config, self.signature, self.local, self.ranker = config, signature, local, ranker
        self.space, self.calibration, self.mesh, self._modes = space, calibration, mesh, modes
        self.problem = config.reducible
        self._names = tuple(self.problem.parameters)
        self._own_times = self.problem.steps()
        self._fits: set[str] = set()
        self._cached = lru_cache(maxsize=16)(self._open)
        self._asked: tuple[bytes | None, list[Trajectory | Diverged]] = (None, [])

    @property
    def clusters(self) -> int:
        """How many local models there are."""
        return len(self.local)

    def solve(
        self, mu: Mapping[str, float], *, problem: Reducible | None = None, top: int | None = None
    ) -> Trajectory:
        """Answer one query without lifting the answer to the mesh.

        Parameters
        ----------
        mu : mapping of str to float
            A complete point of the problem's parameters.
        problem : Reducible or None
            One with more or fewer steps than that of the training; the same one for None.
        top : int or None
            How many of the most promising local models are solved; the one with the smallest indicator
            counts. None takes the configuration's.

        Returns
        -------
        Trajectory

        Raises
        ------
        Invalid
            If `mu` is incomplete or not finite, or `problem` is of another mesh or another law.
        Diverged
            If no local model converges.
        """
        used = self.problem if problem is None else self._fitting(problem, mu)
        point = np.array([mu[n] for n in self._names]) if len(mu) == len(self._names) else None
        if point is None or not np.isfinite(point).all():
            mu = used.parameters.checked(mu)
            point = np.array([mu[n] for n in self._names])
        features = self.space.scale(point)
        order = np.argsort(self.ranker.rank(features))
        wanted = min(self.config.top if top is None else top, len(order))
        best: tuple[float, int, Response] | None = None
        tried: list[int] = []
        reason = ""
        for cluster in order.tolist():
            try:
                response = self._respond(used, cluster, mu, features)
            except Diverged as error:
                reason = reason or f"cluster {cluster}, {error}"
                continue
            value = self._indicate(used, cluster, mu, response)
            tried.append(cluster)
            if best is None or value < best[0]:
                best = value, cluster, response
            if len(tried) >= wanted:
                break
        if best is None:
            raise Diverged(f"none of {len(order)} local models converges; {reason}")
        return self._answer(used, best, tuple(tried), self._flags(point, reason, used))

    def _answer(
        self, problem: Reducible, best: tuple[float, int, Response], tried: tuple[int, ...],
        flags: tuple[str, ...],
    ) -> Trajectory:  # fmt: skip
        value, cluster, response = best
        estimate, upper = self.calibration(value)
        return Trajectory(
            cluster, response.coefficients, self._times(problem), estimate, upper, flags, response.iterations,
            tried, response,
        )  # fmt: skip

    def _respond(
        self, problem: Reducible, cluster: int, mu: Mapping[str, float], features: np.ndarray
    ) -> Response:
        model = self.local[cluster]
        tables, config = model.tables, self.config
        law, load = problem.law(tables.points, mu), _load(problem, mu, len(tables.loads))
        steps, history = len(self._times(problem)), problem.start(len(tables.weights))

        def begin(guess: np.ndarray | None) -> Response:
            return solve(
                tables, law, steps, load=load, history=history, guess=guess,
                tolerance=config.newton_tolerance, iterations=config.iterations,
            )  # fmt: skip

        try:
            return begin(model.first(features))
        except Diverged:  # the guess may be a bad one, far from the members of the cluster
            return begin(None)

    def _times(self, problem: Reducible) -> np.ndarray:
        """Ends of the steps; known already for the problem of the training."""
        return self._own_times if problem is self.problem else problem.steps()

    def _indicate(
        self, problem: Reducible, cluster: int, mu: Mapping[str, float], response: Response
    ) -> float:
        probe = self.local[cluster].probe
        if probe is None:
            return np.nan
        points = probe.test.points
        load = _load(problem, mu, len(probe.test.loads))
        return indicate(probe, problem.law(points, mu), response, problem.start(len(points)), load)

    def _flags(self, point: np.ndarray, reason: str, problem: Reducible) -> tuple[str, ...]:
        space = self.space
        outside = (point < space.low) | (point > space.high)
        found = [reason] if reason else []
        steps, known = len(self._times(problem)), len(self._own_times)
        if steps > known:
            found.append(
                f"{steps} steps were asked for, the model was trained with {known}: beyond them its bound is "
                "a guess"
            )
        if outside.any():
            found += [
                f"{self._names[i]} = {point[i]:g} is outside of [{space.low[i]:.4g}, {space.high[i]:.4g}], "
                "where the model was trained"
                for i in np.flatnonzero(outside)
            ]
        return tuple(found)

    def _fitting(self, problem: Reducible, mu: Mapping[str, float]) -> Reducible:
        """`problem`, if its mesh and law are those that the local models were made for."""
        from sciflow.context import Context

        key = str(problem.to_json())
        if problem == self.problem or key in self._fits:
            return problem
        if problem.name != self.problem.name or problem.unknown != self.problem.unknown:
            raise Invalid(f"the model was made for {self.problem.name}, not for {problem.name}")
        mesh = problem.integrals(Context()).mesh
        if mesh != self.mesh:
            raise Invalid(
                f"the model was made on the mesh {self.mesh}, the problem that was given has {mesh}: its "
                "modes do not fit. Build a model on that mesh"
            )
        tables = self.local[0].tables
        strain, history = tables.strains[:, :, 0], self.problem.start(len(tables.weights))
        ours = self.problem.law(tables.points, mu)(strain, history, 0)
        theirs = problem.law(tables.points, mu)(strain, problem.start(len(tables.weights)), 0)
        if any(a.shape != b.shape or not np.allclose(a, b) for a, b in zip(ours, theirs, strict=True)):
            raise Invalid(
                f"the problem that was given follows another law than the one that the model was made for "
                f"({problem.to_json()}, {self.problem.to_json()}); only the number of steps may differ"
            )
        self._fits.add(key)
        return problem

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; warns of members outside of the trained range."""
        points, name = self._points(x), self.problem.unknown
        out = np.empty((len(points), *self.signature.shape(name)), self.signature.outputs[name].dtype)
        asked, answers = self._asked
        known = answers if asked == points.tobytes() else []
        flagged = []
        for row, point in enumerate(points):
            found = known[row] if known else self._attempt(point)
            if isinstance(found, Diverged):
                raise found
            out[row] = self.lift(found).reshape(out.shape[1:])
            flagged += [f"sample {row}: {flag}" for flag in found.flags]
        if flagged:
            shown = "; ".join(flagged[:3]) + (f" and {len(flagged) - 3} more" if len(flagged) > 3 else "")
            warnings.warn(shown, UserWarning, stacklevel=2)
        return {name: out}

    def doubt(self, x: Arrays) -> np.ndarray | None:
        """See `Model.doubt`: the calibrated bound of the indicator; None for a model without one.

        Infinite where no local model converges, or where there were too few members for a bound. The bound b
        is one over the norm of the truth, ``b / (1 - b)`` the one over that of the answer. The
        answers are kept until the next call, so that `predict` need not solve them again.
        """
        if any(model.probe is None for model in self.local):
            return None
        points = self._points(x)
        answers = [self._attempt(point) for point in points]
        self._asked = points.tobytes(), answers
        found = [np.inf if isinstance(a, Diverged) else a.upper for a in answers]
        bounds = np.nan_to_num(np.array(found, dtype=np.float64), nan=np.inf, posinf=np.inf)
        some = bounds < 1
        return np.where(some, bounds / np.where(some, 1 - bounds, 1.0), np.inf)

    def _points(self, x: Arrays) -> np.ndarray:
        """Parameters of a batch, shape (batch, parameter)."""
        return np.stack([np.asarray(x[n], dtype=np.float64).reshape(-1) for n in self._names], axis=1)

    def _attempt(self, point: np.ndarray) -> Trajectory | Diverged:
        """The answer to one sample, or why there is none."""
        try:
            return self.solve(dict(zip(self._names, point.tolist(), strict=True)))
        except Diverged as error:
            return error

    def lift(self, trajectory: Trajectory) -> np.ndarray:
        """The unknown field of an answer, shape (step, *space), in its unit; the modes are read once.

        Raises
        ------
        Invalid
            If only the online slice is there.
        """
        shape = self.problem.shape(self.problem.unknown)
        flat = trajectory.coefficients @ self._cached("basis", trajectory.cluster).T
        return np.asarray(flat.reshape(-1, *shape))

    def dual(self, name: str, trajectory: Trajectory) -> np.ndarray:
        """A dual field of an answer, rebuilt from what the law gave at the points of the cubature.

        Parameters
        ----------
        name : str
            One of the problem's `dual`.
        trajectory : Trajectory
            What `solve` returned.

        Returns
        -------
        ndarray, shape (step, point) or (step, point, component)

        Raises
        ------
        NotFound
            If the problem has no such field.
        Invalid
            If only the online slice is there.
        """
        if name not in self.problem.dual:
            raise NotFound(
                f"{self.problem.name} has no dual field {name!r}. {nearest(name, self.problem.dual)}"
            )
        modes = self._cached(name, trajectory.cluster)
        found = self.dual_coefficients(name, trajectory) @ modes.T
        inverse = self.local[trajectory.cluster].gaps[name]
        components = inverse.shape[1] // len(self.local[trajectory.cluster].tables.weights)
        rows = np.asarray(found.reshape(len(found), -1, components))
        return rows[:, :, 0] if len(self.problem.shape(name)) == 1 else rows

    def dual_coefficients(self, name: str, trajectory: Trajectory) -> np.ndarray:
        """Coefficients of a dual field's modes, shape (step, mode)."""
        response = trajectory.response
        pairs = zip(response.stress, response.history, strict=True)
        values = [self.problem.observe(name, s, h).reshape(-1) for s, h in pairs]
        return np.asarray(np.stack(values) @ self.local[trajectory.cluster].gaps[name].T)

    def _open(self, kind: str, cluster: int) -> np.ndarray:
        if self._modes is None:
            raise Invalid(
                "this is the online slice alone, without modes: it solves, but gives no fields. Open the "
                "artifact with load_model"
            )
        return self._modes(kind, cluster)

    def state(self) -> Arrays:
        """See `Model.state`: tables, selector, calibration; no modes."""
        arrays: dict[str, np.ndarray] = {f"space.{n}": getattr(self.space, n) for n in _SPACE}
        numbers = [float(getattr(self.calibration, n)) for n in _CALIBRATION]
        arrays["calibration"] = np.array(numbers)
        arrays["mesh"] = np.frombuffer(self.mesh.encode(), dtype=np.uint8)
        arrays |= {f"selector.{k}": np.asarray(v) for k, v in self.ranker.state().items()}
        for cluster, model in enumerate(self.local):
            arrays |= {f"{cluster}.{k}": v for k, v in pack(model).items()}
        return arrays


def _load(problem: Reducible, mu: Mapping[str, float], loads: int) -> Load | None:
    if not loads:
        return None
    return lambda step: problem.load(mu, step)


def from_state(config: RomNet, state: Arrays, signature: Signature, modes: Modes | None = None) -> RomModel:
    """The model that `RomModel.state` was taken of.

    Raises
    ------
    Invalid
        If arrays are missing or do not fit each other.
    """
    groups: dict[str, dict[str, Any]] = {}
    for key, values in state.items():
        first, _, rest = key.partition(".")
        groups.setdefault(first, {})[rest] = values
    try:
        space = Space(*(np.asarray(groups["space"][n]) for n in _SPACE))
        factor, bound, coverage, members = (float(v) for v in groups["calibration"][""])
        mesh = bytes(np.asarray(groups["mesh"][""])).decode()
        ranker = config.selector.load(groups["selector"])
    except (KeyError, ValueError) as error:
        raise Invalid(f"the state of a ROM-net lacks {error}") from None
    count = sum(key.isdecimal() for key in groups)
    local = [unpack(groups[str(k)]) for k in range(count) if str(k) in groups]
    if not local or len(local) != count:
        raise Invalid(f"the state of a ROM-net has {len(local)} of {max(count, 1)} local models")
    calibration = Calibration(factor, bound, coverage, int(members))
    return RomModel(config, signature, local, ranker, space, calibration, mesh, modes)
