"""Reader of the package tfrecord: parses in C with protobuf, without verifying checksums."""

from collections.abc import Iterator

from tfrecord import tfrecord_loader

from benchmarks.readers.serve import Plain, serve

CONTEXT = {
    "video_id": "byte",
    "start_time_seconds": "float",
    "end_time_seconds": "float",
    "labels": "int",
}
FRAMES = {"audio_embedding": "byte"}


def read(files: list[str]) -> Iterator[tuple[dict, dict]]:
    for file in files:
        yield from tfrecord_loader(file, None, CONTEXT, sequence_description=FRAMES)


def clips(record: tuple[dict, dict]) -> Iterator[Plain]:
    context, lists = record
    yield context["video_id"], context["labels"].tolist(), b"".join(lists["audio_embedding"])


if __name__ == "__main__":
    serve(read, lambda record: 1, clips)
