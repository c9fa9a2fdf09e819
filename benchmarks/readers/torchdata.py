"""Reader of torchdata 0.9, which the published study used: the DataPipe `load_from_tfrecord`.

Its generated messages need protobuf 3.20, which parses in Python for this version of Python. It
verifies no checksums.
"""

import warnings
from collections.abc import Iterator

warnings.simplefilter("ignore")  # DataPipes are deprecated

from torchdata.datapipes.iter import FileOpener, IterableWrapper  # noqa: E402

from benchmarks.readers.serve import Plain, serve  # noqa: E402


def read(files: list[str]) -> Iterator[dict]:
    return iter(FileOpener(IterableWrapper(files), mode="rb").load_from_tfrecord())


def clips(record: dict) -> Iterator[Plain]:
    frames = b"".join(frame[0] for frame in record["audio_embedding"])
    yield record["video_id"][0], record["labels"].tolist(), frames


if __name__ == "__main__":
    serve(read, lambda record: 1, clips)
