"""Experience: what the members of an ensemble learned about solving, kept for those that come after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

FOLDER = "experience"


class Experience:
    """The logs of the members of one ensemble; used on rank 0 alone.

    A log is a table: columns of one length, a row for each decision. A member sees the logs of the
    members that were finished when it began, and adds its own. Without a folder nothing is kept.

    Parameters
    ----------
    folder : Path or None
        Shared by all jobs of the ensemble.
    member : int
        Whose log `note` writes; its earlier log, of a killed attempt, is not among the others.
    """

    def __init__(self, folder: Path | None = None, member: int = -1) -> None:
        self._folder, self.member = folder, member

    def others(self) -> dict[int, dict[str, np.ndarray]]:
        """The logs of the other members, in the order of their indices."""
        import numpy as np

        from sciflow.artifact.journal import Torn, read

        if self._folder is None:
            return {}
        found: dict[int, dict[str, np.ndarray]] = {}
        for record in read(self._folder):
            if not isinstance(record, Torn) and record["member"] != self.member:
                found[record["member"]] = {k: np.asarray(v) for k, v in record["columns"].items()}
        return dict(sorted(found.items()))

    def note(self, columns: Mapping[str, np.ndarray]) -> None:
        """Keep the log of this member; called once, when it is solved.

        Raises
        ------
        Invalid
            If the columns differ in length.
        """
        import numpy as np

        from sciflow.artifact.disk import Disk
        from sciflow.artifact.journal import FOLDER as JOURNALS
        from sciflow.artifact.journal import Journal

        table = {name: np.asarray(values) for name, values in columns.items()}
        if len({len(v) for v in table.values()}) > 1:
            raise Invalid(f"columns of { ({n: len(v) for n, v in table.items()}) } rows are no table")
        if self._folder is None:
            return
        journal = Journal(self._folder / JOURNALS, Disk("none"))
        journal.append({"member": self.member, "columns": {n: v.tolist() for n, v in table.items()}})
        journal.close()
