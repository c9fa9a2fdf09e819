"""The command `tagging`: what it takes."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tagging.base.errors import UserError, entry_point
from tagging.commands.outputs import check_file

DESCRIPTION = "What is heard in recordings: labels with probabilities."
TAG = """\
Print the labels of recordings (WAV, FLAC, Ogg, MP3) and of AudioSet's records (TFRecord, parquet
of this project), the most probable first.

  tagging tag song.mp3                        the five most probable labels
  tagging tag recordings/ '*.wav' --csv       folders and patterns, as a table
  tagging tag street.wav --report out.html    a page to look at and to listen
  find . -name '*.flac' | tagging tag -       a list of files

Recordings longer than a window (mn04_as: 10 s) are heard window by window; the probability of
the whole is the mean over its windows.

A label is sure where its probability reaches the label's threshold, which was chosen on validation
clips so that a promised share of what is called sure is right (0.8 unless the task asks for another
one). A whole recording's label is sure if it is in any window. Published models (mn04_as,
musicnn_mtt, ..) have no such thresholds: whether a label is sure is not said.

With --json there is an entry for each recording, and for each clip of a file of records:
  file, clip       where it is; clip is there for records alone
  model, seconds   what answered, and how long the recording or clip is
  labels           of the whole, best first: label, probability, sure (true or false; null without
                   a threshold)
  windows          the same of each window, with its start and end in seconds

The exit status is 0 if every file was answered, 1 if some were not, or none could be (what is
wrong is said on the standard error), 2 if an option is not known or its value is none.
"""
EXPORT = """\
Write a model in a form that others read: ONNX (with the features: waveforms in, probabilities out,
where ONNX can express them), or a folder for the Hugging Face hub.

  tagging export mn04_as --onnx mn04_as.onnx
  tagging export models/yac/seed0.safetensors --hub yac/
"""
VGGISH = """\
Run VGGish's weights on a sine of 1 kHz, and print mean and standard deviation after each step,
beside those that Google's repository states. The exit status is 1 if they are others.

  tagging vggish weights/         a folder with the two .pth files of harritaylor/torchvggish
  tagging tag song.mp3 --vggish weights/
"""
WEIGHTS = (
    "VGGish's weights: a folder with the two .pth files of harritaylor/torchvggish, or a "
    ".safetensors file with their tensors"
)
SEARCH = """\
Print what is nearest to a clip of an index, or to a recording among others.

  tagging search eval:-0RWZT-miFs             clips of AudioSet that sound alike: where to hear them
  tagging search song.mp3 --in recordings/    recordings that sound alike
  tagging search a.wav --in 'b/*.wav' --top 3 --json

An index is made by the stage index of a task: dvc repro tasks/similarity/dvc.yaml:index. The
distance is 0 for what sounds the same to the model, 1.41 for what has nothing in common, at most 2.
"""
MODEL = (
    "a file (.safetensors), a folder of runs, the name of a model of the project that you are in, "
    "or of published weights (mn04_as, musicnn_mtt, musicnn_msd, ..), which are fetched once"
)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.01 <= float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is given; it takes seconds, from 0.01 to 3600")


def _top(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is given; it takes a whole number or all")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(prog="tagging", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    keep = argparse.RawDescriptionHelpFormatter

    tag = commands.add_parser(
        "tag", help="print the labels of files", description=TAG, formatter_class=keep
    )
    tag.add_argument(
        "files", nargs="+", metavar="FILE",
        help="files, folders, patterns; - reads a list of them, one a line, from standard input",
    )  # fmt: skip
    tag.add_argument(
        "--model",
        help=f"{MODEL}; default: mn04_as for recordings, a small network of this project for "
        "AudioSet's records",
    )
    tag.add_argument(
        "--top", type=_top, default=5, metavar="N", help="how many labels; or all (default: 5)"
    )
    shape = tag.add_mutually_exclusive_group()
    shape.add_argument(
        "--json", dest="format", action="store_const", const="json", default="text",
        help="print JSON: a list with an entry for each file",
    )  # fmt: skip
    shape.add_argument(
        "--csv", dest="format", action="store_const", const="csv",
        help="print CSV: a row for each label of the whole, and of each window",
    )  # fmt: skip
    tag.add_argument(
        "--window", type=_seconds, metavar="SECONDS",
        help="how long a window of a recording is (default: as long as the model's training clips; "
        "10 for a probe and others whose input does not tell)",
    )  # fmt: skip
    tag.add_argument(
        "--hop", type=_seconds, metavar="SECONDS",
        help="from one window's beginning to the next one's (default: the window's length)",
    )  # fmt: skip
    tag.add_argument(
        "--report", type=Path, metavar="PAGE.html",
        help="also write a page: spectrum, timeline, table and player of each recording",
    )  # fmt: skip
    tag.add_argument(
        "--vggish", type=Path, metavar="PATH",
        help=f"hear recordings with a model of AudioSet's embeddings; {WEIGHTS}",
    )  # fmt: skip

    search = commands.add_parser(
        "search", help="print what sounds alike", description=SEARCH, formatter_class=keep
    )
    search.add_argument(
        "query", metavar="QUERY", help="a clip, SUBSET:VIDEO_ID, or a recording (with --in)"
    )
    search.add_argument(
        "--in", dest="among", nargs="+", metavar="FILE",
        help="search among these recordings: files, folders, patterns",
    )  # fmt: skip
    search.add_argument(
        "--index", type=Path, metavar="FILE",
        help="the index to search in (default: the one of the project that you are in)",
    )  # fmt: skip
    search.add_argument("--model", help=f"for recordings: {MODEL}; default: mn04_as")
    search.add_argument(
        "--top", type=_top, default=10, metavar="N", help="how many; or all (default: 10)"
    )
    search.add_argument("--json", action="store_true", help="print JSON: a list, nearest first")

    export = commands.add_parser(
        "export", help="write a model for other programs", description=EXPORT, formatter_class=keep
    )
    export.add_argument("model", metavar="MODEL", help=MODEL)
    where = export.add_mutually_exclusive_group(required=True)
    where.add_argument("--onnx", type=Path, metavar="FILE", help="the ONNX file to write")
    where.add_argument("--hub", type=Path, metavar="FOLDER", help="the folder to write")

    vggish = commands.add_parser(
        "vggish", help="check VGGish's weights", description=VGGISH, formatter_class=keep
    )
    vggish.add_argument("path", type=Path, metavar="PATH", help=WEIGHTS)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status.

    Raises:
        UserError: if nothing can be done at all.
        OSError: if the disk does not take what is written.
    """
    parser = build_parser()
    given = parser.parse_args(arguments)
    # What follows imports PyTorch: --help and mistakes do without.
    if given.command == "export":
        from tagging.commands.export import to_hub, to_onnx

        to_onnx(given.model, given.onnx) if given.onnx else to_hub(given.model, given.hub)
        return 0
    if given.command == "vggish":
        from tagging.commands.check_vggish import check

        return 0 if check(given.path) else 1
    if given.command == "search":
        from tagging.commands.search import search

        names = (given.among, given.index, given.model)
        return 1 if search(given.query, *names, given.top, given.json) else 0
    from tagging.commands.report import HEAD
    from tagging.commands.tag import Options, tag

    if given.report:
        check_file("--report", given.report, HEAD, "a page")
    names: list[str] = []
    for name in given.files:
        names += sys.stdin.read().splitlines() if name == "-" else [name]
    names = [name for name in names if name]
    if not names:
        raise UserError("no file is named; standard input takes a list of files, one a line")
    options = Options(
        given.model, given.format, given.top, given.window, given.hop, given.report, given.vggish
    )
    return 1 if tag(names, options) else 0


@entry_point
def main() -> None:
    """Run the command `tagging` with the process's arguments."""
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        # What could not be written is not to be tried again at the end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise
        status = 1  # who read the answers has had enough (head)
    sys.exit(status)


if __name__ == "__main__":
    main()
