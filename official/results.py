"""What is written of one entry's answers: its scores on val and test, and each class's."""

from official.bootstrap import interval
from official.settings import BY_CLASS, METRICS, Official
from tagging.dataset import Split
from tagging.evaluation import Evaluate, average_precision_rows, summarize
from tagging.files import write_json, write_text
from tagging.parameters import parse
from tagging.scores import Scores
from tagging.tables import to_csv


def write_results(name: str, scores: Scores, splits: dict[str, Split], official: Official) -> None:
    """Write `metrics/<name>.json` and `average_precision/<name>.csv`.

    Args:
        name: the model's or ensemble's.
        scores: its outputs for the splits `val` and `test`.
        splits: these splits, with AudioSet's own labels.
        official: the settings; `evaluate` is used.
    """
    settings = parse(Evaluate, official.evaluate, "official.evaluate")
    result: dict = {
        part: summarize(splits[part].labels, scores.outputs[part]) for part in ("val", "test")
    }
    test, answers = splits["test"], scores.outputs["test"]
    value = result["test"]["mean_average_precision"]
    if value is not None:
        low, high = interval(test.labels, answers, value, settings.resamples, settings.seed)
        result["test"] |= {"mean_average_precision_low": low, "mean_average_precision_high": high}
    result["parameters"] = scores.parameters
    write_json(METRICS / f"{name}.json", result)
    header = ["label", "average_precision", "test_clips"]
    write_text(BY_CLASS / f"{name}.csv", to_csv(header, average_precision_rows(test, answers)))
