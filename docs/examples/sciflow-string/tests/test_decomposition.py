"""The surrogate against the tones of the string that it learned from."""

import numpy as np
import pytest
from sciflow import Batch, Context, Invalid, Samples, Signature
from sciflow.testing import check

from sciflow_string import ModeDecomposition, Spectrum, String
from sciflow_string.spectrum import tones

STRING = String(points=33, levels=21, end=1.0, damping=0.3)


class Steps(Samples):
    """One level and the next of strings that were plucked here and there."""

    def __init__(self, outputs=("u", "v")):
        fields = {name: type(field)(("x",), field.unit, field.dtype) for name, field in STRING.fields.items()}
        axes = {"x": STRING.coordinates()["x"]}
        self.signature = Signature(fields, {name: fields[name] for name in outputs}, axes)
        runs = []
        for place, width in ((0.25, 0.06), (0.4, 0.07), (0.55, 0.06), (0.7, 0.08), (0.78, 0.06)):
            mu = {"place": place, "width": width, "height": 1e-3}
            states = list(STRING.solve(mu, Context()))
            runs.append({name: np.stack([s.fields[name] for s in states]) for name in fields})
        self.before = {name: np.concatenate([r[name][:-1] for r in runs]) for name in fields}
        self.after = {name: np.concatenate([r[name][1:] for r in runs]) for name in outputs}

    def __len__(self):
        return len(self.before["u"])

    def batches(self, size, *, seed, epoch=0, start=0):
        yield Batch(self.before, self.after)


def fitted(samples, **settings):
    run = ModeDecomposition(**settings).fit(samples, samples, Context())
    report = next(run)
    with pytest.raises(StopIteration) as end:
        next(run)
    return end.value.value, report


@pytest.fixture(scope="module")
def steps():
    return Steps()


def test_components_hold_to_their_rules():
    check(ModeDecomposition())
    check(Spectrum())


def test_the_tones_are_those_of_the_string(steps):
    """Frequencies to five digits, and every tone fades as the equation says."""
    model, _ = fitted(steps)
    frequency, decay = tones(model.factors(), step=0.05)
    np.testing.assert_allclose(frequency[:6], STRING.tones(6) / (2 * np.pi), rtol=1e-5)
    np.testing.assert_allclose(decay[:6], STRING.damping, rtol=1e-3)


def test_its_steps_go_on_where_nothing_was_seen(steps):
    """Twenty steps of a string plucked elsewhere, fed with its own answers."""
    model, _ = fitted(steps)
    mu = {"place": 0.5, "width": 0.12, "height": 4e-3}
    first, *_, final = STRING.solve(mu, Context())
    now = {name: values[None] for name, values in first.fields.items()}
    for _ in range(20):
        now = model.predict(now)
    for name, truth in final.fields.items():
        assert np.linalg.norm(now[name][0] - truth) < 1e-3 * np.linalg.norm(truth)


def test_a_smaller_rank_knows_less(steps):
    errors = [fitted(steps, rank=rank)[1].metrics["train_error"] for rank in (4, 8, 16)]
    assert errors[0] > errors[1] > errors[2]


def test_the_unit_of_a_field_does_not_matter(steps):
    """Velocities in millimetres: the same tones."""
    other = Steps()
    for held in (other.before, other.after):
        held["v"] = 1e3 * held["v"]
    model, same = fitted(steps)[0], fitted(other)[0]
    np.testing.assert_allclose(
        tones(model.factors(), 0.05)[0][:6], tones(same.factors(), 0.05)[0][:6], rtol=1e-9
    )


def test_a_step_to_something_else_has_no_tones():
    model, _ = fitted(Steps(outputs=("u",)))
    with pytest.raises(Invalid, match="a step from u, v to u has no modes"):
        model.factors()
