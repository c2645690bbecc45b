"""The wire protocol between solvers and trainers: one fixed header, then a payload; no pickle.

Every message is a header of `SIZE` bytes, little-endian, and the bytes that it announces. The same
bytes travel through ZeroMQ (two frames) and MPI (one buffer). ``client/sciflow_online.c`` speaks it too;
``docs/online-protocol.md`` is the description for anybody who writes another client.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
MAGIC = b"SFLW"
_FORMAT = struct.Struct("<4sHBBIIqIIqdQQ")
SIZE = _FORMAT.size
assert SIZE == 64

DTYPES = ("", "float32", "float64", "int32", "int64", "uint8")
"""Names of the element types by their code."""


class Kind(IntEnum):
    """What a message says; below 16 it comes from a solver, above from a trainer."""

    HELLO = 1
    ASK = 2
    DATA = 3
    INDEX = 4
    FINISH = 5
    ALIVE = 6
    LEAVE = 7
    WELCOME = 17
    REFUSED = 18
    MEMBER = 19
    WAIT = 20
    BYE = 21
    CREDIT = 22
    FINISHED = 23
    ABORT = 24


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before every payload.

    Attributes
    ----------
    kind : Kind
        What the message says.
    dtype : int
        Code of the payload's element type, see `DTYPES`; 0 for text and for nothing.
    field : int
        Number of the field, in the order of the WELCOME.
    rank, ranks : int
        Who sends, among how many ranks of one solver.
    member : int
        Index of the member.
    attempt : int
        Which attempt at that member.
    level : int
        Time level, from 0; for ASK the number of members this rank has had; for FINISH how many
        levels it sent.
    time : float
        Of that level, in the problem's unit.
    start, count : int
        The range of the flattened field that the payload holds; with an INDEX of the same range
        sent before, positions are looked up there. For CREDIT how many messages were taken.
    """

    kind: Kind
    dtype: int = 0
    field: int = 0
    rank: int = 0
    ranks: int = 1
    member: int = -1
    attempt: int = 0
    level: int = 0
    time: float = 0.0
    start: int = 0
    count: int = 0

    def pack(self) -> bytes:
        """The `SIZE` bytes."""
        return _FORMAT.pack(
            MAGIC, VERSION, self.kind, self.dtype, self.field, self.rank, self.member, self.attempt,
            self.ranks, self.level, self.time, self.start, self.count,
        )  # fmt: skip


def unpack(data: Any) -> Header:
    """Read a header.

    Raises
    ------
    Invalid
        If it is no header, or one of another version; the message says which.
    """
    if len(data) < SIZE:
        raise Invalid(f"a message of {len(data)} bytes is shorter than a header of {SIZE}")
    magic, version, kind, dtype, field, rank, member, attempt, ranks, level, time, start, count = (
        _FORMAT.unpack_from(data)
    )
    if magic != MAGIC:
        raise Invalid(f"not a message of this protocol: it begins with {bytes(magic)!r}")
    if version != VERSION:
        raise Invalid(
            f"protocol version {version}, this side speaks version {VERSION}: use one version of "
            "sciflow on both sides"
        )
    try:
        known = Kind(kind)
    except ValueError:
        raise Invalid(f"message kind {kind} is unknown in protocol version {VERSION}") from None
    return Header(known, dtype, field, rank, ranks, member, attempt, level, time, start, count)


def text(entries: Mapping[str, object]) -> bytes:
    """A control payload: one line ``key: value`` each.

    Raises
    ------
    Invalid
        If a key or value could be read as something else.
    """
    lines = []
    for key, value in entries.items():
        said = " ".join(str(value).split())
        if ":" in key or "\n" in key:
            raise Invalid(f"{key!r} cannot be a key of a message")
        lines.append(f"{key}: {said}\n")
    return "".join(lines).encode()


def entries(payload: Any) -> dict[str, str]:
    """Read what `text` wrote; lines that are none are left out."""
    found = {}
    for line in bytes(payload).decode(errors="replace").splitlines():
        key, colon, value = line.partition(": ")
        if colon:
            found[key] = value
    return found


@cache
def _dtypes() -> tuple[np.dtype, ...]:
    """The types of numpy by their code; 0 stands for none."""
    import numpy as np

    return (np.dtype("V1"), *(np.dtype(name) for name in DTYPES[1:]))


@cache
def dtype_code(dtype: Any) -> int:
    """Code of a numpy dtype.

    Raises
    ------
    Invalid
        If such values do not travel.
    """
    import numpy as np

    name = np.dtype(dtype).name
    if name not in DTYPES[1:]:
        raise Invalid(f"values of type {name} cannot be sent; there is: {', '.join(DTYPES[1:])}")
    return DTYPES.index(name)


def values_of(header: Header, payload: Any) -> np.ndarray:
    """The payload of a DATA or INDEX message as an array, shape (count,), without a copy.

    Raises
    ------
    Invalid
        If type, count and size do not fit together.
    """
    import numpy as np

    if not 0 < header.dtype < len(DTYPES):
        raise Invalid(f"element type {header.dtype} is unknown; there is 1 to {len(DTYPES) - 1}")
    dtype = _dtypes()[header.dtype]
    size = len(payload)  # of bytes
    if size != header.count * dtype.itemsize:
        raise Invalid(f"{header.count} values of {dtype.name} announced, {size} bytes came")
    return np.frombuffer(payload, dtype=dtype, count=header.count)
