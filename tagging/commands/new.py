"""`tagging new`: a task on a folder of recordings, with settings decided from the data."""

import json
import re
import shlex
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.base.progress import Progress
from tagging.commands.inputs import find_input_files
from tagging.commands.labels import Labels, count_labels, read_labels
from tagging.commands.project import find_project
from tagging.commands.render import render
from tagging.commands.survey import SILENT_DB, Surveyed, find_copies, survey
from tagging.commands.task_settings import Choices, TaskSettings, decide
from tagging.sources.corrections import COLUMNS, CORRECTIONS
from tagging.sources.folder import CLIPS, format_table, group_by_file
from tagging.sources.recording import Recording

WIDTH = 100  # columns of the text
PIPELINE = Path("pipelines/recordings.yaml")
MAX_CLASSES = 40  # that are printed
MAX_NAMED = 5  # files in a line
OUTSIDE = "as its recordings are outside the project, at a path of this computer"

_NAME = re.compile("[a-z0-9][a-z0-9_-]*")
_SPACES = "  "
_NO_BREAK = "\u00a0"  # between a name and its number, which stay on one line


@dataclass(frozen=True)
class Options:
    """The options of `tagging new`, without the task's name and the recordings."""

    labels: str | None = None  # where they are, one of labels.SOURCES
    column: str | None = None
    group_by: str | None = None
    choices: Choices = field(default_factory=Choices)


def make_task(name: str, recordings: Path, options: Options, command: Sequence[str]) -> None:
    """Make a task's folder, and print what the recordings are and what was decided.

    Args:
        name: of the task, in `tasks/`.
        recordings: the folder, which is not changed.
        options: of the command.
        command: its words, for the parameters' first lines.

    Raises:
        UserError: if the name is taken, or the recordings or their labels are not usable.
    """
    root = _find_root()
    folder = root / "tasks" / name
    _check_name(name, folder)
    _check_recordings(recordings, root)
    inputs = find_input_files([str(recordings)])
    paths = [file.path for file in inputs.files if file.kind == "sound"]
    if not paths:
        problem = inputs.problems[0] if inputs.problems else f"{recordings} has no recordings"
        raise UserError(f"{problem}; {inputs.note}" if inputs.note else problem)
    files = [path.relative_to(recordings).as_posix() for path in paths]
    _check_encoding(recordings, files)
    labels = read_labels(recordings, files, options.labels, options.column, options.group_by)
    files = sorted({clip.file for clip in labels.clips})
    with Progress("read", len(files), "recording") as progress:
        surveyed = survey(recordings, files, progress)
    clips, lengths = _measure(labels, surveyed, recordings)
    copies = find_copies(recordings, surveyed)
    settings = decide(clips, lengths, str(recordings), options.choices, copies)
    # Beside the project, `..` would lead from the root to the folder on this computer alone.
    location = recordings.resolve() if ".." in recordings.parts else recordings.absolute()
    is_inside = location.is_relative_to(root)
    if is_inside:
        location = location.relative_to(root)
    _write(root, folder, location, labels, settings, surveyed, command)
    for line in [
        *_describe_files(recordings, surveyed),
        *_describe_problems(surveyed, copies, len(paths) - len(files), inputs.note),
        *_describe_classes(labels, clips),
        *_describe_settings(name, settings, is_inside),
    ]:
        print(line)
    for problem in inputs.problems:
        print(f"warning: {problem}", file=sys.stderr)


def _find_root() -> Path:
    root = find_project()
    if root is None or not (root / PIPELINE).is_file():
        raise UserError(f"{Path.cwd()} must be in the project's repository, which has {PIPELINE}")
    return root


def _check_name(name: str, folder: Path) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"NAME must be of small letters, digits, _ and - (not first), got {name!r}")
    if folder.exists():
        raise UserError(f"tasks/{name} exists; choose another name, or remove it")


def _check_recordings(recordings: Path, root: Path) -> None:
    if not recordings.exists():
        raise UserError(f"{recordings} must be a folder of recordings, but does not exist")
    if not recordings.is_dir():
        raise UserError(f"{recordings} must be a folder of recordings, got a file")
    if root.resolve().is_relative_to(recordings.resolve()):
        raise UserError(
            f"{recordings} must be a folder in the project or beside it, not one that has the "
            "project in it"
        )


def _check_encoding(recordings: Path, files: Sequence[str]) -> None:
    for file in (str(recordings.absolute()), *files):
        try:
            file.encode()
        except UnicodeEncodeError:
            raise UserError(f"{file!a} must have a name in UTF-8, to be in a table") from None


def _measure(
    labels: Labels, surveyed: Mapping[str, Surveyed], recordings: Path
) -> tuple[list[Recording], list[float]]:
    """Return the clips of files that can be decoded, and their lengths in seconds.

    Raises:
        UserError: if a clip begins after the end of its file, or there is no clip.
    """
    clips, lengths = [], []
    for clip, location in zip(group_by_file(labels.clips), labels.locations, strict=True):
        file = surveyed[clip.file]
        if file.problem:
            continue
        if clip.start >= file.seconds:
            raise UserError(
                f"{location}: start must be before the end of {clip.file}, {file.seconds:.2f} s, "
                f"got {clip.start:g}"
            )
        end = file.seconds if clip.end is None else min(clip.end, file.seconds)
        clips.append(clip)
        lengths.append(end - clip.start)
    if not clips:
        problem = next(file.problem for file in surveyed.values() if file.problem)
        raise UserError(f"{recordings} has no recording that can be read: {problem}")
    return clips, lengths


def _write(
    root: Path,
    folder: Path,
    recordings: Path,
    labels: Labels,
    settings: TaskSettings,
    surveyed: Mapping[str, Surveyed],
    command: Sequence[str],
) -> None:
    """Write the task's folder, complete or not at all; `recordings` is absolute if outside."""
    path = recordings.as_posix()
    table = f"{path}/{CLIPS}" if labels.table else f"tasks/{folder.name}/{CLIPS}"
    num_unreadable = sum(bool(file.problem) for file in surveyed.values())
    runs = "seed0" if settings.num_folds == 1 else "fold0-seed0"
    split = f"{{method: {settings.split.method}"
    if settings.split.method == "group_k_fold":
        split += f", folds: {settings.split.folds}, seed: {settings.split.seed}"
    if settings.split.method != "predefined":
        split += f", validation: {settings.split.validation}"
    params = render(
        "task.yaml.jinja",
        name=folder.name,
        title=_on_one_line(
            f"Clips of {recordings.name or recordings}, labelled by {labels.description}."
        ),
        command=_on_one_line(shlex.join(command)),
        type=settings.type,
        metrics=settings.metrics,
        loss="ce" if settings.type == "single_label" else "bce",
        is_inside=not recordings.is_absolute(),
        outside=OUTSIDE,
        path=json.dumps(path, ensure_ascii=False),
        table=json.dumps(table, ensure_ascii=False),
        clip_seconds=f"{settings.clip_seconds:g}",
        clip_reason=settings.clip_reason,
        pad=", pad_to_clip: true" if settings.pad_to_clip else "",
        unreadable="skip  # leaves out the files that cannot be read" if num_unreadable else "fail",
        split=f"{split}}}",
        split_reason=_on_one_line(settings.split_reason),
        minutes=max(1, round(settings.minutes)),
        cnn_epochs=settings.cnn_epochs,
        finetune_epochs=settings.finetune_epochs,
        batch_size=settings.batch_size,
        artifact=folder.name.replace("_", "-").rstrip("-"),
        run=runs,
    )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_text(partial / "params.yaml", params)
        write_text(partial / CORRECTIONS, f"{','.join(COLUMNS)}\n")
        if not labels.table:
            write_text(partial / CLIPS, format_table(labels.clips))
        shutil.copyfile(root / PIPELINE, partial / "dvc.yaml")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _on_one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else "?" for c in text).split())


def _wrap(title: str, text: str) -> list[str]:
    """Return a line of a table, or several, within WIDTH columns."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{_SPACES}{title:<14}",
        subsequent_indent=" " * (len(_SPACES) + 14),
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines] or [f"{_SPACES}{title}"]


def _shorten(text: str, width: int) -> str:
    return (
        text if len(text) <= width else f"{text[: width // 2 - 1]}…{text[-(width - width // 2) :]}"
    )


def _count(counter: Counter[str], most: int) -> str:
    listed = [
        f"{_shorten(name, 50)} {number:,}".replace(" ", _NO_BREAK)
        for name, number in counter.most_common(most)
    ]
    if len(counter) > most:
        listed.append(f"{len(counter) - most:,} more")
    return ", ".join(listed)


def _list_named(names: Sequence[str]) -> str:
    listed = [_shorten(name, 78) for name in names[:MAX_NAMED]]
    if len(names) > MAX_NAMED:
        listed.append(f"{len(names) - MAX_NAMED:,} more")
    return "; ".join(listed)


def _describe_files(recordings: Path, surveyed: Mapping[str, Surveyed]) -> list[str]:
    readable = [file for file in surveyed.values() if not file.problem]
    seconds = [file.seconds for file in readable]
    low, middle, high = np.percentile(seconds, [5, 50, 95])
    formats = Counter(Path(name).suffix.lower().lstrip(".") for name in surveyed)
    rates = Counter(f"{file.sample_rate / 1000:g} kHz" for file in readable)
    return [
        _shorten(
            f"{len(surveyed):,} files, {sum(seconds) / 3600:.2f} hours in {recordings}", WIDTH
        ),
        *_wrap("formats", _count(formats, 10)),
        *_wrap("sample rates", _count(rates, 10)),
        *_wrap("lengths", f"{low:.3g}, {middle:.3g}, {high:.3g} s (5th, 50th, 95th percentile)"),
    ]


def _describe_problems(
    surveyed: Mapping[str, Surveyed], copies: Sequence[list[str]], num_without: int, note: str
) -> list[str]:
    problems = [file.problem for file in surveyed.values() if file.problem]
    silent = [
        name for name, file in surveyed.items() if not file.problem and file.level_db < SILENT_DB
    ]
    repeated = [f"{file} ({first})" for first, *others in copies for file in others]
    lines = []
    if problems:
        lines += _wrap("unreadable", f"{len(problems):,}, left out: {_list_named(problems)}")
    if silent:
        lines += _wrap(
            "near-silent",
            f"{len(silent):,} below {SILENT_DB:g} dB, see decode.min_level_db: "
            f"{_list_named(silent)}",
        )
    if repeated:
        lines += _wrap("copies", f"{len(repeated):,}, in one fold: {_list_named(repeated)}")
    if num_without:
        lines += _wrap("without label", f"{num_without:,} files, left out")
    if note:
        lines += _wrap("other files", note)
    return lines


def _describe_classes(labels: Labels, clips: Sequence[Recording]) -> list[str]:
    counts = count_labels(clips)
    return [
        f"{len(clips):,} clips of {len(counts):,} classes by {labels.description}",
        *_wrap("classes", _count(counts, MAX_CLASSES)),
    ]


def _describe_settings(name: str, settings: TaskSettings, is_inside: bool) -> list[str]:
    split = settings.split
    folds = "train, val and test" if settings.num_folds == 1 else f"{settings.num_folds} folds"
    selection = ""
    if split.validation == "none" and settings.num_folds > 1:
        selection = "; none validates, so no entry is selected"
    rounded = max(1, round(settings.minutes))
    minutes = f"{rounded:,} minute{'s' if rounded > 1 else ''}"
    return [
        f"tasks/{name}/params.yaml",
        *_wrap("type", f"{settings.type}, by {' and '.join(settings.metrics)}"),
        *_wrap(
            "clips",
            f"{settings.num_windows:,} of {settings.clip_seconds:g} s: {settings.clip_reason}",
        ),
        *_wrap("split", f"{folds}: {settings.split_reason}{selection}"),
        *_wrap(
            "training",
            f"batches of {settings.batch_size}, {settings.finetune_epochs} epochs of mn04_as, "
            f"{settings.cnn_epochs} of the CNN: about {minutes} on two cores",
        ),
        *([] if is_inside else _wrap("git", f"leave tasks/{name} out of commits, {OUTSIDE}")),
        f"Go on with: dvc repro tasks/{name}/dvc.yaml",
    ]
