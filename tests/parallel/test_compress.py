"""Snapshots whose rows are spread over ranks give the factor that one process finds; also on one rank."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from sciflow import Context, Failed, Invalid
from sciflow.artifact import Artifact
from sciflow.artifact.writer import Writer
from sciflow.context import exchange
from sciflow.store import Store
from sciflow.worker import communicator
from sciflow_rom.compress.compression import Compress
from sciflow_rom.compress.factor import factorise
from sciflow_rom.compress.lifting import inner_products, lift
from sciflow_rom.compress.metrics import grid, product_of
from sciflow_rom.compress.products import Product, of_matrix
from sciflow_rom.compress.snapshots import Held, Snapshots
from tests.rom.ensembles import write

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
METHODS = ["gram", "tsqr"]


@pytest.fixture
def shared(tmp_path):
    """Rank 0's directory, on every rank."""
    return Path(exchange(COMM, str(tmp_path))[0])


def ensemble(root, values, axes, **more):
    """One that rank 0 wrote, opened on all."""
    if RANK == 0:
        write(Store(root / "store"), values, axes, **more)
    COMM.barrier()
    (path,) = (root / "store" / "artifacts").iterdir()
    return Artifact.open(path)


def bits(values):
    """Digests of every rank's array."""
    return set(exchange(COMM, hashlib.sha256(values.tobytes()).hexdigest()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "columns"), [(400, 12), (7, 12), (1, 3), (2, 2), (64, 1)])
def test_the_ranks_find_what_one_process_finds(method, rows, columns):
    values = np.random.default_rng(0).standard_normal((rows, columns))
    together = factorise(Held(values, COMM), method=method, block=1500).triangle
    alone = factorise(Held(values), method=method, block=1500).triangle
    assert together.shape == (min(rows, columns), columns)
    np.testing.assert_allclose(together, alone, atol=1e-12)
    assert len(bits(together)) == 1, "the same bits on every rank"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["grid", "matrix", "weights"])
def test_products_reach_over_the_borders_of_ranks(method, kind):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((3 * 60, 8))
    times = np.array([0.5, 1.0, 0.25])
    product = {
        "grid": lambda: grid(
            [(np.linspace(0, 1, 6), False), (np.arange(10.0), True)], gradient=True, times=times
        ),
        "weights": lambda: of_matrix(rng.uniform(1, 2, 60), times),
        "matrix": lambda: of_matrix(scrambled(60), times),
    }[kind]()
    snapshots = Held(values, COMM, stacked=3)
    found = factorise(snapshots, product, method=method, block=2000).triangle
    whole = np.kron(np.diag(times), product.dense())
    expected = values.T @ whole @ values
    np.testing.assert_allclose(found.T @ found, expected, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(
        inner_products(snapshots, product, np.eye(8)), expected, atol=1e-10 * np.abs(expected).max()
    )


def scrambled(count):
    band = sparse.diags(
        [np.full(count, 2.5), np.full(count - 1, -1.0), np.full(count - 1, -1.0)], [0, 1, -1]
    ).tocsr()
    order = np.random.default_rng(0).permutation(count)
    return band[order][:, order]


@pytest.mark.parametrize("levels", [1, 5])
@pytest.mark.parametrize("columns", ["member", "level"])
def test_each_rank_reads_its_rows_and_every_chunk_is_checked_by_one(shared, monkeypatch, levels, columns):
    values = np.random.default_rng(0).standard_normal((6, levels, 1000))
    data = ensemble(
        shared, values, ("time", "x"), coordinates={"time": np.arange(levels), "x": np.arange(1000.0)}
    )
    snapshots = Snapshots(data, "u", np.arange(6), columns, COMM)
    checked = []
    monkeypatch.setattr(
        "sciflow.artifact.gather.Gather._check",
        lambda self, member, shard, start: checked.append((member, start)),
    )
    product = product_of(data, "u", "l2", columns)
    found = factorise(snapshots, product, block=20_000).triangle
    everyone = [{tuple(c) for c in json.loads(text)} for text in exchange(COMM, json.dumps(checked))]
    assert len(checked) == len(set(checked))
    if levels == 1:
        assert sum(map(len, everyone)) == 6 * levels, "once each"
    assert len(set.union(*everyone)) == 6 * levels
    if SIZE > 1:
        assert max(map(len, everyone)) < 6 * levels, "not all by one rank"
    flat = values.reshape(6, -1) if columns == "member" else values.reshape(-1, 1000)
    weights = np.tile(np.r_[0.5, np.ones(998), 0.5], levels if columns == "member" else 1)
    if columns == "member" and levels > 1:
        weights *= np.repeat(np.r_[0.5, np.ones(levels - 2), 0.5], 1000)
    np.testing.assert_allclose(found.T @ found, (flat * weights) @ flat.T, rtol=1e-9, atol=1e-6)


def test_the_stage_writes_what_one_process_writes(shared):
    values = np.random.default_rng(2).standard_normal((6, 3, 4, 5))
    lines = {"time": [0.0, 1.0, 2.0], "y": np.arange(4.0), "x": np.arange(5.0)}
    data = ensemble(shared, values, ("time", "y", "x"), coordinates=lines)
    stage = Compress(field="u", product="h1", tolerance=1e-9)
    stage.check({"ensemble": data})
    with contextlib.ExitStack() as stack:
        # As in a job: the driver has begun the artifact, every rank has a writer, the first one uses it.
        driver = Store(shared / "made").writer(stage.output, "0" * 64)
        writer = stack.enter_context(driver) if RANK == 0 else None
        path = Path(exchange(COMM, "" if writer is None else str(writer.path))[0])
        stage.run({"ensemble": data}, Writer(path, stage.output, recipe=""), Context(comm=COMM))
        if writer is not None:
            writer.refresh()
            together = writer.publish({})
    if RANK == 0:
        with Store(shared / "alone").writer(stage.output, "0" * 64) as out:
            stage.run({"ensemble": data}, out, Context())
            alone = out.publish({})
        for name in stage.output:
            np.testing.assert_allclose(together.read(name), alone.read(name), atol=1e-12)
        assert together.attributes == alone.attributes


def test_what_other_ranks_lift_are_the_same_modes():
    """The weights come from one process; the rows are lifted by however many there are."""
    values = np.random.default_rng(3).standard_normal((333, 9))
    triangle = factorise(Held(values)).triangle
    _, sigma, right = np.linalg.svd(triangle)
    weights = right[:4].T / sigma[:4]
    snapshots = Held(values, COMM)
    for rows, modes in lift(snapshots, weights, block=3000):
        np.testing.assert_allclose(modes, (values @ weights)[rows], atol=1e-12)
    assert np.abs(inner_products(snapshots, Product(), weights) - np.eye(4)).max() < 1e-12
    counts = [int(t) for t in exchange(COMM, str(sum(r.stop - r.start for r, _ in lift(snapshots, weights))))]
    assert sum(counts) == 333


def test_a_bad_value_on_one_rank_ends_the_pass_on_all():
    values = np.ones((100, 5)) + np.eye(100, 5)
    values[-1, 3] = np.nan
    expected = Invalid if RANK == SIZE - 1 else Failed
    with pytest.raises(expected, match=r"members \[3\] have values that are not finite"):
        factorise(Held(values, COMM), block=400)


@pytest.mark.parametrize("method", METHODS)
def test_ranks_that_kept_different_blocks_go_on_together(shared, monkeypatch, method):
    monkeypatch.setattr("sciflow_rom.compress.factor.OFTEN", 0.0)
    values = np.random.default_rng(4).standard_normal((400, 6))
    whole = factorise(Held(values, COMM), method=method, block=960).triangle

    def stop(event):
        if event["done"] == 4:
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        factorise(
            Held(values, COMM), method=method, block=960, ctx=Context(comm=COMM, emit=stop), kept=shared
        )
    COMM.barrier()
    if RANK == SIZE - 1:
        (file,) = shared.glob(f"compress-{RANK:05d}*")
        file.unlink()
    again = factorise(Held(values, COMM), method=method, block=960, kept=shared).triangle
    assert again.tobytes() == whole.tobytes()


def test_a_petsc_matrix_that_is_spread_over_the_ranks():
    petsc = pytest.importorskip("petsc4py.PETSc")
    matrix = scrambled(41)
    first, last = 41 * RANK // SIZE, 41 * (RANK + 1) // SIZE
    own = matrix[first:last]
    comm = petsc.COMM_WORLD if SIZE > 1 else petsc.COMM_SELF
    made = petsc.Mat().createAIJ(
        ((last - first, 41), (last - first, 41)), csr=(own.indptr, own.indices, own.data), comm=comm
    )
    made.assemble()
    np.testing.assert_allclose(of_matrix(made, comm=COMM).dense(), matrix.toarray())
