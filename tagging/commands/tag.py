"""`tagging tag`: labels of recordings and of AudioSet's records, on all cores."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

import torch
from tqdm import tqdm

from tagging.base.errors import UserError
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.commands import models
from tagging.commands.embedding_checks import EXPECTED
from tagging.commands.html_report import HtmlReport
from tagging.commands.inputs import InputFile, find_input_files, read_batches
from tagging.commands.label_tracks import ENDINGS, LabelTracks
from tagging.commands.prediction import Prediction
from tagging.commands.tag_formats import FORMATS, print_text
from tagging.commands.tagger import BLOCK_SECONDS, INPUT_NAMES, Tagger
from tagging.features.channels import Mixer
from tagging.features.decoding import decode_blocks, estimate_duration
from tagging.reports.spectrogram import SpectrogramImage


class Options(NamedTuple):
    """Options of the command line.

    Attributes:
        model: a name or path; None for the default of each kind of file.
        format: of the printed results (text, json, csv) or of label tracks (audacity, raven).
        out: folder of the label tracks; None for those of the recordings.
        top: number of labels; None for all.
        window: length of a window (seconds); None for the model's, or shorter ones in reports
            and label tracks.
        hop: from the start of one window to the start of the next (seconds); None for `window`.
        report: the HTML page to write, or None.
        vggish: VGGish's weights, or None.
    """

    model: str | None
    format: str
    out: Path | None
    top: int | None
    window: float | None
    hop: float | None
    report: Path | None
    vggish: Path | None

    @property
    def writes_tracks(self) -> bool:
        """Whether label tracks are written, in place of printed results."""
        return self.format in ENDINGS

    @property
    def needs_timeline(self) -> bool:
        """Whether it is shown when labels are heard."""
        return self.report is not None or self.writes_tracks


class TagResult(NamedTuple):
    """A prediction for a recording, or for the clip `clip` of a file of embeddings.

    `timeline` is a recording's prediction of short windows, for reports and label tracks; `warning`
    says what the mean of its channels loses.
    """

    tagger: Tagger
    file: Path
    clip: str | None
    prediction: Prediction
    timeline: Prediction | None = None
    spectrogram: SpectrogramImage | None = None
    warning: str | None = None


class Cancelled(Exception):
    """Raised in work under way when the command is interrupted."""


def tag(names: Sequence[str], options: Options) -> int:
    """Tag files and print the results in the order of the files; return the number of failures."""
    files, problems, note = find_input_files(names)
    total = sum(file.size for file in files)
    taggers = _Taggers(options.model, options.vggish)
    report = HtmlReport() if options.report else None
    with Progress("tag", total, "B", "auto" if sys.stderr.isatty() else "none") as progress:

        def print_error(problem: str) -> None:
            tqdm.write(f"error: {problem}", file=sys.stderr)

        tracks = None
        if options.writes_tracks:
            sounds = [file.path for file in files if file.kind == "sound"]
            tracks = LabelTracks(options.format, options.out, sounds)
            problems = [*problems, *_reserve_tracks(tracks, files)]
        for problem in problems:
            print_error(problem)
        if note:
            tqdm.write(f"note: {note}", file=sys.stderr)
        failures = len(problems)
        formatter = FORMATS[options.format](options.top) if tracks is None else None
        # Closed as soon as printing fails or is interrupted, which ends the work under way.
        with closing(_results(files, taggers, options, progress)) as results:
            for result in results:
                if isinstance(result, str):
                    failures += 1
                    print_error(result)
                    continue
                if result.warning:
                    tqdm.write(f"warning: {result.warning}", file=sys.stderr)
                if formatter:
                    formatter.write(result.tagger, result.file, result.clip, result.prediction)
                if tracks and result.timeline:
                    path, events = tracks.write(result.tagger, result.file, result.timeline)
                    print_text(f"{path}: {events} event{'' if events == 1 else 's'}\n")
                if report:
                    report.add(*result[:-1])
        if formatter:
            formatter.end()
    if report and options.report:
        report.write(options.report)
    return failures


def _reserve_tracks(tracks: LabelTracks, files: list[InputFile]) -> list[str]:
    """Remove the files that can have no track; return a sentence for each."""
    problems = []
    for file in list(files):
        try:
            if file.kind == "embeddings":
                raise UserError(
                    f"{file.path} must be a recording to have a label track, got a file of records"
                )
            tracks.reserve(file.path)
        except UserError as error:
            problems.append(str(error))
            files.remove(file)
    return problems


class _Taggers:
    """The models for each kind of file; defaults are loaded when a file needs them."""

    def __init__(self, model: str | None, vggish: Path | None) -> None:
        if vggish is not None and model is None:
            model = str(models.DEFAULT_EMBEDDING_MODEL)
        # Models that the user names are loaded, or refused, before any work.
        requested = [Tagger(models.find_model(model))] if model is not None else []
        if vggish is not None:
            requested.append(Tagger(requested[0].path, vggish))
        self._requested = {tagger.kind: tagger for tagger in requested}
        self._defaults: dict[str, Tagger | str] = {}

    def for_file(self, file: InputFile) -> Tagger:
        """Return the model for a file.

        Raises:
            UserError: if the requested model reads other files, or the default is not available.
        """
        if self._requested:
            if file.kind not in self._requested:
                (tagger,) = self._requested.values()
                raise UserError(
                    f"{file.path}: {tagger.name} reads {INPUT_NAMES[tagger.kind]}, got "
                    f"{'a recording' if file.kind == 'sound' else 'a file of records'}"
                )
            return self._requested[file.kind]
        if file.kind not in self._defaults:
            try:
                name = (
                    models.DEFAULT_SOUND_MODEL
                    if file.kind == "sound"
                    else str(models.DEFAULT_EMBEDDING_MODEL)
                )
                self._defaults[file.kind] = Tagger(models.find_model(name))
            except (UserError, OSError) as error:
                self._defaults[file.kind] = str(error)
        tagger_or_problem = self._defaults[file.kind]
        if isinstance(tagger_or_problem, str):
            raise UserError(f"{file.path}: its default model is not available: {tagger_or_problem}")
        return tagger_or_problem


def _results(
    files: list[InputFile], taggers: _Taggers, options: Options, progress: Progress
) -> Generator[TagResult | str]:
    """Yield results, and a sentence for each failure, in the order of the files."""
    cancelled, lock = Event(), Lock()
    recordings = sum(file.kind == "sound" for file in files)
    cores = num_workers()
    workers = max(1, min(recordings, cores))
    # Where recordings are fewer than cores, each gets several.
    threads = max(1, cores // workers)
    torch.set_num_threads(threads)

    def advance(amount: int) -> None:
        if cancelled.is_set():
            raise Cancelled
        with lock:
            progress.advance(amount)

    with ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        try:
            pending: dict[InputFile, Future[TagResult] | str] = {}
            for file in files:
                if file.kind == "sound":
                    try:
                        tagger = taggers.for_file(file)
                        pending[file] = pool.submit(_tag_recording, tagger, file, options, advance)
                    except UserError as error:
                        pending[file] = str(error)
            for file in files:
                try:
                    if file.kind == "embeddings":
                        yield from _tag_clips(taggers.for_file(file), file, advance)
                        continue
                    work = pending.pop(file)
                    yield work if isinstance(work, str) else work.result()
                except UserError as error:
                    yield str(error)
                except OSError as error:  # the file was removed, or its disk fails
                    yield f"{file.path} cannot be read: {error.strerror or error}"
        except BaseException:
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _tag_recording(
    tagger: Tagger, file: InputFile, options: Options, advance: Callable[[int], None]
) -> TagResult:
    """Tag a recording while it is decoded, piece by piece.

    For a timeline of shorter windows it is read a second time.
    """
    reported = 0  # bytes
    duration = estimate_duration(file.path)
    requested = (options.window, options.hop)
    passes = [requested]
    if options.needs_timeline and requested == (None, None):
        passes.append(tagger.timeline_windows())
        if options.report is None:  # label tracks need nothing else
            passes.pop(0)
    spectrogram = SpectrogramImage(tagger.sample_rate) if options.report else None
    predictions: list[Prediction] = []

    def report_progress(seconds: float) -> None:
        nonlocal reported
        share = min(1.0, seconds / duration) if duration else 0.0
        done = int(file.size * (len(predictions) + share) / len(passes))
        advance(max(0, done - reported))
        reported = max(done, reported)

    for window, hop in passes:
        mixer = Mixer(str(file.path))
        pieces = decode_blocks(file.path, mixer.name, tagger.sample_rate, BLOCK_SECONDS, mixer)
        if spectrogram and not predictions:
            pieces = spectrogram.watch(pieces)
        predictions.append(tagger.predict(pieces, window, hop, report_progress))
    advance(file.size - reported)
    timeline = predictions[-1] if options.needs_timeline else None
    warning = mixer.describe_loss()
    return TagResult(tagger, file.path, None, predictions[0], timeline, spectrogram, warning)


def _tag_clips(
    tagger: Tagger, file: InputFile, advance: Callable[[int], None]
) -> Iterator[TagResult | str]:
    """Tag the clips of a file of embeddings."""
    num_clips = num_short = 0
    refused: list[str] = []
    try:
        for batch in read_batches(file):
            num_clips += len(batch)
            predictions = tagger.predict_clips([clip.embedding for clip in batch], str(file.path))
            for clip, prediction in zip(batch, predictions, strict=True):
                if prediction is None:
                    num_short += 1
                    continue
                if isinstance(prediction, str):
                    refused.append(f"{clip.id}: {prediction}")
                    continue
                starts = [clip.start + start for start in prediction.starts]
                ends = [clip.start + end for end in prediction.ends]
                in_video = prediction._replace(starts=starts, ends=ends)
                yield TagResult(tagger, file.path, clip.id, in_video)
            advance(0)
    except UserError as error:  # of the whole file; skipped clips are reported as well
        yield str(error)
    advance(file.size)
    if refused:
        yield (
            f"{file.path}: {len(refused):,} of {num_clips:,} clips are not valid and were skipped, "
            f"first {refused[0]}; {EXPECTED}"
        )
    if num_short:
        yield (
            f"{file.path}: {num_short:,} of {num_clips:,} clips were skipped, as {tagger.name} "
            f"needs {tagger.model_spec.spec.frames} frames or more"
        )
