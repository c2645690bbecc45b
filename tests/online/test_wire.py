"""The wire protocol: what is packed is unpacked, and what cannot be right is refused with words."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow_online import wire
from sciflow_online.wire import DTYPES, SIZE, Header, Kind, dtype_code, entries, text, unpack, values_of

U1, U4, U8 = (st.integers(0, 2 ** (8 * n) - 1) for n in (1, 4, 8))
I8 = st.integers(-(2**63), 2**63 - 1)
HEADERS = st.builds(
    Header, st.sampled_from(Kind), U1, U4, U4, U4, I8, U4, I8, st.floats(allow_nan=False), U8, U8
)


@given(HEADERS)
def test_a_header_comes_back_as_it_was_packed(header):
    packed = header.pack()
    assert len(packed) == SIZE == 64
    assert unpack(packed) == header
    assert unpack(memoryview(packed + b"more")) == header


@given(st.sampled_from(DTYPES[1:]), st.binary(max_size=64))
def test_values_come_back_as_they_were_sent(name, data):
    values = np.frombuffer(data[: len(data) - len(data) % np.dtype(name).itemsize], dtype=name)
    header = Header(Kind.DATA, dtype_code(values.dtype), count=len(values))
    found = values_of(unpack(header.pack()), values.tobytes())
    assert (found.dtype, found.tobytes()) == (values.dtype, values.tobytes())


KEYS = st.text(st.characters(exclude_characters=":", exclude_categories=["C", "Z"]), min_size=1)
WORDS = st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), max_size=4)


@given(st.dictionaries(KEYS, WORDS.map(" ".join)))
def test_text_comes_back_entry_by_entry(said):
    assert entries(text(said)) == said


@given(st.floats(allow_nan=False))
def test_a_parameter_comes_back_to_the_bit(value):
    assert float(entries(text({"p0": repr(value)}))["p0"]) == value


def test_a_value_of_several_lines_stays_in_its_entry():
    assert entries(text({"reason": "line one\ntoken: no\r\n two", "b": 1})) == {
        "reason": "line one token: no two", "b": "1",
    }  # fmt: skip
    for key in ("a: b", "a\nb"):
        with pytest.raises(Invalid, match="cannot be a key"):
            text({key: 1})


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data):
    entries(data)
    try:
        header = unpack(data)
    except Invalid:
        return
    assert data.startswith(wire.MAGIC)
    assert header.pack() == data[:SIZE] or np.isnan(header.time)


def with_(at, fmt, value):
    packed = bytearray(Header(Kind.HELLO).pack())
    struct.pack_into(fmt, packed, at, value)
    return bytes(packed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes is shorter than a header of 64"),
        (Header(Kind.DATA).pack()[:-1], "63 bytes is shorter"),
        (with_(0, "4s", b"GET "), "not a message of this protocol: it begins with b'GET '"),
        (with_(4, "<H", 7), "protocol version 7, this side speaks version 1"),
        (with_(6, "B", 99), "message kind 99 is unknown in protocol version 1"),
    ],
)
def test_what_is_no_message_is_refused_with_words(data, words):
    with pytest.raises(Invalid, match=words.replace("(", r"\(")):
        unpack(data)


@pytest.mark.parametrize(
    ("header", "payload", "words"),
    [
        (Header(Kind.DATA, 1, count=3), bytes(11), "3 values of float32 announced, 11 bytes came"),
        (Header(Kind.DATA, 2, count=2**63), bytes(8), "announced, 8 bytes came"),
        (Header(Kind.DATA, 0, count=0), b"", "element type 0 is unknown; there is 1 to 5"),
        (Header(Kind.DATA, 250, count=1), b"1", "element type 250 is unknown"),
    ],
)
def test_a_payload_that_does_not_fit_its_header_is_refused_with_words(header, payload, words):
    with pytest.raises(Invalid, match=words):
        values_of(header, payload)


def test_types_that_do_not_travel_are_named():
    for name in ("complex128", "float16", "U3", "object"):
        with pytest.raises(Invalid, match=r"cannot be sent; there is: float32, float64"):
            dtype_code(name)
