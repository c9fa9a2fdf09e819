"""Time and peak memory from the archive to a trained epoch, up to AudioSet's full size.

Archives with all three subsets are generated in a temporary folder. Every stage is a process of its
own, as DVC runs it, and its time includes its imports. The environment variable CLIPS replaces the
sizes: `CLIPS="20000 200000"`.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.large_archive import subsets, write_large_archive
from benchmarks.peak import Usage, measure_command
from benchmarks.results import Cell, Result, Target
from benchmarks.workspace import (
    ARCHIVE,
    LABELS,
    make_workspace,
    stage_command,
    stage_environment,
)
from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.base.progress import Progress
from tagging.data.task_folder import TaskFolder
from tagging.sources.audioset.sample import labels_csv

SIZES = (20_000, 200_000, 2_040_000)
FULL = SIZES[-1]
MODEL, FEATURE = "yac", "vggish"
MB = 1_000_000
# For the archive, the parquet files and the prepared features together.
DISK_BYTES_PER_CLIP = 4_500
SUBSETS = list(subsets(FULL))
CONVERT, PREPARE, EPOCH, ALL = "convert", "prepare", f"one epoch of {MODEL}", "total"


def read_sizes() -> list[int]:
    """Return the numbers of clips to measure, smallest first.

    Raises:
        UserError: if the environment variable CLIPS is no list of numbers.
    """
    words = os.environ.get("CLIPS", "").split()
    if not all(word.isdecimal() and int(word) >= 100 for word in words):
        raise UserError(f"CLIPS must be numbers of clips, 100 or more, got {' '.join(words)!r}")
    return sorted(map(int, words)) or list(SIZES)


def use_all_subsets(params: dict[str, Any]) -> None:
    """Set the parameters to all subsets and to one training of one epoch."""
    params["convert"]["subsets"] = params["prepare"]["subsets"] = SUBSETS
    model = params["models"][MODEL]
    model |= {"seeds": [0], "train": {**model.get("train", {}), "epochs": 1}}


def run(clips: int, progress: Progress) -> tuple[dict[str, Usage], int]:
    """Run the stages on `clips` clips; return the usage of each, and the bytes of the features.

    Raises:
        UserError: if the disk is too small.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < clips * DISK_BYTES_PER_CLIP:
            need = clips * DISK_BYTES_PER_CLIP / 1e9
            raise UserError(f"{folder.parent} must have {need:.1f} GB free for {clips:,} clips")
        make_workspace(folder, use_all_subsets)
        (folder / ARCHIVE).parent.mkdir()
        progress.say(f"scale: writing an archive of {clips:,} clips")
        write_large_archive(folder / ARCHIVE, clips)
        write_text(folder / LABELS, labels_csv())
        progress.advance()

        def run_stage(*command: str) -> Usage:
            try:
                usage = measure_command(stage_command(*command), folder, stage_environment())
            except subprocess.CalledProcessError:
                raise UserError(
                    f"stages.{command[0]} failed with {clips:,} clips; see its output above"
                ) from None
            progress.advance()
            return usage

        converted = [run_stage("convert", subset) for subset in SUBSETS]
        usage_of_steps = {
            CONVERT: Usage(
                sum(usage.seconds for usage in converted),
                max(usage.peak_bytes for usage in converted),
            ),
            PREPARE: run_stage("prepare"),
            EPOCH: run_stage("train", MODEL),
        }
        features = TaskFolder(folder).feature(FEATURE)
        return usage_of_steps, sum(file.stat().st_size for file in features.glob("*.npy"))


def make_rows(
    clips: int, usage_of_steps: dict[str, Usage], feature_bytes: int
) -> list[dict[str, Cell]]:
    """Return the rows of one size."""
    usages = usage_of_steps.values()
    total = Usage(sum(u.seconds for u in usages), max(u.peak_bytes for u in usages))
    return [
        {
            "step": name,
            "clips": clips,
            "seconds": round(usage.seconds, 1),
            "microseconds per clip": usage.seconds / clips * 1e6,
            "peak memory, MB": round(usage.peak_bytes / MB),
            "peak memory / features": None
            if name in (CONVERT, ALL)
            else usage.peak_bytes / feature_bytes,
        }
        for name, usage in {**usage_of_steps, ALL: total}.items()
    ]


def targets(table: list[dict[str, Cell]]) -> list[Target]:
    """Return the targets of the rows of full size."""

    def find(step: str, column: str, clips: int = FULL) -> float | None:
        return next(
            (row[column] for row in table if row["step"] == step and row["clips"] == clips), None
        )

    cost = "microseconds per clip"
    growth = [find(ALL, cost, clips) for clips in SIZES[1:]]
    not_run = f"needs {FULL:,} clips"
    peak, share = "peak memory, MB", "peak memory / features"
    limits = [
        (f"{CONVERT}: peak memory, MB", 500, find(CONVERT, peak), ""),
        (f"{PREPARE}: peak memory / features", 1.5, find(PREPARE, share), ""),
        (
            f"{EPOCH}: peak memory / features",
            1.3,
            find(EPOCH, share),
            "PyTorch alone needs more than half a gigabyte",
        ),
        (
            "total, seconds",
            300,
            find(ALL, "seconds"),
            "the stages run one after the other, each on one core",
        ),
        (
            f"time per clip at {FULL:,} / at {SIZES[1]:,} (1 if linear)",
            1.1,
            growth[1] / growth[0] if all(growth) else None,
            "",
        ),
    ]
    return [
        Target(quantity, "at most", limit, value, not_run if value is None else reason)
        for quantity, limit, value, reason in limits
    ]


def measure(clips: Sequence[int] | None = None) -> Result:
    """Run every size once."""
    clips = clips or read_sizes()
    table: list[dict[str, Cell]] = []
    with Progress("scale", len(clips) * (len(SUBSETS) + 3), "step") as progress:
        for size in clips:
            table += make_rows(size, *run(size, progress))
            progress.say(f"scale: {size:,} clips, {table[-1]['seconds']:.0f} s")
    description = (
        "Generated clips in the three subsets of AudioSet; `convert` runs once for each and "
        "gunzips the whole archive each time. Every stage is a process, run once; its time "
        "includes its imports. The epoch has the default settings, one seed and validation. Peak "
        "memory includes the pages of memory-mapped files that a process has read, which the "
        "system can reclaim. At small sizes it is mostly that of the libraries."
    )
    return Result("Up to AudioSet's full size", description, table, targets(table))
