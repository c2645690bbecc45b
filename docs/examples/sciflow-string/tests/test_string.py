"""The solver against the sum of its tones, which is exact."""

import numpy as np
import pytest
from sciflow import Context, Invalid
from sciflow.testing import check

from sciflow_string import String

PLUCKED = {"place": 0.3, "width": 0.1, "height": 2e-3}


def sung(string, mu, time):
    """Displacement and velocity as a sum of the grid's own tones."""
    x = string.coordinates()["x"][1:-1] / string.length
    count = len(x)
    shapes = np.sin(np.pi * np.outer(np.arange(1, count + 1), x))
    loudness = 2 / (count + 1) * shapes @ string.start(mu)[1:-1]
    omega, g = string.tones(count), string.damping
    fading = np.exp(-g * time)
    u = fading * (np.cos(omega * time) + g / omega * np.sin(omega * time))
    v = -fading * (omega + g**2 / omega) * np.sin(omega * time)
    return (loudness * u) @ shapes, (loudness * v) @ shapes


def test_it_holds_to_the_rules_of_problems():
    check(String(points=17, levels=4, end=0.5))


def test_every_state_is_the_sum_of_its_tones():
    string = String(points=33, end=3.0, levels=7, damping=0.4)
    for state in string.solve(PLUCKED, Context()):
        u, v = sung(string, PLUCKED, state.time)
        np.testing.assert_allclose(state.fields["u"][1:-1], u, atol=1e-7 * PLUCKED["height"])
        np.testing.assert_allclose(state.fields["v"][1:-1], v, atol=1e-5 * PLUCKED["height"])


def last(points):
    string, middle = String(points=points, end=0.7, levels=2), {**PLUCKED, "place": 0.5, "width": 0.08}
    *_, state = string.solve(middle, Context())
    return state.fields["u"][:: (points - 1) // 16]


def test_it_converges_with_second_order_in_space():
    coarse, middle, fine = last(65), last(129), last(257)
    assert 3.5 < np.abs(coarse - middle).max() / np.abs(middle - fine).max() < 4.5


def test_units_of_length_and_time_do_not_matter():
    """A string of twice the length with waves of four times the speed is heard in half the time."""
    one, other = (
        String(points=17, levels=3),
        String(points=17, levels=3, length=2, speed=4, end=2, damping=0.4),
    )
    for a, b in zip(one.solve(PLUCKED, Context()), other.solve(PLUCKED, Context()), strict=True):
        np.testing.assert_allclose(a.fields["u"], b.fields["u"], atol=1e-7 * PLUCKED["height"])
        np.testing.assert_allclose(2 * a.fields["v"], b.fields["v"], atol=1e-5 * PLUCKED["height"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"points": 2}, "at least 3 points"),
        ({"speed": 0.0}, "speed must be"),
        ({"damping": -1.0}, "negative"),
    ],
)
def test_what_cannot_be_is_refused(setting, message):
    with pytest.raises(Invalid, match=message):
        String(**setting)
