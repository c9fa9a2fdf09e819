"""`benchmarks/README.md`: the content of `results.json` as tables."""

from collections.abc import Sequence
from typing import Any

from tagging.scoring.tables import to_markdown

HEAD = """\
# Benchmarks

`make bench` measures these numbers and writes this page and `results.json`. Implementations that
are compared run interleaved, in the same session. A number is a median; the lowest and the highest
are in parentheses.
"""


def format_cell(cell: Any) -> str:
    """Return a cell as text: numbers with three significant digits, whole numbers with all."""
    if cell is None:
        return ""
    if isinstance(cell, dict):
        low, high = format_cell(cell["low"]), format_cell(cell["high"])
        return f"{format_cell(cell['median'])} ({low} to {high})"
    if isinstance(cell, float) and abs(cell) < 100:
        digits = 1 if abs(cell) >= 10 else 2 if abs(cell) >= 1 else 3
        return f"{cell:.{digits}f}"
    return f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell)


def verdict(target: dict[str, Any]) -> str:
    """Return whether a target is met or, if it is missed, by how much and why."""
    measured, limit = target["measured"], target["limit"]
    if measured is None:
        text = "not measured"
    elif measured >= limit if target["bound"] == "at least" else measured <= limit:
        return "met"
    elif limit == 0:
        text = "missed"
    else:
        excess = abs(measured / limit - 1)
        text = f"missed by {excess:.0%}" if excess < 1 else f"missed: {measured / limit:.1f} times"
    return f"{text}: {target['reason']}" if target["reason"] else text


def machine_line(machine: dict[str, Any]) -> str:
    """Return the machine in words."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}; Python {machine['python']}, PyTorch {machine['torch']}"
    )


def section(result: dict[str, Any], name: str, with_machine: bool) -> str:
    """Return the section of one benchmark."""
    parts = [f"\n## {result['title']}\n\n`make bench ONLY={name}`. {result['description']}\n"]
    if with_machine:
        parts.append(f"Measured on {machine_line(result['machine'])}.\n")
    header = list(result["rows"][0])
    rows = [[format_cell(cell) for cell in row.values()] for row in result["rows"]]
    text_columns = sum(
        all(isinstance(row[column], str) for row in result["rows"]) for column in header
    )
    parts.append(to_markdown(header, rows, right=text_columns))
    if result["targets"]:
        rows = [
            [
                target["quantity"], f"{target['bound']} {format_cell(target['limit'])}",
                format_cell(target["measured"]), verdict(target),
            ]
            for target in result["targets"]
        ]  # fmt: skip
        parts.append(to_markdown(["quantity", "target", "measured", "verdict"], rows, right=4))
    return "\n".join(parts)


def page(results: dict[str, Any], names: Sequence[str] = ()) -> str:
    """Return the page of the content of `results.json`.

    Args:
        results: by the names of the benchmarks.
        names: of all benchmarks; the page lists those without a result.
    """
    machines = [result["machine"] for result in results.values()]
    is_same_machine = all(machine == machines[0] for machine in machines)
    head = HEAD + (f"\nThe machine: {machine_line(machines[0])}.\n" if is_same_machine else "")
    if missing := [name for name in names if name not in results]:
        head += f"\nNot measured yet: {', '.join(missing)}.\n"
    sections = (section(result, name, not is_same_machine) for name, result in results.items())
    return head + "".join(sections)
