"""Stage `prepare`: all 527 classes, clips of any length, AudioSet's own split.

As the root's stage of that name, with other settings.
"""

from pathlib import Path

from official.settings import DATA, METRICS, read_official
from stages.prepare import LABELS, Converted, Prepare, check_subsets, prepare
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.labels import read_labels
from tagging.parameters import load, parse


@entry_point
def main() -> None:
    """Run the stage."""
    settings = parse(Prepare, read_official().prepare, "official.prepare")
    try:
        check_subsets(settings.subsets, load(Converted, "convert").subsets)
        found = prepare(settings, Path("data/parquet"), read_labels(LABELS), DATA)
    except UserError as error:
        raise UserError(f"official: {error}") from None
    write_json(METRICS / "data.json", found)


if __name__ == "__main__":
    main()
