"""`tagging tag`: labels of recordings and of AudioSet's records, on all cores."""

import csv
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, Lock
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from tagging.base.errors import UserError
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.commands import models
from tagging.commands.examine import ACCEPTED
from tagging.commands.inputs import Input, find_inputs, read_batches
from tagging.commands.report import Picture, Report, clock
from tagging.commands.tagger import BLOCK_SECONDS, TAKES, Heard, Tagger
from tagging.features.decoding import blocks

WIDTH = 100  # columns of the printed answer
HEARD_FROM = 0.5  # where a label has no threshold, it is printed as heard from this probability on


class Options(NamedTuple):
    """What the command line asks for; `top` None is all, `window` and `hop` the model's own."""

    model: str | None
    format: str
    top: int | None
    window: float | None
    hop: float | None
    report: Path | None
    vggish: Path | None


class Answer(NamedTuple):
    """What a model says of one recording, or of one clip of a file of embeddings (`clip`)."""

    tagger: Tagger
    file: Path
    clip: str | None
    heard: Heard
    picture: Picture | None = None


class Stopped(Exception):
    """Ctrl-C, as work that is under way is told of it."""


def tag(names: Sequence[str], options: Options) -> int:
    """Tag files, print the answers in the order of the files, and return how many had none."""
    inputs, problems = find_inputs(names)
    total = sum(given.size for given in inputs)
    taggers = _Taggers(options.model, options.vggish)
    report = Report() if options.report else None
    with Progress("tag", total, "B", "auto" if sys.stderr.isatty() else "none") as progress:

        def complain(problem: str) -> None:
            tqdm.write(f"error: {problem}", file=sys.stderr)

        for problem in problems:
            complain(problem)
        failed = len(problems)
        writer = WRITERS[options.format](options.top)
        # Closed at once where printing fails or is interrupted: work under way is ended then.
        with closing(_answers(inputs, taggers, options, progress)) as answers:
            for answer in answers:
                if isinstance(answer, str):
                    failed += 1
                    complain(answer)
                    continue
                writer.write(answer)
                if report:
                    report.add(*answer)
        writer.end()
    if report and options.report:
        report.write(options.report)
    return failed


class _Taggers:
    """The models that files of each kind are tagged with, loaded when the first one comes."""

    def __init__(self, model: str | None, vggish: Path | None) -> None:
        # What was asked for is refused before anything is done.
        if vggish is not None and model is None:
            model = str(models.EMBEDDINGS)
        chosen = [Tagger(models.find(model))] if model is not None else []
        if vggish is not None:
            chosen.append(Tagger(chosen[0].path, vggish))
        self._chosen = {tagger.kind: tagger for tagger in chosen}
        self._loaded: dict[str, Tagger | str] = {}

    def of(self, given: Input) -> Tagger:
        """Return the model for a file.

        Raises:
            UserError: if the one that was asked for takes other files, or there is no default.
        """
        if self._chosen:
            if given.kind not in self._chosen:
                (tagger,) = self._chosen.values()
                raise UserError(
                    f"{given.path} is {'sound' if given.kind == 'sound' else 'a file of records'}; "
                    f"{tagger.name} takes {TAKES[tagger.kind]}"
                )
            return self._chosen[given.kind]
        if given.kind not in self._loaded:
            try:
                name = models.SOUND if given.kind == "sound" else str(models.EMBEDDINGS)
                self._loaded[given.kind] = Tagger(models.find(name))
            except (UserError, OSError) as error:
                self._loaded[given.kind] = str(error)
        found = self._loaded[given.kind]
        if isinstance(found, str):
            raise UserError(f"{given.path}: its default model cannot be had: {found}")
        return found


def _answers(
    inputs: list[Input], taggers: _Taggers, options: Options, progress: Progress
) -> Generator[Answer | str]:
    """Yield the answers, and sentences on files without one, in the order of the files."""
    stop, lock = Event(), Lock()
    sounds = sum(given.kind == "sound" for given in inputs)
    cores = num_workers()
    workers = max(1, min(sounds, cores))
    # A few recordings share the cores.
    threads = max(1, cores // workers)
    torch.set_num_threads(threads)

    def advance(amount: int) -> None:
        if stop.is_set():
            raise Stopped
        with lock:
            progress.advance(amount)

    with ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        try:
            waiting: dict[Input, Future[Answer] | str] = {}
            for given in inputs:
                if given.kind == "sound":
                    try:
                        tagger = taggers.of(given)
                        waiting[given] = pool.submit(_hear, tagger, given, options, advance)
                    except UserError as error:
                        waiting[given] = str(error)
            for given in inputs:
                try:
                    if given.kind == "embeddings":
                        yield from _read(taggers.of(given), given, advance)
                        continue
                    work = waiting.pop(given)
                    yield work if isinstance(work, str) else work.result()
                except UserError as error:
                    yield str(error)
                except OSError as error:  # of reading it: it is gone, or its disk fails
                    yield f"{given.path} cannot be read: {error.strerror or error}"
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _hear(tagger: Tagger, given: Input, options: Options, advance: Callable[[int], None]) -> Answer:
    """Tag one recording, decoded once, piece by piece."""
    size, told = given.size, 0
    seconds = _seconds(given.path)
    parts = blocks(given.path, str(given.path), tagger.rate, BLOCK_SECONDS)
    picture = Picture(tagger.rate) if options.report else None
    if picture:
        parts = picture.watching(parts)

    def on_heard(heard: float) -> None:
        nonlocal told
        now = int(size * min(1.0, heard / seconds)) if seconds else told
        advance(now - told)
        told = now

    heard = tagger.hear(parts, options.window, options.hop, on_heard)
    advance(size - told)
    return Answer(tagger, given.path, None, heard, picture)


def _seconds(path: Path) -> float:
    """Return how long a recording says it is, for the progress; 0 where it does not."""
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError:
        return 0.0


def _read(tagger: Tagger, given: Input, advance: Callable[[int], None]) -> Iterator[Answer | str]:
    """Tag the clips of a file of embeddings."""
    short = clips = 0
    refused: list[str] = []
    try:
        for batch in read_batches(given):
            clips += len(batch)
            found = tagger.read([clip.embedding for clip in batch], str(given.path))
            for clip, heard in zip(batch, found, strict=True):
                if heard is None:
                    short += 1
                    continue
                if isinstance(heard, str):
                    refused.append(f"{clip.id}: {heard}")
                    continue
                starts, ends = ([clip.start + at for at in times] for times in heard[1:3])
                moved = heard._replace(starts=starts, ends=ends)
                yield Answer(tagger, given.path, clip.id, moved)
            advance(0)
    except UserError as error:  # of the whole file; clips that were left out are told as well
        yield str(error)
    advance(given.size)
    if refused:
        yield (
            f"{given.path}: {len(refused):,} of {clips:,} clips are refused and left out, first "
            f"{refused[0]}; {ACCEPTED}"
        )
    if short:
        yield (
            f"{given.path}: {short:,} of {clips:,} clips have fewer frames than the "
            f"{tagger.shape.spec.frames} that {tagger.name} takes, and are left out"
        )


class _Text:
    """Labels in columns, for people."""

    def __init__(self, top: int | None) -> None:
        self._top = top

    def write(self, answer: Answer) -> None:
        """Print one answer."""
        heard, tagger = answer.heard, answer.tagger
        lines = [_shortened(_heading(answer), WIDTH)]
        labels = tagger.labels(heard, self._top)
        widest = min(50, max((len(of["label"]) for of in labels), default=0))
        judged = any(of["sure"] is not None for of in labels)
        for of in labels:
            line = f"  {_shortened(of['label'], widest):<{widest}}  {of['probability']:5.3f}"
            if judged:
                line += "  sure" if of["sure"] else "      "
            if len(heard.starts) > 1:
                line += f"  {when(tagger, heard, of['label'], WIDTH - len(line) - 2)}"
            lines.append(line.rstrip())
        _print("\n".join(lines) + "\n")

    def end(self) -> None:
        """Print what ends the answers."""


class _Json:
    """A list of answers, as JSON."""

    def __init__(self, top: int | None) -> None:
        self._top = top
        self._before = "["

    def write(self, answer: Answer) -> None:
        """Print one answer."""
        entry: dict[str, Any] = {"file": str(answer.file)}
        if answer.clip is not None:
            entry["clip"] = answer.clip
        entry |= answer.tagger.as_json(answer.heard, self._top)
        _print(f"{self._before}\n{json.dumps(entry, ensure_ascii=False)}")
        self._before = ","

    def end(self) -> None:
        """Print what ends the answers."""
        _print("[]\n" if self._before == "[" else "\n]\n")


class _Csv:
    """A row for each label: of the whole (no window), then of each window if there are several."""

    COLUMNS = ("file", "clip", "model", "window", "start", "end", "label", "probability", "sure")

    def __init__(self, top: int | None) -> None:
        self._top = top
        self._row = csv.writer(SimpleNamespace(write=_print), lineterminator="\n").writerow
        self._row(self.COLUMNS)

    def write(self, answer: Answer) -> None:
        """Print one answer."""
        entry = answer.tagger.as_json(answer.heard, self._top)
        windows = entry["windows"]
        whole = {"start": windows[0]["start"], "end": windows[-1]["end"], **entry}
        for number, part in enumerate([whole, *(windows if len(windows) > 1 else [])]):
            for of in part["labels"]:
                sure = "" if of["sure"] is None else str(of["sure"]).lower()
                self._row(
                    (
                        answer.file, answer.clip or "", entry["model"], number or "",
                        part["start"], part["end"], of["label"], of["probability"], sure,
                    )
                )  # fmt: skip

    def end(self) -> None:
        """Print what ends the answers."""


WRITERS = {"text": _Text, "json": _Json, "csv": _Csv}


def _print(text: str) -> None:
    """Print without tearing the progress bar."""
    if sys.stdout.isatty():
        tqdm.write(text, end="")
    else:
        sys.stdout.write(text)


def _heading(answer: Answer) -> str:
    heard, tagger = answer.heard, answer.tagger
    if answer.clip is not None:
        return f"{answer.file}, clip {answer.clip} from {clock(heard.starts[0])}, by {tagger.name}"
    windows = len(heard.starts)
    inside = (
        f", {windows} windows of {heard.ends[0] - heard.starts[0]:.3g} s" if windows > 1 else ""
    )
    return f"{answer.file}: {clock(heard.seconds)}{inside}, by {tagger.name}"


def _shortened(text: str, width: int) -> str:
    """Return text of at most `width` characters: the middle gives way."""
    if len(text) <= width:
        return text
    left = (width - 1) // 3
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def when(tagger: Tagger, heard: Heard, label: str, width: int) -> str:
    """Return the times at which a label is heard, or of its highest probability."""
    place = tagger.classes.index(label)
    threshold = tagger.thresholds[place]
    from_ = HEARD_FROM if np.isnan(threshold) else threshold
    there = heard.probabilities[:, place] >= from_
    if not there.any():
        best = int(heard.probabilities[:, place].argmax())
        return f"most at {clock(heard.starts[best])}: {heard.probabilities[best, place]:.2f}"
    spans: list[list[float]] = []
    for start, end in zip(np.array(heard.starts)[there], np.array(heard.ends)[there], strict=True):
        if spans and start <= spans[-1][1]:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    shown = [f"{clock(start)}-{clock(end)}" for start, end in spans]
    text = ", ".join(shown)
    while len(text) > width and len(shown) > 1:
        shown.pop()
        text = f"{', '.join(shown)}, .. ({len(spans)} times)"
    return text
