"""The solver's own error: what is compared, on which points, and what is refused."""

import asyncio

import numpy as np
import pytest

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.stages.convergence import Convergence, shared
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow_spectral.two_phase import TwoPhaseDarcy
from tests.toys import Wave


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    with within(session):
        yield session


async def simulated(problem, count=4, noise=1, **settings):
    return await run(
        Simulate(problem, seed=noise, minimum=0.5), design=await run(Design(problem, count=count, **settings))
    )


def test_members_are_compared_on_the_points_that_both_grids_have():
    async def flow():
        fixed = {"source": 1.0}
        coarse = await simulated(TwoPhaseDarcy(points=9, solve_points=9, modes=8), fixed=fixed)
        fine = await simulated(TwoPhaseDarcy(points=17, solve_points=33, modes=8), fixed=fixed)
        found = await run(Convergence(("pressure",), batch=3), ensemble=coarse, finer=fine)
        return coarse, fine, found, await report("Floor", found, coarse)

    coarse, fine, found, page = asyncio.run(flow())
    a, b = coarse.read("pressure"), fine.read("pressure")[:, ::2, ::2]
    expected = [np.linalg.norm(p - q) / np.linalg.norm(q) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.read("relative_l2"), expected, rtol=1e-6)
    assert 0 < max(expected) < 0.2
    assert found.attributes["points"] == {"y": 9, "x": 9}
    assert found.read("members").tolist() == [0, 1, 2, 3]
    assert "error of the solver itself, pressure" in page.read_text()


def test_a_solver_that_is_exact_has_no_error_of_its_own():
    async def flow():
        coarse, fine = await simulated(Wave(points=5)), await simulated(Wave(points=9))
        return await run(Convergence(("u[-1]",)), ensemble=coarse, finer=fine)

    assert asyncio.run(flow()).read("relative_l2").max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "their parameters differ; give both the same design"),
        ({"noise": 2}, "their seed differ; give both the same seed"),
        ({"count": 5}, "their parameters differ"),
        ({"points": 6}, None),
    ],
)
def test_other_members_are_no_finer_ones(changes, message):
    changes = dict(changes)

    async def flow():
        points = changes.pop("points", 9)
        coarse, fine = await simulated(Wave(points=5)), await simulated(Wave(points=points), **changes)
        return await run(Convergence(("u[-1]",)), ensemble=coarse, finer=fine)

    if message is None:  # the ends of the interval are all that 5 and 6 points share
        assert asyncio.run(flow()).attributes["points"] == {"x": 2}
        return
    with pytest.raises(Invalid, match=message):
        asyncio.run(flow())


def test_members_that_failed_in_one_of_the_two_are_left_out():
    async def flow():
        coarse = await simulated(Wave(points=5, fail="diverge", above=1.5), count=8)
        fine = await simulated(Wave(points=9), count=8)
        return coarse, await run(Convergence(("u",)), ensemble=coarse, finer=fine)

    coarse, found = asyncio.run(flow())
    good = np.flatnonzero(coarse.read("status") == 1)
    assert 0 < len(good) < 8
    assert found.read("members").tolist() == good.tolist()


def test_ensembles_without_a_member_in_common_are_refused():
    async def flow():
        design = await run(Design(Wave(), count=3))
        none = Wave(points=9, fail="diverge", above=0.0)
        coarse = await run(Simulate(Wave(points=5), seed=1), design=design)
        fine = await run(Simulate(none, seed=1, minimum=0.0), design=design)
        await run(Convergence(("u",)), ensemble=coarse, finer=fine)

    with pytest.raises(Invalid, match="have no member that ended well in both"):
        asyncio.run(flow())


def test_points_in_common_are_found_whatever_the_grids():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pool = np.cumsum(rng.random(30) + 0.01)
        a, b = (np.sort(rng.choice(pool, rng.integers(1, 20), replace=False)) for _ in range(2))
        common = np.intersect1d(a, b)
        if not len(common):
            with pytest.raises(Invalid, match="no point of 'x' in common"):
                shared("x", a, b)
            continue
        ours, theirs = shared("x", a, b)
        np.testing.assert_array_equal(a[ours], common)
        np.testing.assert_array_equal(b[theirs], common)
