"""Thresholds from which on labels are sure: what they promise holds on clips that chose nothing."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from tagging.learning.thresholds import FEWEST, choose_thresholds
from tagging.scoring.bootstrap import draw
from tagging.scoring.evaluation import Answers, Evaluate
from tagging.scoring.sure import SURE_HEADER, Sure, sure_labels, confident_metrics, sure_rows

CLIPS, LABELS = 2000, 100


def answers(seed: int, labels: int = LABELS, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, most of them rare, and log odds that are right but for `offset`."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(np.linspace(-3, -9, labels), 3, (CLIPS, labels))
    true = (rng.random(odds.shape) < expit(odds)).astype(np.uint8)
    return true, (odds + offset).astype(np.float32)


def limits(labels: np.ndarray, scores: np.ndarray, promised: float = 0.8) -> np.ndarray:
    found = choose_thresholds(labels, scores, promised).classes
    return np.array([of.threshold for of in found], np.float32)


@pytest.mark.parametrize(("promised", "offset"), [(0.8, 0.0), (0.8, 4.0), (0.5, 0.0), (0.95, -2.0)])
def test_the_promise_holds_on_other_clips_whatever_probabilities_say(promised, offset) -> None:
    thresholds = limits(*answers(0, offset=offset), promised)
    labels, scores = answers(1, offset=offset)
    sure = sure_labels(scores, thresholds)
    hits, told = (sure & (labels > 0)).sum(axis=0), sure.sum(axis=0)
    assert promised <= hits.sum() / told.sum() < promised + 0.6 * (1 - promised)
    assert np.isfinite(thresholds).mean() > 0.3
    assert hits.sum() / labels.sum() > 0.05
    # Label by label too: of those with a threshold, few are surely worse.
    highest = stats.beta.ppf(0.975, hits + 1, told - hits)
    assert (highest[told > hits] < promised).sum() <= 0.05 * np.isfinite(thresholds).sum()


def test_of_rare_labels_the_lowest_threshold_that_validation_finds_good_is_too_low() -> None:
    """What the calibration of all labels together is for."""
    labels, scores = answers(0)
    ours = limits(labels, scores)
    lowest = np.full(LABELS, np.nan)
    for place, (true, x) in enumerate(zip(labels.T, scores.T, strict=True)):
        order = np.argsort(-x)
        good = np.flatnonzero(np.cumsum(true[order]) / np.arange(1, CLIPS + 1) >= 0.8)
        if len(good) and true.sum() >= FEWEST:
            lowest[place] = expit(x[order[good[-1]]])
    labels, scores = answers(1)
    precision = []
    for thresholds in (lowest, ours):
        sure = sure_labels(scores, thresholds)[:, LABELS // 2 :]
        precision.append((sure & (labels[:, LABELS // 2 :] > 0)).sum() / sure.sum())
    assert precision[0] < 0.76 < 0.8 <= precision[1]


def test_what_is_kept_of_a_label_is_what_validation_has() -> None:
    labels, scores = answers(0)
    found = choose_thresholds(labels, scores, 0.8).classes
    judged = 0
    for of, true, x in zip(found, labels.T, scores.T, strict=True):
        assert of.clips == true.sum()
        if of.threshold is None:
            assert (of.precision, of.recall) == (None, None)
            continue
        judged += 1
        sure = expit(x) >= np.float32(of.threshold)
        assert of.precision == pytest.approx(true[sure].mean())
        assert of.recall == pytest.approx(sure[true > 0].mean())
        assert of.precision >= 0.8  # also where the calibration of all labels expects it
    assert 0 < judged < LABELS


def test_a_label_of_few_clips_or_told_at_random_has_none() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((500, 3), np.uint8)
    labels[: FEWEST - 1, 0] = labels[:200, 1] = labels[:200, 2] = 1
    scores = (12 * labels.astype(np.float32) - 6) + rng.normal(size=labels.shape)
    scores[:, 2] = rng.normal(size=500)
    found = choose_thresholds(labels, scores.astype(np.float32), 0.8).classes
    assert [of.threshold is None for of in found] == [True, False, True]
    assert [of.clips for of in found] == [FEWEST - 1, 200, 200]


@pytest.mark.parametrize("scale", [3.0, 1e4, 3e38])
def test_equal_and_extreme_answers_are_told_together(scale: float) -> None:
    labels = np.repeat(np.array([[1], [0]], np.uint8), 100, axis=0)
    scores = np.where(labels, scale, -scale).astype(np.float32)
    (of,) = choose_thresholds(labels, scores, 0.8).classes
    assert (of.precision, of.recall) == (1, 1)
    assert np.array_equal(expit(scores) >= np.float32(of.threshold), labels > 0)
    (none,) = choose_thresholds(labels, np.zeros_like(scores), 0.8).classes
    assert none.threshold is None


def two_runs() -> tuple[list[Answers], Sure]:
    runs = [Answers(f"seed{k}", 0, *answers(k + 1, 5)) for k in range(2)]
    runs[1] = runs[1]._replace(labels=runs[0].labels)
    kept = {"seed0": [0.5, 0.7, np.nan, 0.2, np.nan], "seed1": [0.5] + [np.nan] * 4}
    return runs, Sure(0.8, {run: np.array(of, np.float32) for run, of in kept.items()})


def test_the_metrics_are_those_of_all_labels_and_runs_together() -> None:
    runs, sure = two_runs()
    found = confident_metrics(runs, sure, Evaluate(resamples=100, seed=3))
    there = [sure_labels(of.scores, sure.thresholds[of.run]) for of in runs]
    right = [of & (run.labels > 0) for of, run in zip(there, runs, strict=True)]
    precision = sum(map(np.sum, right)) / sum(map(np.sum, there))
    assert (found["promised"], found["labels"]) == (0.8, 2)
    assert found["precision"] == pytest.approx(precision)
    assert found["recall"] == pytest.approx(
        sum(map(np.sum, right)) / sum(of.labels.sum() for of in runs)
    )
    counts = draw(CLIPS, 100, [3, 0]).astype(int)
    of_clips: list[Any] = [sum(of.sum(axis=1) for of in each) for each in (right, there)]
    spread = np.std((of_clips[0] @ counts) / (of_clips[1] @ counts), ddof=1)
    assert found["precision_high"] - found["precision"] == pytest.approx(1.96 * spread)


def test_no_thresholds_answer_nothing() -> None:
    runs, sure = two_runs()
    nothing = {run: np.full(5, np.nan, np.float32) for run in sure.thresholds}
    found = confident_metrics(
        runs, sure._replace(thresholds=nothing), Evaluate(resamples=100, seed=3)
    )
    assert found == {"promised": 0.8, "labels": 0, "recall": 0}


def test_the_rows_are_of_the_first_run_label_by_label() -> None:
    (test, _), sure = two_runs()
    val = Answers("seed0", 0, *answers(7, 5))
    rows = sure_rows([f"label {k}" for k in range(5)], sure, [val], [test])
    first, none = (dict(zip(SURE_HEADER, rows[k], strict=True)) for k in (0, 2))
    there = expit(test.scores[:, 0]) >= 0.5
    hits, told = int((there & (test.labels[:, 0] > 0)).sum()), int(there.sum())
    assert first["precision"] == hits / told
    assert first["recall"] == hits / test.labels[:, 0].sum()
    exact = stats.binomtest(hits, told).proportion_ci(method="exact")
    assert (first["precision_low"], first["precision_high"]) == pytest.approx(tuple(exact))
    there = expit(val.scores[:, 0]) >= 0.5
    assert first["val_precision"] == val.labels[there, 0].mean()
    assert {key for key, value in none.items() if value != ""} == {
        "label", "val_clips", "test_clips",
    }  # fmt: skip
