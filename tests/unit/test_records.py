"""TFRecord framing and SequenceExample, read against bytes made by hand."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagging.base.errors import UserError
from tagging.sources.audioset.records import (
    Clip,
    SequenceExample,
    _parse_any,
    _parse_canonical,
    frame_record,
    masked_crc,
    parse_clip,
    read_clips,
    write_clip,
)
from tests.archives import clip, shard

LENGTH, LENGTH_CRC, DATA = 0, 8, 12  # where the parts of a record begin


def crc32c(data: bytes) -> int:
    """The definition, a bit at a time: RFC 3720, reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes, length: int | None = None) -> bytes:
    """Frame `data`, with a length that may lie, under a checksum of its own."""
    field = struct.pack("<Q", len(data) if length is None else length)
    return field + masked(field) + data + masked(data)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field of up to 16,383 bytes."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + content


def example(
    video_id: bytes = b"abcdefghijk",
    labels: bytes = b"\x00\xf4\x03",
    frames: tuple[bytes, ...] = (bytes(range(128)),),
    without: bytes = b"",
) -> bytes:
    """A SequenceExample, byte by byte; `labels` are varints: 0 and 500."""
    features = {
        b"video_id": field(1, field(1, video_id)),
        b"start_time_seconds": field(2, field(1, struct.pack("<f", 30))),
        b"end_time_seconds": field(2, field(1, struct.pack("<f", 40))),
        b"labels": field(3, field(1, labels)),
    }
    context = b"".join(
        field(1, field(1, name) + field(2, value))
        for name, value in features.items()
        if name != without
    )
    feature_list = b"".join(field(1, field(1, field(1, frame))) for frame in frames)
    lists = field(1, field(1, b"audio_embedding") + field(2, feature_list))
    return field(1, context) + field(2, lists)


def refusal(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        list(read_clips(data, "eval/ab.tfrecord"))
    return str(caught.value)


def test_crc_is_castagnolis() -> None:
    # The check value of CRC-32C, and TFRecord's of a length of 0 as TensorFlow writes it.
    assert crc32c(b"123456789") == 0xE3069283
    assert masked_crc(b"123456789") == (
        ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    )
    assert frame_record(b"")[:12] == bytes.fromhex("0000000000000000 29039807")


def test_reads_bytes_made_by_hand() -> None:
    data = framed(example()) + framed(example(b"-_ABCxyz019", b"\x8e\x04", (b"\xff" * 128,) * 3))
    assert list(read_clips(data, "x")) == [
        Clip("abcdefghijk", 30.0, 40.0, [0, 500], bytes(range(128))),
        Clip("-_ABCxyz019", 30.0, 40.0, [526], b"\xff" * 384),
    ]


def test_writes_what_is_read() -> None:
    clips = [clip("abcdefghijk", [3, 1], 10), clip("ABCDEFGHIJK", [526], 1)]
    assert list(read_clips(b"".join(map(write_clip, clips)), "x")) == clips


@pytest.mark.parametrize(
    ("part", "at"), [("length", LENGTH), ("length", LENGTH + 7), ("length", LENGTH_CRC)]
)
def test_refuses_a_flipped_byte_before_the_data(part: str, at: int) -> None:
    first = shard("abcdefghijk")
    data = bytearray(first + shard("abcdefghij2"))
    data[len(first) + at] ^= 0x40
    assert refusal(bytes(data)) == (
        f"eval/ab.tfrecord, record 1 at byte {len(first)}: the checksum of its {part} is wrong; "
        "the file is damaged"
    )


@pytest.mark.parametrize("at", [DATA, DATA + 300, -5, -4, -1])
def test_refuses_a_flipped_byte_from_the_data_on(at: int) -> None:
    data = bytearray(shard("abcdefghijk"))
    data[at] ^= 0x01
    assert "record 0 at byte 0: the checksum of its data is wrong" in refusal(bytes(data))


def test_refuses_a_record_cut_short_anywhere() -> None:
    first = shard("abcdefghijk")
    second = shard("abcdefghij2")
    for length in range(1, len(second)):
        message = refusal(first + second[:length])
        assert f"record 1 at byte {len(first)}: " in message
        assert (
            "the header must have 12 bytes, got" in message
            or "bytes, more than the file" in message
        )


@pytest.mark.parametrize(
    ("length", "problem"),
    [
        (2**64 - 1, "it states 18446744073709551615 bytes, more than the file has"),
        (100_000, "it states 100000 bytes, more than the file has"),
        (10, "the checksum of its data is wrong"),
        (0, "the checksum of its data is wrong"),
    ],
)
def test_refuses_a_length_that_lies_under_a_right_checksum(length: int, problem: str) -> None:
    data = framed(example(), length)
    assert f"record 1 at byte {len(shard('abcdefghijk'))}: {problem}" in refusal(
        shard("abcdefghijk") + data
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xff", "its data must be a tf.train.SequenceExample"),
        (b"", "it must have video_id, start_time_seconds and end_time_seconds"),
        (example(without=b"video_id"), "it must have video_id"),
        (example(without=b"end_time_seconds"), "it must have video_id"),
        (example(without=b"labels"), "labels must be one or more of 0..526, got []"),
        (example(labels=b"\x8f\x04"), "labels must be one or more of 0..526, got [527]"),
        (example(labels=b"\x01" + b"\xff" * 9 + b"\x01"), "of 0..526, got [1, -1]"),
        (example(labels=b"\x05\x05"), "labels must not repeat, got [5, 5]"),
        (example(b"tooshort"), "video_id must be 11 letters, digits, - and _, got 'tooshort'"),
        (example(b"abcdefghij\0"), r"- and _, got 'abcdefghij\x00'"),
        (example(b"abcdefghi\xc3\xa9"), r"- and _, got 'abcdefghi\\xc3\\xa9'"),
        (example(frames=()), "audio_embedding must have at least one frame"),
        (
            example(frames=(bytes(127),)),
            "frame 0 of audio_embedding must have 128 bytes, got [127]",
        ),
        (
            example(frames=(bytes(128), bytes(129))),
            "frame 1 of audio_embedding must have 128 bytes, got [129]",
        ),
    ],
)
def test_refuses_records_unlike_audiosets(data: bytes, problem: str) -> None:
    message = refusal(shard("abcdefghijk") + framed(data))
    assert message.startswith(f"eval/ab.tfrecord, record 1 at byte {len(shard('abcdefghijk'))}: ")
    assert problem in message


def test_refuses_two_frames_in_one_second_and_frames_of_another_kind() -> None:
    message = SequenceExample.FromString(example())
    frame = message.feature_lists.feature_list["audio_embedding"].feature[0]
    frame.bytes_list.value.append(bytes(128))
    with pytest.raises(ValueError, match=r"frame 0 .* must have 128 bytes, got \[128, 128\]"):
        parse_clip(message.SerializeToString())
    frame.int64_list.value.append(1)
    with pytest.raises(ValueError, match=r"frame 0 .* must have 128 bytes, got \[\]"):
        parse_clip(message.SerializeToString())


def test_refuses_an_empty_shard() -> None:
    assert refusal(b"") == "eval/ab.tfrecord must have at least one record, but is empty"


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: example() + data))
def test_data_under_right_checksums_are_read_or_refused(data: bytes) -> None:
    try:
        (read,) = read_clips(framed(data), "x")
    except UserError:
        return
    assert list(read_clips(write_clip(read), "x")) == [read]


def test_the_canonical_form_is_parsed_directly() -> None:
    expected = Clip("abcdefghijk", 30.0, 40.0, [0, 500], bytes(range(128)))
    assert _parse_canonical(example()) == _parse_any(example()) == expected


@pytest.mark.parametrize(
    "data",
    [
        example() + example(frames=(bytes(128),)),  # frames of both, one list after the other
        example() + field(1, field(1, field(1, b"labels") + field(2, field(3, b"")))),
        example() + field(1, field(1, field(1, b"another") + field(2, b"\xff"))),
        example(frames=(bytes(127), bytes(129))),
        example(labels=b"\x80\x00"),  # 0 in two bytes
    ],
)
def test_other_forms_are_left_alone_or_parsed_alike(data: bytes) -> None:
    read = _parse_canonical(data)
    assert read is None or read == _parse_any(data)


@settings(max_examples=1000, derandomize=True, deadline=None, database=None)
@given(at=st.integers(0, len(example()) - 1), byte=st.integers(0, 255), double=st.booleans())
def test_a_changed_byte_is_parsed_alike_in_both_ways(at: int, byte: int, double: bool) -> None:
    data = bytearray(example(frames=(bytes(128),)))
    data[at] = byte
    data = bytes(data) * (1 + double)
    if (read := _parse_canonical(data)) is not None:
        assert read == _parse_any(data)
