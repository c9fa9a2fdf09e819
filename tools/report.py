"""Draw the README's picture of `tagging tag --report`: `python -m tools.report [light|dark]`.

The recording is made of seven of ESC-10's, five seconds each. Chromium shows the page, in a window
of `WIDTH` by `HEIGHT`.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from tagging.base.errors import UserError, entry_point
from tagging.features.decoding import decode
from tagging.sources.esc import Source

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "tools/report.png"
RATE = 32_000
CLASSES = ("Dog bark", "Rooster", "Rain", "Baby cry", "Person sneeze", "Chainsaw", "Helicopter")
WIDTH, HEIGHT = 725, 776  # pixels


def joined(archive: Path) -> np.ndarray:
    """Return a recording of each of the classes, one after the other: float32 (samples,)."""
    source = Source(archive)
    first = {of.labels[0]: of for of in reversed(source.recordings())}
    chosen = [first[label] for label in CLASSES]
    found = {place: decode(content, "ESC-10", RATE) for place, content in source.contents(chosen)}
    return np.concatenate([found[place] for place in range(len(chosen))])


@entry_point
def main(scheme: str) -> None:
    """Write the picture, in `light` or in `dark` colours; take ESC-10 from the mirror."""
    if not os.environ.get("DOWNLOAD_MIRROR"):
        raise UserError("DOWNLOAD_MIRROR is not set; it takes the folder of a mirror with ESC-10")
    (archive,) = Path(os.environ["DOWNLOAD_MIRROR"]).glob(
        "github.com/karoldvl/ESC-10/archive/*.zip"
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        soundfile.write(folder / "farm.ogg", joined(archive), RATE)
        command = ["tagging.commands.main", "tag", "farm.ogg", "--window", "5", "--hop", "2.5"]
        subprocess.run(
            [sys.executable, "-m", *command, "--report", "out.html"], cwd=folder, check=True
        )
        dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
        light = ["--blink-settings=preferredColorScheme=1"]
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars",
             f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={PICTURE}",
             *(dark if scheme == "dark" else light), (folder / "out.html").as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:] or ["light"])
