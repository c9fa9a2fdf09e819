"""Copies: files of the same bytes, which are one recording and stay in one split."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tagging.sources.recording import Recording


def find_copies(recordings: Sequence[Recording], digests: Mapping[str, bytes]) -> list[list[str]]:
    """Return the lists of files that have the same bytes, in the order of the recordings."""
    files = defaultdict(list)
    for file in dict.fromkeys(recording.file for recording in recordings):
        if file in digests:
            files[digests[file]].append(file)
    return [copies for copies in files.values() if len(copies) > 1]


def merge_copies(
    recordings: Sequence[Recording], copies: Sequence[Sequence[str]]
) -> list[Recording]:
    """Return the recordings with one group for all that have the same sound.

    The fold and split of a group are those of its first recording.

    Args:
        recordings: of all files.
        copies: the files that have the same bytes.
    """
    merged: dict[str, str] = {}  # the group that a group became a part of
    firsts: dict[str, Recording] = {}  # of each group

    def find_group(recording: Recording) -> str:
        group = recording.group or recording.file
        while group in merged:
            group = merged[group]
        return group

    file_recordings = defaultdict(list)
    for recording in recordings:
        file_recordings[recording.file].append(recording)
    for files in copies:
        parts = [part for file in files for part in file_recordings[file]]
        latest_end = -math.inf
        for part in sorted(parts, key=lambda part: part.start):
            if part.start >= latest_end:
                group = find_group(part)
            elif (other := find_group(part)) != group:
                merged[other] = group
            latest_end = max(latest_end, math.inf if part.end is None else part.end)
    joined = set(merged.values())
    grouped = []
    for recording in recordings:
        group = find_group(recording)
        first = firsts.setdefault(group, recording)
        if group in joined:
            recording = recording._replace(group=group, fold=first.fold, split=first.split)
        grouped.append(recording)
    return grouped
