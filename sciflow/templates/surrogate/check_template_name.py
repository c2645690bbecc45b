"""What must hold for the surrogate: the rules of its kind, and what is known about it alone."""

from collections.abc import Iterator

import numpy as np
from sciflow import Batch, Context, Field, Model, Samples, Signature
from sciflow.testing import check, example

from sciflow.templates.surrogate.template_name import TemplateName


def test_it_holds_to_the_rules_of_surrogates() -> None:
    """Epochs, checkpoints, states, shapes, JSON, imports."""
    check(example(TemplateName))


class Parabola(Samples):
    """``v = 3 - 2 a + a^2 / 2`` at forty points."""

    signature = Signature({"a": Field((), "m")}, {"v": Field((), "K")}, {})
    a = np.linspace(-2.0, 5.0, 40)

    def __len__(self) -> int:
        """See `Samples`."""
        return len(self.a)

    def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """See `Samples.batches`; all of them at once."""
        yield Batch({"a": self.a}, {"v": 3 - 2 * self.a + self.a**2 / 2})


def fitted(surrogate: TemplateName) -> Model:
    """The model that it fits to the parabola."""
    run = surrogate.fit(Parabola(), Parabola(), Context())
    while True:
        try:
            next(run)
        except StopIteration as end:
            model: Model = end.value
            return model


def test_a_polynomial_of_its_degree_is_found_again() -> None:
    """Also far from the samples; one of a lower degree cannot be."""
    there = {"a": np.array([-4.0, 0.3, 9.0])}
    truth = 3 - 2 * there["a"] + there["a"] ** 2 / 2
    np.testing.assert_allclose(fitted(TemplateName(2)).predict(there)["v"], truth, rtol=1e-5)
    assert np.abs(fitted(TemplateName(1)).predict(there)["v"] - truth).max() > 1
