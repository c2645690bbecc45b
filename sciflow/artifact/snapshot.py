"""Snapshot: what an ensemble that is still being written held at one moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact.sealed import DATA, KEY, Artifact
from sciflow.artifact.writer import committed
from sciflow.component import digest_of
from sciflow.errors import NotFound
from sciflow.schema import Field, Schema

if TYPE_CHECKING:
    import numpy as np

_COUNTS = {
    "status": Field(("member",), "1", "uint8", "0 absent, 1 ok, 2 failed"),
    "n_steps": Field(("member",), "1", "int64", "steps of each member"),
}


class Snapshot(Artifact):
    """The members of an ensemble that were committed when it was looked at; it does not change.

    Training from it is reproducible: its digest covers the list of members and their checksums.
    Publication of the ensemble does not disturb readers that were opened before.

    Parameters
    ----------
    path : Path or str
        Directory of the artifact that is being written.

    Raises
    ------
    NotFound
        If nothing is being written there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        file = self.path / DATA / "zarr.json"
        if not file.is_file():
            raise NotFound(f"{self.path}: nothing is being written here (it may be published by now)")
        self._document: dict[str, Any] = json.loads(file.read_bytes())["attributes"]
        schema = Schema.from_json(self._document[KEY]["schema"])
        self._records = dict(sorted(committed(self.path).items()))
        self.schema = Schema(schema.kind, {**schema.fields, **_COUNTS})
        self.digest = digest_of({str(m): r["files"] for m, r in self._records.items()})
        self.recipe = ""
        self.provenance = {"snapshot": list(self._records)}

    @property
    def attributes(self) -> dict[str, Any]:
        """See `Artifact.attributes`; numberings are those of the members that are there."""
        found = {k: v for k, v in self._document.items() if k not in (KEY, "Conventions")}
        names: dict[str, set[str]] = {}
        for record in self._records.values():
            for field, name in record.get("numberings", {}).items():
                names.setdefault(field, set()).add(name)
        if names:
            found["numberings"] = {field: sorted(group) for field, group in names.items()}
        return found

    def read(self, name: str) -> np.ndarray:
        """See `Artifact.read`; members that were not committed then are NaN, now and later."""
        import numpy as np

        if name in _COUNTS:
            values = np.zeros(self._count(), dtype=_COUNTS[name].dtype)
            for member, record in self._records.items():
                values[member] = record["status"] if name == "status" else record.get("levels", 0)
            return values
        if name in self.schema.fields and self.array(name).shards is not None:
            there = self.members()
            gather = self.gather(name, verify="always")
            whole = gather.whole(np.array([], dtype=np.int64))
            fill = np.nan if whole.dtype.kind == "f" else 0
            out = np.full((self._count(), *whole.shape[1:]), fill, whole.dtype)
            out[there] = gather.whole(there)
            return out
        return super().read(name)

    def numbering(self, name: str) -> dict[int, np.ndarray]:
        """See `Artifact.numbering`."""
        import numpy as np
        import zarr

        orders: dict[str, np.ndarray] = {}
        found = {}
        for member, record in self._records.items():
            key = record.get("numberings", {}).get(name)
            if key is not None:
                if key not in orders:
                    array: Any = zarr.open_array(self.path / DATA / key, mode="r")
                    orders[key] = np.argsort(np.asarray(array[...]))
                found[member] = orders[key]
        return found

    def _count(self) -> int:
        for name, field in self.schema.fields.items():
            if name not in _COUNTS and field.axes[:1] == ("member",):
                return int(self.array(name).shape[0])
        return 0
