"""Peak memory: convert's does not grow with the subset, others' hardly more than their clips.

Memory is that of the stage's own process, as the operating system counts it.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peak import measure_command
from tagging.data.clips import Fold
from tagging.sources.audioset.records import frame_record, write_clip
from tagging.sources.audioset.sample import labels_csv
from tests.archives import clip, stage_command, stage_environment, write_archive
from tests.generated import ATTENTION, make_repository, multi_hot, write_clips, write_params

CLIPS = 40_000  # 51 MB of embeddings
MB = 1_000_000
SHARD = 1000


def write_large(archive: Path, clips: int) -> None:
    """Write an archive of `clips` clips that differ by their ids alone, all of the label 0."""
    placeholder = "0" * 11
    record = write_clip(clip(placeholder))[12:-4]
    begin = record.index(placeholder.encode())
    before, after = record[:begin], record[begin + len(placeholder) :]
    shards = {
        f"{first}": b"".join(
            frame_record(before + b"%011d" % number + after)
            for number in range(first, first + SHARD)
        )
        for first in range(0, clips, SHARD)
    }
    write_archive(archive, **shards)


def peak(folder: Path, *arguments: str) -> int:
    """Run a stage; return its peak memory in bytes."""
    environment = stage_environment(folder)
    return measure_command(stage_command(*arguments), folder, environment).peak_bytes


def test_convert_and_prepare_hold_no_more_than_they_must(tmp_path: Path) -> None:
    peaks = {}
    for factor in (1, 3):
        folder = tmp_path / str(factor)
        write_large(folder / "data/features.tar.gz", factor * CLIPS)
        (folder / "data/class_labels_indices.csv").write_text(labels_csv())
        peaks["convert", factor] = peak(folder, "convert", ".", "eval")
        params = folder / "params.yaml"
        text = params.read_text().replace("subsets: [bal_train, eval]", "subsets: [eval]")
        params.write_text(text.replace("top_k_labels: 10", "top_k_labels: 1"))
        peaks["prepare", factor] = peak(folder, "prepare", ".")
    assert peaks["convert", 3] < 500 * MB
    # 102 MB more of embeddings; the ids are one of them.
    assert peaks["convert", 3] - peaks["convert", 1] < 60 * MB
    tensors = 2 * CLIPS * (10 * 128 + 1 + 11)
    assert peaks["prepare", 3] - peaks["prepare", 1] < 1.5 * tensors


def test_an_epoch_takes_hardly_more_than_the_bytes_of_its_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = CLIPS // 2, 2 * CLIPS
    peaks = {}
    for clips in (few, many):
        (tmp_path / str(clips)).mkdir()
        monkeypatch.chdir(tmp_path / str(clips))
        make_repository()
        order = np.random.default_rng(0).permutation(clips)
        fold = Fold(*np.split(order, [clips - 200, clips - 100]))
        write_clips(multi_hot(clips, 10), [fold])
        write_params(models={"small": ATTENTION | {"train": {"epochs": 1, "batch_size": 500}}})
        peaks[clips] = peak(Path.cwd(), "train", ".", "small")
    # Of two million clips, 1.3 times their bytes are to be enough for all of it; what does not grow
    # with them (PyTorch and DVCLive) is 0.2 of that. So few clips tell it to a few hundredths.
    assert peaks[many] - peaks[few] < 1.2 * (many - few) * 1280
