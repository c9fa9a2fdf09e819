"""Splits: which clips train, validate and test, and the runs of each fold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tagging.base.errors import UserError
from tagging.data.clips import Fold
from tagging.data.splits import (
    Run,
    SplitSettings,
    assign_group_folds,
    list_runs,
    make_folds,
    random_fold,
)


def folds(split: dict, labels: np.ndarray, **source: object) -> list[Fold]:
    names = [f"class {k}" for k in range(labels.shape[1])]
    subsets = source.pop("subsets", [""] * len(labels))
    return make_folds(SplitSettings(**split), labels, names, subsets, **source)


def one_hot(clips: int, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.uint8)[np.arange(clips) % classes]


def has_each_clip_once(fold: Fold, clips: int) -> bool:
    return sorted(np.concatenate(fold)) == list(range(clips))


def test_the_study_s_numbers_of_clips() -> None:
    assert [len(clips) for clips in random_fold(22582, (8, 1, 1), 0)] == [18064, 2258, 2260]


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
    st.integers(0, 500),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 2**32),
)
def test_a_random_split_has_each_clip_once_and_two_in_each_split(
    clips: int, ratios: tuple[int, int, int], seed: int
) -> None:
    try:
        fold = random_fold(clips, ratios, seed)
    except UserError as error:
        assert clips < int(str(error).split("at least ")[1].split()[0])
        return
    assert has_each_clip_once(fold, clips)
    unit = clips // sum(ratios)
    assert [len(fold.train), len(fold.val)] == [ratios[0] * unit, ratios[1] * unit]
    assert min(map(len, fold)) >= 2
    assert ratios[2] * unit <= len(fold.test) < ratios[2] * unit + sum(ratios)


def test_the_seed_decides_a_random_split() -> None:
    first, again, other = (random_fold(50, (8, 1, 1), seed).train.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_official_split_tests_on_eval_and_holds_out_some_of_the_balanced() -> None:
    subsets = np.array(["eval"] * 5 + ["bal_train"] * 40 + ["unbal_train"] * 30)
    (fold,) = folds({"method": "official"}, one_hot(75, 3), subsets=subsets)
    assert has_each_clip_once(fold, 75)
    assert fold.test.tolist() == list(range(5))
    assert len(fold.val) == 4
    assert set(subsets[fold.val]) == {"bal_train"}
    for few, numbers in ((subsets[5:], "40 and 0"), (subsets[:24], "19 and 5")):
        with pytest.raises(UserError, match=f"1 of eval, got {numbers}; see prepare.subsets"):
            folds({"method": "official"}, one_hot(len(few), 3), subsets=few)


@pytest.mark.parametrize("validation", ["next_fold", "none"])
def test_each_fold_of_the_source_tests_once(validation: str) -> None:
    numbers = np.array([3, 1, 2, 7] * 6)
    split = {"method": "k_fold", "validation": validation}
    splits = folds(split, one_hot(24, 3), source_folds=numbers)
    tested = [set(numbers[fold.test]) for fold in splits]
    assert tested == [{1}, {2}, {3}, {7}]
    for fold, after in zip(splits, tested[1:] + tested[:1], strict=True):
        assert has_each_clip_once(fold, 24)
        assert set(numbers[fold.val]) == (after if validation == "next_fold" else set())


def test_no_group_is_split_and_classes_are_spread() -> None:
    rng = np.random.default_rng(0)
    groups = [f"speaker {k}" for k in rng.integers(0, 60, 600)]
    labels = np.eye(4, dtype=np.uint8)[rng.choice(4, 600, p=[0.5, 0.3, 0.15, 0.05])]
    splits = folds({"method": "group_k_fold", "folds": 5}, labels, groups=groups)
    names = np.array(groups)
    assert len(splits) == 5
    for fold in splits:
        assert has_each_clip_once(fold, 600)
        members = [set(names[clips]) for clips in fold]
        assert sum(map(len, members)) == len(set.union(*members))
        assert labels[fold.test].mean(0) == pytest.approx(labels.mean(0), abs=0.06)
    assert sorted(np.concatenate([fold.test for fold in splits])) == list(range(600))
    again, other = (assign_group_folds(labels, groups, 5, seed) for seed in (0, 1))
    assert all((again[fold.test] == k).all() for k, fold in enumerate(splits))
    assert not np.array_equal(again, other)


def test_the_rarest_label_of_a_clip_is_spread_and_clips_without_labels_are_a_class() -> None:
    # Every clip with labels has the first one; four groups alone have another one.
    labels = np.repeat([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]], [8, 2, 2, 4], axis=0)
    groups = [f"{k}" for k in range(16)]
    for seed in range(5):
        numbers = assign_group_folds(labels.astype(np.uint8), groups, 2, seed)
        for kind in (labels[:, 1] > 0, labels[:, 2] > 0, ~labels.any(axis=1)):
            assert np.bincount(numbers[kind]).tolist() == [kind.sum() / 2] * 2


RARE = np.eye(3, dtype=np.uint8)[[0, 1] * 11 + [2, 2]]


@pytest.mark.parametrize(
    ("split", "labels", "source", "sentence"),
    [
        ({"method": "k_fold"}, one_hot(9, 3), {}, "got k_fold: the source has no folds"),
        ({"method": "group_k_fold"}, one_hot(9, 3), {}, "got group_k_fold: the source has no gr"),
        ({"method": "group_k_fold"}, one_hot(9, 3), {"groups": ["a"] * 8 + [""]}, "has no groups"),
        ({"method": "group_k_fold"}, one_hot(9, 3), {"groups": list("abcabcabc")},
         "split.folds must be at most the number of groups, 3, got 5"),
        ({"method": "group_k_fold"}, one_hot(9, 3), {"groups": list("abcdefghi")},
         "split.folds must be at most the clips of the largest class, 3, got 5"),
        ({"method": "k_fold"}, one_hot(8, 2), {"source_folds": np.arange(8) % 2},
         "split.validation next_fold must have at least 3 folds, got 2"),
        ({"method": "k_fold"}, one_hot(24, 3), {"source_folds": np.repeat([0, 1, 2], [2, 11, 11])},
         "fold 0 must have clips of every class in test, got none of class 2"),
        ({"method": "k_fold"}, one_hot(12, 3), {"source_folds": np.array([0, 0, 1, 0, 0, 2] * 2)},
         "fold 0 must have clips of every class in train, got none of class 0"),
        # A class with fewer clips than folds: no warning of a library is shown before the error.
        ({"method": "group_k_fold", "folds": 4}, RARE, {"groups": [f"{k}" for k in range(24)]},
         "must have clips of every class in train, got none of class 2"),
    ],
)  # fmt: skip
def test_clips_that_a_method_cannot_split_are_refused(
    split: dict, labels: np.ndarray, source: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        folds(split, labels, **source)


def test_runs_are_folds_by_seeds() -> None:
    assert [run.name for run in list_runs(1, [0, 7])] == ["seed0", "seed7"]
    assert list_runs(2, [0, 7]) == [Run(0, 0, 2), Run(0, 7, 2), Run(1, 0, 2), Run(1, 7, 2)]
    assert list_runs(2, [0, 7])[3].name == "fold1-seed7"
    assert list_runs(3, [0, 7], [2]) == [Run(2, 0, 3), Run(2, 7, 3)]
    with pytest.raises(UserError, match=r"folds of a model must be less than 3, .*, got 3"):
        list_runs(3, [0], [0, 3])


@pytest.mark.parametrize(
    "wrong",
    [{"ratios": [8, 1, 0]}, {"ratios": [8, 2]}, {"ratios": "8:1:1"}, {"folds": 1}, {"seed": -1},
     {"method": "official", "fold": 1}, {"validation": "test"}],
)  # fmt: skip
def test_settings_that_are_not_valid_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        SplitSettings(**{"method": "random"} | wrong)


def test_the_predefined_split_is_the_source_s() -> None:
    subsets = ["test", "train", "val", "train"]
    (fold,) = folds({"method": "predefined"}, one_hot(4, 2), subsets=subsets)
    assert [clips.tolist() for clips in fold] == [[1, 3], [2], [0]]


@pytest.mark.parametrize(("subsets", "split"), [(["", ""], "train"), (["train", "test"], "val")])
def test_a_predefined_split_without_one_of_its_parts_is_refused(
    subsets: list[str], split: str
) -> None:
    with pytest.raises(UserError, match=f"predefined must have clips .*, got none of {split};"):
        folds({"method": "predefined"}, one_hot(2, 2), subsets=subsets)
