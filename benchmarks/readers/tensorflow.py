"""Reader of TensorFlow: its own parser on batches, which is its fastest.

It verifies both checksums of a record. `parse_single_sequence_example` under `map` takes twenty
times as long.
"""

import os
from collections.abc import Iterator

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

from benchmarks.readers.serve import Plain, serve

BATCH = 256
CONTEXT = {
    "video_id": tf.io.FixedLenFeature([], tf.string),
    "start_time_seconds": tf.io.FixedLenFeature([], tf.float32),
    "end_time_seconds": tf.io.FixedLenFeature([], tf.float32),
    "labels": tf.io.RaggedFeature(tf.int64),
}
FRAMES = {"audio_embedding": tf.io.RaggedFeature(tf.string)}


def read(files: list[str]) -> Iterator[tuple]:
    records = tf.data.TFRecordDataset(files).batch(BATCH)
    return iter(records.map(lambda batch: tf.io.parse_sequence_example(batch, CONTEXT, FRAMES)))


def count(batch: tuple) -> int:
    return int(batch[0]["video_id"].shape[0])


def clips(batch: tuple) -> Iterator[Plain]:
    context, lists, _ = batch
    ids, labels = context["video_id"].numpy(), context["labels"].to_list()
    for video_id, own, frames in zip(ids, labels, lists["audio_embedding"].to_list(), strict=True):
        yield video_id, own, b"".join(b"".join(frame) for frame in frames)


if __name__ == "__main__":
    serve(read, count, clips)
