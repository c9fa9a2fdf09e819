"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import sys
import time
from typing import Literal

from tqdm import tqdm

LINE_EVERY_SECONDS = 15.0


class Progress:
    """Counts work done. With `style="auto"` a terminal sees a bar, a log sees lines.

    Args:
        what: a few words before the numbers.
        total: the amount of work, or None where unknown.
        unit: of the amount; "B" is shown in binary multiples.
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
            unit=unit,
            unit_scale=True,
            unit_divisor=1024 if unit == "B" else 1000,
            initial=done,
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

    def _line(self, now: float) -> str:
        rate = (self._done - self._initial) / (now - self._started)
        divisor = 1024 if self._unit == "B" else 1000
        show = lambda amount: tqdm.format_sizeof(amount, self._unit, divisor)  # noqa: E731
        line = f"{self._what}: {show(self._done)}"
        if self._total:
            line += f" of {show(self._total)}"
        line += f", {show(rate)}/s"
        if self._total and rate:
            line += f", {tqdm.format_interval((self._total - self._done) / rate)} left"
        return line

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        if self._style != "none":
            self._bar.write(line, file=sys.stderr)
            sys.stderr.flush()
