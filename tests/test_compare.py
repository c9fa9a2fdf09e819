"""Stage `compare`: rows from what other stages wrote, the choice by validation, the CSVs."""

import json
from pathlib import Path

import pytest

from stages.compare import (
    Compare,
    Row,
    choose,
    choose_plotted,
    entry_rows,
    gain,
    leaderboard_markdown,
    spread_over_seeds,
)
from tagging.errors import UserError
from tagging.tables import read_rows, to_csv
from tests.project import Project

DATA = {
    "source": "AudioSet",
    "records": {"eval": 9},
    "top_labels": {"Music": {"clips": 5}},
    "split": {"train": 7, "val": 1, "test": 1},
}


def row(name: str, kind: str, val: float, test: float) -> Row:
    return Row(name, kind, {"ndcg": test, "precision_at_1": test}, {"ndcg": val}, 10, 1.0)


def settings(*plotted: str) -> Compare:
    return Compare(published={}, published_clips=1, plotted=list(plotted))


ROWS = [
    row("yac", "model", 0.90, 0.80),
    row("deep", "model", 0.93, 0.95),
    row("small", "student", 0.91, 0.85),
    row("all", "ensemble", 0.94, 0.90),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


# Rows


def test_an_ensemble_takes_the_training_of_each_member_once(folder: Path) -> None:
    for name, seconds in {"a": 10.0, "b": 2.5, "c": 100.0}.items():
        write(f"metrics/timing/{name}.json", json.dumps({"train_seconds": seconds}))
    for name in ("a", "epochs", "models"):
        metrics = {"val": {"ndcg": 1}, "test": {"ndcg": 0.5}, "parameters": 7}
        write(f"metrics/{name}.json", json.dumps(metrics))
    ensembles = {"epochs": {"members": ["a@8", "a@9", "a"]}, "models": {"members": ["b", "a@9"]}}
    found = {row.name: row for row in entry_rows("ensemble", ensembles)}
    assert found["epochs"].seconds == 10
    assert found["models"].seconds == 12.5
    assert found["models"].parameters == 7
    assert entry_rows("model", {"a": {}}) == [
        Row("a", "model", {"ndcg": 0.5}, {"ndcg": 1}, 7, 10.0)
    ]


def test_validation_chooses() -> None:
    assert choose(ROWS).name == "all"
    assert choose(ROWS[:3]).name == "deep"
    # The test split's order is another, and means nothing.
    swapped = [row._replace(scores={"ndcg": 1 - row.scores["ndcg"]}) for row in ROWS]
    assert choose(swapped).name == "all"


# What is plotted


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


def test_the_best_is_plotted_too_and_ensembles_last() -> None:
    best = choose(ROWS)
    assert names(choose_plotted(settings("yac"), ROWS, best)) == ["yac", "all"]
    assert names(choose_plotted(settings("all", "small"), ROWS, best)) == ["small", "all"]
    assert names(choose_plotted(settings("small", "yac"), ROWS, ROWS[1])) == [
        "small", "yac", "deep",
    ]  # fmt: skip
    assert names(choose_plotted(settings("yac", "yac"), ROWS, ROWS[0])) == ["yac"]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        choose_plotted(settings("yac", "yack"), ROWS, ROWS[0])
    assert str(caught.value) == (
        "params.yaml: compare.plotted has 'yack'; the models, students and ensembles are "
        "yac, deep, small, all"
    )


def test_gains_are_sorted_and_labels_without_clips_left_out(folder: Path) -> None:
    header = ["label", "average_precision", "test_clips"]
    for name, values in {"all": [0.5, 0.25, float("nan"), 0.875],
                         "yac": [0.75, 0.25, float("nan"), 0.5]}.items():  # fmt: skip
        rows = zip("abcd", values, (4, 3, 0, 1), strict=True)
        write(f"plots/evaluate/{name}/average_precision.csv", to_csv(header, rows))
    write("gain.csv", gain(ROWS[3], "yac", DATA))
    rows = read_rows(Path("gain.csv"))
    assert [(row["label"], float(row["difference"]), row["test_clips"]) for row in rows] == [
        ("d", 0.375, "1"),
        ("b", 0.0, "3"),
        ("a", -0.25, "4"),
    ]
    for row in rows:
        assert (row["model"], row["reference"]) == ("all", "yac")
        difference = float(row["average_precision"]) - float(row["reference_average_precision"])
        assert difference == float(row["difference"])


# The page


def test_the_row_that_validation_chooses_is_marked() -> None:
    page = leaderboard_markdown(ROWS, choose(ROWS), DATA)
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert [line for line in lines if "**" in line] == [lines[-1]]
    assert lines[-1].startswith("| **all** | **ensemble, chosen** | 0.9000 |")
    assert lines[-2].startswith("| small | student | 0.8500 |")
    assert "chosen by NDCG on the validation split" in page


# The small project


def test_the_spread_over_seeds_is_told_where_members_differ_in_nothing_else() -> None:
    model = {"architecture": "ast", "network": {"layers": 2}, "train": {"epochs": 3}}
    seeds = {
        "a": {**model, "train": {"epochs": 3, "checkpoints": 2}},
        "b": {**model, "train": {"epochs": 3, "seed": 1}},
    }
    models = seeds | {"c": {**model, "train": {"epochs": 4}}, "d": {**model, "network": {}}}
    rows = [row(name, "model", 0.5, 0.6 + 0.1 * place) for place, name in enumerate(models)]
    ensembles = {"seeds": {"members": ["a", "b"]}}
    told = spread_over_seeds(rows, models, ensembles)
    assert "2 members of seeds" in told
    assert "NDCG 0.6500 ± 0.0707" in told
    for others in (["a", "c"], ["a", "d"], ["a@2", "a@3"], ["a", "a"]):
        assert spread_over_seeds(rows, models, {"others": {"members": others}}) == ""


def test_the_leaderboard_has_all_entries(project: Project) -> None:
    params = project.params()
    board = json.loads((project.root / "leaderboard/leaderboard.json").read_text())
    kinds = {name: row["kind"] for name, row in board["rows"].items()}
    expected = {
        "constant ranking": "baseline",
        "random ranking": "baseline",
        **dict.fromkeys(params["models"], "model"),
        **dict.fromkeys(params["students"], "student"),
        **dict.fromkeys(params["ensembles"], "ensemble"),
    }
    assert kinds == expected
    val = {name: row["val_ndcg"] for name, row in board["rows"].items() if "val_ndcg" in row}
    assert val[board["best_by_validation"]] == max(val.values())
    assert "d_prime" in board["rows"]["yac"]
    marked = {
        row["model"]: row["best"]
        for row in read_rows(project.root / "plots/compare/leaderboard.csv")
    }
    assert [name for name, best in marked.items() if best == "yes"] == [board["best_by_validation"]]
    scores = [row["ndcg"] for row in board["rows"].values()]
    assert scores == sorted(scores, reverse=True)


def test_curves_are_of_what_is_plotted_and_the_best(project: Project) -> None:
    params = project.params()
    params["compare"]["plotted"] = ["attention", "of_models"]
    project.write_params(params)
    project.run("python", "-m", "stages.compare")
    plots = project.root / "plots/compare"
    board = json.loads((project.root / "leaderboard/leaderboard.json").read_text())
    best = board["best_by_validation"]
    for file in ("average_precision.csv", "precision_recall.csv"):
        assert {row["model"] for row in read_rows(plots / file)} == {"attention", "of_models", best}
    curves = {row["model"] for row in read_rows(plots / "learning_curves.csv")}
    assert curves == {"attention", best} - {"of_models"}
    rows = read_rows(plots / "gain.csv")
    assert {(row["model"], row["reference"]) for row in rows} == {(best, "attention")}


def test_an_unknown_name_is_one_sentence(project: Project) -> None:
    params = project.params()
    params["compare"]["plotted"] = ["yac", "vgg"]
    project.write_params(params)
    printed = project.fails("python", "-m", "stages.compare")
    assert printed.startswith("error: params.yaml: compare.plotted has 'vgg'; ")
    assert printed.count("\n") == 1


def test_seconds_change_nothing_but_their_own_files(project: Project) -> None:
    file = project.root / "metrics/timing/yac.json"
    timing = json.loads(file.read_text())
    file.write_text(json.dumps(timing | {"train_seconds": timing["train_seconds"] + 1000}))
    project.run("python", "-m", "stages.compare")
    changed = {line[3:] for line in project.status()}
    assert changed == {"metrics/timing/yac.json", "leaderboard/README.md", "plots/compare/cost.csv"}
    seconds = {
        row["model"]: float(row["train_seconds"])
        for row in read_rows(project.root / "plots/compare/cost.csv")
    }
    assert seconds["yac"] > 1000 and seconds["of_models"] > 1000  # yac is a member
    assert seconds["attention"] < 1000 and seconds["yac_distilled"] < 1000
