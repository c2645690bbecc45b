import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sciflow.artifact.checksum import combine, crc32c, with_checksum


def test_the_known_value():
    assert crc32c(b"123456789") == 0xE3069283
    assert with_checksum(b"123456789")[-4:] == bytes.fromhex("839206e3")


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_pieces_have_the_checksum_of_the_whole(a, b):
    assert combine(crc32c(a), crc32c(b), len(b)) == crc32c(a + b)


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_any_number_of_pieces(pieces):
    total = 0
    for piece in pieces:
        total = combine(total, crc32c(piece), len(piece))
    assert total == crc32c(b"".join(pieces))


def test_long_pieces():
    data = np.random.default_rng(0).bytes(3_000_017)
    for cut in (0, 1, 4096, 1_234_567, len(data)):
        assert combine(crc32c(data[:cut]), crc32c(data[cut:]), len(data) - cut) == crc32c(data)
