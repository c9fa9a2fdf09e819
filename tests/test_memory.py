"""Peak memory: convert's does not grow with the subset, prepare's hardly more than its tensors.

Memory is that of the stage's own process, as the operating system counts it.
"""

import subprocess
import sys
from pathlib import Path

from tagging.records import frame_record, write_clip
from tagging.sample import labels_csv
from tests.archives import clip, stage_command, stage_environment, write_archive

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


# A small process between this one and the stage: a child's peak begins with its parent's size.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(folder: Path, *arguments: str) -> int:
    """Run a stage; return the most bytes it held."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *stage_command(*arguments)],
        cwd=folder,
        env=stage_environment(folder),
        check=True,
        capture_output=True,
    )
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def test_memory_is_bounded(tmp_path: Path) -> None:
    peaks = {}
    for factor in (1, 3):
        folder = tmp_path / str(factor)
        write_large(folder / "data/features.tar.gz", factor * CLIPS)
        (folder / "data/class_labels_indices.csv").write_text(labels_csv())
        peaks["convert", factor] = peak(folder, "convert", "eval")
        params = folder / "params.yaml"
        text = params.read_text().replace("subsets: [bal_train, eval]", "subsets: [eval]")
        params.write_text(text.replace("top_labels: 10", "top_labels: 1"))
        peaks["prepare", factor] = peak(folder, "prepare")
    assert peaks["convert", 3] < 500 * MB
    # 102 MB more of embeddings; the ids are one of them.
    assert peaks["convert", 3] - peaks["convert", 1] < 60 * MB
    tensors = 2 * CLIPS * (10 * 128 + 1 + 11)
    assert peaks["prepare", 3] - peaks["prepare", 1] < 1.5 * tensors
