"""Coefficients of embedded Runge-Kutta methods."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sciflow.errors import NotFound


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method and a second one with the same stages.

    Attributes
    ----------
    a : ndarray, shape (stages, stages)
        Strictly lower triangular: of the stages before, in the state of a stage.
    b, embedded : ndarray, shape (stages,)
        Of the stages, in the solution that is gone on from and in the one that it is compared with.
    order, lower : int
        Of the two.
    """

    a: np.ndarray
    b: np.ndarray
    embedded: np.ndarray
    order: int
    lower: int

    @property
    def stages(self) -> int:
        """How many there are."""
        return int(self.b.size)

    @property
    def c(self) -> np.ndarray:
        """When the stages are, as parts of the step; shape (stages,)."""
        found: np.ndarray = self.a.sum(axis=1)
        return found

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the slope where the step ends, which the next step begins with."""
        return bool((self.a[-1] == self.b).all())

    def packed(self) -> np.ndarray:
        """The rows of `a`, then `b`, ``b - embedded`` and `c`; shape (stages + 3, stages)."""
        return np.ascontiguousarray(np.vstack([self.a, self.b, self.b - self.embedded, self.c]))


def tableau(method: str) -> Tableau:
    """The coefficients of a method.

    Parameters
    ----------
    method : str
        One of `METHODS`.

    Raises
    ------
    NotFound
        If there is no such method.
    """
    if method not in TABLEAUS:
        raise NotFound(f"there is no Runge-Kutta method {method!r}; there are {', '.join(METHODS)}")
    return TABLEAUS[method]


def _tableau(rows: list[str], b: str, embedded: str, order: int, lower: int) -> Tableau:
    """From fractions or decimals in text; the rows of `a` begin with the second stage."""
    weights = _numbers(b)
    a = np.zeros((weights.size, weights.size))
    for stage, row in enumerate(rows, start=1):
        a[stage, :stage] = _numbers(row)
    return Tableau(a, weights, _numbers(embedded), order, lower)


def _numbers(text: str) -> np.ndarray:
    return np.array([float(Fraction(word)) for word in text.split()])


TABLEAUS = {
    "heun_euler": _tableau(["1"], "1/2 1/2", "1 0", 2, 1),
    # P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2 (1989) 321.
    "bogacki_shampine": _tableau(
        ["1/2", "0 3/4", "2/9 1/3 4/9"], "2/9 1/3 4/9 0", "7/24 1/4 1/3 1/8", order=3, lower=2
    ),
    # E. Fehlberg, NASA TR R-315 (1969), gone on from order 5.
    "fehlberg": _tableau(
        [
            "1/4",
            "3/32 9/32",
            "1932/2197 -7200/2197 7296/2197",
            "439/216 -8 3680/513 -845/4104",
            "-8/27 2 -3544/2565 1859/4104 -11/40",
        ],
        "16/135 0 6656/12825 28561/56430 -9/50 2/55",
        "25/216 0 1408/2565 2197/4104 -1/5 0",
        order=5,
        lower=4,
    ),
    # J. R. Cash, A. H. Karp, ACM TOMS 16 (1990) 201.
    "cash_karp": _tableau(
        [
            "1/5",
            "3/40 9/40",
            "3/10 -9/10 6/5",
            "-11/54 5/2 -70/27 35/27",
            "1631/55296 175/512 575/13824 44275/110592 253/4096",
        ],
        "37/378 0 250/621 125/594 0 512/1771",
        "2825/27648 0 18575/48384 13525/55296 277/14336 1/4",
        order=5,
        lower=4,
    ),
    # J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19.
    "dormand_prince": _tableau(
        [
            "1/5",
            "3/40 9/40",
            "44/45 -56/15 32/9",
            "19372/6561 -25360/2187 64448/6561 -212/729",
            "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
            "35/384 0 500/1113 125/192 -2187/6784 11/84",
        ],
        "35/384 0 500/1113 125/192 -2187/6784 11/84 0",
        "5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
        order=5,
        lower=4,
    ),
    # Ch. Tsitouras, Comput. Math. Appl. 62 (2011) 770.
    "tsitouras": _tableau(
        [
            "0.161",
            "-0.008480655492356989 0.335480655492357",
            "2.8971530571054935 -6.359448489975075 4.3622954328695815",
            "5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525",
            "5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 -0.028269050394068383",
            "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 "
            " 2.324710524099774",
        ],
        "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 "
        " 2.324710524099774 0",
        "0.09468075576583945 0.009183565540343254 0.4877705284247616 1.234297566930479 -2.7077123499835256 "
        "1.866628418170587 0.015151515151515152",
        order=5,
        lower=4,
    ),
}
METHODS = tuple(TABLEAUS)
