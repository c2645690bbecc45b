"""Public docstrings say parameters, shapes, units, errors and sources; ruff sees that there is one at all."""

import re
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docstrings import Library

PACKAGES = [ROOT / "sciflow", *sorted((ROOT / "plugins").glob("sciflow_*"))]


def faults(source: str, tmp_path: Path) -> list[str]:
    file = tmp_path / "sample.py"
    file.write_text(textwrap.dedent(source))
    return [f.partition(" ")[2] for f in Library([file], tmp_path).faults()]


def test_public_docstrings_say_what_they_must():
    files = [
        f
        for p in PACKAGES
        for f in sorted(p.rglob("*.py"))
        if f.name[0] != "_" and "templates" not in f.parts
    ]
    assert len(files) > 400
    found = list(Library(files, ROOT).faults())
    assert not found, "\n".join(found)


GOOD = '''
    """A module."""

    import numpy as np


    class Surrogate:
        """What fits."""

        def fit(self, x: np.ndarray) -> None:
            """Fit.

            Parameters
            ----------
            x : ndarray, shape (sample, n)
                Inputs.

            Raises
            ------
            Invalid
                If there are none.
            """
            if not len(x):
                raise Invalid("no samples")


    @dataclass(frozen=True)
    class Line(Surrogate):
        """A straight line.

        Attributes
        ----------
        length : float
            Length of a piece, m.
        ends : ndarray, shape (2,)
            Of the line, m.

        Raises
        ------
        Invalid
            If `length` is negative.

        References
        ----------
        A. M. Legendre, 1805.
        """

        name: ClassVar[str] = "line"
        length: float
        ends: np.ndarray

        def __post_init__(self) -> None:
            if self.length < 0:
                raise Invalid("no")

        def fit(self, x: np.ndarray) -> None:
            """By least squares."""
            if len(x) < 2:
                raise Invalid("too few")


    def distance(a: np.ndarray, b: np.ndarray) -> float:
        """Euclidean, of two arrays of any equal shape."""
        try:
            raise Invalid("caught again")
        except Invalid:
            return 0.0
'''


def test_a_good_sample_is_without_fault(tmp_path):
    assert faults(GOOD, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (", of two arrays of any equal shape", "", "distance: the shape of b is not said"),
        (r"x : ndarray, shape \(sample, n\)", "x : ndarray", "Surrogate.fit: the shape of x is not said"),
        (r"x : ndarray, shape \(sample, n\)", "y : int", "Surrogate.fit: there is no parameter y"),
        (r"x : ndarray, shape \(sample, n\)", "y : int", "Surrogate.fit: x is not under Parameters"),
        (r"Invalid(?=\s+If there)", "Diverged", "Surrogate.fit: Invalid is not under Raises"),
        (r"Invalid(?=\s+If `length`)", "Diverged", "Line: Invalid is not under Raises"),
        ("length : float\n", "width : float\n", "Line: the field length is not under Attributes"),
        ("Length of a piece, m.", "Length of a piece.", "Line: the unit of the field length is not said"),
        (r"ends : ndarray, shape \(2,\)", "ends : ndarray", "Line: the shape of the field ends is not said"),
        ("References", "Notes", "Line: no source under References, nor that it is our own"),
        ("except Invalid", "except KeyError", "distance: Invalid is not under Raises"),
    ],
)  # fmt: skip
def test_what_is_missing_is_found(old, new, fault, tmp_path):
    assert fault in faults(re.sub(old, new, GOOD), tmp_path)
