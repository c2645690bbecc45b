import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow import Context, Diverged, Invalid, report, run
from sciflow.executors.mpi import Mpi, environment
from sciflow.homogenisation import Homogenised
from sciflow.registry import Plugin, registry
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import RVE, CookMembrane, PerforatedPlate, TwoScale, TwoScaleComparison
from sciflow_fenics.composite import FIBRE, MATRIX, Composite
from sciflow_fenics.macro import TOLERANCE, Macro
from sciflow_fenics.structures import Structure
from tests.toys import Least

TINY = RVE(cells=4)


class Exact(Homogenised):
    """The law of one phase, its tangents wrong by a factor if asked for."""

    def __init__(self, factor=1.0, inside=False):
        self.factor, self.inside = factor, inside

    def respond(self, strain):
        law = Composite(np.full(len(strain), self.inside), MATRIX, FIBRE)
        stress, tangent, _ = law(strain, np.zeros((len(strain), 0)), 0)
        return stress, self.factor * tangent


class Linear(Homogenised):
    """A constant stiffness."""

    def __init__(self, stiffness):
        self.stiffness = np.asarray(stiffness, dtype=float)

    def respond(self, strain):
        return strain @ self.stiffness.T, np.broadcast_to(self.stiffness, (len(strain), 3, 3)).copy()


@dataclass(frozen=True)
class Block(Structure):
    """A square, held along its left and lower edges, pulled to the right."""

    name: ClassVar[str] = "block"
    cells: int = 4

    def corners(self):
        line = np.linspace(0.0, 2.0, self.cells + 1)
        return np.stack(np.meshgrid(line, line), axis=-1)

    def fixed(self):
        found = np.zeros((2 * self.cells + 1, 2 * self.cells + 1, 2), dtype=bool)
        found[:, 0, 0] = found[0, :, 1] = True
        return found.reshape(-1)

    def load(self):
        turned = CookMembrane(self.cells).load().reshape(2 * self.cells + 1, -1, 2)
        return turned[..., ::-1].reshape(-1)


def marched(structure, law, forces):
    macro = Macro(structure, Context())
    return macro, list(macro.march(law, np.asarray(forces, dtype=float)))


def test_a_uniform_pull_strains_a_nonlinear_block_uniformly():
    _, (_, step) = marched(Block(), Exact(), [20.0, 60.0])
    np.testing.assert_allclose(step.stress, np.broadcast_to([30.0, 0.0, 0.0], step.stress.shape), atol=1e-6)
    np.testing.assert_allclose(step.strain, np.broadcast_to(step.strain[0], step.strain.shape), atol=1e-9)
    np.testing.assert_allclose(Exact().respond(step.strain)[0], step.stress, atol=1e-9)
    assert step.displacement == pytest.approx(2 * step.strain[0, 0], rel=1e-8)


def test_cooks_membrane_comes_down_where_the_literature_says():
    """Plane stress, E = 1, a third, force 1: 23.96 at the middle of the loaded edge."""
    stiffness = 9 / 8 * np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1 / 3]])
    found = []
    for cells in (4, 8, 16):
        macro, (step,) = marched(CookMembrane(cells), Linear(stiffness), [1.0])
        u = macro.whole(macro.form.rows, step.u, 2 * (2 * cells + 1) ** 2).reshape(2 * cells + 1, -1, 2)
        found.append(u[cells, -1, 1])
    assert found[-1] == pytest.approx(23.96, rel=2e-3)
    assert abs(found[1] - found[2]) < abs(found[0] - found[2]) / 2


@pytest.mark.parametrize("structure", [CookMembrane(4), PerforatedPlate(4)], ids=["cook", "plate"])
def test_the_force_does_the_work_that_the_stresses_do(structure):
    macro, steps = marched(structure, Exact(), [30.0, 60.0])
    for force, step in zip([30.0, 60.0], steps, strict=True):
        work = np.einsum("q,qc,qc->", macro.form.weights, step.stress, step.strain)
        assert work == pytest.approx(force * step.displacement, rel=1e-7)


def orders(residuals):
    """Exponents of convergence while the residual is neither far away nor at rounding."""
    r = np.array([v for v in residuals if 1e-12 < v < 0.4])
    return np.log(r[2:] / r[1:-1]) / np.log(r[1:-1] / r[:-2])


def test_newtons_method_is_quadratic_with_the_exact_tangent_alone():
    good = marched(CookMembrane(4), Exact(), [60.0])[1][0]
    poor = marched(CookMembrane(4), Exact(1.3), [60.0])[1][0]
    assert good.residuals[-1] < TOLERANCE
    assert orders(good.residuals).max() > 1.7, good.residuals
    assert len(good.residuals) < len(poor.residuals)
    assert orders(poor.residuals)[-1] < 1.3, poor.residuals
    np.testing.assert_allclose(good.u, poor.u, atol=1e-6 * np.abs(good.u).max())


def test_cells_of_one_material_make_the_structure_of_that_material():
    cell = TINY.replace(fibres=())
    _, exact = marched(CookMembrane(2), Exact(), [20.0, 40.0])
    _, found = marched(CookMembrane(2), cell.direct(), [20.0, 40.0])
    for one, other in zip(exact, found, strict=True):
        np.testing.assert_allclose(other.u, one.u, atol=1e-9 * np.abs(one.u).max())
        assert len(one.residuals) == len(other.residuals)


def test_the_cell_in_the_structure_keeps_newtons_method_quadratic():
    _, steps = marched(CookMembrane(2), TINY.direct(), [60.0, 120.0])
    for step in steps:
        assert orders(step.residuals).max() > 1.7, step.residuals
        assert step.calls == 24 * len(step.residuals)


class Spoilt(Exact):
    """Has no usable answer at its last point beyond a strain."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def respond(self, strain):
        stress, tangent = super().respond(strain)
        far = np.abs(strain).max(axis=1) > 0.005
        far[:-1] = False
        self.last = strain[-1]
        if self.how == "nan":
            stress[far] = np.nan
        else:
            tangent[far] *= -1
        return stress, tangent


@pytest.mark.parametrize(("how", "words"), [("nan", "not finite"), ("soft", "not positive definite")])
def test_a_law_without_a_usable_answer_ends_with_step_point_and_strain(how, words):
    text = rf"load step 3 of 3, 60 N/mm: the law gives .*{words}.* at point \d+ \(x = .*strain \(-?\d"
    law = Spoilt(how)
    with pytest.raises(Diverged, match=text) as caught:
        marched(CookMembrane(2), law, [5.0, 10.0, 60.0])
    named = [float(v) for v in str(caught.value).split("strain (")[1].rstrip(")").split(",")]
    np.testing.assert_allclose(named, law.last, rtol=1e-3)


def test_forces_beyond_what_the_material_carries_end_with_a_reason():
    with pytest.raises(Diverged, match=r"load step 1 of 1, 1e\+05 N/mm"):
        marched(CookMembrane(2), Exact(), [1e5])


class Fitted(Linear):
    """The line that a toy surrogate fitted, as a law."""

    def __init__(self, line):
        super().__init__(line.weights[:3].T)
        self.line = line

    def bounds(self):
        return np.array([[-0.001, 0.001]] * 3)


@dataclass(frozen=True)
class Stage(TwoScale):
    """With small defaults."""

    structure: Structure = CookMembrane(2)
    cell: RVE = TINY
    force: float = 40.0
    steps: int = 2


async def learned(problem=TINY):
    points = await run(Design(problem=problem, count=12, seed=0))
    data = await run(Simulate(problem), design=points)
    stage = Train(Least(), tuple(problem.parameters), ("homogenised",), train=0.7, valid=0.1)
    return await run(stage, ensemble=data)


def test_a_model_stands_in_for_the_cell_and_is_compared_with_it(plain, monkeypatch):
    from sciflow.stages.train import load_model

    monkeypatch.setattr("sciflow_fenics.two_scale.load_model", lambda a: Fitted(load_model(a)))

    async def flow():
        model = await learned()
        full, fast = await run(Stage()), await run(Stage(), model=model)
        both = await run(TwoScaleComparison(), reference=full, other=fast)
        same = await run(TwoScaleComparison(), reference=full, other=full)
        with pytest.raises(Invalid, match="give one without a model as the reference"):
            await run(TwoScaleComparison(), reference=fast, other=full)
        return full, fast, both, same, await report("Two scales", both, full, fast)

    full, fast, both, same, page = asyncio.run(flow())
    assert full.attributes["model"] is None
    assert full.attributes["law"] == "rve"
    assert fast.attributes["law"] == "toy_least"
    force, moved = full.read("force"), full.read("displacement")
    np.testing.assert_array_equal(force, [20.0, 40.0])
    assert 0 < moved[0] < moved[1] - moved[0]  # softer the further
    assert full.read("u").shape == (2, 50)
    assert full.read("stress").shape == full.read("strain").shape == (2, 24, 3)
    assert full.read("outside").tolist() == [0, 0]
    beyond = (np.abs(fast.read("strain")) > 0.001).any(axis=2).sum(axis=1)
    np.testing.assert_array_equal(fast.read("outside"), beyond)
    assert beyond[-1] > 0
    said = " ".join(event["message"] for _, event in plain.events if event["event"] == "log")
    assert f"{beyond[-1]} of 24 points are strained beyond what the model was made for" in said
    gap = np.abs(fast.read("displacement") - moved) / moved[-1]
    np.testing.assert_allclose(both.read("curve_error"), gap)
    exact, found = full.read("stress"), fast.read("stress")
    np.testing.assert_allclose(
        both.read("stress_error")[-1], np.linalg.norm(found[-1] - exact[-1]) / np.linalg.norm(exact[-1])
    )
    assert both.attributes["calls"]["reference"] == full.read("calls").sum() > 0
    assert set(both.attributes["offline"]) == {"design", "ensemble", "model"}
    assert not same.read("u_error").any()
    text = page.read_text()
    for words in (
        "The curves differ by at most",
        "rve solved at every point",
        "toy_least answered by a model",
    ):
        assert words in text


def test_models_and_computations_that_do_not_fit_are_refused(plain):
    async def flow():
        model = await learned()
        with pytest.raises(Invalid, match="'toy_least' gives no stresses and tangents"):
            await run(Stage(), model=model)
        one, other = await run(Stage(steps=1)), await run(Stage(steps=1, force=30.0))
        with pytest.raises(Invalid, match="were loaded by different forces"):
            await run(TwoScaleComparison(), reference=one, other=other)
        wide = await run(Stage(steps=1, cell=TINY.replace(cells=5)))
        with pytest.raises(Invalid, match="differ in their cell"):
            await run(TwoScaleComparison(), reference=one, other=wide)

    asyncio.run(flow())


def test_equino_with_a_reduced_newton_step_carries_the_curve_of_the_cell(plain):
    """The plugins meet in the core: a cell of this one, a model of the other."""
    pytest.importorskip("torch")
    from sciflow_operators.components import EquiNO

    cell = RVE(cells=6)
    net = EquiNO(
        problem=cell,
        modes=8,
        width=16,
        layers=1,
        epochs=2,
        polish=0,
        points=32,
        loss_points=0,
        corrector="newton",
        magic_points=16,
        degree=2,
        threads=1,
    )

    async def flow():
        points = await run(Design(problem=cell, count=24, seed=1))
        data = await run(Simulate(cell), design=points)
        stage = Train(net, cell.components, ("fluctuation", "homogenised"), train=0.8, valid=0.1)
        model = await run(stage, ensemble=data)
        computation = Stage(cell=cell, force=80.0)
        fast, full = await run(computation, model=model), await run(computation)
        return fast, await run(TwoScaleComparison(), reference=full, other=fast)

    fast, both = asyncio.run(flow())
    assert fast.attributes["law"] == "equino"
    assert both.read("curve_error").max() < 0.005
    assert max(fast.read("newton")) <= 5


class Artefact:
    """A model artifact as far as the check looks."""

    path, digest = Path("somewhere"), "0"

    def __init__(self, cell):
        from sciflow.stages.train import MODEL

        self.schema = MODEL
        self.attributes = {"surrogate": {"component": "equino", "problem": cell.to_json()}}


def test_a_model_of_another_cell_is_refused():
    Stage().check({"model": Artefact(TINY)})
    with pytest.raises(Invalid, match="a model of another cell: packing_seed, volume_fraction differ"):
        Stage().check({"model": Artefact(TINY.replace(volume_fraction=0.2, packing_seed=1))})


@dataclass(frozen=True)
class Foam(RVE):
    """A cell of another kind."""

    name: ClassVar[str] = "toy_foam"


def test_a_model_of_another_kind_of_cell_is_refused():
    registry().add(Foam, Plugin("tests", __name__, "tests", "0"))
    try:
        with pytest.raises(Invalid, match="a model of another cell: component differ"):
            Stage().check({"model": Artefact(Foam(cells=4))})
    finally:
        del registry()._classes["problem", Foam.name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoScale(force=0.0), "the force must be finite and not zero"),
        (lambda: TwoScale(steps=0), "steps must be a whole number"),
        (lambda: CookMembrane(3), "cells must be even"),
        (lambda: PerforatedPlate(hole=60.0), "the hole must fit into the plate"),
        (lambda: TwoScale.from_json({"component": "two_scale", "cell": {"component": "darcy"}}), "cell"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()


def test_the_default_computation_is_described_by_json():
    stage = TwoScale()
    assert TwoScale.from_json(json.loads(json.dumps(stage.to_json()))) == stage


@pytest.mark.mpi
def test_ranks_share_the_structure_and_agree(tmp_path):
    script = Path(__file__).with_name("two_scale_ranks.py")
    found = []
    for ranks in (1, 2):
        command = Mpi().command(ranks)
        command = [*command[: command.index(sys.executable)], sys.executable, str(script)]
        file = tmp_path / f"{ranks}.npz"
        done = subprocess.run(
            [*command, file],
            env=environment(1, ranks),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with np.load(file, allow_pickle=False) as data:
            found.append({name: data[name] for name in data.files})
        assert "load step 1 of 1, 60 N/mm: the law gives" in str(found[-1].pop("failure"))
    for name, values in found[0].items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(found[1][name], values, rtol=0, atol=1e-8 * scale, err_msg=name)
