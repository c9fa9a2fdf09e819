"""Metrics against scikit-learn or values by hand, and their intervals."""

import warnings
from functools import partial
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, ndcg_score, roc_auc_score

from tagging.base.errors import UserError
from tagging.data.task import MetricSettings, Task
from tagging.learning.metric import FOLDER, Metric, load_metric, load_metrics
from tagging.scoring.bootstrap import confidence_interval, draw_resamples, mean_over_clips
from tagging.scoring.metrics.lwlrap import lwlrap
from tagging.scoring.metrics.map import (
    average_precision,
    resampled_average_precision,
)
from tagging.scoring.metrics.ndcg import ndcg
from tagging.scoring.metrics.precision import precision_at_k
from tagging.scoring.metrics.roc_auc import roc_auc

OF_EMBEDDINGS = ("recall", "any_label", "rarer_recall")  # tests/unit/test_similarity.py
PARAMETERS = {"precision": [{"k": 1}, {"k": 3}]}
ALL = [
    MetricSettings(name=name, **parameters)
    for name in sorted(file.stem for file in FOLDER.glob("*.py"))
    if name not in OF_EMBEDDINGS
    for parameters in PARAMETERS.get(name, [{}])
]
KEYS = [settings.key for settings in ALL]


def metric_named(name: str, **parameters: int) -> Metric:
    return load_metric(MetricSettings(name=name, **parameters))


def random_scores(seed: int, clips: int, labels: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return multi-hot labels, one or more a clip, and scores with ties where `values` is small."""
    random = np.random.default_rng(seed)
    positive = (random.random((clips, labels)) < 0.3).astype(np.uint8)
    positive[np.arange(clips), random.integers(labels, size=clips)] = 1
    return positive, random.integers(values, size=(clips, labels)) / values


many_scores = given(
    st.integers(0, 10**6), st.integers(1, 8), st.integers(2, 12), st.sampled_from([1, 2, 5, 10**6])
)
some = settings(max_examples=100, derandomize=True, deadline=None, database=None)


# Each clip's ranking


@many_scores
@some
def test_ndcg_is_scikit_learn_s(seed, clips, number, values) -> None:
    labels, scores = random_scores(seed, clips, number, values)
    expected = [ndcg_score(labels[[row]], scores[[row]]) for row in range(clips)]
    np.testing.assert_allclose(ndcg(labels, scores), expected, rtol=1e-12)


def test_ndcg_by_hand() -> None:
    # Labels 0 and 2 of three, ranked first and third: (1 + 1/2) / (1 + 1/log2(3)).
    labels = np.array([[1, 0, 1]])
    scores = np.array([[0.9, 0.5, 0.1]])
    assert ndcg(labels, scores) == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert ndcg(labels, -scores) == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert ndcg(labels, np.array([[3.0, 1.0, 2.0]])) == pytest.approx(1)


@many_scores
@some
def test_ties_count_as_the_mean_over_all_orders(seed, clips, number, values) -> None:
    number = min(number, 5)
    labels, scores = random_scores(seed, clips, number, values)
    tied = np.floor(scores * 2)
    # Each order of the labels breaks the ties in another way.
    variants = [tied + 0.01 * np.array(order) for order in permutations(range(number))]
    for score in (ndcg, *(partial(precision_at_k, k=k) for k in range(1, number + 1))):
        expected = np.mean([score(labels, variant) for variant in variants], axis=0)
        np.testing.assert_allclose(score(labels, tied), expected, rtol=1e-9)


def test_precision_at_1_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1]])
    scores = np.array([[3, 2, 1], [1, 2, 3], [5, 1, 5], [4, 4, 0], [0, 0, 0]], float)
    np.testing.assert_allclose(precision_at_k(labels, scores, 1), [1, 0, 1, 1 / 2, 2 / 3])


def test_precision_at_2_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    scores = np.array([[3, 2, 1], [5, 1, 5], [4, 2, 2], [0, 0, 0], [3, 2, 1]], float)
    expected = [1 / 2, 1, 1 / 2, 2 / 3, np.nan]
    np.testing.assert_allclose(precision_at_k(labels, scores, 2), expected)


def test_accuracy_is_scikit_learn_s() -> None:
    _, scores = random_scores(0, 50, 4, 10**6)
    labels = np.eye(4, dtype=np.uint8)[np.arange(50) % 4]
    expected = accuracy_score(labels.argmax(1), scores.argmax(1))
    assert metric_named("accuracy").value(labels, scores) == pytest.approx(expected)


# Each class's, over clips, and over both


@pytest.mark.parametrize("values", [3, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_each_class_s_scores_are_scikit_learn_s(seed, values) -> None:
    labels, scores = random_scores(seed, 60, 7, values)
    for ours, reference in ((average_precision, average_precision_score), (roc_auc, roc_auc_score)):
        expected = [reference(labels[:, column], scores[:, column]) for column in range(7)]
        np.testing.assert_allclose(ours(labels, scores), expected)


def test_average_precision_and_roc_auc_by_hand() -> None:
    # Ranked: yes, no, yes, no. Precision 1/1 and 2/3 at the two; 3 of 4 pairs in order.
    labels = np.array([[1], [0], [1], [0]])
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert average_precision(labels, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(labels, scores) == pytest.approx(3 / 4)
    assert metric_named("d_prime").value(labels, scores) == pytest.approx(
        2**0.5 * stats.norm.ppf(3 / 4)
    )


@pytest.mark.parametrize("seed", range(3))
def test_lwlrap_weighs_every_label_of_every_clip_the_same(seed) -> None:
    labels, scores = random_scores(seed, 20, 6, 10**6)
    labels[3] = 0  # weighs nothing
    precisions = []
    for positive, row in zip(labels, scores, strict=True):
        ranked = positive[np.argsort(-row)]
        precisions += [
            ranked[: place + 1].mean() for place, is_label in enumerate(ranked) if is_label
        ]
    assert lwlrap(labels, scores) == pytest.approx(np.mean(precisions))


# Every file of tagging/scoring/metrics


@pytest.mark.parametrize("settings", ALL, ids=KEYS)
def test_a_metric_depends_on_the_ranking_alone_and_prefers_right_scores(settings) -> None:
    metric = load_metric(settings)
    labels, scores = random_scores(0, 50, 6, 10**6)
    value = metric.value(labels, scores)
    assert metric.value(labels, np.exp(5 * scores)) == pytest.approx(value)
    assert metric.is_better(metric.value(labels, scores + labels * 0.5), value)
    assert not metric.is_better(value, value)
    assert metric.title
    assert metric.decimals >= 2


@pytest.mark.parametrize("settings", ALL, ids=KEYS)
def test_a_clip_without_labels_is_left_out_and_labels_without_clips_have_no_value(settings) -> None:
    metric = load_metric(settings)
    labels, scores = random_scores(0, 50, 6, 10**6)
    if metric.per_clip is not None or settings.name == "lwlrap":
        more = np.vstack([labels, np.zeros((1, 6), np.uint8)])
        assert metric.value(more, np.vstack([scores, scores[:1]])) == pytest.approx(
            metric.value(labels, scores)
        )
    labels[7] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(metric.value(labels, scores))
        assert metric.value(np.zeros_like(labels), scores) is None


def test_absent_and_constant_classes_have_no_score() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.7, 0.3], [0.8, 0.4, 0.1]])
    np.testing.assert_array_equal(average_precision(labels, scores), [1, np.nan, 1])
    np.testing.assert_array_equal(roc_auc(labels, scores), [1, np.nan, np.nan])
    assert metric_named("map").value(labels, scores) == 1
    assert metric_named("d_prime").value(labels, scores) is None  # infinite


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        *(
            ({"name": name}, r"task.metrics has the unknown metric '.*'; the metrics are accuracy,")
            for name in ("ndgc", "../metric", "__init__", "recall_at_1")
        ),
        ({"name": "recall"}, r"task.metrics: the metric recall must have k, got {}"),
        ({"name": "ndcg", "k": 1}, r"the metric ndcg has no parameters, got {'k': 1}"),
        ({"name": "recall", "k": 9}, r"the metric recall: k must be at most 8, got 9"),
    ],
)
def test_wrong_metrics_are_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_metric(MetricSettings(**settings))


def test_a_task_has_its_headline_metrics_first_and_each_once() -> None:
    metrics = [{"name": "recall", "k": 1}, {"name": "ndcg"}]
    task = Task(type="multi_label", metrics=metrics, report_metrics=[{"name": "recall", "k": 8}])
    assert list(load_metrics(task)) == ["recall_at_1", "ndcg", "recall_at_8"]
    assert [metric.title for metric in load_metrics(task).values()] == ["R@1", "NDCG", "R@8"]
    assert task.selection_metric.key == "recall_at_1"
    with pytest.raises(ValueError, match="must name each metric once: ndcg is repeated"):
        Task(type="multi_label", metrics=metrics, report_metrics=[{"name": "ndcg"}])
    with pytest.raises(UserError, match=r"task.report_metrics has the unknown metric 'x'"):
        load_metrics(Task(type="multi_label", metrics=metrics, report_metrics=[{"name": "x"}]))


# Intervals


def test_resamples_repeat_and_draw_with_replacement() -> None:
    counts = draw_resamples(300, 50, 0)
    assert (counts.shape, counts.dtype) == ((300, 50), np.uint8)
    assert (counts.sum(axis=0) == 300).all()
    assert 0.35 < (counts == 0).mean() < 0.39  # 1 / e
    assert np.array_equal(counts, draw_resamples(300, 50, 0))
    assert not np.array_equal(counts, draw_resamples(300, 50, 1))
    assert not np.array_equal(counts, draw_resamples(300, 50, [0, 1]))


def test_a_mean_on_resamples_is_that_of_the_clips_drawn() -> None:
    values = np.array([0.1, np.nan, 0.7, 0.9])
    counts = np.array([[1, 0, 2], [3, 4, 0], [0, 0, 1], [0, 0, 1]], np.uint8)
    expected = [0.1, np.nan, (0.1 * 2 + 0.7 + 0.9) / 4]
    np.testing.assert_allclose(mean_over_clips(values, counts), expected)


def test_average_precision_of_resamples_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((60, 5)) < [0.5, 0.2, 0.1, 0.04, 0]).astype(np.uint8)
    labels[7, 3] = 1
    scores = rng.integers(0, 12, (60, 5)).astype(np.float32) + labels * 2  # many are equal
    counts = draw_resamples(len(labels), 40, 1)
    result = resampled_average_precision(labels, scores, counts)
    for resample, times in zip(result, counts.T, strict=True):
        clips = np.repeat(np.arange(len(labels)), times)
        for label, value in enumerate(resample):
            if labels[clips, label].any():
                wanted = average_precision_score(labels[clips, label], scores[clips, label])
                assert value == pytest.approx(wanted, abs=1e-12)
            else:
                assert np.isnan(value)
    assert np.isnan(result[:, 3]).any() and not np.isnan(result[:, 3]).all()


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered, counts = 0, draw_resamples(80, 300, 0)
    for _ in range(300):
        values = random.exponential(size=80)
        low, high = confidence_interval(values.mean(), mean_over_clips(values, counts))
        half = 1.96 * values.std() / np.sqrt(80)
        assert high - low == pytest.approx(2 * half, rel=0.2)
        covered += low <= 1 <= high
    assert 0.88 <= covered / 300 <= 0.97
    assert confidence_interval(1.0, np.ones(100)) == (1, 1)
