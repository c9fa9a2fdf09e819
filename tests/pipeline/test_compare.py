"""Stage `compare`: selection, differences to the reference and over runs, and each section."""

import copy
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from stages import compare
from tagging.base.errors import UserError
from tagging.data.clips import read_index
from tagging.data.scores import RunScores, read_resampled, read_scores, write_scores
from tagging.data.task import MetricSettings
from tagging.data.task_folder import TaskFolder
from tagging.learning.losses import Ce
from tagging.learning.metric import Metric, load_metric
from tagging.reports import confident, context, leaderboard
from tagging.reports.classes import LINE_HEIGHT, class_table, place_names
from tagging.reports.context import Row, compare_with_reference, select_entry
from tagging.reports.curves import average_precision_gains, plotted_entries
from tagging.reports.differences import changed_settings
from tagging.reports.epochs import metric_by_epoch
from tagging.reports.failures import (
    constant_loss,
    constant_metrics,
    describe_failures,
    find_failures,
    is_diverged,
)
from tagging.reports.leaderboard import (
    compare_with_published,
    describe_data,
    describe_selection,
    metric_cell,
)
from tagging.reports.missing_clips import draw_subsets
from tagging.reports.prevalence import DRAWS, subsampled_mean_ap
from tagging.reports.significance import (
    Difference,
    bootstrap_p_value,
    find_verdicts,
    holm,
    paired_difference,
)
from tagging.scoring.tables import read_rows, to_csv
from tests.compared import in_windows, multi_label, single_label, write_task
from tests.project import ROOT, TASKS

SEEDS = [0, 1, 2]
YAC = {"architecture": "yac", "network": {"head": "logits"}, "seeds": SEEDS}
DEEP = {"architecture": "cnn", "network": {"channels": [8]}, "seeds": SEEDS}
PARAMS = {
    "task": {
        "type": "multi_label",
        "metrics": [{"name": "ndcg"}, {"name": "precision", "k": 1}],
        "report_metrics": [{"name": "map"}, {"name": "lwlrap"}],
    },
    "models": {
        "yac": YAC,
        "yac_focal": {**YAC, "train": {"loss": "focal"}},
        "deep": DEEP,
        "deep_wide": {**DEEP, "network": {"channels": [99]}},
        "poor": {"architecture": "yac", "seeds": [1]},
    },
    "students": {"small": {"architecture": "yac", "teacher": "all"}},
    "ensembles": {"all": {"members": ["deep", "yac@2", "yac@3"]}},
    "compare": {
        "plot": ["yac", "deep"],
        "published": {
            "Somebody": {"ndcg": 0.5, "train_clips": 600, "source": "a paper"},
            "Somebody else": {"map": 0.123456789},
        },
        "differences": {"yac": ["yac_focal", "poor"], "deep": ["deep_wide"]},
        "sections": ["classes", "prevalence", "missing_clips", "confident", "calibration"],
    },
}
QUALITIES = {
    "yac": 1.5, "yac_focal": 2.05, "deep": 2.2, "deep_wide": 1, "poor": 0, "small": 1.5, "all": 2.4,
}  # fmt: skip
FOLDED = {
    "task": {"type": "single_label", "metrics": [{"name": "accuracy"}]},
    "models": {"good": {"seeds": [0, 1]}, "bad": {}},
    "students": {},
    "ensembles": {"both": {"members": ["good", "bad"]}},
    "compare": {
        "plot": ["good", "bad"],
        "differences": {"bad": ["good"]},
        "sections": ["epochs"],
    },
}
FOLDED_QUALITIES = {"good": 2.5, "bad": 0, "both": 1.5}
HERE = TaskFolder(Path())
NDCG = load_metric(MetricSettings(name="ndcg"))


def read_context() -> context.ReportContext:
    return context.read_context(HERE)


def evaluation(name: str) -> dict:
    return json.loads(HERE.evaluation(name).read_text())


def page() -> str:
    return Path("leaderboard/README.md").read_text()


def board() -> dict:
    return json.loads(Path("leaderboard/leaderboard.json").read_text())


def lines(text: str, start: str) -> list[str]:
    """Return the cells of a table's first line whose first cell begins so, without bold."""
    line = next(
        line for line in text.replace("**", "").splitlines() if line.startswith(f"| {start}")
    )
    return [text.strip() for text in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a task that is compared, which is not the working directory."""
    folder = tmp_path_factory.mktemp("task")
    write_task(PARAMS, multi_label(), QUALITIES, path=folder)
    compare.main(str(folder))
    return folder


@pytest.fixture
def task(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the working directory, only to read."""
    monkeypatch.chdir(written)
    return written


@pytest.fixture(scope="module")
def written_folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a task with folds and no validation, one label a clip."""
    folder = tmp_path_factory.mktemp("folds")
    write_task(FOLDED, single_label(), FOLDED_QUALITIES, source="esc", path=folder)
    compare.main(str(folder))
    return folder


@pytest.fixture
def folds(written_folds: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written_folds)
    return written_folds


# Selection and differences to the reference


def test_validation_selects_whatever_test_says() -> None:
    values = {"a": (0.5, 0.9), "b": (0.7, 0.1), "c": (0.7, 0.95), "d": (None, 0.99)}
    rows = [
        Row(name, "model", {"ndcg": test}, {} if val is None else {"ndcg": val})
        for name, (val, test) in values.items()
    ]
    assert select_entry(rows, "ndcg", NDCG).name == "b"  # the first of equals
    lower = NDCG._replace(higher_is_better=False)
    assert select_entry(rows, "ndcg", lower).name == "a"
    assert select_entry(rows[3:], "ndcg", NDCG) is None


def test_differences_to_the_reference_are_on_the_same_resamples(task: Path) -> None:
    report = read_context()
    best = report.reference
    assert best.name == "all" and report.has_validation
    entries = {row.name: row for row in report.entries}
    assert entries["all"].difference is None and not entries["all"].significantly_below
    assert entries["poor"].significantly_below
    all_resampled, deep_resampled = (
        read_resampled(HERE.resampled(section, name))
        for section, name in (("ensembles", "all"), ("models", "deep"))
    )
    middle = entries["deep"].test["ndcg"] - best.test["ndcg"]
    margin = 1.96 * np.std(deep_resampled - all_resampled, ddof=1)
    assert entries["deep"].difference == pytest.approx((middle - margin, middle + margin))
    # Where lower is better, the same difference is an advantage.
    lower = NDCG._replace(higher_is_better=False)
    (row,) = compare_with_reference(HERE, [entries["poor"]], best, "ndcg", lower)
    assert row.difference == entries["poor"].difference and not row.significantly_below
    (row,) = compare_with_reference(HERE, [best], entries["poor"], "ndcg", lower)
    assert row.difference[0] > 0 and row.significantly_below


def test_entries_with_overlapping_intervals_may_differ_significantly(task: Path) -> None:
    """The same clips are hard for both: this is why the bootstrap is paired."""
    entries = {row.name: row for row in read_context().entries}
    assert [
        row.name
        for row in entries.values()
        if row.significantly_below and row.test["ndcg_ci_high"] > entries["all"].test["ndcg_ci_low"]
    ]


def test_significance_is_in_table_json_and_chart(task: Path) -> None:
    below = dict.fromkeys(board()["rows"], False)
    below |= {row.name: row.significantly_below for row in read_context().entries}
    assert 0 < sum(below.values()) < len(QUALITIES)
    assert all(board()["rows"][name]["delta_ci_high"] < 0 for name in below if below[name])
    marked = {
        row["model"]: row["significantly_below"] == "yes"
        for row in read_rows(HERE.comparison_plots / "leaderboard.csv")
    }
    assert marked == {name: below[name] for name in marked}
    bold = {
        line.split("|")[1].strip(" *")
        for line in page().splitlines()
        if re.search(r"\| \*\*-", line)
    }
    assert bold == {name for name, is_below in below.items() if is_below}
    text = f"these 6, {sum(below.values())} of 6 are significantly below all (in bold), and 0 above"
    assert text in page()
    assert "if none differed, 0.3 of 6 intervals would be expected to exclude zero." in page()


def test_a_difference_that_the_correction_refuses_is_a_hint(task: Path) -> None:
    """With 19 resamples, p-values are at least 1/20, 6/20 after Holm's correction over 6."""
    report = read_context()
    rows = [*report.entries]
    few = {name: read_resampled(HERE.resampled(f"{kind}s", name))[:19]
           for kind, configs in report.configs.items() for name in configs}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "read_resampled", lambda path: few[path.stem])
        rows = compare_with_reference(HERE, rows, report.reference, "ndcg", NDCG)
        patch.setattr(leaderboard, "read_resampled", lambda path: few[path.stem])
        text = describe_selection(replace(report, entries=rows))
    assert not any(row.significantly_below for row in rows)
    hints = [row.name for row in rows if row.verdict == "hint of a loss"]
    assert "poor" in hints
    assert f"{len(hints)} more intervals exclude zero, which is only a hint." in text
    assert "19 resamples are too few for any difference to hold" in text
    assert "it needs 120 or more." in text


# The leaderboard


def test_the_table_has_a_column_for_all_values(task: Path) -> None:
    header = lines(page(), "entry")
    assert header == [
        "entry", "kind", "runs", "NDCG", "P@1", "mAP", "lwlrap", "val NDCG",
        "difference to all (95% CI)", "training clips", "parameters", "training, s",
    ]  # fmt: skip
    deep = dict(zip(header, lines(page(), "deep |"), strict=True))
    runs = evaluation("deep")["runs"].values()
    for split, column in (("test", "NDCG"), ("val", "val NDCG")):
        values = [run[split]["ndcg"] for run in runs]
        assert deep[column].startswith(f"{mean(values):.4f} ± {stdev(values):.4f}")
    assert (deep["runs"], deep["training clips"], deep["training, s"]) == ("3", "60", "8")
    everything = dict(zip(header, lines(page(), "all |"), strict=True))
    assert everything["kind"] == "ensemble, selected"
    assert everything["training, s"] == "15"  # yac's three runs are counted once, whatever epochs
    assert lines(page(), "Somebody |")[1:4] == ["published", "", "0.5"]
    assert "0.1235" in lines(page(), "Somebody else |")
    told = next(line for line in page().splitlines() if "the NDCG **" in line)
    assert "of Somebody, from 10.0% of the training clips" in told
    assert "Published values come without intervals: these comparisons are not tests." in told
    assert "Somebody: a paper" in page()


@pytest.mark.parametrize("windows", [True, False])
def test_audioset_has_records_and_other_sources_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    index = in_windows(single_label()) if windows else multi_label()
    params = FOLDED if windows else small()
    write_task(params, index, FOLDED_QUALITIES | QUALITIES, source="esc" if windows else "AudioSet")
    what = "Recordings (esc): recordings" if windows else "AudioSet (Google, CC BY 4.0): records"
    report = read_context()
    assert describe_data(report).startswith(f"{what} of eval (9,999); ")
    report.summary.update(silent_windows=1037, recordings_without_clips=1)
    silent = "Silent windows left out: 1,037; recordings without other windows: 1."
    assert describe_data(report).endswith(silent)
    report.summary["unreadable_files"] = {"a.wav": "is empty", "b.wav": "is text"}
    assert describe_data(report).endswith(
        f"{silent} Files left out because they cannot be decoded: 2, named in data/summary.json."
    )
    report.summary["unreadable_files"] = {}
    assert describe_data(report).endswith(silent)
    for most, text in (
        (None, " (clips of at most 0.5 s)"),
        (2, " (clips of at most 0.5 s, at most 2 of a recording)"),
    ):
        report.summary.update(clip_seconds=0.5, max_windows=most)
        assert text in describe_data(report)


def test_a_choice_that_depends_on_the_processor_says_so(task: Path) -> None:
    report = read_context()
    deep = next(row for row in report.entries if row.name == "deep")
    rounded = {**report.configs["model"]["deep"], "train": {"precision": "bfloat16"}}
    for config, expected in ((report.configs["model"]["deep"], False), (rounded, True)):
        configs = report.configs | {"model": {"deep": config}}
        text = describe_selection(replace(report, reference=deep, configs=configs))
        assert ("depend on the processor" in text) == expected


def test_the_json_has_every_metric_and_the_order_is_tests(task: Path) -> None:
    rows = board()["rows"]
    assert board()["best_by_validation"] == "all" and board()["data"] == "AudioSet"
    assert {name: row["kind"] for name, row in rows.items()} == (
        dict.fromkeys(PARAMS["models"], "model")
        | {"small": "student", "all": "ensemble", "Somebody": "published"}
        | {"Somebody else": "published"}
        | {"constant ranking": "baseline", "random ranking": "baseline"}
    )
    wanted = {
        "ndcg",
        "ndcg_ci_low",
        "ndcg_ci_high",
        "ndcg_std",
        "val_ndcg",
        "precision_at_1",
        "lwlrap",
    }
    assert wanted <= rows["deep"].keys()
    assert rows["deep"]["runs"] == 3 and "runs" not in rows["all"]
    assert "seconds" not in json.dumps(board())
    scores = [row["ndcg"] for row in rows.values() if "ndcg" in row]
    assert scores == sorted(scores, reverse=True)
    assert list(rows)[-1] == "Somebody else"  # of another metric


def test_cells_follow_the_metric() -> None:
    scores = {"x": 0.12345, "x_std": 0.01, "x_ci_low": 0.1, "x_ci_high": 0.15}
    assert metric_cell(Metric("X", decimals=3), scores, "x") == "0.123 ± 0.010 (0.10–0.15)"
    assert metric_cell(Metric("X"), {"x": 0.5}, "x") == "0.5000"
    assert metric_cell(Metric("X"), {"x": None}, "x") == metric_cell(Metric("X"), {}, "x") == ""


def test_baselines_are_the_metrics_of_scores_without_a_model(task: Path) -> None:
    report, rows = read_context(), board()["rows"]
    fold, labels = report.index.folds[0], report.index.labels
    frequent = labels[fold.train].sum(axis=0).argmax()
    share = labels[fold.test][:, frequent].mean()
    assert rows["constant ranking"]["precision_at_1"] == pytest.approx(share)
    assert rows["random ranking"]["precision_at_1"] == pytest.approx(labels[fold.test].mean())
    assert "lwlrap" not in rows["random ranking"]  # it counts equal scores otherwise


@pytest.mark.parametrize(
    ("source", "clips", "shown"),
    [("AudioSet", None, True), ("AudioSet", 180, True), ("AudioSet", 181, False),
     ("generated sample", 180, False)],
)  # fmt: skip
def test_published_rows_are_shown_with_results_on_the_same_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, clips: int | None, shown: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small()
    params["compare"] |= {"published": PARAMS["compare"]["published"], "published_clips": clips}
    write_task(params, multi_label(), QUALITIES, source)
    assert any(row.kind == "published" for row in read_context().rows) == shown


def test_named_entries_are_compared_with_published_rows_below_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small()
    published = {"Low": {"ndcg": 0.01, "source": "a paper"}, "High": {"ndcg": 0.99}}
    params["compare"] |= {"published": published, "note": "What to know.\n"}
    write_task(params, multi_label(), QUALITIES)
    chosen = read_context().reference.name
    other = next(name for name in params["models"] if name != chosen)
    compare.main(".")
    assert f"`{other}` has the NDCG" not in page()
    params["compare"]["compare_with_published"] = [other]
    write_task(params, multi_label(), QUALITIES)
    compare.main(".")
    told = page()[page().index("What to know.") : page().index("| entry |")]
    for name in (chosen, other):
        value = evaluation(name)["test"]["ndcg"]
        sentence = told[told.index(f"`{name}` has the NDCG") :].split("\n")[0]
        assert f" {value - 0.01:.4f} above the 0.01 of Low" in sentence
        assert f" {0.99 - value:.4f} below the 0.99 of High" in sentence
    assert "Published: Low: a paper." in told


def test_a_published_value_within_the_interval_is_named_as_such() -> None:
    row = Row("a", "model", {"x": 0.5, "x_ci_low": 0.4, "x_ci_high": 0.6})
    published = [Row(f"P{value}", "published", {"x": value}) for value in (0.3, 0.45)]
    text = compare_with_published(Metric("X"), "x", row, published)
    assert text.endswith(
        "That is 0.2000 above the 0.3 of P0.3; 0.0500 above the 0.45 of P0.45, which its interval "
        "includes."
    )


def test_with_published_rows_of_other_clips_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small()
    params["compare"] |= {"published": PARAMS["compare"]["published"], "published_clips": "other"}
    write_task(params, multi_label(), QUALITIES)
    compare.main(".")
    assert lines(page(), "Somebody |")[1] == "published"
    assert page().count("Published rows (a paper) are of other clips with other labels") == 1
    assert "That is" not in page()


def small() -> dict:
    """Return the parameters of two models alone."""
    params = copy.deepcopy(PARAMS) | {"students": {}, "ensembles": {}}
    params["models"] = {name: {"architecture": "yac"} for name in ("yac", "deep")}
    params["compare"] = {"plot": ["yac"]}
    return params


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"plot": ["yac", "vgg"]}, r"compare.plot must name models, students or .*got 'vgg'"),
        ({"differences": {"deep": ["x"]}}, r"compare.differences.deep must name .*got 'x'"),
        ({"differences": {"x": ["deep"]}}, r"compare.differences must name .*got 'x'"),
        ({"difference_metrics": ["d"]}, r"compare.difference_metrics must name .*lwlrap.*got 'd'"),
        ({"published": {"deep": {}}}, r"names in compare.published must differ .*got 'deep'"),
        ({"published": {"a": {"ndgc": 1}}}, "compare.published.a.ndgc is unknown; .* has train_c"),
        ({"published": {"a": {"ndcg": "b"}}}, "compare.published.a.ndcg must be .* got 'b'"),
        ({"published_clips": "all"}, "compare.published_clips must be .*'other'.* got 'all'"),
        (
            {"compare_with_published": ["x"], "published": {"a": {"ndcg": 0.5}}},
            r"compare_with_published must name .*got 'x'",
        ),
        (
            {"sections": ["class"]},
            r"compare.sections\[0\] must be 'calibration', 'classes', .*'class'",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small()
    params["compare"] |= change
    write_task(params, multi_label(), QUALITIES)
    with pytest.raises(SystemExit, match=sentence) as ended:
        compare.main(".")
    assert "\n" not in str(ended.value)


# Where nothing validates


def test_without_validation_nothing_is_selected(folds: Path) -> None:
    assert "No clips validate here, so no entry is selected" in page()
    assert "best_by_validation" not in board()
    assert {"val accuracy", "difference to good (95% CI)"}.isdisjoint(lines(page(), "entry"))
    assert not any("delta_ci_low" in row for row in board()["rows"].values())
    assert "90 clips in 3 folds, each the test split once" in page()
    assert board()["rows"]["good"]["runs"] == 6
    # Differences go by test then, fold by fold: bad has one seed of good's two.
    good, bad = (evaluation(name)["runs"] for name in ("good", "bad"))
    gain = mean(good[run]["test"]["accuracy"] - bad[run]["test"]["accuracy"] for run in bad)
    assert "with an interval on test that excludes zero. A hint is" in page()
    assert f"**Gains**: good on bad ({gain:+.4f} on test)." in page()


def test_without_validation_the_reference_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = copy.deepcopy(FOLDED)
    params["compare"]["reference"] = "both"
    write_task(params, single_label(), FOLDED_QUALITIES, source="esc")
    compare.main(".")
    assert "The entry in bold is named in params.yaml (`compare.reference`)" in page()
    assert "difference to both (95% CI)" in lines(page(), "entry")
    assert {name for name, row in board()["rows"].items() if "delta_ci_low" in row} == {
        "good",
        "bad",
    }
    assert lines(page(), "both")[1] == "ensemble"


def test_chance_is_the_baseline_where_clips_have_one_label(folds: Path) -> None:
    assert board()["rows"]["chance"]["accuracy"] == pytest.approx(1 / 4)
    assert "constant ranking" not in board()["rows"]


def test_the_confusion_matrix_is_drawn(folds: Path) -> None:
    rows = read_rows(Path("plots/evaluate/good/confusion.csv"))
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    most = max(wrong, key=lambda row: float(row["share"]))
    table = page()[page().index("The most frequent errors") :]
    assert lines(table, "true class")[:2] == ["true class", "predicted class"]
    assert lines(table, most["label"])[1:] == [
        most["predicted"], f"{float(most['share']):.1%}", most["clips"],
    ]  # fmt: skip
    chart = Path("plots/compare/confusion.svg").read_text()
    assert chart.count('aria-roledescription="rect mark"') == 16 or chart.count("class 3") >= 2


# Failed runs


def test_runs_that_are_not_above_a_constant_answer_are_named(folds: Path) -> None:
    report = read_context()
    test_labels = [report.index.labels[fold.test] for fold in report.index.folds]
    frequent = [labels.mean(axis=0).max() for labels in test_labels]
    assert constant_metrics(report) == pytest.approx(frequent)
    good = next(row for row in report.entries if row.name == "good")
    assert "good" not in find_failures(report)
    # A dead network answers with one class: fold 1's most frequent one, or another.
    runs = dict(good.runs)
    runs["fold1-seed0"] = {"test": {"accuracy": float(frequent[1])}}
    runs["fold2-seed1"] = {"test": {"accuracy": float(frequent[2]) - 0.01}}
    runs["fold2-seed0"] = {"test": {"accuracy": float(frequent[2]) + 0.01}}
    dead = good._replace(name="dead", runs=runs)
    single = good._replace(name="single", runs={"fold0": {"test": {"accuracy": 0.0}}})
    report = replace(report, entries=[good, dead, single])
    failures = find_failures(report)
    assert failures.keys() == {"dead", "single"}
    assert sorted(failures["dead"]) == ["fold1-seed0", "fold2-seed1"]
    assert describe_failures(report).startswith(
        "**Failed**, no better on test than the best constant scores, those of the frequency of "
        "classes: `dead` (2 of 6 runs), `single`. "
    )
    assert describe_failures(replace(report, entries=[good])) == ""


def test_the_page_and_the_json_name_failed_entries(folds: Path) -> None:
    failed = {name: len(runs) for name, runs in find_failures(read_context()).items()}
    assert failed["bad"] > 0 and "good" not in failed
    rows = board()["rows"].items()
    assert {name: row["failed_runs"] for name, row in rows if "failed_runs" in row} == failed
    assert f"`bad` ({failed['bad']} of 3 runs)" in page()


def write_losses(name: str, run: str, *losses: float) -> None:
    """Replace the log of a run's training loss."""
    rows = "".join(f"{step}\t{loss}\n" for step, loss in enumerate(losses))
    log = HERE.training_log(name) / run / "plots/metrics/train/loss.tsv"
    log.write_text("step\tloss\n" + rows)


def test_a_constant_loss_is_the_entropy_of_the_classes() -> None:
    labels = np.eye(3, dtype=np.uint8)[[0, 0, 1, 2]]
    # Of frequencies 1/2, 1/4, 1/4: (ln 2 + ln 4) / 2.
    assert constant_loss(labels, True) == pytest.approx(1.5 * math.log(2))
    # Each label on its own: ln 2, and twice (ln 4 + 3 ln (4/3)) / 4.
    other = math.log(4) - 0.75 * math.log(3)
    assert constant_loss(labels, False) == pytest.approx((math.log(2) + 2 * other) / 3)
    outputs = torch.tensor(labels.mean(axis=0)).log().expand(4, 3)
    assert constant_loss(labels, True) == pytest.approx(
        Ce()(outputs, torch.from_numpy(labels).double()).item()
    )
    assert constant_loss(np.zeros((2, 3), np.uint8), False) == 0


def test_runs_whose_training_loss_is_that_of_constant_outputs_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = single_label()
    params = FOLDED | {"train": {"loss": "ce"}}
    write_task(params, index, FOLDED_QUALITIES, source="esc")
    constants = [constant_loss(index.labels[fold.train], True) for fold in index.folds]
    report = read_context()
    assert "good" not in find_failures(report)
    write_losses("good", "fold1-seed0", 2, constants[1] + 0.001)
    write_losses("good", "fold1-seed1", 2, constants[1] - 0.001)
    write_losses("good", "fold2-seed0", 10.1 * min(constants), 0.5)
    assert find_failures(report)["good"] == ["fold1-seed0"]
    text = describe_failures(report)
    assert "or with a training loss of the last epoch that is not below that" in text
    assert "`good` (1 of 6 runs)" in text
    assert f"`good` (up to {10.1 * min(constants):.1f}, in the last epoch" in text
    compare.main(".")
    row = board()["rows"]["good"]
    assert row["failed_runs"] == 1
    assert row["training_loss"] == pytest.approx(
        {"highest": 10.1 * min(constants), "last": constants[1] + 0.001, "constant": min(constants)}
    )
    # Losses of other targets, other losses and other frequencies of classes do not compare.
    for train in ({"loss": "focal"}, {"loss": "ce", "sampling": "balanced"}, {"loss": "bce"}):
        HERE.params.write_text(yaml.safe_dump(params | {"train": train}))
        assert "good" not in find_failures(report)
        assert "Diverged" not in describe_failures(report)


@pytest.mark.parametrize("folder", [Path(), *TASKS], ids=str)
def test_each_committed_page_names_the_runs_that_failed_or_diverged(folder: Path) -> None:
    page_folder = TaskFolder(ROOT / folder).leaderboard
    if not page_folder.exists():
        pytest.skip("has no committed page")
    text = (page_folder / "README.md").read_text(encoding="utf-8")
    rows = json.loads((page_folder / "leaderboard.json").read_text(encoding="utf-8"))["rows"]
    failed = (re.findall(r"^\*\*Failed\*\*.*", text, re.MULTILINE) or [""])[0]
    diverged = (re.findall(r"^\*\*Diverged\*\*.*", text, re.MULTILINE) or [""])[0]
    for name, row in rows.items():
        losses = row.get("training_loss", {"highest": 0, "last": 0, "constant": math.inf})
        is_dead = losses["last"] >= losses["constant"]
        assert (f"`{name}`" in failed) == ("failed_runs" in row), name
        assert "failed_runs" in row or not is_dead, name
        assert (f"`{name}`" in diverged) == is_diverged(losses), name


def test_the_start_of_a_training_on_rare_labels_is_not_diverged() -> None:
    """An epoch that begins at ln 2, as the network `ast` of tasks/official has."""
    rare = {"last": 0.017, "constant": 0.026}
    assert not is_diverged(rare | {"highest": 0.69})
    assert is_diverged(rare | {"highest": 7.0})
    assert is_diverged({"highest": 21.0, "last": 0.5, "constant": 2.07})


def test_an_entry_of_one_fold_is_compared_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = {"seeds": [1], "folds": [2]}
    params = FOLDED | {"ensembles": {}, "models": FOLDED["models"] | {"one": one}}
    params["compare"] = FOLDED["compare"] | {"differences": {"good": ["one"]}}
    write_task(params, single_label(), FOLDED_QUALITIES | {"one": 2}, source="esc")
    compare.main(".")
    assert "runs" not in board()["rows"]["one"]
    (row,) = (row for row in read_context().entries if row.name == "one")
    assert list(row.runs) == ["fold2-seed1"]
    own = evaluation("one")["test"]["accuracy"]
    difference = own - evaluation("good")["runs"]["fold2-seed1"]["test"]["accuracy"]
    section = page()[page().index("## Differences") :]
    assert lines(section, "one")[1:] == ["", "one run", f"{own:.4f}", f"{difference:+.4f}"]


def test_the_page_does_not_speak_of_failures_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = copy.deepcopy(FOLDED) | {"ensembles": {}, "models": {"good": {}}}
    params["compare"] = {"plot": ["good"]}
    write_task(params, single_label(), FOLDED_QUALITIES, source="esc")
    compare.main(".")
    assert "Failed" not in page() and "failed_runs" not in json.dumps(board())


# Differences over runs


def test_the_interval_is_students() -> None:
    new, old = [0.95, 0.97, 0.94], [0.94, 0.94, 0.93]
    difference = paired_difference(new, old)
    # Differences 0.01, 0.03, 0.01: mean 0.05 / 3, variance 4/3 e-4; t(0.975, 2) = 4.302653.
    reach = 4.302653 * math.sqrt(4e-4 / 3) / math.sqrt(3)
    assert difference.mean == pytest.approx(0.05 / 3)
    assert difference.interval == pytest.approx((0.05 / 3 - reach, 0.05 / 3 + reach), abs=1e-8)
    reference = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert difference.interval == pytest.approx((reference.low, reference.high))

    assert difference.p_value == pytest.approx(stats.ttest_rel(new, old).pvalue)
    # t = 0.05 / 3 / sqrt(4e-4 / 9) = 2.5; of two degrees of freedom, p = 1 - t / sqrt(t^2 + 2).
    assert difference.p_value == pytest.approx(1 - 2.5 / math.sqrt(2.5**2 + 2))


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        ([0.95, 0.96, 0.97], [0.93, 0.941, 0.949], "gain"),
        ([0.93, 0.941, 0.949], [0.95, 0.96, 0.97], "loss"),
        # The same means, other pairs: not significant.
        ([0.95, 0.96, 0.97], [0.949, 0.941, 0.93], "not significant"),
        ([0.95, 0.96, 0.97], [0.95, 0.96, 0.97], "not significant"),
        ([0.97], [0.9], "one run"),
    ],
)
def test_verdicts(new: list[float], old: list[float], verdict: str) -> None:
    family = [[paired_difference(new, old)]]
    assert find_verdicts(family) == [verdict]
    other = {"gain": "loss", "loss": "gain"}.get(verdict, verdict)
    assert find_verdicts(family, higher_is_better=False) == [other]


def test_holms_correction_by_hand() -> None:
    # In order: 0.01 x 4; 0.013 x 3 = 0.039, not below 0.04; 0.03 x 2 = 0.06; 0.04, not below 0.06.
    assert holm([0.04, 0.01, 0.03, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([0.03]) == [0.03] and holm([]) == []


def test_the_bootstraps_p_value_by_hand() -> None:
    resampled = np.array([0.5, 1, 1.5, 2, 0])  # centred: -0.5, 0, 0.5, 1, -1
    assert bootstrap_p_value(2, resampled) == 1 / 6  # no resample is as far from zero
    assert bootstrap_p_value(-1, resampled) == 3 / 6  # two are, on either side
    assert bootstrap_p_value(0.5, resampled) == 5 / 6
    assert bootstrap_p_value(0, resampled) == 1
    assert bootstrap_p_value(2, np.append(resampled, np.nan)) == 1 / 6


UP, DOWN = Difference(0.02, (0.01, 0.03), 0.01), Difference(-0.02, (-0.03, -0.01), 0.01)
UP_UNSURE, DOWN_UNSURE = Difference(0.02, (-0.01, 0.05), 0.2), Difference(-0.02, (-0.05, 0.01), 0.2)


@pytest.mark.parametrize(
    ("val", "test", "verdict"),
    [
        (UP, UP, "gain"),
        (DOWN, DOWN, "loss"),
        (UP, UP_UNSURE, "hint of a gain"),
        (DOWN_UNSURE, DOWN, "hint of a loss"),
        (UP, DOWN_UNSURE, "not significant"),  # other signs
        (UP, DOWN, "not significant"),
        (UP_UNSURE, UP_UNSURE, "not significant"),
        (UP, Difference(0.02, None), "one run"),
    ],
)
def test_validation_and_test_must_agree(val: Difference, test: Difference, verdict: str) -> None:
    assert find_verdicts([[val, test]]) == [verdict]


def test_verdicts_hold_after_the_correction_over_their_family() -> None:
    """Of five p-values of 0.01, the smallest after the correction is 0.05: no verdict."""
    one_run = [Difference(1, None)] * 2
    assert find_verdicts([[UP, UP]] * 4 + [one_run]) == ["gain"] * 4 + ["one run"]
    assert find_verdicts([[UP, UP]] * 5) == ["hint of a gain"] * 5
    # The p-value of a comparison is the larger of its splits'.
    larger = UP._replace(p_value=0.03)
    assert find_verdicts([[UP, larger], [UP, larger]]) == ["hint of a gain"] * 2


def test_a_difference_as_text() -> None:
    assert Difference(0.01, (-0.002, 0.022)).format(3) == "+0.010 (-0.002 to +0.022)"
    assert Difference(-0.01, None).format(4) == "-0.0100"


def test_changed_settings_are_named_from_all_sections() -> None:
    reference = {"architecture": "cnn", "seeds": [0], "network": {"dropout": 0.2}}
    assert changed_settings(reference | {"seeds": [0, 1]}, reference) == ""
    entry = reference | {"features": "mfcc", "network": {"dropout": 0.5}, "train": {"lr": 1}}
    assert changed_settings(entry, reference) == "`features: mfcc`, `dropout: 0.5`, `lr: 1`"


def test_entries_are_compared_run_by_run_on_validation(task: Path) -> None:
    section = page()[page().index("## Differences") :]
    runs = {name: evaluation(name)["runs"] for name in ("deep", "deep_wide")}
    pairs = [
        runs["deep_wide"][f"seed{k}"]["val"]["ndcg"] - runs["deep"][f"seed{k}"]["val"]["ndcg"]
        for k in SEEDS
    ]
    cells = lines(section, "wide")
    assert cells[:3] == ["wide", "`channels: [99]`", "loss"]
    assert cells[4].startswith(f"{mean(pairs):+.4f} (")
    assert f"**Losses**: wide on deep ({mean(pairs):+.4f} on validation, -0." in section
    # poor has a seed of yac's three: one pair, no spread, and so no verdict.
    assert lines(section, "poor")[2] == "one run"
    assert "**One run, without an interval**: 1 of 3." in section
    assert "0.2 of 4 intervals would be" in section  # of two comparisons, on two splits each
    assert "after Holm's correction over the 2 comparisons" in section


def test_differences_in_other_metrics_have_verdicts_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = copy.deepcopy(PARAMS)
    params["task"]["report_metrics"] = [{"name": "map"}]
    params["compare"]["published"] = {}
    params["compare"]["difference_metrics"] = ["map"]
    write_task(params, multi_label(), QUALITIES)
    compare.main(".")
    section = page()[page().index("## Differences") :]
    by_ndcg, by_map = section.split("\nmAP:\n")
    assert "NDCG:\n" in by_ndcg
    assert "### deep, NDCG" in by_map and "### deep, mAP" in by_map
    runs = {name: evaluation(name)["runs"] for name in ("deep", "deep_wide")}
    pairs = [
        runs["deep_wide"][f"seed{k}"]["val"]["map"] - runs["deep"][f"seed{k}"]["val"]["map"]
        for k in SEEDS
    ]
    assert f"wide on deep ({mean(pairs):+.4f} on validation, -0." in by_map
    cells = lines(section[section.index("### deep, mAP") :], "wide")
    assert cells[4].startswith(f"{mean(pairs):+.4f} (")
    # Two comparisons with an interval, by two metrics, are one family.
    assert "after Holm's correction over the 4 comparisons" in section
    assert "0.4 of 8 intervals would be" in section


def test_an_ensemble_of_one_run_is_compared_by_the_name_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small() | {"ensembles": {"all": {"members": ["deep@3"], "per_run": True}}}
    params["compare"]["differences"] = {"deep": ["all"]}
    write_task(params, multi_label(), QUALITIES)
    compare.main(".")
    difference = evaluation("all")["val"]["ndcg"] - evaluation("deep")["val"]["ndcg"]
    cells = lines(page()[page().index("## Differences") :], "all")
    assert (cells[2], cells[4]) == ("one run", f"{difference:+.4f}")
    assert cells[1] == "`members: ['deep@3']`, `per_run: True`"


def test_verdicts_of_a_family_with_both_directions() -> None:
    assert find_verdicts([[UP], [UP]], [True, False]) == ["gain", "loss"]


def test_the_chart_of_differences_has_the_methods_of_all_models(task: Path) -> None:
    """A model's methods are not another's."""
    chart = Path("plots/compare/differences.svg").read_text()
    texts = re.findall("<text[^>]*>([^<]*)</text>", chart)
    assert {"focal", "poor", "wide", "yac", "deep"} <= set(texts)
    assert "difference in validation NDCG" in texts


def test_entries_without_a_run_in_common_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small()
    params["models"]["deep"]["seeds"] = [7]
    params["compare"]["differences"] = {"yac": ["deep"]}
    write_task(params, multi_label(), QUALITIES)
    with pytest.raises(SystemExit, match="deep and yac have no fold and seed in common"):
        compare.main(".")


# What is plotted


def test_the_reference_is_plotted_too_and_ensembles_last(task: Path) -> None:
    report = read_context()
    names = [row.name for row in plotted_entries(report)]
    assert names == ["yac", "deep", "all"]
    settings = report.settings.model_copy(update={"plot": ["all", "deep"]})
    rows = plotted_entries(replace(report, settings=settings))
    assert [row.name for row in rows] == ["deep", "all"]
    for file in ("average_precision", "precision_recall"):
        rows = read_rows(Path(f"plots/compare/{file}.csv"))
        assert list(dict.fromkeys(row["model"] for row in rows)) == names
    curves = read_rows(Path("plots/compare/learning_curves.csv"))
    assert {(row["model"], row["run"]) for row in curves} == {
        (name, f"seed{k}") for name in ("yac", "deep") for k in SEEDS
    }


def test_gains_are_sorted_and_are_differences(task: Path) -> None:
    rows = average_precision_gains(read_context())
    assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)
    for row in rows:
        assert (row[1], row[3]) == ("all", "yac")
        assert row[5] == pytest.approx(row[2] - row[4])


def test_seconds_change_nothing_but_their_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(small(), multi_label(), QUALITIES)
    compare.main(".")
    outs = [path for name in ("leaderboard", "plots/compare") for path in Path(name).iterdir()]
    before = {path: path.read_bytes() for path in outs}
    file = HERE.timing("yac")
    file.write_text(json.dumps({"train_seconds": 1000.0, "epochs": 3}))
    compare.main(".")
    after = {path: path.read_bytes() for path in outs}
    different = {str(path) for path in outs if before[path] != after[path]}
    assert different == {"leaderboard/README.md", "plots/compare/cost.csv"}


# Sections


def test_easy_and_hard_classes(task: Path) -> None:
    rows = read_rows(Path("plots/compare/per_class.csv"))
    assert [row["entry"] for row in rows] == [*QUALITIES] * 6
    found = {(row["label"], row["entry"]): row for row in rows}
    labels, scores = multi_label().labels[-80:], read_scores(HERE.scores("models", "deep")).outputs
    for place in range(6):
        row = found[f"class {place}", "deep"]
        assert row["test_clips"] == str(labels[:, place].sum())
        for key, value in (
            ("average_precision", average_precision_score), ("roc_auc", roc_auc_score),
        ):  # fmt: skip
            runs = [value(labels[:, place], scores[f"seed{k}/test"][:, place]) for k in SEEDS]
            assert float(row[key]) == pytest.approx(mean(runs), rel=1e-5)
            assert float(row[f"{key}_std"]) == pytest.approx(stdev(runs), rel=1e-5)
    assert found["class 0", "all"]["roc_auc_std"] == ""  # of one run
    section = page()[page().index("## Easy and hard") :]
    assert "compared with `poor`, the worst of the other entries on validation." in section
    for place in range(6):  # so few classes are all there
        assert lines(section, f"class {place}")[1:] == [
            found[f"class {place}", "all"]["test_clips"],
            *(
                f"{float(found[f'class {place}', name][key]):.3f}"
                for name in ("all", "poor") for key in ("average_precision", "roc_auc")
            ),
        ]  # fmt: skip


@pytest.mark.parametrize(("classes", "header"), [(20, "class"), (21, "best")])
def test_of_many_classes_the_best_and_the_worst_are_shown(classes: int, header: str) -> None:
    ours = {f"class {k}": [k / 100, 0.01, 0.5, 0.02] for k in range(classes)}
    rows = class_table(ours, "other", ours, dict.fromkeys(ours, 9)).splitlines()
    assert rows[0].startswith(f"| {header} | ")
    best = f"class {classes - 1}"
    assert (f"| {best} | 9 | 0.190 ± 0.010 | 0.500 ± 0.020 |" in rows[2]) == (header == "class")
    assert len(rows) == 2 + (classes if header == "class" else 10)


def easy_and_hard(models: list[str], reference: str) -> str:
    """Return that section of a task without validation, with some of FOLDED's models."""
    params = copy.deepcopy(FOLDED) | {"ensembles": {}}
    params["models"] = {name: FOLDED["models"][name] for name in models}
    params["compare"] = {"plot": [reference], "reference": reference, "sections": ["classes"]}
    write_task(params, single_label(), FOLDED_QUALITIES, source="esc")
    compare.main(".")
    return page()[page().index("## Easy and hard") :]


def test_the_hardest_classes_are_shown_beside_another_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = easy_and_hard(["good", "bad"], reference="bad")
    assert "compared with `good`, the first of the other entries." in section
    assert lines(section, "class |")[4:] == ["AP of good", "ROC AUC of good"]
    assert all(" ± " in cell for cell in lines(section, "class 0")[2:])  # over folds
    section = easy_and_hard(["good"], reference="good")
    assert "compared with a random ranking, as there is no other entry." in section
    rows = read_rows(Path("plots/compare/per_class.csv"))
    for row in rows:
        share = int(row["test_clips"]) / 90
        assert lines(section, row["label"])[4:] == [f"{share:.3f}", "0.500"]


def test_names_in_the_chart_of_classes_do_not_overlap() -> None:
    rows = [
        {"class": f"class {k}", "value": 0.5 + 0.001 * k, "other": 0.5, "clips": 9}
        for k in range(30)
    ]
    place_names(rows)
    places = sorted(row["name_place"] for row in rows if "name" in row)
    assert len(places) == 10
    assert min(np.diff(places)) >= LINE_HEIGHT - 1e-9


def test_few_clips_bias_average_precision_upward() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 8)) < 0.02).astype(np.uint8)
    scores = (labels + rng.normal(size=labels.shape)).astype(np.float32)
    test = RunScores("seed0", 0, labels, scores)
    whole = average_precision_score(labels, scores, average="macro")
    assert subsampled_mean_ap(test, labels.sum(axis=0)) == pytest.approx(np.full(DRAWS, whole))
    few = subsampled_mean_ap(test, np.full(8, 4))
    assert few.mean() > whole + 4 * few.std(ddof=1) / DRAWS**0.5
    one = subsampled_mean_ap(test, np.array([4, *[0] * 7]))  # the others are left out
    assert len(one) == DRAWS and not np.isclose(one.mean(), few.mean())


def test_the_page_has_the_effect_of_the_number_of_clips(task: Path) -> None:
    section = " ".join(page()[page().index("## Validation and test") :].split())
    on_val, on_test, simulated = (
        float(re.search(pattern, section)[1])
        for pattern in (r"is (0\.\d+) on validation", r"(0\.\d+) on test", r"it is \*\*(0\.\d+) ±")
    )
    said = re.search(r"([+-]0\.\d+) of the ([+-]0\.\d+) between the splits", section)
    assert float(said[1]) == pytest.approx(simulated - on_test, abs=0.0011)
    assert float(said[2]) == pytest.approx(on_val - on_test, abs=0.0011)


def test_labels_above_thresholds_are_those_of_the_best_entry_with_thresholds(task: Path) -> None:
    section = page()[page().index("## Labels above the confidence threshold") :]
    text = " ".join(section.split())
    # The best of all is an ensemble, which has no weights of its own.
    assert "The weights of `deep` include a probability threshold" in text
    metrics = board()["rows"]["deep"]["confident"]
    assert "2 of 6 labels have a threshold. On test" in text
    assert f"labels above the threshold have a precision of {metrics['precision']:.1%} (" in text
    assert f"recall of {metrics['recall']:.1%}." in text
    row = read_rows(HERE.entry_plots("deep") / "confident_labels.csv")[1]
    cells = lines(section, "class 1")
    assert cells[:2] == ["class 1", "0.900"]
    assert cells[6] == f"{float(row['precision']):.2f}"
    low, high = float(row["precision_ci_low"]), float(row["precision_ci_high"])
    assert cells[7] == f"{low:.2f} to {high:.2f}"
    assert lines(section, "class 2")[6:] == ["", "", ""]


def test_the_calibration_s_errors_and_curve_are_on_the_page(task: Path) -> None:
    section = page()[page().index("## Calibration") :]
    text = " ".join(section.split())
    errors = json.loads(HERE.evaluation("deep").read_text())["test"]["calibration"]
    assert "fitted the calibration of `deep`" in text
    assert f"is {errors['uncalibrated_error']:.4f} (95% CI " in text
    assert f"and {errors['error']:.4f} (95% CI " in text
    assert f"a change of {errors['change']:+.4f} (95% CI {errors['change_ci_low']:+.4f}" in text
    rows = read_rows(HERE.entry_plots("deep") / "calibration.csv")
    last = [row for row in rows if row["scores"] == "calibrated"][-1]
    assert lines(section, "0.9 to 1.0")[3] == f"{float(last['share']):.3f}"
    assert (HERE.comparison_plots / "calibration.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("below", "subject"),
    [(0, "No label has its interval"), (1, "1 label has its"), (2, "2 labels have their interval")],
)
def test_the_number_of_labels_below_the_target_precision_is_a_sentence(
    written: Path, tmp_path: Path, below: int, subject: str
) -> None:
    folder = TaskFolder(shutil.copytree(written, tmp_path / "task"))
    path = folder.entry_plots("deep") / "confident_labels.csv"
    rows = read_rows(path)
    for place, row in enumerate(rows[:2]):
        row["precision_ci_high"] = "0.79" if place < below else "0.81"
    path.write_text(to_csv(list(rows[0]), [list(row.values()) for row in rows]))
    text = " ".join(confident.section(context.read_context(folder)).split())
    assert f". {subject}" in text
    assert (
        " interval below the target (first run, exact intervals), where 0.05 of 2 would be "
        "expected by chance if each had the target precision." in text
    )


def test_without_validation_there_are_no_thresholds(folds: Path) -> None:
    assert confident.section(read_context()) == ""


# Missing outputs


def test_missing_outputs_of_other_stages_are_named(written: Path, tmp_path: Path) -> None:
    """A folder as dependency may be filled in part: DVC issue 11099."""
    folder = TaskFolder(shutil.copytree(written, tmp_path / "task"))
    missing = [
        folder.scores("models", "deep"),
        folder.entry_plots("deep"),
        folder.training_log("small"),
        folder.training_log("deep"),
    ]
    for path in missing:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit) as ended:
        compare.main(str(folder.path))
    message = str(ended.value)
    assert "\n" not in message and "dvc repro --pull" in message
    assert str(missing[0]) in message and str(missing[1]) in message and "and 1 more" in message
    with pytest.raises(UserError, match="missing"):
        context.read_context(folder)


def test_clips_are_missing_at_random(task: Path) -> None:
    kept = draw_subsets(1000, 0.07)
    assert kept.sum(axis=0).tolist() == [930] * kept.shape[1]
    assert len({column.tobytes() for column in kept.T}) == kept.shape[1]
    section = page()[page().index("## Missing test clips") :]
    header = lines(section, "missing")
    assert header[:5] == ["missing", "clips", "NDCG", "P@1", "mAP"]
    assert lines(section, "none")[1:3] == ["80", f"{board()['rows']['all']['ndcg']:.4f}"]
    few, many = lines(section, "7%"), lines(section, "20%")
    assert (few[1], many[1]) == ("74", "64")
    for column in range(2, len(header)):
        middles, spreads = zip(*(
            map(float, re.match(r"(\S+) ± (\S+)", cells[column]).groups()) for cells in (few, many)
        ), strict=True)  # fmt: skip
        assert spreads[1] > spreads[0] > 0
        assert middles[0] == pytest.approx(float(lines(section, "none")[column]), abs=0.02)


# Leakage and label enhancement


def with_memory(**rows: dict) -> dict:
    """Return a task whose section `memory` reads these rows of another leaderboard."""
    Path("random.json").write_text(json.dumps({"rows": rows}))
    published = {"Somebody": {"accuracy": 0.6}}
    memory = {"sections": ["memory"], "other_leaderboard": "random.json", "published": published}
    return FOLDED | {"compare": FOLDED["compare"] | memory}


def test_leakage_is_the_difference_to_a_random_split(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    somebody = {"kind": "published", "accuracy": 0.6}
    index = single_label()
    frequent = mean(index.labels[fold.test].mean(axis=0).max() for fold in index.folds)
    poor = {
        f"accuracy{end}": frequent + 0.01 * k
        for k, end in ((1, ""), (-1, "_ci_low"), (3, "_ci_high"))
    }
    random = {"accuracy": 0.99, "accuracy_std": 0.01}
    random_dead = random | {"failed_runs": 1}
    params = with_memory(good=random, both=poor, bad=random, better=random_dead, Somebody=somebody)
    params["models"] = params["models"] | {"better": {}}
    write_task(params, index, FOLDED_QUALITIES | {"better": 2.5}, source="nsynth")
    compare.main(".")
    section = page()[page().index("## Leakage in random splits") :]
    held_out = board()["rows"]["good"]["accuracy"]
    share = (0.99 - held_out) / (0.99 - 0.25)
    good = lines(section, "good")
    assert good[1] == "0.9900 ± 0.0100"
    assert good[2].startswith(f"{held_out:.4f} ± ")
    assert good[3:] == [f"{0.99 - held_out:.4f}", f"{share:.0%}"]
    # Failed on either side: no difference, no share, and not in the median.
    assert lines(section, "both")[3:] == ["", "failed: random split"]
    assert lines(section, "better")[3:] == ["", "failed: random split"]
    assert lines(section, "bad")[3:] == ["", "failed: groups held out"]
    text = " ".join(section.split())
    assert f"reaches their mean over folds ({frequent:.4f})" in text
    assert f"chance (0.2500) with the random split; the median is at most {share:.0%}." in text
    assert "remembers of recordings and groups is at most the difference" in text
    assert "Somebody" not in section
    assert "Published rows are left out, as the split that they are of is not stated." in text


def test_leakage_needs_the_leaderboard_of_the_same_models(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = with_memory(other={"accuracy": 1})
    write_task(params, single_label(), FOLDED_QUALITIES)
    with pytest.raises(SystemExit, match=r"random\.json must have entries of this task, got other"):
        compare.main(".")
    Path("random.json").unlink()
    with pytest.raises(
        SystemExit, match=r"compare\.other_leaderboard: random\.json does not exist"
    ):
        compare.main(".")
    del params["compare"]["other_leaderboard"]
    write_task(params, single_label(), FOLDED_QUALITIES)
    with pytest.raises(
        SystemExit, match=r"compare\.other_leaderboard is missing; the section memory needs"
    ):
        compare.main(".")


ENHANCED = {"yac": 1, "deep": 1, "teacher": 2, "enhanced": 1.5}


@pytest.fixture
def enhanced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A task with a student that learns enhanced labels, and the model without."""
    monkeypatch.chdir(tmp_path)
    params = small()
    params["models"]["deep"] = {**DEEP, "train": {"epochs": 2}}
    params["ensembles"] = {"teacher": {"members": ["deep"]}}
    params["students"] = {
        "enhanced": {
            **params["models"]["deep"],
            "teacher": "teacher",
            "relabel_threshold": "mean",
            "ontology": "tree.json",
        }
    }
    params["compare"]["sections"] = ["enhancement"]
    tree = [{"id": f"/m/{k}", "name": f"class {k}", "child_ids": []} for k in range(6)]
    tree[0]["child_ids"] = ["/m/1", "/m/2"]
    Path("tree.json").write_text(json.dumps(tree))
    return params


def test_enhancement_has_added_labels_and_effects_by_frequency(enhanced: dict) -> None:
    write_task(enhanced, multi_label(), ENHANCED)
    compare.main(".")
    section = page()[page().index("## Effects of label enhancement") :]
    found = re.search(
        r"learns (\d+) labels in addition to the (\d+) .*?:\s(\d+) subcl.* (\d+) superclasses",
        section,
        re.DOTALL,
    )
    said = [int(number) for number in found.groups()]
    labels = multi_label().labels[:60]
    assert said[1] == labels.sum()
    # No kind of a kind here: no label is of both types.
    assert 0 < said[0] == said[2] + said[3]
    assert said[3] <= ((labels[:, 1:3].any(axis=1)) & (labels[:, 0] == 0)).sum()
    assert "The difference to `deep`, trained alike without them, in NDCG is +" in " ".join(
        section.split()
    )
    cells = [lines(section, name) for name in ("rare", "medium", "frequent")]
    assert [row[1] for row in cells] == ["2", "2", "2"]
    assert sum(int(row[2]) for row in cells) == said[0]
    for row in cells:
        difference = float(re.match(r"[+-]\S+", row[5])[0])
        assert difference == pytest.approx(float(row[4]) - float(row[3]), abs=0.0002)
        assert " to " in row[5]  # an interval over the seeds
        assert row[6] in ("gain", "loss", "not significant")


def test_without_an_unenhanced_model_the_effect_is_unknown(enhanced: dict) -> None:
    enhanced["models"]["deep"]["train"] = {"epochs": 3}
    write_task(enhanced, multi_label(), ENHANCED)
    compare.main(".")
    assert "No model has the same settings without them: their effect is unknown." in page()
    assert "| rare" not in page()


def test_selecting_the_epoch_on_test_has_an_optimistic_bias(folds: Path) -> None:
    path = HERE.scores("models", "good")
    scores, index = read_scores(path), read_index(HERE.index)
    expected = {}
    for run, fold in scores.runs.items():
        test = index.folds[fold].test
        for epoch, right in ((8, 10), (9, 20), (10, 15)):
            answers = np.eye(index.labels.shape[1], dtype=np.float32)[
                (index.labels[test].argmax(1) + 1) % index.labels.shape[1]
            ]
            answers[:right] = index.labels[test[:right]]
            scores.outputs[f"{run}/test@{epoch}"] = answers
        expected[run] = 20 / len(test) - 15 / len(test)
    write_scores(path, scores)
    compare.main(".")
    table = page().partition("## Bias of selecting the epoch")[2]
    row = lines(table, "good")
    assert row[1] == "3"
    last, together, each = map(float, row[2:5])
    assert last < together == each
    assert row[5].startswith(f"{np.mean(list(expected.values())):.4f} ± ")
    assert "| bad |" not in table.partition("## ")[0]  # no epoch of it is kept


def test_windows_of_a_recording_count_as_one_after_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(FOLDED, in_windows(single_label()), FOLDED_QUALITIES, source="folder")
    path = HERE.scores("models", "good")
    scores = read_scores(path)
    for run in scores.runs:
        last = scores.outputs[f"{run}/test"]
        scores.outputs.update({f"{run}/test@8": np.zeros_like(last), f"{run}/test@9": last})
    write_scores(path, scores)
    compare.main(".")
    report = read_context()
    good = next(row for row in report.entries if row.name == "good")
    after = metric_by_epoch(report, good)
    assert after[:, 1].tolist() == [run["test"]["accuracy"] for run in good.runs.values()]
    assert (after[:, 0] < after[:, 1]).all()
    assert lines(page(), "good | 2")[2] == f"{good.test['accuracy']:.4f}"
