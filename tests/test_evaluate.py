"""The scores and curves that `evaluate` writes."""

import warnings

import numpy as np
import pytest

from tagging.evaluation import Evaluate, intervals, precision_recall, summarize


def test_the_curve_has_only_points_that_a_threshold_gives() -> None:
    # The best answer is wrong: no threshold reaches precision 1, not at recall 0 either.
    labels = np.array([0, 1, 0, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    precision, recall = precision_recall(labels, scores)
    assert recall[0] == 0 and recall[-1] == 1
    assert np.allclose(precision, 0.5)


def test_the_curve_is_the_highest_precision_at_a_recall_or_more() -> None:
    labels = np.array([1, 0, 0, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    precision, recall = precision_recall(labels, scores)
    assert np.allclose(precision[recall <= 0.5], 1)
    assert np.allclose(precision[recall > 0.5], 0.5)


def test_a_perfect_and_a_reversed_answer() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])
    perfect = summarize(labels, labels.astype(float))
    assert perfect.pop("d_prime") is None  # infinite
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0))
    reversed_ = summarize(labels, -labels.astype(float))
    assert reversed_["roc_auc"] == 0
    assert reversed_["precision_at_1"] == 0


def test_a_mean_over_no_labels_is_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = summarize(np.ones((4, 1), int), np.arange(4.0)[:, None])
    assert result["roc_auc"] is None
    assert result["ndcg"] == 1


def test_intervals_hold_the_mean_and_repeat() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 6)) < 0.3).astype(int)
    labels[:, 0] |= ~labels.any(axis=1)
    scores = labels + rng.normal(size=labels.shape)
    settings = Evaluate(resamples=500, seed=1)
    ends = intervals(labels, scores, settings)
    means = summarize(labels, scores)
    for name in ("ndcg", "precision_at_1"):
        assert ends[f"{name}_low"] < means[name] < ends[f"{name}_high"]
    assert ends == intervals(labels, scores, settings)
