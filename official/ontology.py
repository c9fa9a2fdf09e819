"""Stage `ontology`: AudioSet's ontology, from a mirror or from the project audioset/ontology.

This stage lists no code as a dependency: no comment is to ask the network again. Whatever comes is
checked, here and where it is read.
"""

import os
import sys

from official.hierarchy import read_ontology
from official.settings import ONTOLOGY
from stages.download import REGIONS, Download, fetch_from_any
from tagging.errors import UserError, entry_point
from tagging.files import write_text
from tagging.parameters import Run, load
from tagging.transfer import discard, finish, part_of

GITHUB = "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json"
IN_MIRROR = "ontology/ontology.json"


def addresses(source: str) -> list[str]:
    """Return where to look, in turn: Google's bucket has no ontology, but a mirror of it may."""
    mirror = os.environ.get("AUDIOSET_MIRROR") if source in REGIONS else source
    return [f"{mirror.rstrip('/')}/{IN_MIRROR}", GITHUB] if mirror else [GITHUB]


def bring(source: str, style: str) -> None:
    """Fetch the ontology into its place.

    Raises:
        UserError: if no address has it, or what came is no ontology.
    """
    discard(ONTOLOGY)  # without a checksum: never mixed from two sources
    address = fetch_from_any(addresses(source), ONTOLOGY, style)
    try:
        read_ontology(part_of(ONTOLOGY))
    except UserError as error:
        discard(ONTOLOGY)
        raise UserError(f"{address} is no ontology: {error}") from None
    finish(ONTOLOGY, address)
    print(f"ontology: {address}", file=sys.stderr)


@entry_point
def main() -> None:
    """Run the stage."""
    source = load(Download, "download").source
    if source == "sample":
        from tagging.sample import ontology_json

        write_text(ONTOLOGY, ontology_json())
    else:
        bring(source, load(Run, "run").progress)


if __name__ == "__main__":
    main()
