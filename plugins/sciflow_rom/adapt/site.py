"""Where local models are changed: a ROM-net, what it was made of, and the mesh that it lives on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.adapt.incremental import Inner
from sciflow_rom.net.assembly import Assembler
from sciflow_rom.net.online_slice import RomModel
from sciflow_rom.net.tables import LocalModel

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.reduction import Integrals, Reducible
    from sciflow_rom.compress.products import Product
    from sciflow_rom.net.romnet import RomNet
    from sciflow_rom.net.space import Space
    from sciflow_rom.regress.selectors import Selector


class Site:
    """A ROM-net on the ranks of a context; making it is collective.

    Parameters
    ----------
    model : Artifact
        With a ROM-net.
    ensemble, compression : Artifact
        That it was made of.
    ctx : Context
        Ranks that share the mesh.

    Attributes
    ----------
    members : ndarray of int64, shape (member,)
        Those of the ensemble that are in the bases.
    matrix : sparse matrix, shape (dof, dof), or None
        Of the inner product; None for the Euclidean one.

    Raises
    ------
    Invalid
        If the mesh is not that of the model.
    """

    def __init__(self, model: Artifact, ensemble: Artifact, compression: Artifact, ctx: Context) -> None:
        from sciflow.stages.train import load_model
        from sciflow_rom.compress.compression import load_coordinates
        from sciflow_rom.compress.metrics import product_of

        opened = load_model(model)
        assert isinstance(opened, RomModel)
        self.artifact, self.ctx = model, ctx
        self.model: RomModel = opened
        self.rom: RomNet = opened.config
        self.problem: Reducible = opened.problem
        about = compression.attributes
        self.matrix = matrix_of(product_of(ensemble, about["field"], about["product"], "level"))
        self.members = np.setdiff1d(model.read("train_members"), model.read("calibration_members"))
        known = load_coordinates(compression).of(self.members)
        self.assembler = Assembler(self.problem, ensemble, known, ctx)
        self.integrals: Integrals = self.assembler.integrals
        if self.integrals.mesh != opened.mesh:
            raise Invalid(f"{model.path} was built on the mesh {opened.mesh}, this is {self.integrals.mesh}")

    @property
    def inner(self) -> Inner:
        """Inner products of whole columns."""
        matrix = self.matrix
        return lambda a, b: np.asarray(a.T @ (b if matrix is None else matrix @ b))

    def norm(self, columns: np.ndarray) -> float:
        """Norm of all columns, shape (row, column), together."""
        return float(np.sqrt(np.trace(self.inner(columns, columns))))

    def columns(self, artifact: Artifact, member: int) -> np.ndarray:
        """The unknown of a member, shape (dof, step)."""
        steps = np.arange(self.assembler.steps)
        gather = artifact.gather(self.problem.unknown)
        found = gather.read(np.full(len(steps), member), steps)
        return np.asarray(found.reshape(len(steps), -1).T, dtype=np.float64)

    def dual(self, artifact: Artifact, name: str, member: int) -> np.ndarray:
        """A dual field of a member at some of its steps, shape (point * component, step)."""
        every = max(1, self.assembler.steps // 16)
        steps = np.arange(self.assembler.steps - 1, -1, -every)[::-1]
        found = artifact.gather(name).read(np.full(len(steps), member), steps)
        return np.asarray(found.reshape(len(steps), -1).T, dtype=np.float64)

    def duals(self, artifact: Artifact, member: int) -> dict[str, np.ndarray]:
        """All dual fields of a member."""
        return {name: self.dual(artifact, name, member) for name in self.problem.dual}


def matrix_of(product: Product) -> Any:
    """A product of positions as a sparse matrix; None for the identity."""
    from scipy import sparse

    if product.weights is not None:
        return sparse.diags(product.weights).tocsr()
    if product.matrix is not None:
        return product.matrix
    return None if product.given is None else (product.given.T @ product.given).tocsr()


def answering(
    model: RomModel, local: list[LocalModel], selector: Selector, state: Mapping[str, np.ndarray],
    space: Space | None = None,
) -> RomModel:  # fmt: skip
    """A model with other local models, whose estimates are the bare indicators.

    Parameters
    ----------
    model : RomModel
        That it was made of.
    local : list of LocalModel
    selector : Selector
    state : mapping of str to ndarray
        Of its ranker.
    space : Space or None
        Another one than that of the model.
    """
    from sciflow_rom.net.indicator import Calibration

    bare = Calibration(1.0, 1.0, model.calibration.coverage, 0)
    config = model.config.replace(selector=selector)
    ranker = selector.load(state)
    return RomModel(config, model.signature, local, ranker, space or model.space, bare, model.mesh)
