"""`make bench`: run all benchmarks, or those named, and write what they give.

    python -m benchmarks [name ...]

What was measured before of others stays in `results.json`.
"""

import importlib
import json
import sys
import time

from benchmarks.machine import machine
from benchmarks.page import page, section
from benchmarks.results import NotMeasured, as_json
from benchmarks.turns import ROOT
from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.data.clips import write_json

# In the page's order: each is `benchmarks/<name>.py` with `measure()`.
NAMES = (
    "convert", "read_ahead", "training", "stack", "attention", "scale", "overhead", "repro",
    "sound", "tag",
)  # fmt: skip
RESULTS = ROOT / "benchmarks/results.json"
PAGE = ROOT / "benchmarks/README.md"


def chosen(words: list[str]) -> list[str]:
    """Return the benchmarks named, all of them if there is no name.

    Raises:
        UserError: naming what is no benchmark.
    """
    if unknown := [word for word in words if word not in NAMES]:
        raise UserError(f"no benchmark is called {unknown[0]}; there are {', '.join(NAMES)}")
    return words or list(NAMES)


@entry_point
def main(names: str) -> None:
    """Run benchmarks, print each one's table, and write both files after each.

    One that cannot be measured here is left out, and keeps what it gave before.
    """
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in chosen(names.split()):
        print(f"{name} ..", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        try:
            result = importlib.import_module(f"benchmarks.{name}").measure()
        except NotMeasured as reason:
            print(f"{name}: not measured: {reason}", file=sys.stderr, flush=True)
            continue
        results[name] = as_json(result, machine())
        results = {each: results[each] for each in NAMES if each in results}
        write_json(RESULTS, results)
        write_text(PAGE, page(results, NAMES))
        print(section(results[name], name, True), flush=True)
        spent = time.perf_counter() - begin
        print(f"{name}: {spent:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
