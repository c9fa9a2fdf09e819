"""The README's table is the leaderboard's."""

from tests.project import ROOT
from tools.readme import with_table


def test_the_first_table_of_the_page_takes_the_place_between_the_marks() -> None:
    readme = "before\n<!-- leaderboard -->\n| old |\n<!-- /leaderboard -->\nafter | this\n"
    page = "# Leaderboard\n\n| a | b |\n| --- | --- |\n| c | d |\ntext\n\n| another |\n"
    assert with_table(readme, page) == (
        "before\n<!-- leaderboard -->\n| a | b |\n| --- | --- |\n| c | d |\n<!-- /leaderboard -->\n"
        "after | this\n"
    )


def test_the_table_in_the_readme_is_the_leaderboards() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    board = (ROOT / "leaderboard/README.md").read_text(encoding="utf-8")
    assert with_table(readme, board) == readme
