"""The README is short, and its table has rows and columns of the leaderboard."""

import re

import yaml

from tests.project import ROOT
from tools.readme import TASK, insert_results, insert_table

README = "before\n<!-- leaderboard -->\n| old |\n<!-- /leaderboard -->\nafter | this\n"


def test_the_best_rows_named_rows_and_others_are_between_the_marks() -> None:
    entries = [f"| {'**b**' if k == 1 else f'e{k}'} | model | {k} | .5 |" for k in range(8)]
    others = ["| printed | published | 7 | |", "| chance | baseline | 8 | .1 |"]
    header = ["| entry | kind | NDCG | mAP |", "| --- | --- | ---: | ---: |"]
    board = "\n".join(["# Leaderboard", "", *header, *entries, *others, "text", "", "| another |"])
    kept = [*header, *entries[:3], entries[6], *others]
    shown = [f"{line.rpartition(' |')[0].rpartition(' |')[0]} |" for line in kept]
    assert shown[0] == "| entry | kind | NDCG |"
    assert insert_table(README, board + "\n", ["e6", "e0"]) == "\n".join(
        ["before", "<!-- leaderboard -->", *shown, "<!-- /leaderboard -->", "after | this", ""]
    )


def test_the_table_in_the_readme_has_rows_of_the_leaderboard() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    board = (ROOT / "leaderboard/README.md").read_text(encoding="utf-8")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert readme.count("<!-- leaderboard -->") == readme.count("<!-- /leaderboard -->") == 1
    assert insert_table(readme, board, params["compare"]["plot"]) == readme, "run `make readme`"
    (header,) = re.findall("(?m)^[|] entry .*$", readme)
    assert len(header.split("|")) - 2 <= 6
    assert len(readme.splitlines()) <= 110


def test_the_entry_in_bold_or_the_first_one_is_a_tasks_result() -> None:
    row = "| [a](../a/leaderboard/) | why? | clips | {} |\n"
    lines = ["| entry | kind | runs | NDCG |", "| - | - | - | - |", "| p | published | | .9 |"]
    lines += ["| e1 | model | 3 | .8 (.7) |", "| **e2** | **model** | 3 | .7 (.6) |", ""]
    text, page = row.format("old"), "\n".join(lines)
    assert insert_results(text, {"a/leaderboard/": page}) == row.format("`e2`: NDCG .7 (.6)")
    page = page.replace("**", "")
    assert insert_results(text, {"a/leaderboard/": page}) == row.format("`e1`: NDCG .8 (.7)")


def test_the_results_of_tasks_are_those_of_their_leaderboards() -> None:
    text = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    folders = [row[2] for row in TASK.finditer(text)]
    pages = {folder: (ROOT / folder / "README.md").read_text("utf-8") for folder in folders}
    boards = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("tasks/*/*/README.md")}
    assert {"leaderboard/", *boards} == set(folders)
    assert insert_results(text, pages) == text, "run `make readme`"
