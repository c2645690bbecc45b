"""Pairs of time levels as samples: which there are, what they hold, and what is refused."""

import numpy as np
import pytest

from sciflow.errors import Invalid
from sciflow.stored import Stored
from tests.artifact.test_stored import ensemble, truth


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ensemble(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize(("stride", "count"), [(1, 2), (1, 6), (2, 3), (5, 2)])
def test_every_pair_of_levels_is_a_sample_once(data, stride, count):
    samples = Stored(data, ["u", "a", "q", "lead_time"], ["u"], [5, 1], pairs=(stride, count))
    levels = [stride * i for i in range(count)]
    expected = [(m, i, j) for m in (5, 1) for i in levels for j in levels if i <= j]
    assert len(samples) == len(expected) == count * (count + 1)
    batch = samples.all()
    np.testing.assert_array_equal(batch.x["u"], [truth(m, i) for m, i, _ in expected])
    np.testing.assert_array_equal(batch.y["u"], [truth(m, j) for m, _, j in expected])
    np.testing.assert_array_equal(batch.x["lead_time"], [j - i for _, i, j in expected])
    np.testing.assert_array_equal(batch.x["a"], [m for m, _, _ in expected])
    assert samples.sample_members.tolist() == [m for m, _, _ in expected]
    assert batch.x["lead_time"].dtype == np.float32
    assert samples.signature.inputs["lead_time"].unit == "s"
    assert samples.signature.inputs["lead_time"].axes == ()
    assert samples.signature.outputs["u"].axes == ("x",)


def test_pairs_are_windows_of_one_level_where_they_are_neighbours(data):
    pairs, window = (Stored(data, ["u"], ["u"], **how) for how in ({"pairs": (1, 6)}, {"window": (1, 1)}))
    of_pairs, of_window = pairs.all(), window.all()
    step = of_pairs.y["u"][:, 0] - of_pairs.x["u"][:, 0]
    next_ones = np.isclose(step, 10)
    np.testing.assert_array_equal(of_pairs.x["u"][next_ones], of_window.x["u"])
    np.testing.assert_array_equal(of_pairs.y["u"][next_ones], of_window.y["u"])


def test_members_that_end_early_give_the_pairs_that_they_have(tmp_path):
    steps = [6, 1, 3, 0, 5, 6, 2]
    samples = Stored(ensemble(tmp_path, steps=steps), ["u"], ["u"], pairs=(2, 3))
    inside = [sum(level < steps[m] for level in (0, 2, 4)) for m in samples.members]
    count = [int(np.sum(samples.sample_members == m)) for m in samples.members]
    assert count == [n * (n + 1) // 2 for n in inside]
    batch = samples.all()
    later = np.round((batch.y["u"][:, 0] - 100 * samples.sample_members) / 10).astype(int)
    assert all(later < np.array(steps)[samples.sample_members])


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (["u"], {"pairs": (1, 1)}, "stride of at least 1 and 2 levels"),
        (["u"], {"pairs": (0, 3)}, "stride of at least 1"),
        (["u"], {"pairs": (2, 4)}, "need 7 time levels; the trajectories have 6"),
        (["u"], {"pairs": (1, 3), "window": (1, 1)}, "a window or a pair"),
        (["u", "lead_time"], {"window": (1, 1)}, "with pairs alone"),
        (["u", "lead_time"], {}, "with pairs alone"),
        (["u", "time"], {"pairs": (1, 3)}, "with a window alone"),
        (["u[0]"], {"pairs": (1, 3)}, "name the field alone"),
    ],
)
def test_what_is_refused(data, inputs, settings, message):
    with pytest.raises(Invalid, match=message):
        Stored(data, inputs, ["u"], **settings)
