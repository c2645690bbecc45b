"""Clients for solvers in C and Fortran; ``python -m sciflow_online.client`` tells where they lie."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
"""Where header, sources and examples lie."""

C_SOURCE = FOLDER / "sciflow_online.c"
FORTRAN_SOURCE = FOLDER / "sciflow_online.f90"
LIBRARIES = ("-lzmq",)
"""What a solver that contains the client is linked with."""


def cflags() -> str:
    """Flags for the C compiler that find the header."""
    return f"-I{FOLDER}"


def compile_lines() -> list[str]:
    """One line for a solver in C, one in C with MPI, one in Fortran."""
    libraries = " ".join(LIBRARIES)
    return [
        f"cc -std=c99 -O2 {cflags()} solver.c {C_SOURCE} {libraries} -lm -o solver",
        f"mpicc -std=c99 -O2 {cflags()} solver.c {C_SOURCE} {libraries} -lm -o solver",
        f"cc -std=c99 -O2 -c {C_SOURCE} && "
        f"gfortran -O2 {FORTRAN_SOURCE} solver.f90 sciflow_online.o {libraries} -o solver",
    ]
