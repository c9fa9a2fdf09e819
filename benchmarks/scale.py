"""Time and peak memory of the way from the archive to a trained epoch, up to AudioSet's full size.

Archives are generated, in all three subsets, and everything lies in a temporary folder. Every stage
is a process of its own, as DVC runs it; its time is what a user waits, imports included. The
environment variable CLIPS replaces the sizes: `CLIPS="20000 200000"`.
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
from benchmarks.results import Result, Target
from benchmarks.workspace import ARCHIVE, LABELS, make_workspace, stage, stage_environment
from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.base.progress import Progress
from tagging.data.clips import FEATURES
from tagging.sources.audioset.sample import labels_csv

SIZES = (20_000, 200_000, 2_040_000)
FULL = SIZES[-1]
MODEL = "yac"
MB = 1_000_000
# Archive, parquet files and prepared splits are on disk together.
DISK_BYTES_A_CLIP = 4_500
SUBSETS = list(subsets(FULL))
CONVERT, PREPARE, EPOCH, ALL = "convert", "prepare", f"one epoch of {MODEL}", "all of it"


def sizes() -> list[int]:
    """Return the numbers of clips to measure at, smallest first.

    Raises:
        UserError: if the environment variable CLIPS is no list of numbers.
    """
    words = os.environ.get("CLIPS", "").split()
    if not all(word.isdecimal() and int(word) >= 100 for word in words):
        raise UserError(f"CLIPS is {' '.join(words)!r}; it takes numbers of clips, 100 or more")
    return sorted(map(int, words)) or list(SIZES)


def full_size(params: dict[str, Any]) -> None:
    """Have parameters take all subsets, and train one epoch in one process."""
    params["convert"]["subsets"] = params["prepare"]["subsets"] = SUBSETS
    model = params["models"][MODEL]
    model |= {"seeds": [0], "train": {**model.get("train", {}), "epochs": 1}}


def run(clips: int, progress: Progress) -> tuple[dict[str, Usage], int]:
    """Run the stages on so many clips; return what each took, and the prepared data's bytes.

    Raises:
        UserError: if the disk is too small.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < clips * DISK_BYTES_A_CLIP:
            need = clips * DISK_BYTES_A_CLIP / 1e9
            raise UserError(f"{folder.parent} is too full; {clips:,} clips take {need:.1f} GB")
        make_workspace(folder, full_size)
        (folder / ARCHIVE).parent.mkdir()
        progress.say(f"scale: writes an archive of {clips:,} clips")
        write_large_archive(folder / ARCHIVE, clips)
        write_text(folder / LABELS, labels_csv())
        progress.advance()

        def measured(*command: str) -> Usage:
            try:
                usage = measure_command(stage(*command), folder, stage_environment())
            except subprocess.CalledProcessError:
                raise UserError(
                    f"stages.{command[0]} failed with {clips:,} clips; see above"
                ) from None
            progress.advance()
            return usage

        converted = [measured("convert", subset) for subset in SUBSETS]
        used = {
            CONVERT: Usage(
                sum(usage.seconds for usage in converted),
                max(usage.peak_bytes for usage in converted),
            ),
            PREPARE: measured("prepare"),
            EPOCH: measured("train", MODEL),
        }
        return used, sum(file.stat().st_size for file in (folder / FEATURES).rglob("*.npy"))


def rows(clips: int, used: dict[str, Usage], prepared: int) -> list[dict]:
    """Return the rows of one size."""
    whole = Usage(sum(u.seconds for u in used.values()), max(u.peak_bytes for u in used.values()))
    return [
        {
            "step": name,
            "clips": clips,
            "seconds": round(usage.seconds, 1),
            "microseconds a clip": usage.seconds / clips * 1e6,
            "peak memory, MB": round(usage.peak_bytes / MB),
            "peak memory / features": None
            if name in (CONVERT, ALL)
            else usage.peak_bytes / prepared,
        }
        for name, usage in {**used, ALL: whole}.items()
    ]


def targets(table: list[dict]) -> list[Target]:
    """Hold the rows of full size against the project's targets."""

    def got(step: str, column: str, clips: int = FULL) -> float | None:
        return next(
            (row[column] for row in table if row["step"] == step and row["clips"] == clips), None
        )

    cost = "microseconds a clip"
    growth = [got(ALL, cost, clips) for clips in SIZES[1:]]
    not_run = f"takes {FULL:,} clips"
    peak, share = "peak memory, MB", "peak memory / features"
    promised = [
        (f"{CONVERT}: peak memory, MB", 500, got(CONVERT, peak), ""),
        (f"{PREPARE}: peak memory / features", 1.5, got(PREPARE, share), ""),
        (
            f"{EPOCH}: peak memory / features",
            1.3,
            got(EPOCH, share),
            "PyTorch in a process takes over half a gigabyte of it, whatever the size",
        ),
        (
            "the whole way, seconds",
            300,
            got(ALL, "seconds"),
            "the stages run one after the other, each on one core; see what each takes above",
        ),
        (
            f"cost of a clip at {FULL:,} / at {SIZES[1]:,} (linear growth)",
            1.1,
            growth[1] / growth[0] if all(growth) else None,
            "",
        ),
    ]
    return [
        Target(what, "at most", limit, value, not_run if value is None else why)
        for what, limit, value, why in promised
    ]


def measure(clips: Sequence[int] | None = None) -> Result:
    """Run every size once."""
    clips = clips or sizes()
    table = []
    with Progress("scale", len(clips) * (len(SUBSETS) + 3), "step") as progress:
        for size in clips:
            used, prepared = run(size, progress)
            table += rows(size, used, prepared)
            progress.say(f"scale: {size:,} clips, {table[-1]['seconds']:.0f} s")
    about = (
        "Generated clips in the three subsets of AudioSet; `convert` runs for each, and each time "
        "gunzips the whole archive. Every stage is a process of its own, run once, and its time "
        "includes its imports. The epoch is one of the default settings, validation included, of "
        "one seed. Peak memory is all that a process holds: also the pages of memory-mapped files "
        "that it touched, which the system can take back. What small sizes take is mostly the "
        "libraries'."
    )
    return Result("Up to AudioSet's full size", about, table, targets(table))
