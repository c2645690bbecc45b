"""The fitted EquiNO: cells' fields and homogenised laws for many strains at once; numpy alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Diverged, Invalid
from sciflow.homogenisation import Homogenised
from sciflow.surrogate import Arrays, Model
from sciflow_operators.equino.correctors import Newton
from sciflow_operators.equino.magic import Magic, Sites, tables
from sciflow_operators.equino.modes import Metric, Modes
from sciflow_operators.equino.perceptron import Coefficients, Perceptron
from sciflow_operators.equino.trend import Box, Trend

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Signature
    from sciflow_operators.equino.correctors import Corrected
    from sciflow_operators.equino.equino import Corrector, EquiNO

SIDES = ("fluctuation", "stress")
"""The two sets of coefficients, in this order."""
BLOCK = 1000
"""Strains that the networks take at once."""


@dataclass(frozen=True)
class Answers:
    """Answers to some macroscopic strains, not lifted to the mesh.

    Attributes
    ----------
    fluctuation : ndarray, shape (n, mode)
        Coefficients.
    stress : ndarray, shape (n, point, component)
        At all integration points.
    homogenised : ndarray, shape (n, component)
    tangent : ndarray, shape (n, component, component)
        Derivative of `homogenised`.
    """

    fluctuation: np.ndarray
    stress: np.ndarray
    homogenised: np.ndarray
    tangent: np.ndarray


class EquinoModel(Model, Homogenised):
    """Coefficients of modes as functions of the macroscopic strain, and a corrector.

    Parameters
    ----------
    config : EquiNO
        Its configuration.
    signature : Signature
        From the components of the strain to fields of the cell.
    modes : Modes
        Of the cell.
    box : Box
        Strains that it is made for.
    coefficients : tuple of Coefficients
        Of fluctuation and stress.
    sites : Sites
        Magic points.
    mesh : str
        Fingerprint of the mesh that the modes belong to.
    """

    def __init__(
        self, config: EquiNO, signature: Signature, modes: Modes, box: Box,
        coefficients: tuple[Coefficients, Coefficients], sites: Sites, mesh: str,
    ) -> None:  # fmt: skip
        self.config, self.signature, self.modes, self.box = config, signature, modes, box
        self.coefficients, self.sites, self.mesh = coefficients, sites, mesh
        self.problem = config.cell
        self.homogenise = np.einsum("q,qcm->cm", modes.metric.weights, modes.stress)

    def corrected(self, corrector: Corrector, corrections: int = 1) -> EquinoModel:
        """The same networks and modes with another corrector.

        Parameters
        ----------
        corrector, corrections
            See `EquiNO`.
        """
        config = self.config.replace(corrector=corrector, corrections=corrections)
        return EquinoModel(
            config, self.signature, self.modes, self.box, self.coefficients, self.sites, self.mesh
        )

    def with_coefficients(self, coefficients: tuple[Coefficients, Coefficients]) -> EquinoModel:
        """The same modes with other functions of the strain."""
        return EquinoModel(
            self.config, self.signature, self.modes, self.box, coefficients, self.sites, self.mesh
        )

    def bounds(self) -> np.ndarray:
        """See `Homogenised.bounds`: the range of the samples that it was fitted to."""
        return np.stack([self.box.low, self.box.high], axis=1)

    def respond(self, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Homogenised.respond`.

        The derivative is exact without a corrector; with one, as far as its last step has reached the
        solution (see `Newton` and `Magic`). Strains outside of `bounds` are answered without a word.

        Raises
        ------
        Invalid
            If strains are not finite or have another number of components.
        Diverged
            If a result is not finite.
        """
        strain = self._checked(strain)
        if self.config.corrector == "none":
            mean, slope = self._blocks(self.box.scale(strain))
            # Derivative in the scaled strain, component by component, to one in the strain.
            tangent = (slope / self.box.half[:, None]).transpose(0, 2, 1)
        else:
            found = self._correct(strain)
            mean, tangent = found.mean, found.tangent
        if not (np.isfinite(mean).all() and np.isfinite(tangent).all()):
            bad = ~np.isfinite(mean).all(axis=1) | ~np.isfinite(tangent).all(axis=(1, 2))
            raise Diverged(f"no finite stress for the strain {strain[int(np.argmax(bad))].tolist()}")
        return mean, tangent

    def answer(self, strain: np.ndarray) -> Answers:
        """Everything that is known of the cell under some macroscopic strains.

        Parameters
        ----------
        strain : ndarray, shape (n, component)

        Raises
        ------
        Invalid, Diverged
            See `respond`.
        """
        strain = self._checked(strain)
        shape = (len(strain), *self.modes.stress.shape[:2])
        flat = self.modes.stress.reshape(-1, self.modes.stress.shape[2]).T
        if self.config.corrector == "none":
            x = self.box.scale(strain)
            fluctuation, stress = (side(x) for side in self.coefficients)
            return Answers(fluctuation, (stress @ flat).reshape(shape), *self.respond(strain))
        found = self._correct(strain)
        stress = found.stress
        if self.config.corrector == "magic":
            stress = (self._magic.stress_coefficients(stress) @ flat).reshape(shape)
        return Answers(found.coefficients, stress, found.mean, found.tangent)

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; warns of strains outside of those that it was fitted to.

        Raises
        ------
        Invalid
            If a component is missing or not finite.
        """
        missing = [n for n in self.problem.components if n not in x]
        if missing:
            raise Invalid(f"the strain component {missing[0]!r} is missing; there is: {', '.join(x)}")
        columns = [np.asarray(x[n], dtype=np.float64).reshape(-1) for n in self.problem.components]
        strain = self._checked(np.stack(columns, axis=1))
        flags = self.flags(strain)
        if flags:
            shown = "; ".join(flags[:3]) + (f" and {len(flags) - 3} more" if len(flags) > 3 else "")
            warnings.warn(shown, UserWarning, stacklevel=2)
        found = self.answer(strain)
        fields = {
            self.problem.unknown: found.fluctuation @ self.modes.fluctuation.T,
            "stress": found.stress,
            "homogenised": found.homogenised,
        }
        return {n: fields[n].astype(f.dtype, copy=False) for n, f in self.signature.outputs.items()}

    def flags(self, strain: np.ndarray) -> tuple[str, ...]:
        """What speaks against the answers to some strains: where they lie outside of the range.

        Parameters
        ----------
        strain : ndarray, shape (n, component)
        """
        rows, columns = np.nonzero(self.box.outside(strain))
        names, low, high = self.problem.components, self.box.low, self.box.high
        return tuple(
            f"strain {i}: {names[j]} = {strain[i, j]:g} is outside of [{low[j]:.4g}, {high[j]:.4g}], where "
            "the model was fitted"
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        )

    def check_mesh(self, ctx: Context) -> None:
        """Refuse a problem whose mesh here is not that of the modes; needs the solver's library.

        Raises
        ------
        Invalid
            If the fingerprints differ.
        """
        there = self.problem.integrals(ctx).mesh
        if there != self.mesh:
            raise Invalid(
                f"the model was fitted on the mesh {self.mesh}, {self.problem.name} here has {there}: its "
                "modes do not fit. Fit it again on that mesh"
            )

    def state(self) -> Arrays:
        """See `Model.state`."""
        modes, metric = self.modes, self.modes.metric
        arrays = {
            "modes.fluctuation": modes.fluctuation,
            "modes.strains": modes.strains,
            "modes.stress": modes.stress,
            "modes.points": modes.points,
            "modes.weights": metric.weights,
            "modes.root": metric.root,
            "box.low": self.box.low,
            "box.high": self.box.high,
            "magic.places": self.sites.places,
            "magic.noise": self.sites.noise,
            "mesh": np.frombuffer(self.mesh.encode(), dtype=np.uint8),
        }
        for name, side in zip(SIDES, self.coefficients, strict=True):
            arrays |= {f"{name}.trend": side.trend.factors, f"{name}.spread": side.spread}
            if side.net is not None:
                arrays |= {f"{name}.weight.{i}": w for i, w in enumerate(side.net.weights)}
                arrays |= {f"{name}.bias.{i}": b for i, b in enumerate(side.net.biases)}
        return arrays

    def _checked(self, strain: np.ndarray) -> np.ndarray:
        strain = np.asarray(strain, dtype=np.float64)
        if strain.ndim != 2 or strain.shape[1] != len(self.box.low):
            raise Invalid(
                f"strains have the shape (point, {len(self.box.low)}) for {self.problem.components}, got "
                f"{strain.shape}"
            )
        if not np.isfinite(strain).all():
            row = int(np.argmax(~np.isfinite(strain).all(axis=1)))
            raise Invalid(f"strain {row} of {len(strain)} is {strain[row].tolist()}, not finite")
        return strain

    def _correct(self, strain: np.ndarray) -> Corrected:
        start = self.coefficients[0](self.box.scale(strain))
        corrector = self._magic if self.config.corrector == "magic" else self._newton
        return corrector(strain, start, self.config.corrections)

    def _blocks(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Homogenised stress and its slope, some strains at a time."""
        parts = [self._mean.with_slope(x[i : i + BLOCK]) for i in range(0, max(1, len(x)), BLOCK)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @cached_property
    def _mean(self) -> Coefficients:
        return self.coefficients[1].through(self.homogenise)

    @cached_property
    def _newton(self) -> Newton:
        return Newton(self.problem.material, self.modes)

    @cached_property
    def _magic(self) -> Magic:
        material = self.problem.material
        return Magic(material, tables(self.modes, self.sites, material), self.homogenise)


def from_state(config: EquiNO, state: Arrays, signature: Signature) -> EquinoModel:
    """The model that `EquinoModel.state` was taken of.

    Raises
    ------
    Invalid
        If arrays are missing or have other shapes than this configuration.
    """
    problem, counts = config.cell, config.counts
    points, components = problem.shape(problem.dual[0])
    wanted: dict[str, tuple[int, ...]] = {
        "modes.fluctuation": (*problem.shape(problem.unknown), counts[0]),
        "modes.strains": (points, components, counts[0]),
        "modes.stress": (points, components, counts[1]),
        "modes.weights": (points,),
        "modes.root": (points, components, components),
        "box.low": (components,),
        "box.high": (components,),
        "magic.places": (min(config.magic_points, points),),
        "magic.noise": (min(config.magic_points, points),),
    }
    for name, count in zip(SIDES, counts, strict=True):
        wanted |= {f"{name}.spread": (count,)}
        sizes = [components, *[config.width] * config.layers, count] if config.network else []
        for i, (a, b) in enumerate(pairwise(sizes)):
            wanted |= {f"{name}.weight.{i}": (b, a), f"{name}.bias.{i}": (b,)}
    _require(state, wanted, ("modes.points", "mesh", *(f"{n}.trend" for n in SIDES)))
    given = {name: np.asarray(values) for name, values in state.items()}
    metric = Metric(given["modes.root"], given["modes.weights"])
    modes = Modes(
        given["modes.fluctuation"],
        given["modes.strains"],
        given["modes.stress"],
        given["modes.points"],
        metric,
    )
    box = Box(given["box.low"], given["box.high"])
    sides = [_side(config, given, name) for name in SIDES]
    mesh = bytes(given["mesh"]).decode()
    sites = Sites(given["magic.places"], given["magic.noise"])
    return EquinoModel(config, signature, modes, box, (sides[0], sides[1]), sites, mesh)


def _side(config: EquiNO, given: Mapping[str, np.ndarray], name: str) -> Coefficients:
    net = None
    if config.network:
        every = range(config.layers + 1)
        weights, biases = ([given[f"{name}.{kind}.{i}"] for i in every] for kind in ("weight", "bias"))
        net = Perceptron(tuple(weights), tuple(biases))
    return Coefficients(Trend(given[f"{name}.trend"]), given[f"{name}.spread"], net)


def _require(state: Arrays, wanted: Mapping[str, tuple[int, ...]], others: tuple[str, ...]) -> None:
    wrong = [f"{name} is missing" for name in (*wanted, *others) if name not in state]
    for name, shape in wanted.items():
        if name in state and tuple(state[name].shape) != shape:
            wrong.append(f"{name} has the shape {tuple(state[name].shape)}, {shape} is needed")
    if wrong:
        raise Invalid(f"these arrays are not of this EquiNO and cell problem: {'; '.join(wrong[:5])}")
