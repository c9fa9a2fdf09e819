"""AudioSet's records: `tf.train.SequenceExample` messages in TFRecord framing.

Format: https://research.google.com/audioset/download.html and
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from tagging.base.errors import UserError
from tagging.sources.audioset.labels import CLASSES

FRAME_BYTES = 128  # one VGGish embedding, a byte a dimension
VIDEO_ID_CHARACTERS = 11
_VIDEO_ID = re.compile(rf"[0-9A-Za-z_-]{{{VIDEO_ID_CHARACTERS}}}")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<QI")  # both

# A Feature with one value as protobuf writes it: tags and lengths, and the value.
_ID_FEATURE, _ID_TAGS = struct.Struct(f"4s{VIDEO_ID_CHARACTERS}s"), b"\n\r\n\x0b"
_FLOAT_FEATURE, _FLOAT_TAGS = struct.Struct("<4sf"), b"\x12\x06\n\x04"
_FRAME_TAGS = b"\n\x86\x01\n\x83\x01\n\x80\x01"
_FRAME = f"{len(_FRAME_TAGS)}s{FRAME_BYTES}s"
# AudioSet's clips have 1 to 10 frames; by their number of bytes.
_FRAMES = {
    frames.size: frames for frames in (struct.Struct(_FRAME * number) for number in range(1, 11))
}


class Clip(NamedTuple):
    """One clip of AudioSet.

    `labels` are class indices (0..526); `audio_embedding` has the frames in their order, 128
    unsigned bytes a second.
    """

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: list[int]
    audio_embedding: bytes


def _message(name: str, values_as_bytes: bool = False) -> type[message.Message]:
    """Build a message class at run time: it needs no generated code, and is parsed in C as well.

    The fields are those of tensorflow/core/example/{feature,example}.proto. With
    `values_as_bytes` the values of maps are left as they are serialized.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="audioset_example.proto", package="audioset", syntax="proto3"
    )

    def add(owner: Any, name: str, number: int, kind: int | str, repeated: bool = False) -> None:
        entry = owner.field.add(name=name, number=number)
        entry.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        if isinstance(kind, str):
            entry.type, entry.type_name = field.TYPE_MESSAGE, f".audioset.{kind}"
        else:
            entry.type = kind

    def add_map(owner: Any, name: str, number: int, entry_name: str, value: str) -> None:
        entry = owner.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        add(entry, "key", 1, field.TYPE_STRING)
        add(entry, "value", 2, field.TYPE_BYTES if values_as_bytes else value)
        add(owner, name, number, f"{owner.name}.{entry_name}", repeated=True)

    lists = {"Bytes": field.TYPE_BYTES, "Float": field.TYPE_FLOAT, "Int64": field.TYPE_INT64}
    for kind, type_ in lists.items():
        add(file.message_type.add(name=f"{kind}List"), "value", 1, type_, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, kind in enumerate(lists, start=1):
        add(feature, f"{kind.lower()}_list", number, f"{kind}List")
        feature.field[-1].oneof_index = 0
    add_map(file.message_type.add(name="Features"), "feature", 1, "FeatureEntry", "Feature")
    add(file.message_type.add(name="FeatureList"), "feature", 1, "Feature", repeated=True)
    add_map(
        file.message_type.add(name="FeatureLists"),
        "feature_list", 1, "FeatureListEntry", "FeatureList",
    )  # fmt: skip
    example = file.message_type.add(name="SequenceExample")
    add(example, "context", 1, "Features")
    add(example, "feature_lists", 2, "FeatureLists")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"audioset.{name}"))


SequenceExample = _message("SequenceExample")
_Feature = _message("Feature")
_UnreadExample = _message("SequenceExample", values_as_bytes=True)


def masked_crc(data: bytes) -> int:
    """Return TFRecord's masked CRC-32C of `data`."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_clips(shard: bytes, name: str) -> Iterator[Clip]:
    """Yield the clips of one TFRecord file; both checksums of each record are checked.

    Args:
        shard: the content of the file.
        name: the file's name, for errors.

    Raises:
        UserError: naming file, record and byte offset, if the framing, a checksum or a field is not
            valid.
    """
    offset, number, size = 0, 0, len(shard)
    if not size:
        raise UserError(f"{name} must have at least one record, but is empty")
    while offset < size:
        try:
            data, end = _record_at(shard, offset)
            clip = parse_clip(data)
        except ValueError as error:
            raise UserError(f"{name}, record {number} at byte {offset}: {error}") from None
        yield clip
        offset, number = end, number + 1


def _record_at(shard: bytes, offset: int) -> tuple[bytes, int]:
    """Return the data of the record at `offset`, and the offset of the next one.

    Raises:
        ValueError: if the record is truncated or damaged.
    """
    left = len(shard) - offset
    if left < _HEADER.size:
        raise ValueError(
            f"the header must have {_HEADER.size} bytes, got {left}; the file is truncated"
        )
    length, crc = _HEADER.unpack_from(shard, offset)
    if masked_crc(shard[offset : offset + _LENGTH.size]) != crc:
        raise ValueError("the checksum of its length is wrong; the file is damaged")
    start = offset + _HEADER.size
    end = start + length
    if end + _CRC.size > len(shard):
        raise ValueError(f"it states {length} bytes, more than the file has; the file is truncated")
    data = shard[start:end]
    if masked_crc(data) != _CRC.unpack_from(shard, end)[0]:
        raise ValueError("the checksum of its data is wrong; the file is damaged")
    return data, end + _CRC.size


def parse_clip(data: bytes) -> Clip:
    """Read one serialized SequenceExample.

    Raises:
        ValueError: naming the first field that is not valid.
    """
    clip = _parse_canonical(data) or _parse_any(data)
    if not _VIDEO_ID.fullmatch(clip.video_id):
        raise ValueError(
            f"video_id must be {VIDEO_ID_CHARACTERS} letters, digits, - and _, got "
            f"{clip.video_id!r}"
        )
    labels = clip.labels
    if not labels or min(labels) < 0 or max(labels) >= CLASSES:
        raise ValueError(f"labels must be one or more of 0..{CLASSES - 1}, got {labels}")
    if len(set(labels)) != len(labels):
        raise ValueError(f"labels must not repeat, got {labels}")
    return clip


def _parse_canonical(data: bytes) -> Clip | None:
    """Parse an example with AudioSet's fields as protobuf writes them; None for other forms.

    This is twice as fast as `_parse_any`, which creates Python objects for every frame.
    """
    try:
        example = _UnreadExample.FromString(data)
        context, lists = example.context.feature, example.feature_lists.feature_list
        # Repeated values are read once: then the size differs.
        if example.ByteSize() != len(data) or len(context) != 4 or len(lists) != 1:
            return None
        id_tags, video_id = _ID_FEATURE.unpack(context["video_id"])
        start_tags, start = _FLOAT_FEATURE.unpack(context["start_time_seconds"])
        end_tags, end = _FLOAT_FEATURE.unpack(context["end_time_seconds"])
        labels = _Feature.FromString(context["labels"]).int64_list.value[:]  # a list
        value = lists["audio_embedding"]
        if len(value) not in _FRAMES:
            return None
        # All frames at once: reading them one by one is less than half as fast.
        pieces = _FRAMES[len(value)].unpack(value)
        frame_tags, frames = pieces[::2], pieces[1::2]
        if (
            id_tags == _ID_TAGS
            and start_tags == end_tags == _FLOAT_TAGS
            and frame_tags.count(_FRAME_TAGS) == len(frames)
        ):
            return Clip(video_id.decode("ascii"), start, end, labels, b"".join(frames))
    except (message.DecodeError, struct.error, ValueError):
        pass
    return None


def _parse_any(data: bytes) -> Clip:
    """Parse an example in any valid form.

    Raises:
        ValueError: if a field is missing, or a frame does not have 128 bytes.
    """
    try:
        example = SequenceExample.FromString(data)
    except message.DecodeError:
        raise ValueError("its data must be a tf.train.SequenceExample") from None
    context = example.context.feature
    try:
        video_id = context["video_id"].bytes_list.value[0].decode("ascii", "backslashreplace")
        start = context["start_time_seconds"].float_list.value[0]
        end = context["end_time_seconds"].float_list.value[0]
    except IndexError:
        raise ValueError("it must have video_id, start_time_seconds and end_time_seconds") from None
    labels = list(context["labels"].int64_list.value)
    frames: list[bytes] = []
    for feature in example.feature_lists.feature_list["audio_embedding"].feature:
        value = feature.bytes_list.value
        if len(value) != 1 or len(value[0]) != FRAME_BYTES:
            sizes = [len(frame) for frame in value]
            raise ValueError(
                f"frame {len(frames)} of audio_embedding must have {FRAME_BYTES} bytes, got {sizes}"
            )
        frames.append(value[0])
    if not frames:
        raise ValueError("audio_embedding must have at least one frame")
    return Clip(video_id, start, end, labels, b"".join(frames))


def find_duplicate(video_ids: np.ndarray) -> bytes | None:
    """Return an id that occurs more than once in `video_ids` (S11), or None.

    Sorting needs less memory than a hash table of two million ids.
    """
    ordered = np.sort(video_ids)
    duplicates = np.flatnonzero(ordered[1:] == ordered[:-1])
    return ordered[duplicates[0]] if len(duplicates) else None


def locate_rows(rows: np.ndarray, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the file and the row in it of each row, counted through files of `sizes` rows."""
    ends = np.cumsum(sizes)
    files = np.searchsorted(ends, rows, side="right")
    begins = ends - sizes
    return [(int(file), int(row - begins[file])) for file, row in zip(files, rows, strict=True)]


def write_clip(clip: Clip) -> bytes:
    """Return the clip as one framed TFRecord, with fields in a fixed order."""
    example = SequenceExample()
    context = example.context.feature
    context["video_id"].bytes_list.value.append(clip.video_id.encode("ascii"))
    context["start_time_seconds"].float_list.value.append(clip.start_time_seconds)
    context["end_time_seconds"].float_list.value.append(clip.end_time_seconds)
    context["labels"].int64_list.value.extend(clip.labels)
    frames = example.feature_lists.feature_list["audio_embedding"].feature
    for start in range(0, len(clip.audio_embedding), FRAME_BYTES):
        frame = clip.audio_embedding[start : start + FRAME_BYTES]
        frames.add().bytes_list.value.append(frame)
    return frame_record(example.SerializeToString(deterministic=True))


def frame_record(data: bytes) -> bytes:
    """Return `data` as a TFRecord, with its length and checksums."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CRC.pack(masked_crc(length)), data, _CRC.pack(masked_crc(data))))
