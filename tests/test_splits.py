"""Protocols: which clips train, validate and test, for how many runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tagging.base.errors import UserError
from tagging.data.clips import Fold
from tagging.data.splits import SplitSettings, Run, drawn_folds, make_folds, random_fold, runs


def folds(protocol: dict, labels: np.ndarray, **given: object) -> list[Fold]:
    names = [f"class {k}" for k in range(labels.shape[1])]
    subsets = given.pop("subsets", [""] * len(labels))
    return make_folds(SplitSettings(**protocol), labels, names, subsets, **given)


def one_hot(clips: int, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.uint8)[np.arange(clips) % classes]


def each_once(fold: Fold, clips: int) -> bool:
    return sorted(np.concatenate(fold)) == list(range(clips))


def test_the_studys_arithmetic() -> None:
    assert [len(part) for part in random_fold(22582, (8, 1, 1), 0)] == [18064, 2258, 2260]


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
    st.integers(0, 500),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 2**32),
)
def test_a_random_split_has_each_clip_once_and_two_a_part(
    clips: int, parts: tuple[int, int, int], seed: int
) -> None:
    try:
        fold = random_fold(clips, parts, seed)
    except UserError as error:
        assert clips < int(str(error).split("takes ")[1].split()[0])
        return
    assert each_once(fold, clips)
    unit = clips // sum(parts)
    assert [len(fold.train), len(fold.val)] == [parts[0] * unit, parts[1] * unit]
    assert min(map(len, fold)) >= 2
    assert parts[2] * unit <= len(fold.test) < parts[2] * unit + sum(parts)


def test_the_seed_decides_a_random_split() -> None:
    first, again, other = (random_fold(50, (8, 1, 1), seed).train.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_official_split_tests_on_eval_and_holds_out_some_of_the_balanced() -> None:
    subsets = np.array(["eval"] * 5 + ["bal_train"] * 40 + ["unbal_train"] * 30)
    (fold,) = folds({"split": "official"}, one_hot(75, 3), subsets=subsets)
    assert each_once(fold, 75)
    assert fold.test.tolist() == list(range(5))
    assert len(fold.val) == 4
    assert set(subsets[fold.val]) == {"bal_train"}
    for kept, sentence in ((75 - 5, "and 0 of eval"), (24, "19 such clips of bal_train and 5")):
        some = subsets[-kept:] if kept == 70 else subsets[:kept]
        with pytest.raises(UserError, match=f"{sentence}.*see prepare.subsets"):
            folds({"split": "official"}, one_hot(len(some), 3), subsets=some)


@pytest.mark.parametrize("validate_on", ["next_fold", "nothing"])
def test_each_of_the_sources_folds_tests_once(validate_on: str) -> None:
    given = np.array([3, 1, 2, 7] * 6)
    found = folds({"split": "folds", "validate_on": validate_on}, one_hot(24, 3), given=given)
    tested = [set(given[fold.test]) for fold in found]
    assert tested == [{1}, {2}, {3}, {7}]
    for fold, after in zip(found, tested[1:] + tested[:1], strict=True):
        assert each_once(fold, 24)
        assert set(given[fold.val]) == (after if validate_on == "next_fold" else set())


def test_no_group_is_torn_apart_and_classes_are_spread() -> None:
    rng = np.random.default_rng(0)
    groups = [f"speaker {k}" for k in rng.integers(0, 60, 600)]
    labels = np.eye(4, dtype=np.uint8)[rng.choice(4, 600, p=[0.5, 0.3, 0.15, 0.05])]
    found = folds({"split": "groups", "folds": 5}, labels, groups=groups)
    names = np.array(groups)
    assert len(found) == 5
    for fold in found:
        assert each_once(fold, 600)
        parts = [set(names[part]) for part in fold]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert labels[fold.test].mean(0) == pytest.approx(labels.mean(0), abs=0.06)
    assert sorted(np.concatenate([fold.test for fold in found])) == list(range(600))
    again, other = (drawn_folds(labels, groups, 5, seed) for seed in (0, 1))
    assert all((again[fold.test] == k).all() for k, fold in enumerate(found))
    assert not np.array_equal(again, other)


def test_of_several_labels_the_rarest_is_spread_and_none_is_a_class_of_its_own() -> None:
    # Every clip has the first label but those without any; four groups alone have another one.
    labels = np.repeat([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]], [8, 2, 2, 4], axis=0)
    groups = [f"{k}" for k in range(16)]
    for seed in range(5):
        drawn = drawn_folds(labels.astype(np.uint8), groups, 2, seed)
        for kind in (labels[:, 1] > 0, labels[:, 2] > 0, ~labels.any(axis=1)):
            assert np.bincount(drawn[kind]).tolist() == [kind.sum() / 2] * 2


RARE = np.eye(3, dtype=np.uint8)[[0, 1] * 11 + [2, 2]]


@pytest.mark.parametrize(
    ("protocol", "labels", "given", "sentence"),
    [
        ({"split": "folds"}, one_hot(9, 3), {}, "the source has no folds; protocol.split takes"),
        ({"split": "groups"}, one_hot(9, 3), {}, "the source has no groups; protocol.split takes"),
        ({"split": "groups"}, one_hot(9, 3), {"groups": ["a"] * 8 + [""]}, "has no groups"),
        ({"split": "groups"}, one_hot(9, 3), {"groups": list("abcabcabc")}, "are of 3 groups; "),
        ({"split": "groups"}, one_hot(9, 3), {"groups": list("abcdefghi")}, "more than 3 clips; "),
        ({"split": "folds"}, one_hot(8, 2), {"given": np.arange(8) % 2}, "takes 3 or more"),
        ({"split": "folds"}, one_hot(24, 3), {"given": np.repeat([0, 1, 2], [2, 11, 11])},
         "fold 0 has no clip of class 2 to test"),
        ({"split": "folds"}, one_hot(12, 3), {"given": np.array([0, 0, 1, 0, 0, 2] * 2)},
         "fold 0 has no clip of class 0 to train"),
        # A class that is rarer than folds: no warning of a library comes first.
        ({"split": "groups", "folds": 4}, RARE, {"groups": [f"{k}" for k in range(24)]},
         "has no clip of class 2 to train"),
    ],
)  # fmt: skip
def test_what_a_protocol_takes(
    protocol: dict, labels: np.ndarray, given: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        folds(protocol, labels, **given)


def test_runs_are_folds_by_seeds() -> None:
    assert [run.name for run in runs(1, [0, 7])] == ["seed0", "seed7"]
    assert runs(2, [0, 7]) == [Run(0, 0, 2), Run(0, 7, 2), Run(1, 0, 2), Run(1, 7, 2)]
    assert runs(2, [0, 7])[3].name == "fold1-seed7"


@pytest.mark.parametrize(
    "wrong",
    [{"parts": [8, 1, 0]}, {"parts": [8, 2]}, {"parts": "8:1:1"}, {"folds": 1}, {"seed": -1},
     {"split": "official", "fold": 1}, {"validate_on": "test"}],
)  # fmt: skip
def test_settings_that_are_none(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        SplitSettings(**{"split": "random"} | wrong)


def test_the_given_split_is_the_sources() -> None:
    subsets = ["test", "train", "val", "train"]
    (fold,) = folds({"split": "given"}, one_hot(4, 2), subsets=subsets)
    assert [places.tolist() for places in fold] == [[1, 3], [2], [0]]


@pytest.mark.parametrize(("subsets", "part"), [(["", ""], "train"), (["train", "test"], "val")])
def test_a_given_split_without_one_of_its_parts_is_refused(subsets: list[str], part: str) -> None:
    with pytest.raises(UserError, match=f"of no clip that its split is {part}; .* given takes"):
        folds({"split": "given"}, one_hot(2, 2), subsets=subsets)
