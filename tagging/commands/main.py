"""The command `tagging`: its subcommands and their options."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tagging.base.errors import UserError, entry_point
from tagging.commands.output_paths import check_output_file, check_parent

METRICS = ("accuracy", "d_prime", "lwlrap", "map", "ndcg", "roc_auc")  # of `tagging new`
FORMATS = ("text", "json", "csv", "audacity", "raven")
DESCRIPTION = "Audio tagging: labels of recordings with their probabilities."
TAG = """\
Print the labels of recordings (WAV, FLAC, Ogg, MP3, M4A and all else that FFmpeg reads, videos too)
and of AudioSet's records (TFRecord, parquet of this project), the most probable first.

  tagging tag song.mp3                        the five most probable labels
  tagging tag recordings/ '*.wav' --csv       folders and patterns, as a table
  tagging tag street.wav --report out.html    an HTML page with spectrogram and player
  tagging tag street.wav --format audacity    a label track, street.txt
  find . -name '*.flac' | tagging tag -       a list of files

Recordings longer than a window (mn04_as: 10 s) are tagged window by window; the probability of a
label in the recording is the mean over its windows.

A model that was trained with validation clips prints calibrated probabilities: of the labels at
0.7, some 70% are right. It also has confidence thresholds: a label is confident where its
probability reaches the label's threshold. Thresholds are chosen so that of all confident labels
together, the target precision (0.8 unless the task sets another) is right; a single label near its
threshold is right less often. They hold for inputs like the validation clips: windows of the same
length, or the mean over the windows of a recording. With thresholds for windows only, a recording
of several windows has no confident labels; its windows do.
Published models (mn04_as, musicnn_mtt, ..) are not calibrated and have no thresholds.

Reports and label tracks have windows of 1 s every 0.5 s, unless --window or --hop is given. With
networks that need a fixed length, windows have this length and overlap by half. An event joins
consecutive windows at or above the label's threshold (0.5 without one). It begins in the middle
between the last window below the threshold and the first one above it.

Formats: text, json, csv (printed); audacity and raven, which write a file for each recording:
  audacity         a.txt beside a.wav: start, end and label of each event, for Import > Labels
  raven            a.selections.txt: a selection table with the columns Annotation and Score

--format json prints an object for each recording, and for each clip of a file of records:
  file, clip       the path, and the clip's id (only of records)
  model, duration  the model's name; the duration of the recording or clip in seconds
  labels           best first: label, probability, confident (true or false; null without a
                   threshold for the recording)
  windows          start and end in seconds, and the labels of the window

The exit status is 0 if every file was tagged, 1 if a file or all failed (standard error has a
sentence for each), 2 if an option or its value is not valid.
"""
EXPORT = """\
Write a model as ONNX (with the features: from waveforms to probabilities, where ONNX can express
them), or as a folder for the Hugging Face hub.

  tagging export mn04_as --onnx mn04_as.onnx
  tagging export models/yac/seed0.safetensors --hf-dir yac/
  tagging export yac --push user/yac              uploads it, with the token of HF_TOKEN or hf auth

The folder has the weights, a model card and its configuration. tagging tag --model hf:user/yac
reads it from the hub; where the library transformers has the network (ast), it does as well.
"""
CHECK_VGGISH = """\
Run VGGish's weights on a sine of 1 kHz. Print mean and standard deviation after each step, beside
those that Google's repository states. The exit status is 1 if they differ.

  tagging check-vggish weights/    a folder with the two .pth files of harritaylor/torchvggish
  tagging tag song.mp3 --vggish weights/
"""
WEIGHTS = (
    "VGGish's weights: a folder with the two .pth files of harritaylor/torchvggish, or a "
    ".safetensors file with their tensors"
)
SEARCH = """\
Print the clips of an index, or the recordings of a corpus, that are most similar to a query.

  tagging search eval:-0RWZT-miFs                 similar clips of AudioSet, with their URLs
  tagging search song.mp3 --corpus recordings/    similar recordings
  tagging search a.wav --corpus 'b/*.wav' --top 3 --json

dvc repro tasks/similarity/dvc.yaml:index@index makes the index. Distances are from 0, for equal
embeddings, to 2; orthogonal embeddings have the distance 1.41.

--json prints an object for each result: distance, location (URL or path) and, for clips of an
index, shared_labels.
"""
NEW = """\
Make a task on a folder of recordings: tasks/NAME with params.yaml, which says what was decided and
why, and dvc.yaml. The recordings stay where they are.

  tagging new birds recordings/                      labels: the names of folders, dog/a.wav
  tagging new words /data/words --group-by 2         7_jackson_3.wav: all of a speaker in one fold
  tagging new reef /data/reef --column Species       Raven's selection tables
  dvc repro tasks/birds/dvc.yaml                     decodes, trains, evaluates and compares

Labels are read from one of these; --labels selects one if there are several:
  clips.csv          columns file,labels, and optionally group,fold,split,start,end
  metadata.csv       of Hugging Face's AudioFolder: file_name,label
  a.txt              Audacity's label track beside a.wav: start, end and label of each clip
  a.selections.txt   Raven's selection table beside a.wav
  folders            dog/a.wav, or with splits train/dog/a.wav, without any of the above
"""
MODEL = (
    "a file (.safetensors), a folder of runs, the name of a model of the project around the "
    "working directory, or of published weights (mn04_as, musicnn_mtt, musicnn_msd, ..), or "
    "hf:user/model[@revision] on the Hugging Face hub; the latter are downloaded once"
)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.01 <= float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be seconds from 0.01 to 3600, got {text!r}")


def _top(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, or all, got {text!r}")
    return int(text)


def _whole_number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="tagging", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter

    tag = commands.add_parser(
        "tag", help="print the labels of files", description=TAG, formatter_class=raw
    )
    tag.add_argument(
        "files", nargs="+", metavar="FILE",
        help="files, folders (links are followed, hidden files are not read), patterns; - reads a "
        "list of files, one a line, from standard input",
    )  # fmt: skip
    tag.add_argument(
        "--model",
        help=f"{MODEL}; default: mn04_as for recordings, a small network of this project for "
        "AudioSet's records",
    )
    tag.add_argument(
        "--top", type=_top, default=5, metavar="N", help="number of labels, or all (default: 5)"
    )
    formats = tag.add_mutually_exclusive_group()
    formats.add_argument(
        "--format", choices=FORMATS, default="text",
        help="format of the results: printed, or a label track a recording (default: text)",
    )  # fmt: skip
    for name in ("json", "csv"):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"--format {name}"
        )
    tag.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="folder of label tracks (default: beside the recordings)",
    )  # fmt: skip
    tag.add_argument(
        "--window", type=_seconds, metavar="SECONDS",
        help="length of a window of a recording (default: that of the model's training clips, or "
        "10 if the model does not know it, such as a probe)",
    )  # fmt: skip
    tag.add_argument(
        "--hop", type=_seconds, metavar="SECONDS",
        help="from the start of one window to the start of the next (default: the window's length)",
    )  # fmt: skip
    tag.add_argument(
        "--report", type=Path, metavar="PAGE.html",
        help="also write a page: spectrogram, timeline, table and player of each recording",
    )  # fmt: skip
    tag.add_argument(
        "--vggish", type=Path, metavar="PATH",
        help=f"tag recordings with a model of AudioSet's embeddings; {WEIGHTS}",
    )  # fmt: skip

    _add_new(commands)
    search = commands.add_parser(
        "search", help="print similar clips or recordings", description=SEARCH, formatter_class=raw
    )
    search.add_argument(
        "query", metavar="QUERY", help="a clip, SUBSET:VIDEO_ID, or a recording (with --corpus)"
    )
    search.add_argument(
        "--corpus", nargs="+", metavar="FILE",
        help="search these recordings: files, folders, patterns",
    )  # fmt: skip
    search.add_argument(
        "--index", type=Path, metavar="FILE",
        help="search this index (default: that of the project around the working directory)",
    )  # fmt: skip
    search.add_argument("--model", help=f"model of recordings: {MODEL}; default: mn04_as")
    search.add_argument(
        "--top", type=_top, default=10, metavar="N", help="number of results, or all (default: 10)"
    )
    search.add_argument("--json", action="store_true", help="print JSON: a list, nearest first")

    export = commands.add_parser(
        "export", help="write a model for other programs", description=EXPORT, formatter_class=raw
    )
    export.add_argument("model", metavar="MODEL", help=MODEL)
    target = export.add_mutually_exclusive_group()
    target.add_argument("--onnx", type=Path, metavar="FILE", help="the ONNX file to write")
    target.add_argument("--hf-dir", type=Path, metavar="FOLDER", help="the folder to write")
    export.add_argument(
        "--push", metavar="USER/MODEL",
        help="upload the folder to this repository of the Hugging Face hub",
    )  # fmt: skip

    check = commands.add_parser(
        "check-vggish", help="check VGGish's weights", description=CHECK_VGGISH, formatter_class=raw
    )
    check.add_argument("path", type=Path, metavar="PATH", help=WEIGHTS)
    return parser


def _add_new(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    new = commands.add_parser(
        "new", help="make a task on a folder of recordings", description=NEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    new.add_argument("name", metavar="NAME", help="the task's name: small letters, digits, _ and -")
    new.add_argument("recordings", type=Path, metavar="RECORDINGS", help="folder of recordings")
    new.add_argument(
        "--labels", choices=("table", "audiofolder", "audacity", "raven", "folders"),
        help="source of the labels, if there are several",
    )  # fmt: skip
    new.add_argument(
        "--column", metavar="NAME",
        help="column of labels in metadata.csv (default: label) or selection tables (Annotation)",
    )  # fmt: skip
    new.add_argument(
        "--group-by", metavar="PART",
        help="keep clips that share this in one fold: a column of metadata.csv, the number of a "
        "part of the files' names, or a regular expression of their paths, with one group",
    )  # fmt: skip
    new.add_argument(
        "--type", choices=("single_label", "multi_label"),
        help="one label a clip, or several (default: by the labels)",
    )  # fmt: skip
    new.add_argument(
        "--clip-seconds", type=_seconds, metavar="SECONDS",
        help="length of clips (default: that of 95%% of clips, at most 10); longer ones are cut",
    )  # fmt: skip
    new.add_argument(
        "--folds", type=_whole_number(2), metavar="N",
        help="number of folds (default: 5, at most the number of files or groups of the smallest "
        "class; 3 if 5 would take longer than --minutes)",
    )  # fmt: skip
    new.add_argument(
        "--metrics", nargs="+", default=[], choices=METRICS, metavar="NAME",
        help=f"some of {', '.join(METRICS)}; the first selects epochs (default: accuracy map, or "
        "map roc_auc for several labels)",
    )  # fmt: skip
    new.add_argument(
        "--minutes", type=_whole_number(1), default=10, metavar="N",
        help="time for all stages on two cores, which decides the epochs, and the folds if "
        "--folds is left out (default: 10)",
    )  # fmt: skip
    new.add_argument(
        "--batch-size", type=_whole_number(2), metavar="N",
        help="clips in a batch (default: 16, or 32 with many clips)",
    )  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status.

    Raises:
        UserError: if an input does not exist or is not valid.
        OSError: if the disk is full.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command == "export":
        if not (options.onnx or options.hf_dir or options.push):
            parser.error("export: one of --onnx, --hf-dir and --push is required")
        if options.onnx and options.push:
            parser.error("export: --push uploads a folder for the hub, not --onnx's file")
    # The imports below load PyTorch, which --help and errors of usage do not need.
    if options.command == "export":
        if options.onnx:
            from tagging.commands.export_onnx import export_onnx

            export_onnx(options.model, options.onnx)
        elif options.push:
            from tagging.commands.export_hub import push_model

            print(push_model(options.model, options.push, options.hf_dir))
        else:
            from tagging.commands.export_hub import export_hub

            export_hub(options.model, options.hf_dir)
        return 0
    if options.command == "new":
        _run_new(options, ["tagging", *arguments])
        return 0
    if options.command == "check-vggish":
        from tagging.commands.check_vggish import check_vggish

        return 0 if check_vggish(options.path) else 1
    if options.command == "search":
        from tagging.commands.search import search

        failures = search(
            options.query, options.corpus, options.index, options.model, options.top, options.json
        )
        return 1 if failures else 0
    return _run_tag(options)


def _run_new(options: argparse.Namespace, command: Sequence[str]) -> None:
    from tagging.commands.new import Options, make_task
    from tagging.commands.task_settings import Choices

    choices = Choices(
        options.type,
        options.clip_seconds,
        options.folds,
        tuple(options.metrics),
        options.minutes,
        options.batch_size,
    )
    task_options = Options(options.labels, options.column, options.group_by, choices)
    make_task(options.name, options.recordings, task_options, command)


def _run_tag(options: argparse.Namespace) -> int:
    from tagging.commands.html_report import HTML_MAGIC
    from tagging.commands.label_tracks import ENDINGS
    from tagging.commands.tag import Options, tag

    if options.report:
        check_output_file("--report", options.report, HTML_MAGIC, "an HTML page")
    if options.out:
        if options.format not in ENDINGS:
            raise UserError(f"--out must come with --format {' or '.join(ENDINGS)}")
        check_parent("--out", options.out / "track")
    names: list[str] = []
    for name in options.files:
        names += sys.stdin.read().split("\n") if name == "-" else [name]
    names = [name for name in names if name]
    if not names:
        raise UserError("no file is named; standard input must list files, one a line")
    tag_options = Options(
        options.model,
        options.format,
        options.out,
        options.top,
        options.window,
        options.hop,
        options.report,
        options.vggish,
    )
    return 1 if tag(names, tag_options) else 0


@entry_point
def main() -> None:
    """Run the command `tagging` with the process's arguments."""
    if os.name == "posix" and isinstance(sys.stdin, io.TextIOWrapper):
        # Names of files are bytes, which need not be text in the terminal's encoding.
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        # Keep Python from writing the rest of the output again when it exits.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise
        status = 1  # the reader of the output (head) has closed it
    sys.exit(status)


if __name__ == "__main__":
    main()
