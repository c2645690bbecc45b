"""Files of The Well and PDEBench train an operator on windows of time levels, from import to evaluation."""

import asyncio
import sys

import numpy as np
import pytest

from sciflow import run
from sciflow.flow import Session, within
from sciflow.formats import export, import_ensemble
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.rollout import Rollout
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from sciflow_spectral.components import Burgers, NavierStokes

if "dolfinx" in sys.modules:
    pytest.skip(
        "h5py and dolfinx bring different HDF5 libraries: run tests/formats alone", allow_module_level=True
    )
pytest.importorskip("h5py")
pytest.importorskip("torch")

LINE = Burgers(points=16, solve_points=64, levels=6, steps=20)
PLANE = NavierStokes(points=16, levels=6, end=1.0, steps=20)


@pytest.mark.parametrize(
    ("kind", "problem", "window"),
    [("the_well", PLANE, (1, 2)), ("pdebench", LINE, (2, 1))],
)
def test_an_imported_file_trains_an_operator(tmp_path, kind, problem, window):
    from sciflow_operators.fourier.fno import FNO

    (name,) = problem.fields

    async def flow():
        data = await run(
            Simulate(problem, seed=1), design=await run(Design(problem, count=12, fixed={"viscosity": 0.01}))
        )
        export(data, kind, tmp_path / "file.hdf5")
        imported = import_ensemble(tmp_path / "file.hdf5", None, Store(tmp_path / "store", "rename"))
        space = [a for a in problem.fields[name].axes if a != "time"]
        known = [n for n, f in imported.schema.fields.items() if f.axes == ("member", "time", *space)]
        assert len(known) == 1
        fno = FNO(modes=4, width=8, layers=2, epochs=4, batch=4, learning_rate=1e-2)
        train = Train(fno, tuple(known), tuple(known), train=0.6, valid=0.1, window=window)
        model = await run(train, ensemble=imported)
        score = await run(Evaluate(), model=model, ensemble=imported, training=imported)
        path = await run(Rollout(), model=model, ensemble=imported)
        return data, imported, model, score, path

    with within(Session(Store(tmp_path / "runs"))):
        data, imported, model, score, path = asyncio.run(flow())
    assert set(imported.attributes["periodic"]) == set(data.attributes["periodic"]) or kind == "pdebench"
    assert model.attributes["window"] == list(window)
    error = score.read("relative_l2")
    assert len(error) == len(model.read("test_members")) * (6 - sum(window) + 1)
    assert np.isfinite(error).all()
    assert np.median(error) < 1.0
    assert path.read("relative_l2").shape == (len(model.read("test_members")), 6 - window[0])
