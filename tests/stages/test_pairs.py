"""Lead times through training, evaluation and the table of models; growing training sets."""

import asyncio

import numpy as np
import pytest

from sciflow import Invalid, run
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, split
from sciflow.store import Store
from tests.toys import Least, Wave

LEADS = ("u", "a", "lead_time")


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    with within(session):
        yield session


async def simulated(count=12):
    return await run(Simulate(Wave(), seed=1), design=await run(Design(problem=Wave(), count=count)))


def test_a_model_of_pairs_is_evaluated_on_pairs():
    async def flow():
        data = await simulated()
        model = await run(Train(Least(), LEADS, ("u",), pairs=(1, 3)), ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        table = await run(SideBySide(("m",), queries=2), ensemble=data, m=model, m_score=score)
        return model, score, table

    model, score, table = asyncio.run(flow())
    assert model.attributes["pairs"] == [1, 3]
    assert model.attributes["window"] is None
    assert score.read("members").tolist() == np.repeat(model.read("test_members"), 6).tolist()
    assert table.read("error_mean")[0] == pytest.approx(score.read("relative_l2").mean())


def test_a_limit_takes_training_members_alone_and_smaller_ones_are_parts_of_larger_ones():
    members = np.arange(40) + 3
    whole = split(members, 0.8, 0.05, 7)
    previous: set[int] = set()
    for limit in (1, 5, 20, 32):
        some = split(members, 0.8, 0.05, 7, limit)
        assert len(some[0]) == limit
        assert previous < set(some[0].tolist()) <= set(whole[0].tolist())
        previous = set(some[0].tolist())
        np.testing.assert_array_equal(some[1], whole[1])
        np.testing.assert_array_equal(some[2], whole[2])
    with pytest.raises(Invalid, match="32 training members, not 33"):
        split(members, 0.8, 0.05, 7, 33)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": (1, 3), "window": (1, 1)}, "a window or a pair"),
        ({"pairs": (0, 3)}, "stride of at least 1"),
        ({"members": 0}, "at least one member"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Train(Least(), ("u",), ("u",), **settings)


def test_pairs_that_do_not_fit_are_refused_before_training():
    async def flow():
        await run(Train(Least(), LEADS, ("u",), pairs=(2, 3)), ensemble=await simulated(4))

    with pytest.raises(Invalid, match="need 5 time levels; the trajectories have 3"):
        asyncio.run(flow())


def test_the_limit_is_what_is_learned_from():
    async def flow():
        data = await simulated()
        return await run(Train(Least(), ("a", "b"), ("u",), members=4), ensemble=data)

    assert len(asyncio.run(flow()).read("train_members")) == 4
