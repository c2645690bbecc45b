"""Compression: what is computed from R is what the snapshots say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Context
from sciflow_rom.compression import Compress, load_coordinates
from sciflow_rom.factor import factorise
from sciflow_rom.snapshots import Held
from tests.rom.ensembles import write

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
