"""`tagging tag`: labels of recordings and of AudioSet's records, on all cores."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import accumulate
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
from tagging.commands.memory import keep_freed_memory
from tagging.commands.prediction import Prediction
from tagging.commands.tag_formats import FORMATS, print_text
from tagging.commands.tagger import BLOCK_SECONDS, INPUT_NAMES, Tagger
from tagging.features.channels import Mixer
from tagging.features.decoding import decode_blocks, estimate_duration
from tagging.reports.spectrogram import SpectrogramImage

# Short recordings that are predicted together; more would leave cores without work at the end.
GROUP_FILES, GROUP_BYTES = 8, 8 << 20


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
    keep_freed_memory()
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
    cores = num_workers()
    recordings: list[InputFile] = []
    tagger: Tagger | None = None
    pending: dict[InputFile, Future[dict[InputFile, TagResult | str]] | str] = {}
    for file in files:
        if file.kind == "sound":
            try:
                tagger = taggers.for_file(file)  # the same for all recordings
                recordings.append(file)
            except UserError as error:
                pending[file] = str(error)
    groups = _group_recordings(recordings, cores)
    if tagger and tagger.vggish is not None:  # whose embeddings are checked in each recording
        groups = [[file] for file in recordings]
    workers = max(1, min(len(groups), cores))
    # Where groups are fewer than cores, each gets several.
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
            for group in groups:
                assert tagger is not None
                work = pool.submit(_tag_recordings, tagger, group, options, advance)
                pending |= dict.fromkeys(group, work)
            for file in files:
                try:
                    if file.kind == "embeddings":
                        yield from _tag_clips(taggers.for_file(file), file, advance)
                        continue
                    outcome = pending.pop(file)
                    yield outcome if isinstance(outcome, str) else outcome.result().pop(file)
                except (UserError, OSError) as error:
                    yield _describe_error(file, error)
        except BaseException:
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _group_recordings(files: list[InputFile], cores: int) -> list[list[InputFile]]:
    """Return consecutive short recordings in groups, which are predicted in the same batches.

    Args:
        files: recordings.
        cores: all of them get work, if there are as many recordings.
    """
    most = max(1, min(GROUP_FILES, len(files) // cores))
    groups: list[list[InputFile]] = []
    size = 0  # bytes of the last group
    for file in files:
        if not groups or len(groups[-1]) == most or size + file.size > GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size
    return groups


def _tag_recordings(
    tagger: Tagger, files: list[InputFile], options: Options, advance: Callable[[int], None]
) -> dict[InputFile, TagResult | str]:
    """Tag recordings while they are decoded, piece by piece.

    For a timeline of shorter windows they are read a second time.

    Returns:
        The result of each, or a sentence why it has none.
    """
    reported = 0  # bytes
    durations = [0.0] * len(files)
    if len(files) == 1:  # the headers of many short files would take long
        try:
            durations = [estimate_duration(files[0].path)]
        except OSError as error:
            return {files[0]: _describe_error(files[0], error)}
    requested = (options.window, options.hop)
    passes = [requested]
    if options.needs_timeline and requested == (None, None):
        passes.append(tagger.timeline_windows())
        if options.report is None:  # label tracks need nothing else
            passes.pop(0)
    spectrograms = [SpectrogramImage(tagger.sample_rate) for _ in files if options.report]
    outcomes: list[list[Prediction | UserError | OSError]] = []  # of each pass
    ends = list(accumulate((file.size for file in files), initial=0))

    def report_progress(position: int, seconds: float) -> None:
        nonlocal reported
        share = min(1.0, seconds / durations[position]) if durations[position] else 0.0
        done = ends[position] + files[position].size * share
        total = int((ends[-1] * len(outcomes) + done) / len(passes))
        advance(max(0, total - reported))
        reported = max(total, reported)

    for window, hop in passes:
        mixers = [Mixer(str(file.path)) for file in files]
        recordings = [
            decode_blocks(file.path, mixer.name, tagger.sample_rate, BLOCK_SECONDS, mixer)
            for file, mixer in zip(files, mixers, strict=True)
        ]
        if spectrograms and not outcomes:
            recordings = [
                spectrogram.watch(pieces)
                for spectrogram, pieces in zip(spectrograms, recordings, strict=True)
            ]
        try:
            outcomes.append(tagger.predict_all(recordings, window, hop, report_progress))
        except UserError as error:
            return dict.fromkeys(files, str(error))
    advance(ends[-1] - reported)
    results: dict[InputFile, TagResult | str] = {}
    for position, (file, mixer) in enumerate(zip(files, mixers, strict=True)):
        predictions: list[Prediction] = []
        for pass_outcomes in outcomes:
            outcome = pass_outcomes[position]
            if isinstance(outcome, Prediction):
                predictions.append(outcome)
            else:
                results[file] = _describe_error(file, outcome)
        if file not in results:
            results[file] = TagResult(
                tagger,
                file.path,
                None,
                predictions[0],
                predictions[-1] if options.needs_timeline else None,
                spectrograms[position] if spectrograms else None,
                mixer.describe_loss(),
            )
    return results


def _describe_error(file: InputFile, error: UserError | OSError) -> str:
    if isinstance(error, UserError):
        return str(error)
    # The file was removed, or its disk fails.
    return f"{file.path} cannot be read: {error.strerror or error}"


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
