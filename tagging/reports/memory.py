"""How much of a score is memory: the same models where clips of what they learned test, or do not.

Split at random, windows of one recording, and of one instrument or speaker, lie on both sides. With
groups held out none does.
"""

from pathlib import Path
from statistics import median

import numpy as np

from tagging.base.errors import UserError
from tagging.reports.facts import Facts, read_json
from tagging.reports.leaderboard import cell
from tagging.scoring.tables import to_markdown


def of_one_answer(facts: Facts) -> float:
    """Return the metric of the best answer that is the same for all clips: frequent classes."""
    labels = facts.index.labels
    scores = np.tile(labels.sum(axis=0, dtype=np.float64), (len(labels), 1))
    return facts.metric.value(labels, scores)


def section(facts: Facts) -> str:
    """Return this section of the page.

    Raises:
        UserError: if the other leaderboard is not named, missing, or has none of the entries.
    """
    if facts.settings.at_random is None:
        raise UserError(
            "params.yaml: compare.at_random is missing; the section memory takes the path of the "
            "leaderboard.json of a task whose split is random"
        )
    path = Path(facts.settings.at_random)
    if not path.is_file():
        raise UserError(f"compare.at_random: {path} is missing; run dvc repro")
    at_random = read_json(path)["rows"]
    metric, name = facts.metric, facts.task.chooses
    chance = next(row.test[name] for row in facts.rows if row.kind == "baseline")
    floor, rows, shares = max(chance, of_one_answer(facts)), [], []
    for row in facts.rows:
        there = at_random.get(row.name, {})
        if row.kind == "baseline" or there.get(name) is None:
            continue
        if row.kind == "published":
            rows.append([row.name, str(round(there[name], metric.decimals)), "", "", ""])
            continue
        lost = there[name] - row.test[name]
        memory = "did not learn"
        if there.get(f"{name}_low", there[name]) > floor:
            shares.append(lost / (there[name] - chance))
            memory = f"{shares[-1]:.0%}"
        rows.append(
            [
                row.name,
                cell(metric, there, name),
                cell(metric, row.test, name),
                f"{lost:.{metric.decimals}f}",
                memory,
            ]
        )
    if all(row.name not in at_random for row in facts.entries):
        raise UserError(
            f"compare.at_random: {path} has none of the entries of this task; it takes one of the "
            "same models"
        )
    header = ["entry", "split at random", "groups held out", "lost", "memory"]
    middle = f"; the median is {median(shares):.0%}" if shares else ""
    return f"""\
## How much is memory

Each entry was trained twice with the same settings: split at random, where windows of one recording
train and test, and with groups (instruments, say) held out. What is lost from the first to the
second is memory of recordings and groups. The last column is its share of what an entry, split at
random, is better by than chance ({chance:.{metric.decimals}f}){middle}. An entry did not learn
where its interval, split at random, reaches what one answer for all clips gets
({floor:.{metric.decimals}f}): it has no share. Published rows are of splits at random.

{to_markdown(header, rows, right=1)}"""
