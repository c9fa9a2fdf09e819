"""The data of the plots of single entries: learning curves, and how well each class is told."""

from pathlib import Path

from tagging.base.files import write_text
from tagging.reports.facts import Facts, Row, find
from tagging.scoring.evaluation import CURVE_CLASSES
from tagging.scoring.tables import read_rows, to_csv

PLOTS = Path("plots")


def plotted(facts: Facts) -> list[Row]:
    """Return the entries that the curves are of: those that `plotted` names, and the chosen one.

    Ensembles are last: they have no learning curve, and the others keep their colours without them.
    """
    names = dict.fromkeys([*facts.settings.plotted, facts.subject.name])  # each once, in this order
    rows = [find(facts.entries, name, "plotted") for name in names]
    return sorted(rows, key=lambda row: row.kind == "ensemble")


def read_classes(name: str) -> dict[str, dict[str, str]]:
    """Return what `evaluate` wrote of each class, by its name: `CLASS_HEADER` of evaluation."""
    rows = read_rows(PLOTS / "evaluate" / name / "average_precision.csv")
    return {row["label"]: row for row in rows}


def label_counts(facts: Facts) -> list[list]:
    """Return the classes and how many clips have each, most frequent first."""
    counts = facts.index.labels.sum(axis=0, dtype=int).tolist()
    names = [of.name for of in facts.index.classes]
    return sorted(map(list, zip(names, counts, strict=True)), key=lambda row: -row[1])


def learning_curves(facts: Facts) -> list[list]:
    """Return the loss and validation's metric after each epoch of what was trained, run by run."""
    rows, metric = [], facts.task.chooses
    for name, run in ((row.name, run) for row in plotted(facts) for run in row.runs):
        folder = PLOTS / "train" / name / run / "plots/metrics"
        if not folder.is_dir():  # an ensemble's, or of a model that is not trained
            continue
        val = folder / f"val/{metric}.tsv"
        by_step = {row["step"]: row[metric] for row in (read_rows(val) if val.exists() else [])}
        for row in read_rows(folder / "train/loss.tsv"):
            step, loss = row["step"], row["loss"]
            rows.append([name, run, int(step) + 1, loss, by_step.get(step), facts.metric.title])
    return rows


def average_precision(facts: Facts) -> list[list]:
    """Return each entry's average precision for each class, most frequent classes first.

    A ranking at random has the share of the clips that have the label.
    """
    tested = sum(len(fold.test) for fold in facts.index.folds)
    rows = []
    for name in (row.name for row in plotted(facts)):
        classes = read_classes(name)
        for label, _ in label_counts(facts):
            of, clips = classes[label], classes[label]["test_clips"]
            rows.append([name, label, of["average_precision"], int(clips) / tested, clips])
    return rows


def gain(facts: Facts) -> list[list]:
    """Return both average precisions of each class, the chosen entry's and the reference's.

    The class that gains most is first; classes that no test clip has are left out.
    """
    ours, reference = facts.subject.name, facts.settings.plotted[0]
    theirs, rows = read_classes(reference), []
    for label, row in read_classes(ours).items():
        if row["average_precision"]:
            value, other = (float(of["average_precision"]) for of in (row, theirs[label]))
            rows.append([label, ours, value, reference, other, value - other, row["test_clips"]])
    return sorted(rows, key=lambda row: -row[5])


def precision_recall(facts: Facts) -> list[list]:
    """Return the entries' precision-recall curves of the most frequent classes."""
    order = {label: place for place, (label, _) in enumerate(label_counts(facts)[:CURVE_CLASSES])}
    rows = []
    for row in plotted(facts):
        points = read_rows(PLOTS / "evaluate" / row.name / "precision_recall.csv")
        shown = [point for point in points if point["label"] in order]
        shown.sort(key=lambda point: order[point["label"]])
        rows += [[row.name, of["label"], of["recall"], of["precision"]] for of in shown]
    return rows


CURVES = {
    learning_curves: "model run epoch train_loss val metric",
    average_precision: "model label average_precision random_ranking test_clips",
    gain: "label model average_precision reference reference_average_precision difference "
    "test_clips",
    precision_recall: "model label recall precision",
    label_counts: "label clips",
}
OF_CLASSES = (average_precision, gain, precision_recall)  # embeddings have none


def write_curves(facts: Facts, folder: Path) -> None:
    """Write the data of the plots to CSV files in `folder`."""
    for curve, columns in CURVES.items():
        if facts.task.embeds and curve in OF_CLASSES:
            continue
        rows = [[*row, facts.data["source"]] for row in curve(facts)]
        write_text(folder / f"{curve.__name__}.csv", to_csv([*columns.split(), "data"], rows))
