"""Where the bytes of a field lie: zarr v3 array documents, and the inside of a member's shard."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact.checksum import little
from sciflow.errors import Invalid, NotFound
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

SMALL = 4096
"""Below this many bytes several time levels share one chunk."""
LEVEL_AXES = ("time", "step")
"""Axes along which a member is written level by level."""
ABSENT = 2**64 - 1
"""Offset and length of a chunk that is not there."""

_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}


@dataclass(frozen=True)
class Layout:
    """A field with one shard for each member.

    Attributes
    ----------
    name : str
        Of the field.
    field : Field
        Its first axis is ``member``.
    shape : tuple of int
        Of one member, without that axis.
    together : int
        Time levels in one chunk. It divides the number of levels.

    Notes
    -----
    A shard holds its chunks one after the other, each followed by its CRC-32C, then the index (for
    each chunk its offset and length, 8 bytes each) and the CRC-32C of the index. As chunks are not
    compressed all have the same size, and the place of a time level can be computed.

    References
    ----------
    zarr v3 codec ``sharding_indexed``, section "Binary shard format".
    """

    name: str
    field: Field
    shape: tuple[int, ...]
    together: int

    @classmethod
    def choose(cls, name: str, field: Field, shape: Sequence[int]) -> Layout:
        """One time level in a chunk, or as many as make it `SMALL` bytes or more."""
        import numpy as np

        shape = tuple(int(n) for n in shape)
        if field.axes[1:2] not in [(a,) for a in LEVEL_AXES]:
            return cls(name, field, shape, 1)
        sample = np.dtype(field.dtype).itemsize * math.prod(shape[1:])
        levels = shape[0]
        together = next((k for k in range(1, levels + 1) if levels % k == 0 and k * sample >= SMALL), levels)
        return cls(name, field, shape, max(1, together))

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """The layout of a field on disk.

        Raises
        ------
        NotFound
            If there is no array in `folder`.
        Invalid
            If it was not written member by member.
        """
        file = folder / "zarr.json"
        if not file.is_file():
            raise NotFound(f"{folder}: no array is here")
        document = json.loads(file.read_bytes())
        axes = tuple(document["dimension_names"])
        attributes = dict(document["attributes"])
        if axes[:1] != ("member",) or document["codecs"][0]["name"] != "sharding_indexed":
            raise Invalid(f"{folder}: the field {folder.name!r} is not stored member by member")
        units, long_name = attributes.pop("units"), attributes.pop("long_name")
        field = Field(axes, units, document["data_type"], long_name, attributes)
        chunk = document["codecs"][0]["configuration"]["chunk_shape"]
        timed = axes[1:2] in [(a,) for a in LEVEL_AXES]
        return cls(folder.name, field, tuple(document["shape"][1:]), chunk[1] if timed else 1)

    @cached_property
    def timed(self) -> bool:
        """Whether the first axis of a member is time (or an adaptive step)."""
        return self.field.axes[1:2] in [(a,) for a in LEVEL_AXES]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Element type on disk."""
        import numpy as np

        return np.dtype(self.field.dtype).newbyteorder("<")

    @cached_property
    def levels(self) -> int:
        """Time levels of a member; 1 where there is no time."""
        return self.shape[0] if self.timed else 1

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one time level."""
        return self.shape[1:] if self.timed else self.shape

    @cached_property
    def sample_bytes(self) -> int:
        """Bytes of one time level."""
        return self.dtype.itemsize * math.prod(self.sample_shape)

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of the values in one chunk."""
        return self.together * self.sample_bytes

    @cached_property
    def record(self) -> int:
        """Bytes from one chunk to the next: its values and their checksum."""
        return self.chunk_bytes + 4

    @cached_property
    def chunks(self) -> int:
        """Chunks in a complete shard."""
        return self.levels // self.together

    @cached_property
    def suffix(self) -> str:
        """What follows the member in a file name."""
        return ".0" * len(self.shape)

    def key(self, member: int) -> str:
        """Name of the member's file in the field's directory."""
        return f"c.{member}{self.suffix}"

    def place(self, level: int) -> int:
        """Offset of a time level's values in the shard."""
        chunk, inside = divmod(level, self.together)
        return chunk * self.record + inside * self.sample_bytes

    def size(self, chunks: int | None = None) -> int:
        """Bytes of a shard that has `chunks` chunks (all of them by default)."""
        return (self.chunks if chunks is None else chunks) * self.record + 16 * self.chunks + 4

    def index(self, chunks: int) -> bytes:
        """Index and checksum of a shard of which the first `chunks` chunks are there."""
        return _index(chunks, self.chunks, self.record)

    def document(self, members: int) -> dict[str, Any]:
        """The array's ``zarr.json``."""
        shape = (members, *self.shape)
        chunk = (1, self.together, *self.sample_shape) if self.timed else (1, *self.shape)
        inner = [_bytes_codec(self.field), _CRC]
        sharded = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": list(chunk),
                "codecs": inner,
                "index_codecs": [_LITTLE, _CRC],
                "index_location": "end",
            },
        }
        return _document(self.field, self.name, shape, (1, *self.shape), [sharded])


@lru_cache(maxsize=64)
def _index(there: int, chunks: int, record: int) -> bytes:
    import numpy as np

    from sciflow.artifact.checksum import crc32c

    index = np.full((chunks, 2), ABSENT, dtype="<u8")
    index[:there, 0] = np.arange(there) * record
    index[:there, 1] = record
    tail = index.tobytes()
    return tail + little(crc32c(tail))


def whole_document(name: str, field: Field, shape: Sequence[int]) -> dict[str, Any]:
    """``zarr.json`` of an array in one piece: one file, its bytes and their checksum."""
    chunk = [max(1, n) for n in shape]
    return _document(field, name, shape, chunk, [_bytes_codec(field), _CRC])


def _bytes_codec(field: Field) -> dict[str, Any]:
    return {"name": "bytes"} if field.dtype in ("uint8", "bool") else _LITTLE


def _document(
    field: Field, name: str, shape: Sequence[int], chunk: Sequence[int], codecs: list[dict[str, Any]]
) -> dict[str, Any]:
    fill: Any = {"f": "NaN", "b": False}.get(field.dtype[0], 0)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": field.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": {"units": field.unit, "long_name": field.description or name, **field.attributes},
        "dimension_names": list(field.axes),
        "storage_transformers": [],
    }
