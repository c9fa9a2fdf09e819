"""Show the progress of long work: a bar on a terminal, a line every 15 seconds in a log."""

import sys
import time
from typing import Literal

from tqdm import tqdm

ProgressStyle = Literal["auto", "bar", "lines", "none"]
LINE_EVERY_SECONDS = 15.0
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class Progress:
    """Counter of completed work. With `style="auto"` a terminal shows a bar, a log has lines.

    Args:
        label: a few words before the numbers.
        total: the amount of work, or None where it is unknown.
        unit: the unit of the amount, in the singular; "B" (bytes) is shown in binary multiples.
        style: auto, bar, lines or none (`runtime.progress` in params.yaml).
        done: the amount that an interrupted run completed before.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        style: ProgressStyle = "auto",
        done: int = 0,
    ) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._style = style
        self._bar = tqdm(
            desc=label,
            total=total,
            unit=unit if unit == "B" else f" {unit}s",
            unit_scale=unit == "B",
            unit_divisor=1024,
            initial=done,
            # tqdm's own format shows rates below one as seconds a step; this one never does.
            bar_format=BAR if total else None,
            disable=style != "bar",
            dynamic_ncols=True,
            leave=False,
        )
        self._label, self._total, self._unit = label, total, unit
        self._started = self._printed = time.monotonic()
        self._initial = self._done = done

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more; in a log, print a line every fifteen seconds."""
        self._bar.update(amount)
        self._done += amount
        now = time.monotonic()
        if self._style == "lines" and now - self._printed >= LINE_EVERY_SECONDS:
            self._printed = now
            print(self._line(now), file=sys.stderr, flush=True)

    def skip(self, amount: int) -> None:
        """Count `amount` completed before, without counting it towards the speed."""
        self._done += amount
        self._initial += amount
        self._bar.initial, self._bar.n = self._initial, self._done
        self._bar.refresh()

    def _line(self, now: float) -> str:
        # 1.20GB of 2.31GB, 85.2MB/s, 00:13 left; 3,470 of 4,250 steps, 98 steps/s, 00:08 left
        rate = (self._done - self._initial) / max(now - self._started, 1e-9)
        if self._unit == "B":
            sizes = (self._done, self._total or 0, rate)
            done, total, speed = (tqdm.format_sizeof(size, "B", 1024) for size in sizes)
        else:
            done, total = f"{self._done:,}", f"{self._total or 0:,} {self._unit}s"
            speed = f"{rate:,.0f} {self._unit}s" if rate >= 10 else f"{rate:.2g} {self._unit}s"
        line = f"{self._label}: {done}"
        if self._total:
            line += f" of {total}"
        line += f", {speed}/s"
        if self._total and rate:
            line += f", {tqdm.format_interval((self._total - self._done) / rate)} left"
        return line

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        if self._style != "none":
            self._bar.write(line, file=sys.stderr)
            sys.stderr.flush()
