"""`python -m tools.report [light|dark]`: write the README's picture of `tagging tag --report`.

The page is about seven recordings of ESC-10, joined. Chromium takes the screenshot.
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
SCREENSHOT = ROOT / "tools/report.png"
SAMPLE_RATE = 32_000  # Hz
CLASSES = ("Dog bark", "Rooster", "Rain", "Baby cry", "Person sneeze", "Chainsaw", "Helicopter")
WIDTH, HEIGHT = 725, 1005  # of the window, in pixels


def join_recordings(archive: Path) -> np.ndarray:
    """Return the first recording of each class, joined: float32 (samples,)."""
    source = Source(archive)
    first = {recording.labels[0]: recording for recording in reversed(source.recordings())}
    selected = [first[label] for label in CLASSES]
    waveforms = {
        position: decode(content, "ESC-10", SAMPLE_RATE)
        for position, content in source.contents(selected)
    }
    return np.concatenate([waveforms[position] for position in range(len(selected))])


@entry_point
def main(scheme: str) -> None:
    """Write the screenshot in `light` or `dark` colours, with ESC-10 from `DOWNLOAD_MIRROR`."""
    if not os.environ.get("DOWNLOAD_MIRROR"):
        raise UserError("DOWNLOAD_MIRROR must be the folder of a mirror with ESC-10, got none")
    (archive,) = Path(os.environ["DOWNLOAD_MIRROR"]).glob(
        "github.com/karoldvl/ESC-10/archive/*.zip"
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        soundfile.write(folder / "farm.ogg", join_recordings(archive), SAMPLE_RATE)
        command = ["tagging.commands.main", "tag", "farm.ogg", "--window", "5", "--hop", "2.5"]
        subprocess.run(
            [sys.executable, "-m", *command, "--report", "out.html"], cwd=folder, check=True
        )
        dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
        light = ["--blink-settings=preferredColorScheme=1"]
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars",
             f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={SCREENSHOT}",
             *(dark if scheme == "dark" else light), (folder / "out.html").as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:] or ["light"])
