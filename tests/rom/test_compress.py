"""Compression: what is computed from R is what the snapshots say."""

import asyncio
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Context, Invalid, NotFound, Resources
from sciflow import run as run_stage
from sciflow.executors.mpi import Mpi
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow_rom.compress.compression import Compress, load_coordinates
from sciflow_rom.compress.factor import factorise
from sciflow_rom.compress.lifting import lift
from sciflow_rom.compress.products import Product
from sciflow_rom.compress.snapshots import Held, Snapshots
from tests.rom.ensembles import write
from tests.toys import March

METHODS = ["gram", "tsqr"]


def waves(members=7, levels=3, ny=5, nx=6, seed=0):
    return np.random.default_rng(seed).standard_normal((members, levels, ny, nx))


LINES = {"time": [0.0, 0.5, 2.0], "y": np.linspace(0, 1, 5), "x": np.linspace(0, 3, 6) ** 2}


def run(stage, ensemble, store, ctx=None):
    stage.check({"ensemble": ensemble})
    with store.writer(stage.output, "1" * 64) as out:
        stage.run({"ensemble": ensemble}, out, ctx or Context())
        return out.publish({})


@pytest.mark.parametrize("method", METHODS)
@given(
    rows=st.integers(1, 60), columns=st.integers(1, 12), block=st.integers(1, 4000), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_inner_products_of_the_factor_are_those_of_the_snapshots(method, rows, columns, block, seed):
    values = np.random.default_rng(seed).standard_normal((rows, columns))
    found = factorise(Held(values), method=method, block=block)
    assert found.triangle.shape == (min(rows, columns), columns)
    assert (np.tril(found.triangle, -1) == 0).all()
    assert (np.diagonal(found.triangle) >= 0).all()
    scale = np.linalg.norm(values, axis=0)
    error = (found.triangle.T @ found.triangle - values.T @ values) / scale / scale[:, None]
    assert np.abs(error).max() < 1e-12


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("columns", ["member", "level"])
@pytest.mark.parametrize("product", ["euclidean", "l2", "h1"])
def test_the_stage_keeps_the_inner_products_of_a_grid(store, dtype, columns, product):
    values = waves().astype(dtype)
    ensemble = write(store, values, ("time", "y", "x"), coordinates=LINES, dtype=dtype, failed=(2,))
    made = run(Compress(field="u", columns=columns, product=product), ensemble, store)
    coordinates = load_coordinates(made)
    good = np.delete(values.astype(float), 2, axis=0)
    expected = oracle(good, product, columns)
    np.testing.assert_allclose(coordinates.gram, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert set(coordinates.members) == {0, 1, 3, 4, 5, 6}
    assert coordinates.points.shape == (len(coordinates.members), 2)
    assert made.attributes["method"] == "gram"
    assert coordinates.floor > (5e-8 if dtype == "float32" else 1e-9)
    parts = [made.read(f"{n}_members") for n in ("train", "valid", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), [0, 1, 3, 4, 5, 6])


def oracle(values, product, columns):
    """By sums over intervals, without a matrix."""
    times, ys, xs = (np.asarray(LINES[a], dtype=float) for a in ("time", "y", "x"))

    def weights(line):
        gaps = np.diff(line)
        return (
            np.array(
                [(gaps[i - 1] if i else 0) + (gaps[i] if i < len(gaps) else 0) for i in range(len(line))]
            )
            / 2
        )

    w, wt = np.outer(weights(ys), weights(xs)), weights(times)
    if product == "euclidean":
        w, wt = np.ones_like(w), np.ones_like(wt)
    per_level = np.einsum("atyx,bsyx,yx->atbs", values, values, w)
    if product == "h1":
        for axis, line, other in ((2, ys, weights(xs)), (3, xs, weights(ys))):
            slopes = np.diff(values, axis=axis) / np.diff(line).reshape((-1, 1) if axis == 2 else (1, -1))
            area = np.outer(np.diff(line), other) if axis == 2 else np.outer(other, np.diff(line))
            per_level = per_level + np.einsum("atyx,bsyx,yx->atbs", slopes, slopes, area)
    if columns == "level":
        size = values.shape[0] * values.shape[1]
        return per_level.reshape(size, size)
    return np.einsum("atbt,t->ab", per_level, wt)


@pytest.mark.parametrize("method", METHODS)
def test_the_unit_of_the_snapshots_scales_the_factor_and_nothing_else(method):
    values = np.random.default_rng(3).standard_normal((200, 9)) * 10.0 ** np.arange(9)
    one = factorise(Held(values), method=method, block=3000)
    other = factorise(Held(values * 1024.0), method=method, block=3000)
    np.testing.assert_array_equal(other.triangle, one.triangle * 1024.0)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_members_permutes_inner_products(method):
    values = np.random.default_rng(4).standard_normal((300, 11))
    order = np.random.default_rng(5).permutation(11)
    one, other = (factorise(Held(v), method=method, block=2000).triangle for v in (values, values[:, order]))
    np.testing.assert_allclose(other.T @ other, (one.T @ one)[np.ix_(order, order)], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_snapshots_that_depend_on_each_other_are_no_trouble(method):
    base = np.random.default_rng(6).standard_normal((400, 3))
    values = np.concatenate([base, base @ np.ones((3, 4)), base[:, :1], 0 * base[:, :1]], axis=1)
    found = factorise(Held(values), method=method)
    sigma = np.linalg.svd(found.triangle, compute_uv=False)
    assert (sigma > found.floor * sigma[0]).sum() == 3
    np.testing.assert_allclose(found.triangle.T @ found.triangle, values.T @ values, atol=1e-9)


def deep(rows=3000, columns=128):
    """Singular values from 1 to 1e-24 in random directions."""
    rng = np.random.default_rng(0)
    sigma = np.logspace(0, -24, columns)
    left = np.linalg.qr(rng.standard_normal((rows, columns)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    return (left * sigma) @ right.T, sigma


def excess(values, triangle, modes=60):
    """Projection error on the first modes over the smallest there is."""
    _, sigma, right = np.linalg.svd(triangle)
    basis = np.linalg.qr(np.concatenate([v for _, v in lift(Held(values), right[:modes].T / sigma[:modes])]))[
        0
    ]
    return np.linalg.norm(values - basis @ (basis.T @ values))


def test_a_deep_spectrum_needs_orthogonal_transformations():
    values, sigma = deep()
    optimum = np.linalg.norm(sigma[60:])
    found = {m: factorise(Held(values), method=m) for m in METHODS}
    assert excess(values, found["tsqr"].triangle) <= 1.05 * optimum
    assert excess(values, found["gram"].triangle) > 2 * optimum
    for name, one in found.items():
        measured = np.linalg.svd(one.triangle, compute_uv=False)
        good = sigma > one.floor
        np.testing.assert_allclose(measured[good], sigma[good], rtol=0.05, err_msg=name)
        assert good.sum() == {"gram": 39, "tsqr": 78}[name], "the floor is where the method ends"


def test_the_tolerance_chooses_the_method():
    values = np.eye(4)
    assert [factorise(Held(values), tolerance=t).method for t in (1e-3, 1e-6, 1e-7)] == [
        "gram",
        "gram",
        "tsqr",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_two_blocks_and_a_few_small_matrices(store, method):
    members, count = 60, 40_000
    values = np.random.default_rng(0).standard_normal((members, 1, count))
    ensemble = write(store, values, ("time", "dof"))
    block = 2 << 20
    small = 8 * members**2
    snapshots = Snapshots(ensemble, "u", ensemble.members())
    factorise(snapshots, method=method, block=block)
    tracemalloc.start()
    factorise(snapshots, method=method, block=block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.nbytes > 9 * block
    assert peak < 2 * block + 3 * small


# -- kill and resume -----------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
from sciflow import Context, Invalid, NotFound, Resources
from sciflow import run as run_stage
from sciflow.executors.mpi import Mpi
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow_rom.compress import factor
from sciflow_rom.compress.lifting import lift
from sciflow_rom.compress.products import Product
from sciflow_rom.compress.snapshots import Held, Snapshots
factor.OFTEN = 0.0

def emit(event):
    if event["event"] == "progress" and event["done"] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

values = np.random.default_rng(8).standard_normal((900, 10))
kept, method = factor.Path(sys.argv[1]), sys.argv[3]
factor.factorise(Held(values), method=method, block=8000, ctx=Context(emit=emit), kept=kept)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_pass_goes_on_with_the_same_bits(tmp_path, method):
    values = np.random.default_rng(8).standard_normal((900, 10))
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path, "5", method], check=False, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    counted = Counted(values)
    found = factorise(counted, method=method, block=8000, kept=tmp_path)
    assert counted.blocks_read == 4, "five of nine blocks were kept"
    whole = factorise(Held(values), method=method, block=8000)
    assert found.triangle.tobytes() == whole.triangle.tobytes()


@pytest.mark.parametrize("change", ["values", "weights", "block", "torn"])
def test_a_checkpoint_of_something_else_is_not_taken(tmp_path, monkeypatch, change):
    monkeypatch.setattr("sciflow_rom.compress.factor.OFTEN", 0.0)
    values = np.random.default_rng(8).standard_normal((900, 10))
    one = Counted(values)
    one.identity = "one"
    factorise(one, method="gram", block=8000, kept=tmp_path)
    other, weights, block = Counted(values), None, 8000
    other.identity = "other" if change == "values" else "one"
    if change == "weights":
        weights = np.full(900, 2.0)
    if change == "block":
        block = 16000
    if change == "torn":
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-5])
    factorise(other, Product(weights=weights), method="gram", block=block, kept=tmp_path)
    assert other.blocks_read == (5 if change == "block" else 9)


class Counted(Held):
    """Counts the blocks that are read."""

    blocks_read = 0

    def look(self, rows, out):
        self.blocks_read += 1
        return super().look(rows, out)

    def read(self, rows, out=None):
        self.blocks_read += 1
        return super().read(rows, out)


def test_a_stage_that_was_interrupted_goes_on(store, monkeypatch):
    monkeypatch.setattr("sciflow_rom.compress.factor.OFTEN", 0.0)
    smaller = {**factorise.__kwdefaults__, "block": 1000}
    monkeypatch.setattr("sciflow_rom.compress.factor.factorise.__kwdefaults__", smaller)
    ensemble = write(store, waves(), ("time", "y", "x"), coordinates=LINES)
    stage, seen = Compress(field="u", tolerance=1e-9), []

    def stop(event):
        seen.append(event)
        if len(seen) == 3:
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        run(stage, ensemble, store, Context(emit=stop))
    reads = []
    read = Snapshots.read
    monkeypatch.setattr(Snapshots, "read", lambda *a: reads.append(a[1]) or read(*a))
    again = run(stage, ensemble, store)
    assert seen[-1]["total"] - 2 >= len(reads) >= seen[-1]["total"] - 3
    monkeypatch.undo()
    other = run(stage, ensemble, Store(store.root.parent / "other"))
    assert again.attributes["method"] == "tsqr"
    np.testing.assert_allclose(load_coordinates(again).triangle, load_coordinates(other).triangle, atol=1e-12)


# -- bad input -----------------------------------------------------------------------------------


def test_values_that_are_not_finite_name_their_members(store):
    for bad in (np.nan, np.inf):
        values = np.ones((4, 30))
        values[2, 17] = bad
        values[3, 18] = bad
        snapshots = Held(values.T)
        for method in METHODS:
            with pytest.raises(Invalid, match=r"members \[2, 3\] have values that are not finite"):
                factorise(snapshots, method=method, block=500)


def test_members_that_are_zero_everywhere_are_refused_but_not_single_levels(store):
    values = waves()
    values[:, 0] = 0
    ensemble = write(store, values, ("time", "y", "x"), coordinates=LINES)
    assert load_coordinates(run(Compress(field="u", columns="level"), ensemble, store)).norms[0] == 0
    values[[1, 5]] = 0
    for number, columns in enumerate(("member", "level")):
        other = Store(store.root.parent / f"zero-{number}")
        ensemble = write(other, values, ("time", "y", "x"), coordinates=LINES)
        with pytest.raises(Invalid, match=r"members \[1, 5\] \(2 in all\) are zero everywhere"):
            run(Compress(field="u", columns=columns), ensemble, other)


def test_numbers_beyond_the_range_of_squares_are_refused():
    with pytest.raises(Invalid, match="overflow"):
        factorise(Held(np.full((10, 3), 1e200)), method="gram")


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [
        (Compress(field="v"), NotFound, "no field 'v'. There is: .*u"),
        (Compress(field="status"), Invalid, "not stored member by member"),
        (Compress(field="u", product="l2"), Invalid, "none of which is one of space.*'euclidean' is"),
        (Compress(field="u", product="h1"), Invalid, "none of which is one of space"),
    ],
)
def test_fields_that_cannot_be_compressed_are_refused_before_anything_runs(store, stage, error, message):
    ensemble = write(store, np.ones((5, 3, 4)), ("time", "channel"), coordinates={"time": [0.0, 1.0, 2.0]})
    with pytest.raises(error, match=message):
        stage.check({"ensemble": ensemble})
    Compress(field="u", product="euclidean").check({"ensemble": ensemble})


def test_too_few_members_and_foreign_artifacts_are_refused(store):
    ensemble = write(store, np.ones((4, 3)), ("x",), coordinates={"x": [0.0, 1.0, 2.0]}, failed=(0, 1))
    with pytest.raises(Invalid, match="2 members with a result cannot be split"):
        Compress(field="u").check({"ensemble": ensemble})
    with pytest.raises(Invalid, match="a compression was asked for"):
        load_coordinates(ensemble)


@pytest.mark.parametrize("bad", [{"tolerance": 0.0}, {"tolerance": 2.0}, {"train": 1.0}, {"product": "l3"}])
def test_configurations_that_mean_nothing_are_refused(bad):
    with pytest.raises(Invalid):
        Compress(field="u", **bad)


# -- as a part of flows --------------------------------------------------------------------------


@pytest.mark.mpi
def test_a_flow_compresses_on_any_number_of_ranks_what_solvers_stored_in_their_own_order(tmp_path):
    async def flow(ranks):
        problem = March(points=9)
        design = await run_stage(Design(problem=problem, count=6))
        data = await run_stage(Simulate(problem, seed=1), design=design)
        stage = Compress(field="v", product="euclidean", tolerance=1e-9)
        executor, resources = Mpi() if ranks > 1 else None, Resources(ranks=ranks)
        return data, await run_stage(stage, ensemble=data, executor=executor, resources=resources)

    found = []
    for ranks in (1, 3):
        with within(Session(Store(tmp_path / str(ranks)))):
            data, made = asyncio.run(flow(ranks))
        assert data.attributes["numberings"]["v"]
        values = data.read("v").reshape(6, -1)
        coordinates = load_coordinates(made)
        np.testing.assert_allclose(coordinates.gram, values @ values.T, rtol=1e-12)
        assert coordinates.logarithmic == (False, True), "as the problem says"
        np.testing.assert_array_equal(coordinates.points, data.read("parameters"))
        assert made.attributes["ensemble"] == data.digest
        found.append(coordinates.triangle)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-12)
