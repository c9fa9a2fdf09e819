"""`tagging tag --report`: one page that says what was heard and when, and needs no network."""

import base64
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from tagging.base.files import write_text
from tagging.commands.tagger import Heard, Tagger
from tagging.features import log_mel

COLUMNS, BINS = 1200, 64  # of the picture
ROWS = 10  # of the timeline
SEEN_FROM = 0.1  # a label without a threshold is drawn if it has this probability once
SPANS = 600  # of a row; with more windows, the highest of neighbours is drawn
CLIPS = 200  # of embeddings that a page shows
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # of time, seconds
# From soft to loud, at equal steps: dark violet, red, yellow.
COLOURS = (
    (10, 8, 34),
    (68, 16, 104),
    (150, 40, 100),
    (221, 81, 58),
    (252, 165, 32),
    (252, 250, 190),
)

HEAD = b"<!doctype html>"  # how a page begins

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #667; --line: #dde;
  --bar: #1f6feb; --groove: #f0f2f6; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ee; --soft: #99a3b0;
  --line: #2c323b; --bar: #5aa2ff; --groove: #1f242c; } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
audio { width: 100%; margin: .8rem 0; }
.plot { position: relative; --name: 13rem; --most: 2.5rem; --gap: .7rem; }
@media (max-width: 45rem) { .plot { --name: 6rem; } }
.row { display: grid; grid-template-columns: var(--name) minmax(0, 1fr) var(--most);
  gap: var(--gap); align-items: center; margin: 4px 0; }
.plot .name { text-align: right; font-size: .9rem; line-height: 1.2; }
.plot .most { font-size: .85rem; font-variant-numeric: tabular-nums; color: var(--soft); }
.track { display: block; width: 100%; cursor: pointer; }
img.track { height: 8rem; image-rendering: auto; border-radius: 3px; }
svg.track { height: 1.4rem; background: var(--groove); border-radius: 3px; }
svg rect { fill: var(--bar); }
.axis { position: relative; height: 1.3rem; font-size: .8rem; color: var(--soft); }
.axis span { position: absolute; transform: translateX(-50%); }
.axis span:first-child { transform: none; }
.over { position: absolute; top: 0; bottom: 1.3rem; left: calc(var(--name) + var(--gap));
  right: calc(var(--most) + var(--gap)); pointer-events: none; }
.over i { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink); left: 0;
  display: none; }
table { border-collapse: collapse; margin: 1.2rem 0; width: 100%; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: .85rem; color: var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.id { font-family: ui-monospace, monospace; font-size: .9rem; white-space: nowrap; }
"""

SCRIPT = """
for (const part of document.querySelectorAll("section")) {
  const audio = part.querySelector("audio"), line = part.querySelector(".over i");
  if (!audio) continue;
  const seconds = Number(part.dataset.seconds);
  const draw = () => {
    line.style.display = "block";
    line.style.left = `${100 * Math.min(1, audio.currentTime / seconds)}%`;
  };
  audio.addEventListener("timeupdate", draw);
  for (const track of part.querySelectorAll(".track")) track.addEventListener("click", (event) => {
    const box = track.getBoundingClientRect();
    audio.currentTime = seconds * (event.clientX - box.left) / box.width;
    draw();
    audio.play();
  });
}
"""


def clock(seconds: float) -> str:
    """Return a time as people write it: 0:07, 1:02:09."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Picture:
    """A log-mel spectrogram of a recording of any length, in some hundred columns.

    Args:
        rate: of the waveform (Hz).
    """

    def __init__(self, rate: int) -> None:
        self._hop = max(1, rate // 50)
        settings = log_mel.Settings(
            sample_rate=rate, window=2 * self._hop, hop=self._hop, bins=BINS, scale="htk",
            fft=max(2 * self._hop, 1024), log="db", floor=1e-8,
        )  # fmt: skip
        self._transform = log_mel.Transform(settings)
        self._columns = np.zeros((0, BINS), np.float32)
        self._rest = self._columns
        self._frames = 1  # of a column

    def watching(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Give the parts of a waveform on, and draw them."""
        for part in parts:
            self._draw(part)
            yield part

    @torch.inference_mode()
    def _draw(self, part: np.ndarray) -> None:
        frames = self._transform(torch.from_numpy(part)[None])[0, 0].numpy()
        rest = np.concatenate([self._rest, frames[: max(1, len(part) // self._hop)]])
        whole = len(rest) // self._frames * self._frames
        self._add(rest[:whole].reshape(-1, self._frames, BINS).mean(1))
        self._rest = rest[whole:]

    def _add(self, columns: np.ndarray) -> None:
        self._columns = np.concatenate([self._columns, columns])
        while len(self._columns) > 2 * COLUMNS:
            pairs = len(self._columns) // 2
            last = self._columns[2 * pairs :]
            # A column without its pair waits with the frames that are of no column yet.
            self._rest = np.concatenate([np.repeat(last, self._frames, 0), self._rest])
            self._columns = self._columns[: 2 * pairs].reshape(pairs, 2, BINS).mean(1)
            self._frames *= 2

    def png(self) -> bytes:
        """Return the picture: low frequencies below, 70 decibels from dark to bright."""
        loud = self._columns if len(self._columns) else self._rest
        top = float(loud.max()) if loud.size else 0.0
        levels = np.clip((loud - top + 70) / 70 * 255, 0, 255).astype(np.uint8)
        return _png(levels.T[::-1])


def _png(levels: np.ndarray) -> bytes:
    """Return an image, uint8 (rows, columns), as PNG, in colours."""
    at = np.linspace(0, len(COLOURS) - 1, 256)
    palette = np.stack([np.interp(at, range(len(COLOURS)), one) for one in zip(*COLOURS)], 1)  # noqa: B905
    rows = np.pad(levels, ((0, 0), (1, 0)))  # each row begins with 0: no filter
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


class Report:
    """A page of answers, in the order in which they are added."""

    def __init__(self) -> None:
        self._recordings: list[tuple[Path, float, str]] = []
        self._clips: dict[Path, list[str]] = {}
        self._left_out = 0
        self._models: dict[str, bool] = {}  # whether each has thresholds

    def add(
        self, tagger: Tagger, file: Path, clip: str | None, heard: Heard, picture: Picture | None
    ) -> None:
        """Add one answer."""
        self._models[tagger.name] = bool(np.isfinite(tagger.thresholds).any())
        if clip is None:
            self._recordings.append((file, heard.seconds, _recording(tagger, heard, picture)))
        elif sum(map(len, self._clips.values())) < CLIPS:
            self._clips.setdefault(file, []).append(_clip_row(tagger, clip, heard))
        else:
            self._left_out += 1

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all.

        Raises:
            OSError: naming `path`, if the disk does not take it.
        """
        folder = path.resolve().parent
        sections = []
        for file, seconds, content in self._recordings:
            beside = quote(Path(os.path.relpath(file.resolve(), folder)).as_posix())
            sections.append(
                f'<section data-seconds="{seconds:.3f}">\n<h2>{escape(str(file))}</h2>\n'
                f'<audio controls preload="metadata" src="{beside}"></audio>\n{content}</section>\n'
            )
        for file, rows in self._clips.items():
            sections.append(
                f"<section>\n<h2>{escape(str(file))}</h2>\n<table>\n<tr><th>Clip<th>Labels, with "
                f"their probabilities</tr>\n{''.join(rows)}</table>\n</section>\n"
            )
        if self._left_out:
            sections.append(f"<p>{self._left_out:,} more clips are not shown.</p>\n")
        write_text(path, self._page("".join(sections)))

    def _page(self, sections: str) -> str:
        notes = []
        if not all(self._models.values()):
            names = ", ".join(name for name, has in self._models.items() if not has)
            notes.append(
                f"{escape(names)}: how probable each label is, from 0 to 1: the stronger the "
                "colour. There are no validation scores that tell from which probability on one "
                "may rely on a label."
            )
        if any(self._models.values()):
            names = ", ".join(name for name, has in self._models.items() if has)
            notes.append(
                f"{escape(names)}: the timeline has the labels that are sure, by thresholds that "
                "were chosen on validation clips."
            )
        if self._recordings:
            notes.append("Click on a picture or a row to listen from there.")
        said = "".join(f'<p class="soft">{note}</p>\n' for note in notes)
        return (
            f'{HEAD.decode()}\n<html lang="en">\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">\n<title>What was heard</title>\n'
            f"<style>{STYLE}</style>\n<h1>What was heard</h1>\n{said}{sections}"
            f"<script>{SCRIPT}</script>\n</html>\n"
        )


def _recording(tagger: Tagger, heard: Heard, picture: Picture | None) -> str:
    windows = len(heard.starts)
    parts = [
        f'<p class="soft">{clock(heard.seconds)} by {escape(tagger.name)}'
        + (f", {windows} windows of {heard.ends[0] - heard.starts[0]:.3g} s" if windows > 1 else "")
        + "</p>\n"
    ]
    rows = []
    if picture:
        image = base64.b64encode(picture.png()).decode()
        rows.append(
            '<div class="row"><span class="name soft">Spectrum<br>(low to high, louder is '
            "brighter)</span>"
            f'<img class="track" alt="Log-mel spectrogram" src="data:image/png;base64,{image}">'
            "<span></span></div>\n"
        )
    shown = _timeline_labels(tagger, heard)
    rows += [_track(tagger, heard, place) for place in shown]
    axis = _axis(heard.seconds)
    rows.append(f'<div class="row"><span></span><div class="axis">{axis}</div></div>\n')
    parts.append(f'<div class="plot">\n{"".join(rows)}<div class="over"><i></i></div></div>\n')
    if not shown:
        parts.append("<p>No label is sure anywhere in this recording.</p>\n")
    parts.append(_table(tagger, heard, shown))
    return "".join(parts)


def _timeline_labels(tagger: Tagger, heard: Heard) -> list[int]:
    """Return the columns of the labels that are drawn, most heard first."""
    p, judged = heard.probabilities, np.isfinite(tagger.thresholds)
    if judged.any():
        times = (p >= np.nan_to_num(tagger.thresholds, nan=np.inf)).sum(0)
        order = np.lexsort((-p.mean(0), -times))
        return [int(place) for place in order[:ROWS] if times[place]]
    most = p.max(0)
    order = np.argsort(-most, kind="stable")[:ROWS]
    seen = [int(place) for place in order if most[place] >= SEEN_FROM]
    return seen or [int(order[0])]


def _track(tagger: Tagger, heard: Heard, place: int) -> str:
    """Return a row: how probable a label is in each window, by how strong the colour is."""
    p, threshold = heard.probabilities[:, place], tagger.thresholds[place]
    together = math.ceil(len(p) / SPANS)
    rects = []
    for first in range(0, len(p), together):
        value = p[first : first + together].max()
        start = heard.starts[first]
        following = first + together
        # Where windows overlap, a window is drawn up to the next one.
        end = heard.starts[following] if following < len(p) else heard.ends[-1]
        sure = not np.isnan(threshold)
        if value < (threshold if sure else 0.02):
            continue
        strength = 1.0 if sure else value
        rects.append(
            f'<rect x="{start:.2f}" width="{end - start:.2f}" height="1" '
            f'fill-opacity="{strength:.2f}"><title>{escape(tagger.classes[place])}, '
            f"{clock(start)} to {clock(end)}: {value:.2f}</title></rect>"
        )
    return (
        f'<div class="row"><span class="name">{escape(tagger.classes[place])}</span>'
        f'<svg class="track" viewBox="0 0 {heard.seconds:.2f} 1" preserveAspectRatio="none">'
        f'{"".join(rects)}</svg><span class="most">{p.max():.2f}</span></div>\n'
    )


def _axis(seconds: float) -> str:
    step = next((step for step in STEPS if seconds / step <= 10), STEPS[-1])
    return "".join(
        f'<span style="left:{100 * at / seconds:.2f}%">{clock(at)}</span>'
        for at in range(0, int(seconds) + 1, step)
        if not at or at <= 0.97 * seconds
    )


def _table(tagger: Tagger, heard: Heard, shown: list[int]) -> str:
    """Return the labels of the whole and of the timeline, best first."""
    mean, most = heard.mean, heard.probabilities.max(0)
    best = np.argsort(-mean, kind="stable")[:ROWS]
    places = sorted({*map(int, best), *shown}, key=lambda place: -mean[place])
    several = len(heard.starts) > 1
    judged = np.isfinite(tagger.thresholds).any()
    head = '<th>Label<th class="number">Probability'
    head += ' of the whole<th class="number">Highest<th class="number">at' if several else ""
    head += "<th>Sure" if judged else ""
    rows = []
    for place in places:
        row = f'<td>{escape(tagger.classes[place])}<td class="number">{mean[place]:.3f}'
        if several:
            at = heard.starts[int(heard.probabilities[:, place].argmax())]
            row += f'<td class="number">{most[place]:.3f}<td class="number">{clock(at)}'
        if judged:
            threshold = tagger.thresholds[place]
            sure = "" if np.isnan(threshold) else "yes" if most[place] >= threshold else "no"
            row += f"<td>{sure}"
        rows.append(f"<tr>{row}</tr>\n")
    return f"<table>\n<tr>{head}</tr>\n{''.join(rows)}</table>\n"


def _clip_row(tagger: Tagger, clip: str, heard: Heard) -> str:
    labels = ", ".join(
        f"{escape(of['label'])} {of['probability']:.2f}" for of in tagger.labels(heard, 5)
    )
    return f'<tr><td class="id">{escape(clip)}<td>{labels}</tr>\n'
