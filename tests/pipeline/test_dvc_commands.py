"""What DVC's own commands print: metrics, differences, experiments and plots, with the client."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.project import EVALUATED, PIPELINES, ROOT, Project
from tools.pipelines import pipeline_texts

SECTIONS = ("models", "finetuned", "ensembles", "students")
WIDTH = 120  # of a terminal with metrics
WIDTH_WITH_LONG_NAMES = 170  # of the real tasks' entries
DIFF_WIDTH = 100
TWO_TASKS = (Path("tasks/ablation"), Path("tasks/esc10"))
REPLICATION = Path("replication")
CURVES = ("validation", "training_loss", "precision_recall")


def entry_names(project: Project, folder: Path = Path()) -> list[str]:
    params = project.params(folder)
    return [name for section in SECTIONS for name in params.get(section) or {}]


def headline_values(project: Project, file: str, revision: str) -> dict[tuple[str, str], float]:
    """Return the values of a file of metrics in a commit, by their split and metric."""
    content = json.loads(project.git("show", f"{revision}:{file}"))
    return {(split, key): value for split in content for key, value in content[split].items()}


def check_table(table: str, folder: Path, names: list[str], width: int = WIDTH) -> None:
    """Check that `dvc metrics show` printed one narrow line for each entry."""
    header, *lines = table.splitlines()
    assert header.startswith("Path")
    expected = sorted(str(folder / f"metrics/{name}.json") for name in names)
    assert sorted(line.split()[0] for line in lines) == expected
    assert max(map(len, [header, *lines])) <= width


def check_difference(project: Project, difference: str, old: str, new: str) -> set[str]:
    """Check the lines of `dvc metrics diff` between two commits; return the changed entries.

    An entry has at most as many lines as headline values, and none where no value changed.
    """
    lines = [line.split() for line in difference.splitlines()[1:]]
    shown = [words[0] for words in lines]
    files = project.git("ls-files", "metrics/*", "tasks/*/metrics/*").split()
    changed = set()
    for file in files:
        before, after = (headline_values(project, file, revision) for revision in (old, new))
        number = sum(before.get(key) != after.get(key) for key in before | after)
        assert shown.count(file) == number <= len(before | after)
        changed |= {file} if number else set()
    assert set(shown) == changed
    return changed


@pytest.fixture(scope="module")
def changed(
    baseline: Path, mirror: Path, python_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str, str]:
    """The project, committed after an experiment with one model, and two outputs before that.

    The outputs are those of `dvc exp diff` and of `dvc exp show --only-changed --csv`.
    """
    root = tmp_path_factory.mktemp("changed") / "project"
    project = Project.copied(baseline, root, mirror, python_folder)
    project.dvc(
        "exp", "run", "--name", "faster", "-S", "++models.yac.train.lr=0.02", "evaluate@yac"
    )
    outputs = project.dvc("exp", "diff"), project.dvc("exp", "show", "--only-changed", "--csv")
    project.dvc("repro", "--quiet")
    project.commit()
    return project, *outputs


def test_each_dvc_yaml_is_a_copy_of_its_pipeline() -> None:
    texts = pipeline_texts()
    assert set(texts) == {
        ROOT / folder / "dvc.yaml" for folder in PIPELINES if folder != REPLICATION
    }
    for path, text in texts.items():
        assert path.read_bytes() == text.encode(), f"{path}: run make pipelines"
        assert not path.is_symlink()


def test_metrics_of_the_root_and_of_tasks_are_a_line_an_entry(all_tasks: Project) -> None:
    for folder in (Path(), *TWO_TASKS):
        table = all_tasks.dvc("metrics", "show", str(folder / "metrics"))
        check_table(table, folder, entry_names(all_tasks, folder))


def test_metrics_diff_names_what_changed_in_a_task(all_tasks: Project) -> None:
    file = all_tasks.root / TWO_TASKS[0] / "metrics/yac.json"
    content = json.loads(file.read_text())
    values = next(iter(content.values()))
    values[next(iter(values))] /= 2
    file.write_text(json.dumps(content))
    all_tasks.commit()
    difference = all_tasks.dvc("metrics", "diff", "HEAD~1")
    expected = {f"{TWO_TASKS[0]}/metrics/yac.json"}
    assert check_difference(all_tasks, difference, "HEAD~1", "HEAD") == expected


def test_metrics_diff_has_a_line_for_each_changed_value(changed: tuple[Project, str, str]) -> None:
    project = changed[0]
    difference = project.dvc("metrics", "diff", "HEAD~1")
    files = check_difference(project, difference, "HEAD~1", "HEAD")
    names = {Path(file).stem for file in files}
    # The student learns from the ensemble, whose member the model is.
    assert {"yac"} <= names <= {"yac", "three_architectures", "yac_distilled"}


def test_an_experiment_with_one_model_is_readable(changed: tuple[Project, str, str]) -> None:
    difference, table = changed[1:]
    assert max(map(len, difference.splitlines())) <= DIFF_WIDTH
    assert "models.yac.train.lr" in difference
    header, *rows = csv.reader(table.splitlines())
    assert len(header) <= 12
    assert {"Experiment", "metrics/yac.json:val.ndcg", "models.yac.train.lr"} <= set(header)
    (faster,) = (row for row in rows if row[0] == "faster")
    assert faster[header.index("models.yac.train.lr")] == "0.02"


@pytest.mark.parametrize("command", [("show",), ("diff", "HEAD~1")], ids=" ".join)
def test_plots_in_a_clone_with_an_empty_cache(
    changed: tuple[Project, str, str], command: tuple[str, ...], tmp_path: Path
) -> None:
    project = changed[0]
    project.git("clone", "--quiet", str(project.root), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.mirror, project.python_folder)
    clone.dvc("plots", *command, "--quiet", "--out", "page")
    page = (clone.root / "page/index.html").read_text()
    drawn = re.findall(r"vegaEmbed\('#(\w+)', spec\)", page)
    assert {"leaderboard", *CURVES} <= set(drawn)
    for text in ("yac_distilled", "three_architectures"):
        assert text in page
    assert "HEAD~1" in page or len(command) == 1
    assert not (clone.root / ".dvc/cache").exists()


@pytest.mark.parametrize("folder", EVALUATED, ids=str)
def test_the_committed_metrics_are_a_line_an_entry(folder: Path, tmp_path: Path) -> None:
    """In a repository with the metrics alone; `metrics/` has a file for each entry, no other."""
    names = entry_names(Project(ROOT, tmp_path, tmp_path), folder)
    metrics = ROOT / folder / "metrics"
    assert sorted(file.name for file in metrics.iterdir()) == sorted(
        f"{name}.json" for name in names
    )
    copy = tmp_path / folder / "metrics"
    copy.mkdir(parents=True)
    for file in metrics.iterdir():
        content = json.loads(file.read_text())
        assert "test" in content and set(content) <= {"val", "test"}
        assert all(1 <= len(values) <= 3 for values in content.values())
        assert all(
            value == round(value, 4) for values in content.values() for value in values.values()
        )
        (copy / file.name).write_bytes(file.read_bytes())
    for command in ("git init --quiet", "dvc init --quiet"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    table = subprocess.run(
        ["dvc", "metrics", "show", str(folder / "metrics")],
        cwd=tmp_path, env=os.environ, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    check_table(table, folder, names, WIDTH if folder == Path() else WIDTH_WITH_LONG_NAMES)
