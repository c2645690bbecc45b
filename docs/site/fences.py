"""Code blocks whose first line says what a test is to do with them, as blocks that the site can show."""

import re

_FENCE = re.compile(r"^```(\w+) +([^\n`]+)$", re.MULTILINE)


def plain(page: str) -> str:
    """A page whose blocks have titles where they are files, and no words for the tests.

    Parameters
    ----------
    page : str
        Markdown; the first lines of its blocks are like ``python file=first.py`` or ``sh exit=1``.

    Returns
    -------
    str
        The same with ``python title="first.py"`` and ``sh``.
    """

    def replace(match: re.Match[str]) -> str:
        file = re.search(r"file=(\S+)", match[2])
        return f'```{match[1]} title="{file[1]}"' if file else f"```{match[1]}"

    return _FENCE.sub(replace, page)
