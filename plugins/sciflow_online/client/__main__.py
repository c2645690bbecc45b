"""Where the clients for C and Fortran lie, for makefiles: ``python -m sciflow_online.client --help``."""

from __future__ import annotations

import argparse
import sys

from sciflow_online import client


def main(arguments: list[str] | None = None) -> int:
    """Print what was asked for; without a question, the folder and lines to compile with.

    Parameters
    ----------
    arguments : list of str, optional
        In place of those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m sciflow_online.client", description=client.__doc__)
    answers = {
        "include": ("the folder of the header", str(client.FOLDER)),
        "cflags": ("flags for the C compiler", client.cflags()),
        "sources": ("the C source to compile with the solver", str(client.C_SOURCE)),
        "fortran": ("the source of the Fortran module", str(client.FORTRAN_SOURCE)),
        "libs": ("flags for the linker", " ".join(client.LIBRARIES)),
        "examples": ("the folder of the examples", str(client.FOLDER / "examples")),
    }
    for name, (what, _) in answers.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    asked = vars(parser.parse_args(arguments))
    found = [answer for name, (_, answer) in answers.items() if asked[name]]
    lines = [" ".join(found)] if found else [str(client.FOLDER), *client.compile_lines()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
