"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import sys
import time
from typing import Literal

from tqdm import tqdm

LINE_EVERY_SECONDS = 15.0
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class Progress:
    """Counts work done. With `style="auto"` a terminal sees a bar, a log sees lines.

    Args:
        what: a few words before the numbers.
        total: the amount of work, or None where unknown.
        unit: of the amount, in the singular; "B" (bytes) is shown in binary multiples.
        style: auto, bar, lines or none (`run.progress` in params.yaml).
        done: the amount done before, by an interrupted run.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        style: Literal["auto", "bar", "lines", "none"] = "auto",
        done: int = 0,
    ) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._style = style
        self._bar = tqdm(
            desc=what,
            total=total,
            unit=unit if unit == "B" else f" {unit}s",
            unit_scale=unit == "B",
            unit_divisor=1024,
            initial=done,
            # As tqdm's own, but never "1.2s/ step": a rate below one reads as a rate too.
            bar_format=BAR if total else None,
            disable=style != "bar",
            dynamic_ncols=True,
            leave=False,
        )
        self._what, self._total, self._unit = what, total, unit
        self._started = self._spoke = time.monotonic()
        self._initial = self._done = done

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more; in a log, say so every fifteen seconds."""
        self._bar.update(amount)
        self._done += amount
        now = time.monotonic()
        if self._style == "lines" and now - self._spoke >= LINE_EVERY_SECONDS:
            self._spoke = now
            print(self._line(now), file=sys.stderr, flush=True)

    def skip(self, amount: int) -> None:
        """Count `amount` that was done before: speed and time left do not profit from it."""
        self._done += amount
        self._initial += amount
        self._bar.initial, self._bar.n = self._initial, self._done
        self._bar.refresh()

    def _line(self, now: float) -> str:
        # 1.20GB of 2.31GB, 85.2MB/s, 00:13 left; 3,470 of 4,250 steps, 98 steps/s, 00:08 left
        rate = (self._done - self._initial) / max(now - self._started, 1e-9)
        if self._unit == "B":
            show = lambda amount: tqdm.format_sizeof(amount, "B", 1024)  # noqa: E731
            done, total, speed = show(self._done), show(self._total or 0), show(rate)
        else:
            done, total = f"{self._done:,}", f"{self._total or 0:,} {self._unit}s"
            speed = f"{rate:,.0f} {self._unit}s" if rate >= 10 else f"{rate:.2g} {self._unit}s"
        line = f"{self._what}: {done}"
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
