"""Scores against scikit-learn, or against what a person computes."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from stages.compare import baseline_rows
from tagging import metrics
from tagging.dataset import Split
from tagging.ranking import ndcg, precision_at_1


def answers(seed: int, clips: int, labels: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return multi-hot labels, one or more a clip, and scores with ties where `values` is small."""
    random = np.random.default_rng(seed)
    positive = (random.random((clips, labels)) < 0.3).astype(np.uint8)
    positive[np.arange(clips), random.integers(labels, size=clips)] = 1
    return positive, random.integers(values, size=(clips, labels)) / values


some_answers = given(
    st.integers(0, 10**6), st.integers(1, 8), st.integers(2, 12), st.sampled_from([1, 2, 5, 10**6])
)


# Each clip's ranking


@some_answers
@settings(max_examples=150, deadline=None)
def test_ndcg_is_scikit_learn_s(seed, clips, number, values):
    labels, scores = answers(seed, clips, number, values)
    expected = [ndcg_score(labels[[row]], scores[[row]]) for row in range(clips)]
    np.testing.assert_allclose(ndcg(labels, scores), expected, rtol=1e-12)


def test_ndcg_by_hand():
    # Labels 0 and 2 of three, ranked first and third: (1 + 1/2) / (1 + 1/log2(3)).
    labels = np.array([[1, 0, 1]])
    scores = np.array([[0.9, 0.5, 0.1]])
    assert ndcg(labels, scores) == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert ndcg(labels, -scores) == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert ndcg(labels, np.array([[3.0, 1.0, 2.0]])) == pytest.approx(1)


@some_answers
@settings(max_examples=100, deadline=None)
def test_ties_count_as_the_mean_over_all_orders(seed, clips, number, values):
    number = min(number, 5)
    labels, scores = answers(seed, clips, number, values)
    tied = np.floor(scores * 2)
    # Each order of the labels breaks the ties another way.
    ways = [tied + 0.01 * np.array(order) for order in permutations(range(number))]
    for score in (ndcg, precision_at_1):
        expected = np.mean([score(labels, way) for way in ways], axis=0)
        np.testing.assert_allclose(score(labels, tied), expected, rtol=1e-9)


def test_precision_at_1_by_hand():
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1]])
    scores = np.array(
        [[3, 2, 1], [1, 2, 3], [5, 1, 5], [4, 4, 0], [0, 0, 0]],
        float,
    )
    np.testing.assert_allclose(precision_at_1(labels, scores), [1, 0, 1, 1 / 2, 2 / 3])


@pytest.mark.parametrize("score", [ndcg, precision_at_1])
def test_a_ranking_is_all_that_counts(score):
    labels, scores = answers(0, 50, 10, 10**6)
    np.testing.assert_allclose(score(labels, scores), score(labels, np.exp(5 * scores)))
    np.testing.assert_allclose(score(labels, labels.astype(float)), 1)


def test_baselines_are_constant_and_random_ranking():
    """Labels seen 3, 2 and 1 times in training, then a test split of two clips."""

    def split(labels):
        labels = np.array(labels, np.uint8)
        return Split(np.zeros((len(labels), 10, 128), np.uint8), None, labels, None, [])

    train = split([[1, 1, 0], [1, 1, 0], [1, 0, 1]])
    test = split([[1, 0, 0], [0, 0, 1]])
    constant, random = baseline_rows(train, test)
    # The first clip's label is ranked first, the second's third.
    assert constant.scores["precision_at_1"] == pytest.approx(1 / 2)
    assert constant.scores["ndcg"] == pytest.approx((1 + 1 / np.log2(4)) / 2)
    # One label of three at each rank as often: the mean discount.
    assert random.scores["precision_at_1"] == pytest.approx(1 / 3)
    assert random.scores["ndcg"] == pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 3)


# Each label's, over clips


@pytest.mark.parametrize("values", [3, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_each_label_s_scores_are_scikit_learn_s(seed, values):
    labels, scores = answers(seed, 60, 7, values)
    for ours, reference in (
        (metrics.average_precision, average_precision_score),
        (metrics.roc_auc, roc_auc_score),
    ):
        expected = [reference(labels[:, column], scores[:, column]) for column in range(7)]
        np.testing.assert_allclose(ours(labels, scores), expected)


def test_average_precision_and_roc_auc_by_hand():
    # Ranked: yes, no, yes, no. Precision 1/1 and 2/3 at the two; 3 of 4 pairs in order.
    labels = np.array([[1], [0], [1], [0]])
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert metrics.average_precision(labels, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.roc_auc(labels, scores) == pytest.approx(3 / 4)


def test_absent_and_constant_labels_have_no_score():
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.7, 0.3], [0.8, 0.4, 0.1]])
    np.testing.assert_array_equal(metrics.average_precision(labels, scores), [1, np.nan, 1])
    np.testing.assert_array_equal(metrics.roc_auc(labels, scores), [1, np.nan, np.nan])
    alike = np.ones((2, 2), int)
    assert np.isnan(metrics.roc_auc(alike, np.eye(2))).all()


# Over clips and labels


@pytest.mark.parametrize("seed", range(3))
def test_lwlrap_weighs_every_label_of_every_clip_the_same(seed):
    labels, scores = answers(seed, 20, 6, 10**6)
    precisions = []
    for positive, row in zip(labels, scores, strict=True):
        ranked = positive[np.argsort(-row)]
        precisions += [
            ranked[: place + 1].mean() for place, is_label in enumerate(ranked) if is_label
        ]
    assert metrics.lwlrap(labels, scores) == pytest.approx(np.mean(precisions))


def test_lwlrap_by_hand():
    # First clip: both labels on top, precision 1 and 1. Second: its one label second, 1/2.
    labels = np.array([[1, 1, 0], [0, 1, 0]])
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert metrics.lwlrap(labels, scores) == pytest.approx((1 + 1 + 1 / 2) / 3)


# Intervals


def test_intervals_are_repeatable_and_depend_on_the_seed():
    values = np.random.default_rng(0).random(200)
    first = metrics.bootstrap_interval(values, 300, seed=0)
    assert first == metrics.bootstrap_interval(values, 300, seed=0)
    assert first != metrics.bootstrap_interval(values, 300, seed=1)


def test_interval_is_as_wide_as_the_normal_approximation():
    values = np.random.default_rng(0).random(1000)
    low, high = metrics.bootstrap_interval(values, 4000, seed=0)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = metrics.bootstrap_interval(values, 4000, seed=0, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = metrics.bootstrap_interval(random.exponential(size=80), 300, seed=trial)
        covered += low <= 1 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_of_clips_that_are_all_alike_has_no_width():
    assert metrics.bootstrap_interval(np.ones(20), 100, seed=0) == (1, 1)
