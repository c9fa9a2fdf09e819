"""The settings of a new task, decided from its clips."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tagging.base.errors import UserError
from tagging.data.splits import SplitSettings, check_classes, make_folds
from tagging.data.task import MetricSettings, Task
from tagging.sources.copies import merge_copies
from tagging.sources.recording import Recording

MIN_CLIP_SECONDS, MAX_CLIP_SECONDS = 0.2, 10.0
PERCENTILE = 95  # of the lengths of clips, which one window covers
FOLDS = 5
FEW_FOLDS = 3  # if more would take longer than the user allows
SEEDS = 10  # of the split, that are tried until each fold has each class
MINUTES = 10.0  # of two cores
METRICS = {"single_label": ("accuracy", "map"), "multi_label": ("map", "roc_auc")}
SMALL_SET = 500  # windows that train; smaller sets have smaller batches, for more steps

# Seconds of a core for a second of sound: of a training for each epoch, of all else once.
# Measured on ESC-10, both cores of a processor with AVX2 busy.
FINETUNE_SECONDS = 0.0143
CNN_SECONDS = 0.0014
OTHER_SECONDS = 0.02
FINETUNE_SHARE = 0.6  # of the time of trainings
FINETUNE_EPOCHS, CNN_EPOCHS = (3, 12), (10, 60)  # at least, at most

TaskType = Literal["single_label", "multi_label"]


@dataclass(frozen=True)
class Choices:
    """What the user decides; None and 0 leave it to the data."""

    type: TaskType | None = None
    clip_seconds: float | None = None
    folds: int | None = None
    metrics: tuple[str, ...] = ()
    minutes: float = MINUTES
    batch_size: int | None = None


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a task, and the reason of each decision that has one."""

    type: TaskType
    metrics: tuple[str, ...]
    clip_seconds: float
    clip_reason: str
    pad_to_clip: bool  # clips of one length train in half the time; others are masked
    split: SplitSettings
    split_reason: str
    num_windows: int
    num_folds: int
    batch_size: int
    finetune_epochs: int
    cnn_epochs: int
    minutes: float  # of two cores, for all stages


def decide(
    clips: Sequence[Recording],
    lengths: Sequence[float],
    name: str,
    choices: Choices,
    copies: Sequence[Sequence[str]] = (),
) -> TaskSettings:
    """Return the settings of a task.

    Args:
        clips: of the task.
        lengths: of the clips, in seconds.
        name: of the recordings, for errors.
        choices: of the user.
        copies: the files that have the same bytes.

    Raises:
        UserError: if there are too few classes, or clips of a class, or choices do not fit.
    """
    task_type = _decide_type(clips, name, choices.type)
    metrics = choices.metrics or METRICS[task_type]
    percentile = float(np.percentile(lengths, PERCENTILE))
    clip_seconds = choices.clip_seconds or _round_up(
        min(max(percentile, MIN_CLIP_SECONDS), MAX_CLIP_SECONDS)
    )
    windows = np.array([count_windows(length, clip_seconds) for length in lengths])
    split, num_folds, split_reason = _decide_split(
        clips, windows, name, task_type, choices.folds, copies
    )
    train_share = {1: 0.8, 2: 0.5}.get(num_folds, 1 - 2 / num_folds)
    if split.validation == "none" and num_folds > 1:
        train_share = 1 - 1 / num_folds
    num_windows = int(windows.sum())
    trained = train_share * num_windows
    epoch_seconds = trained * num_folds * clip_seconds
    other_seconds = OTHER_SECONDS * num_windows * clip_seconds
    budget = max(0.0, 120 * choices.minutes - other_seconds)
    finetune = _clamp(FINETUNE_SHARE * budget / (FINETUNE_SECONDS * epoch_seconds), FINETUNE_EPOCHS)
    rest = budget - FINETUNE_SECONDS * epoch_seconds * finetune
    cnn = _clamp(rest / (CNN_SECONDS * epoch_seconds), CNN_EPOCHS)
    seconds = other_seconds + epoch_seconds * (FINETUNE_SECONDS * finetune + CNN_SECONDS * cnn)
    is_free = choices.folds is None and split.method == "group_k_fold" and num_folds > FEW_FOLDS
    if seconds > 120 * choices.minutes and is_free:
        fewer = decide(clips, lengths, name, replace(choices, folds=FEW_FOLDS), copies)
        return replace(fewer, split_reason=f"{num_folds} take longer; {fewer.split_reason}")
    reason = f"{PERCENTILE}% of clips have at most {percentile:.3g} s"
    return TaskSettings(
        type=task_type,
        metrics=metrics,
        clip_seconds=clip_seconds,
        clip_reason="as chosen" if choices.clip_seconds else reason,
        pad_to_clip=bool(np.percentile(lengths, 100 - PERCENTILE) >= 0.9 * clip_seconds),
        split=split,
        split_reason=split_reason,
        num_windows=num_windows,
        num_folds=num_folds,
        batch_size=choices.batch_size or (16 if trained < SMALL_SET else 32),
        finetune_epochs=finetune,
        cnn_epochs=cnn,
        minutes=seconds / 120,
    )


def count_windows(length: float, clip_seconds: float) -> int:
    """Return the number of clips of a recording: the last is left out if shorter than a half."""
    return max(1, math.floor(length / clip_seconds + 0.5))


def _round_up(seconds: float) -> float:
    """Return seconds in tenths, not below, except by two in a hundred (5.01 s are 5)."""
    below = math.floor(10 * seconds) / 10
    return below if seconds <= 1.02 * below else math.ceil(10 * seconds) / 10


def _clamp(value: float, limits: tuple[int, int]) -> int:
    return int(min(max(value, limits[0]), limits[1]))


def _decide_type(clips: Sequence[Recording], name: str, choice: TaskType | None) -> TaskType:
    """Return the type of a task.

    Raises:
        UserError: if there is one class, or the choice does not fit.
    """
    labels = sorted({label for clip in clips for label in clip.labels})
    if len(labels) < 2:
        raise UserError(f"{name} must have two classes at least, got {' and '.join(labels)} only")
    several = next((clip for clip in clips if len(clip.labels) > 1), None)
    if choice == "single_label" and several:
        raise UserError(
            f"--type single_label must have one label for each clip, got {len(several.labels)} for "
            f"{several.id}"
        )
    return choice or ("multi_label" if several else "single_label")


def _decide_split(
    clips: Sequence[Recording],
    windows: np.ndarray,
    name: str,
    task_type: TaskType,
    folds: int | None,
    copies: Sequence[Sequence[str]],
) -> tuple[SplitSettings, int, str]:
    """Return the section `split`, the number of folds, and the reason.

    Args:
        clips: of the task.
        windows: the number of windows of each clip, int64 (clips,).
        name: of the recordings, for errors.
        task_type: of the task.
        folds: as the user chose, or None.
        copies: the files that have the same bytes.

    Raises:
        UserError: if a class is too small, or the folds do not fit.
    """
    has_groups = any(clip.group and clip.group != clip.file for clip in clips)
    clips = merge_copies(clips, copies)
    class_names = sorted({label for clip in clips for label in clip.labels})
    labels = np.array([[label in clip.labels for label in class_names] for clip in clips], np.uint8)
    task = Task(type=task_type, metrics=[MetricSettings(name=METRICS[task_type][0])])
    # A row for each window, as in the stage decode.
    rows = np.repeat(np.arange(len(clips)), windows).tolist()
    window_labels = labels[rows]
    groups = [clip.group or clip.file for clip in clips]

    def try_split(split: SplitSettings) -> int:
        fold_numbers = [clips[row].fold for row in rows]
        made = make_folds(
            split,
            window_labels,
            class_names,
            [clips[row].split for row in rows],
            None if None in fold_numbers else np.array(fold_numbers),
            [groups[row] for row in rows],
        )
        check_classes(split, made, window_labels, class_names, task)
        return len(made)

    own = "split" if clips[0].split else "fold" if clips[0].fold is not None else ""
    if own and folds:
        raise UserError(
            f"--folds must be left out, as the table of {name} has the column {own}; remove the "
            "column to draw folds"
        )
    if own == "split":
        return _try_all([SplitSettings(method="predefined")], try_split, name, "the table's splits")
    if own == "fold":
        wanted = [
            SplitSettings(method="k_fold", validation=validation)
            for validation in ("next_fold", "none")
        ]
        return _try_all(wanted, try_split, name, "the table's folds")
    unit = "group" if has_groups else "file"
    smallest, number = _find_smallest(labels, groups, class_names)
    if number < 2:
        example = next(clip for clip in clips if smallest in clip.labels)
        raise UserError(
            f"{name}: each class must have clips in two {unit}s at least, to train and to test, "
            f"got one of {smallest!r}, {groups[clips.index(example)]}: add one, or remove the class"
        )
    if folds and folds > number:
        raise UserError(
            f"--folds must be at most {number}, as {smallest!r} has {number} {unit}s, got {folds}"
        )
    wanted = [
        SplitSettings(
            method="group_k_fold",
            folds=k,
            validation="next_fold" if k > 2 else "none",
            seed=seed,
        )
        for k in ([folds] if folds else range(min(FOLDS, number), 1, -1))
        for seed in range(SEEDS)
    ]
    reason = f"random; all clips of a {unit} are in one fold"
    if number < FOLDS and not folds:
        reason = f"{smallest!r} has {number} {unit}s; all clips of a {unit} are in one fold"
    return _try_all(wanted, try_split, name, reason)


def _try_all(
    wanted: Sequence[SplitSettings],
    try_split: Callable[[SplitSettings], int],
    name: str,
    reason: str,
) -> tuple[SplitSettings, int, str]:
    """Return the first split that has each class where it is needed.

    Raises:
        UserError: that of the first split, if none has.
    """
    problem = ""
    for split in wanted:
        try:
            return split, try_split(split), reason
        except UserError as error:
            problem = problem or str(error)
    raise UserError(f"{name}: {problem}")


def _find_smallest(
    labels: np.ndarray, groups: Sequence[str], class_names: Sequence[str]
) -> tuple[str, int]:
    """Return the class with the fewest groups, and their number."""
    numbers = [
        len({groups[row] for row in np.flatnonzero(labels[:, column]).tolist()})
        for column in range(len(class_names))
    ]
    column = int(np.argmin(numbers))
    return class_names[column], numbers[column]
