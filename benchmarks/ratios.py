"""Ratios of ways timed in turns: each with the plain way of its own turn."""

import statistics
from collections.abc import Iterable


def summary(ratios: Iterable[float], digits: int) -> list[str]:
    """Return the median and the spread of ratios, as a table's cells."""
    ratios = list(ratios)
    return [
        f"{statistics.median(ratios):.{digits}f}",
        f"{min(ratios):.{digits}f} to {max(ratios):.{digits}f}",
    ]
