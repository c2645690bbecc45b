"""The door to pyMOR: arrays keep their meaning, POD agrees, its regression is evaluated without it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow.errors import Invalid, Missing
from sciflow_rom.bases import pod
from sciflow_rom.coordinates import Coordinates
from sciflow_rom.regress import pymor_adapter as adapter
from sciflow_rom.regress.vkoga import PymorVKOGA

pytest.importorskip("pymor")
PLAIN = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_SIZE", "PYMOR_DEFAULTS"}


@given(st.integers(1, 9), st.integers(0, 5), st.booleans(), st.sampled_from(["f8", "f4", "i4"]))
@settings(max_examples=40, deadline=None)
def test_arrays_go_there_and_back(rows, columns, turned, dtype):
    matrix = np.random.default_rng(rows).integers(-9, 9, (columns, rows) if turned else (rows, columns))
    matrix = (matrix.T if turned else matrix).astype(dtype)
    vectors = adapter.to_vectors(matrix)
    assert (vectors.dim, len(vectors)) == matrix.shape
    np.testing.assert_array_equal(adapter.from_vectors(vectors), matrix)
    if columns:
        np.testing.assert_allclose(vectors[0].norm(), np.linalg.norm(matrix[:, 0].astype(float)), rtol=1e-14)


def test_what_comes_back_is_a_copy():
    vectors = adapter.to_vectors(np.eye(3))
    back = adapter.from_vectors(vectors)
    vectors.scal(2.0)
    assert back[0, 0] == 1.0


@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        (np.zeros(3), "a matrix"),
        (np.zeros((2, 2), complex), "real numbers"),
        (np.array([[1, np.nan], [1, 0]]), "1 vectors are not finite"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix, match):
    with pytest.raises(Invalid, match=match):
        adapter.to_vectors(matrix)


def test_pod_of_pymor_is_ours():
    """The same subspace and singular values in a weighted product, from the triangle alone."""
    from pymor.algorithms.pod import pod as theirs
    from pymor.core.logger import log_levels

    rng = np.random.default_rng(0)
    snapshots = rng.standard_normal((60, 20)) @ np.diag(0.5 ** np.arange(20)) @ rng.standard_normal((20, 20))
    root = np.linalg.cholesky(np.cov(rng.standard_normal((60, 90)))).T  # product = root^T root
    triangle = np.linalg.qr(root @ snapshots, mode="r")
    count = np.arange(20)
    basis = pod(Coordinates(triangle, count, count * 0 - 1, np.zeros((20, 1)), 1e-13), count, modes=6)
    ours = snapshots[:, basis.columns] @ basis.weights
    product = adapter.to_operator(root.T @ root)
    with log_levels({"pymor": "ERROR"}):
        vectors, sigma = theirs(adapter.to_vectors(snapshots), product=product, modes=6)
    modes = adapter.from_vectors(vectors)
    cosines = np.linalg.svd((root @ ours).T @ (root @ modes), compute_uv=False)
    assert np.sqrt(np.maximum(1 - cosines**2, 0)).max() < 1e-6
    np.testing.assert_allclose(basis.sigma[:6], sigma, rtol=1e-8)


# -- VKOGA -----------------------------------------------------------------------------------------


def cases(count=60, features=2, outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, features)) * np.logspace(0, 3, features) + 5
    z = (x - 5) / np.logspace(0, 3, features)
    y = np.stack([np.sin(2 * z[:, 0] + k) * np.exp(0.3 * z[:, -1]) * 10.0**-k for k in range(outputs)], 1)
    return x, y + 7


@pytest.mark.parametrize("criterion", ["fp", "f", "p"])
def test_the_prediction_is_that_of_pymor(criterion):
    from pymor.algorithms.ml.vkoga.kernels import GaussianKernel
    from pymor.algorithms.ml.vkoga.regressor import VKOGARegressor
    from pymor.core.logger import log_levels

    x, y = cases()
    ours = PymorVKOGA(centers=25, length=1.5, criterion=criterion, tolerance=1e-5).train(
        x, y, np.random.default_rng(0)
    )
    scaled = (x - x.mean(0)) / x.std(0)
    size = np.sqrt(((y - y.mean(0)) ** 2).sum(1).mean())
    with log_levels({"pymor": "ERROR"}):
        theirs = VKOGARegressor(GaussianKernel(1.5), criterion, 25, 1e-5).fit(scaled, (y - y.mean(0)) / size)
    new = cases(seed=1)[0]
    wanted = theirs.predict((new - x.mean(0)) / x.std(0)) * size + y.mean(0)
    np.testing.assert_allclose(ours.predict(new), wanted, rtol=1e-9)


def test_it_learns_and_is_chosen_a_length():
    x, y = cases(200)
    new, wanted = cases(seed=1)
    found = PymorVKOGA().train(x, y, np.random.default_rng(0))
    spread = np.linalg.norm(wanted - y.mean(0))
    assert np.linalg.norm(found.predict(new) - wanted) < 1e-3 * spread
    short = PymorVKOGA(length=0.1).train(x, y, np.random.default_rng(0))
    assert np.linalg.norm(short.predict(new) - wanted) > 0.1 * spread


def test_units_of_features_and_values_do_not_matter():
    x, y = cases()
    new = cases(seed=1)[0]
    rng = np.random.default_rng
    one = PymorVKOGA(length=2.0).train(x, y, rng(0)).predict(new)
    other = PymorVKOGA(length=2.0).train(x * [1e3, 1e-3] + 1, 1e6 * y, rng(0)).predict(new * [1e3, 1e-3] + 1)
    np.testing.assert_allclose(other, 1e6 * one, rtol=1e-4)


def test_equal_values_and_few_members_are_no_trouble():
    rng = np.random.default_rng(0)
    flat = PymorVKOGA().train(np.arange(3.0)[:, None], np.full((3, 2), 5.0), rng)
    np.testing.assert_array_equal(flat.predict(np.array([[1.0], [9.0]])), np.full((2, 2), 5.0))
    single = PymorVKOGA().train(np.ones((1, 1)), np.ones((1, 1)), rng)
    assert single.predict(np.ones((1, 1))) == 1.0
    with pytest.raises(Invalid, match="not finite"):
        PymorVKOGA().train(np.array([[np.nan]]), np.ones((1, 1)), rng)
    for wrong in ({"centers": 0}, {"tolerance": -1.0}, {"length": 0.0}):
        with pytest.raises(Invalid):
            PymorVKOGA(**wrong)


def run(program, *words, launcher=(), **environment):
    import os

    kept = {k: v for k, v in os.environ.items() if k not in PLAIN}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(
        [*launcher, sys.executable, "-c", program, *map(str, words)],
        env={**kept, **root, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_inference_needs_no_pymor_and_gives_the_same_bits(tmp_path):
    x, y = cases()
    found = PymorVKOGA(length=2.0).train(x, y, np.random.default_rng(0))
    np.savez(tmp_path / "state.npz", **found.state())
    np.save(tmp_path / "new.npy", x[:7])
    program = """
import sys
import numpy as np
for name in ("pymor", "scipy", "sklearn"):
    sys.modules[name] = None
from sciflow_rom.regress.vkoga import PymorVKOGA
state = dict(np.load(sys.argv[1] + "/state.npz", allow_pickle=False))
new = np.load(sys.argv[1] + "/new.npy")
np.save(sys.argv[1] + "/out.npy", PymorVKOGA().load(state).predict(new))
"""
    ran = run(program, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert np.load(tmp_path / "out.npy").tobytes() == found.predict(x[:7]).tobytes()
    with pytest.raises(Invalid, match="misses the arrays centers"):
        PymorVKOGA().load({k: v for k, v in found.state().items() if k != "centers"})


def test_nothing_of_it_is_imported_before_it_is_used():
    program = """
import sys
import sciflow_rom.components, sciflow_rom.regress.vkoga, sciflow_rom.regress.pymor_adapter
assert not [m for m in sys.modules if m.split(".")[0] in ("pymor", "mpi4py")]
"""
    ran = run(program)
    assert ran.returncode == 0, ran.stderr


def test_without_pymor_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymor", None)
    with pytest.raises(Missing, match=r"pip install 'sciflow\[pymor\]'"):
        adapter.to_vectors(np.eye(2))


# -- MPI -------------------------------------------------------------------------------------------

USE = """
import numpy as np
from sciflow.errors import Missing
from sciflow_rom.regress.pymor_adapter import from_vectors, to_vectors
try:
    print(f"WORKED {from_vectors(to_vectors(np.eye(2))).sum()}\\n", end="")
except Missing as error:
    print(f"REFUSED {error}\\n", end="")
"""
OFF = "d = {'pymor.tools.mpi.event_loop_settings.auto_launch': False}"


def test_one_of_several_ranks_is_refused(tmp_path):
    for environment in ({"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "3"}, {"PMIX_RANK": "1"}):
        ran = run(USE, **environment)
        assert "REFUSED pyMOR starts an event loop" in ran.stdout, ran.stderr
    assert "WORKED" in run(USE, OMPI_COMM_WORLD_SIZE="1").stdout
    note = tmp_path / "defaults.py"
    for text, used in (
        (OFF, True),
        (OFF.replace("False", "True"), False),
        ("d = {}", False),
        ("d = (", False),
    ):
        note.write_text(text)
        ran = run(USE, OMPI_COMM_WORLD_SIZE="2", PYMOR_DEFAULTS=str(note))
        assert ("WORKED" in ran.stdout) is used, ran.stderr


@pytest.mark.mpi
def test_two_ranks_end(tmp_path):
    """Without the refusal the second rank would wait in pyMOR's event loop for ever."""
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun")
    launcher = ("mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none")
    ran = run(USE, launcher=launcher)
    assert ran.stdout.count("REFUSED") == 2, ran.stderr
    note = tmp_path / "defaults.py"
    note.write_text(OFF)
    ran = run(USE, launcher=launcher, PYMOR_DEFAULTS=str(note))
    assert ran.stdout.count("WORKED 2.0") == 2, ran.stderr
