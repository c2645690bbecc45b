"""CRC-32C of arrays, and of concatenations whose pieces were summed elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sciflow.errors import Missing

try:
    from google_crc32c import extend, value
except ImportError:  # problems can be solved without a store, with nothing but a solver installed

    def value(data: Any) -> Any:
        """Say what is missing."""
        raise Missing("artifacts need google-crc32c: pip install google-crc32c")

    def extend(crc: int, data: Any) -> Any:
        """Say what is missing."""
        return value(data)


POLYNOMIAL = 0x82F63B78
"""Castagnoli, reflected."""

crc32c = value
"""CRC-32C of bytes or a C-contiguous array."""

crc32c_extend = extend
"""``crc32c_extend(crc, more)``: the checksum of what `crc` covers followed by `more`."""


def combine(first: int, second: int, length: int) -> int:
    """CRC-32C of two pieces from those of each.

    Parameters
    ----------
    first, second : int
        Checksums of the pieces.
    length : int
        Bytes in the second piece.

    Returns
    -------
    int
        The checksum of the concatenation.

    Notes
    -----
    Appending ``n`` zero bytes acts on the checksum register as a linear map over GF(2), the
    ``8 n``-th power of the shift by one bit; with the register's conditioning cancelled out,
    ``crc(A B) = shift^(8 |B|) crc(A) xor crc(B)``. Costs one 32 x 32 product over GF(2); the
    powers are kept.

    References
    ----------
    M. Adler, ``crc32_combine`` in zlib (2002), for another polynomial.
    """
    return _apply(_shift(length), first) ^ second


def _apply(matrix: tuple[int, ...], vector: int) -> int:
    total, row = 0, 0
    while vector:
        if vector & 1:
            total ^= matrix[row]
        vector >>= 1
        row += 1
    return total


def _times(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_apply(a, column) for column in b)


@lru_cache(maxsize=256)
def _shift(length: int) -> tuple[int, ...]:
    """The map that `length` zero bytes apply to the register, as 32 columns."""
    bit = (POLYNOMIAL, *(1 << n for n in range(31)))
    power = _times(bit, bit)
    power = _times(power, power)
    power = _times(power, power)
    result = tuple(1 << n for n in range(32))
    while length:
        if length & 1:
            result = _times(power, result)
        power = _times(power, power)
        length >>= 1
    return result


def little(crc: int) -> bytes:
    """A checksum as it stands on disk: 4 bytes, little-endian."""
    return crc.to_bytes(4, "little")


def with_checksum(data: Any) -> bytes:
    """Bytes followed by their checksum, as the zarr codec ``crc32c`` writes them."""
    return bytes(data) + little(crc32c(bytes(data)))
