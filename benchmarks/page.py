"""`benchmarks/README.md`: what `results.json` holds, for people."""

from collections.abc import Sequence
from typing import Any

from tagging.scoring.tables import to_markdown

HEAD = """\
# Benchmarks

`make bench` measured what stands here and wrote it, with `results.json` beside it. Ways that are
compared took turns in one run; a number is a median, the lowest and the highest stand in brackets.
"""


def shown(cell: Any) -> str:
    """Return a cell as text: numbers with three digits that count, whole ones with all."""
    if cell is None:
        return ""
    if isinstance(cell, dict):
        return f"{shown(cell['median'])} ({shown(cell['low'])} to {shown(cell['high'])})"
    if isinstance(cell, float) and abs(cell) < 100:
        digits = 1 if abs(cell) >= 10 else 2 if abs(cell) >= 1 else 3
        return f"{cell:.{digits}f}"
    return f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell)


def verdict(target: dict[str, Any]) -> str:
    """Return whether a target is met, or by how much and why it is missed."""
    got, limit = target["got"], target["limit"]
    if got is None:
        text = "not measured"
    elif got >= limit if target["bound"] == "at least" else got <= limit:
        return "met"
    elif limit == 0:
        text = "missed"
    else:
        short = abs(got / limit - 1)
        text = f"missed by {short:.0%}" if short < 1 else f"missed: {got / limit:.1f} times that"
    return f"{text}: {target['why']}" if target["why"] else text


def machine_line(machine: dict[str, Any]) -> str:
    """Return the machine in words."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}; Python {machine['python']}, PyTorch {machine['torch']}"
    )


def section(result: dict[str, Any], name: str, with_machine: bool) -> str:
    """Return one benchmark's part of the page."""
    parts = [f"\n## {result['title']}\n\n`make bench ONLY={name}`. {result['about']}\n"]
    if with_machine:
        parts.append(f"Measured on {machine_line(result['machine'])}.\n")
    header = list(result["rows"][0])
    rows = [[shown(cell) for cell in row.values()] for row in result["rows"]]
    texts = sum(all(isinstance(row[name], str) for row in result["rows"]) for name in header)
    parts.append(to_markdown(header, rows, right=texts))
    if result["targets"]:
        rows = [
            [t["what"], f"{t['bound']} {shown(t['limit'])}", shown(t["got"]), verdict(t)]
            for t in result["targets"]
        ]
        parts.append(to_markdown(["target", "", "measured", ""], rows, right=4))
    return "\n".join(parts)


def page(results: dict[str, Any], names: Sequence[str] = ()) -> str:
    """Return the page for what `results.json` holds: a result under each benchmark's name.

    Args:
        results: by the benchmarks' names.
        names: of all benchmarks; those without a result are named.
    """
    machines = [result["machine"] for result in results.values()]
    one = all(machine == machines[0] for machine in machines)
    head = HEAD + (f"\nThe machine: {machine_line(machines[0])}.\n" if one else "")
    if missing := [name for name in names if name not in results]:
        head += f"\nNot measured yet: {', '.join(missing)}.\n"
    return head + "".join(section(result, name, not one) for name, result in results.items())
