"""`make bench`: run all benchmarks, or the named ones, and write their results.

    python -m benchmarks [name ...]

The results of all others stay in `results.json`.
"""

import importlib
import json
import sys
import time

from benchmarks.machine import machine
from benchmarks.page import page, section
from benchmarks.results import NotMeasured, as_json
from benchmarks.workers import ROOT
from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.data.clips import write_json

# In the order of the page: each is `benchmarks/<name>.py` with `measure()`.
NAMES = (
    "convert", "read_ahead", "training", "stack", "attention", "scale", "overhead", "repro",
    "sound", "tag",
)  # fmt: skip
RESULTS = ROOT / "benchmarks/results.json"
PAGE = ROOT / "benchmarks/README.md"


def select_benchmarks(names: list[str]) -> list[str]:
    """Return the benchmarks with these names, or all if there is no name.

    Raises:
        UserError: if a name is unknown.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"ONLY must name benchmarks of {', '.join(NAMES)}, got {unknown[0]}")
    return names or list(NAMES)


@entry_point
def main(names: str) -> None:
    """Run benchmarks; print the table of each and write both files after it.

    A benchmark that cannot run here keeps its earlier result.
    """
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in select_benchmarks(names.split()):
        print(f"{name} ..", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        try:
            result = importlib.import_module(f"benchmarks.{name}").measure()
        except NotMeasured as reason:
            print(f"{name}: not measured: {reason}", file=sys.stderr, flush=True)
            continue
        results[name] = as_json(result, machine())
        results = {name: results[name] for name in NAMES if name in results}
        write_json(RESULTS, results)
        write_text(PAGE, page(results, NAMES))
        print(section(results[name], name, True), flush=True)
        spent = time.perf_counter() - begin
        print(f"{name}: {spent:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
