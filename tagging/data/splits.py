"""Splits: which clips train, validate and test, and the runs that follow from the folds."""

import warnings
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError
from tagging.data.clips import Fold
from tagging.data.parameters import Int, Section
from tagging.data.task import Task

OFFICIAL_VALIDATION = 10  # one in this many clips of bal_train validates in the official split

Share = Annotated[Int, Field(ge=1)]
Names = Sequence[str] | np.ndarray  # one for each clip


class SplitSettings(Section):
    """The section `split`."""

    method: Literal["random", "official", "predefined", "k_fold", "group_k_fold"]
    """random: `ratios` of all clips. official: AudioSet's own, where eval tests, a tenth of
    bal_train validates and the rest trains. predefined: the source names each clip's split. k_fold:
    each of the source's folds tests once. group_k_fold: the same with folds drawn so that each
    group is in one of them."""
    ratios: tuple[Share, Share, Share] = (8, 1, 1)  # train, val, test; for random
    folds: Int = Field(5, ge=2)  # for group_k_fold
    validation: Literal["next_fold", "none"] = "next_fold"  # for k_fold and group_k_fold
    seed: Int = Field(0, ge=0)


class Run(NamedTuple):
    """One training of a model, on one fold with one seed."""

    fold: int
    seed: int
    num_folds: int = 1

    @property
    def name(self) -> str:
        """`seed0`, or `fold1-seed0` where there are several folds."""
        return f"seed{self.seed}" if self.num_folds == 1 else f"fold{self.fold}-seed{self.seed}"


def list_runs(
    num_folds: int, seeds: Sequence[int], folds: Sequence[int] | None = None
) -> list[Run]:
    """Return all runs of a model: each fold, or each of `folds`, with each seed.

    Raises:
        UserError: if one of `folds` does not exist.
    """
    folds = range(num_folds) if folds is None else folds
    if max(folds) >= num_folds:
        raise UserError(
            f"params.yaml: folds of a model must be less than {num_folds}, the number of folds of "
            f"the split, got {max(folds)}"
        )
    return [Run(fold, seed, num_folds) for fold in folds for seed in seeds]


def random_fold(num_clips: int, ratios: tuple[int, int, int], seed: int) -> Fold:
    """Split clips at random: 22,582 at 8:1:1 are 18,064, 2,258 and 2,260.

    A split is a multiple of `num_clips // sum(ratios)` clips; the remainder goes to the last, as in
    the published study.

    Raises:
        UserError: if a split would have fewer than two clips.
    """
    unit = num_clips // sum(ratios)
    if unit * min(ratios) < 2:
        raise UserError(
            f"split.ratios {list(ratios)} must have at least "
            f"{-(-2 // min(ratios)) * sum(ratios)} clips, two for each split, got {num_clips}"
        )
    order = np.random.default_rng(seed).permutation(num_clips)
    first, second = ratios[0] * unit, (ratios[0] + ratios[1]) * unit
    return Fold(order[:first], order[first:second], order[second:])


def official_fold(subsets: Names, seed: int) -> Fold:
    """Split clips as AudioSet does: `eval` tests, and a part of `bal_train` validates.

    Args:
        subsets: the name of each clip's subset, (clips,).
        seed: decides which clips of bal_train validate.

    Raises:
        UserError: if bal_train or eval is missing or has too few clips.
    """
    subset = np.asarray(subsets)
    balanced = np.flatnonzero(subset == "bal_train")
    test = subset == "eval"
    if len(balanced) < 2 * OFFICIAL_VALIDATION or not test.any():
        raise UserError(
            f"split.method official must have at least {2 * OFFICIAL_VALIDATION} clips of "
            f"bal_train and 1 of eval, got {len(balanced)} and {test.sum()}; see prepare.subsets"
        )
    order = np.random.default_rng(seed).permutation(balanced)
    val = order[: len(balanced) // OFFICIAL_VALIDATION]
    train = ~test
    train[val] = False
    return Fold(np.flatnonzero(train), val, np.flatnonzero(test))


def predefined_fold(splits: Names) -> Fold:
    """Return the split that the source defines.

    Args:
        splits: train, val or test, (clips,).

    Raises:
        UserError: if a split has no clip.
    """
    names = np.asarray(splits)
    fold = Fold(*(np.flatnonzero(names == split) for split in Fold._fields))
    for split, clips in fold._asdict().items():
        if not len(clips):
            raise UserError(
                f"split.method predefined must have clips of train, val and test, got none of "
                f"{split}; the source names each clip's split, as in the column split of clips.csv"
            )
    return fold


def assign_group_folds(labels: np.ndarray, groups: Names, num_folds: int, seed: int) -> np.ndarray:
    """Assign a fold to each clip at random, with no group in two folds and classes spread evenly.

    Args:
        labels: 0 or 1, (clips, classes). The rarest of a clip's labels is spread (as in Sechidis,
            Tsoumakas, Vlahavas, 2011, "On the stratification of multi-label data"); clips without
            labels count as a class of their own.
        groups: the name of each clip's group, (clips,).
        num_folds: the number of folds.
        seed: decides which groups share a fold.

    Returns:
        The number of each clip's fold, int64 (clips,).

    Raises:
        UserError: if there are more folds than groups, or than clips of every class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = np.asarray(groups)
    if (num_groups := len(np.unique(names))) < num_folds:
        raise UserError(
            f"split.folds must be at most the number of groups, {num_groups}, got {num_folds}"
        )
    counts = labels.sum(axis=0, dtype=int)
    strata = np.where(labels > 0, counts, counts.max() + 1).argmin(axis=1)
    strata[~labels.any(axis=1)] = len(counts)
    if (most := np.bincount(strata).max()) < num_folds:
        raise UserError(
            f"split.folds must be at most the clips of the largest class, {most}, got {num_folds}"
        )
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    fold_numbers = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about rare classes: k_folds names them
        for number, (_, clips) in enumerate(splitter.split(labels, strata, names)):
            fold_numbers[clips] = number
    return fold_numbers


def k_folds(
    fold_numbers: np.ndarray, labels: np.ndarray, class_names: Sequence[str], validation: str
) -> list[Fold]:
    """Return one split for each fold, which tests, in the order of the folds' numbers.

    Args:
        fold_numbers: each clip's fold, any integers, (clips,).
        labels: 0 or 1, (clips, classes).
        class_names: the names of the classes.
        validation: `next_fold`, or `none`: all other folds train.

    Raises:
        UserError: if a class is missing from the clips that a fold tests or trains on.
    """
    numbers = np.unique(fold_numbers)
    if len(numbers) < (3 if validation == "next_fold" else 2):
        raise UserError(
            f"split.validation {validation} must have at least "
            f"{3 if validation == 'next_fold' else 2} folds, got {len(numbers)}"
        )
    folds = []
    for position, number in enumerate(numbers):
        test = fold_numbers == number
        val = np.zeros(len(fold_numbers), bool)
        if validation == "next_fold":
            val = fold_numbers == numbers[(position + 1) % len(numbers)]
        fold = Fold(*map(np.flatnonzero, (~test & ~val, val, test)))
        for split in ("train", "test"):
            missing = ~labels[getattr(fold, split)].any(axis=0)
            if missing.any():
                raise UserError(
                    f"fold {number} must have clips of every class in {split}, got none of "
                    f"{class_names[missing.argmax()]}"
                )
        folds.append(fold)
    return folds


def make_folds(
    settings: SplitSettings,
    labels: np.ndarray,
    class_names: Sequence[str],
    subsets: Names,
    source_folds: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
) -> list[Fold]:
    """Return the folds of the clips; the methods random, official and predefined make one.

    Args:
        settings: the section `split`.
        labels: 0 or 1, (clips, classes).
        class_names: the names of the classes.
        subsets: the subset that the source names for each clip (bal_train, eval, .., or train, val,
            test), (clips,).
        source_folds: the fold that the source names for each clip, integers (clips,).
        groups: each clip's group, (clips,).

    Raises:
        UserError: if there are too few clips, or the source lacks what the method needs.
    """
    if settings.method == "random":
        return [random_fold(len(labels), settings.ratios, settings.seed)]
    if settings.method == "official":
        return [official_fold(subsets, settings.seed)]
    if settings.method == "predefined":
        return [predefined_fold(subsets)]
    if settings.method == "k_fold":
        if source_folds is None:
            raise UserError(
                "split.method must be random or group_k_fold, got k_fold: the source has no folds"
            )
        return k_folds(source_folds, labels, class_names, settings.validation)
    if groups is None or not all(groups):
        raise UserError(
            "split.method must be random or k_fold, got group_k_fold: the source has no groups"
        )
    drawn = assign_group_folds(labels, groups, settings.folds, settings.seed)
    return k_folds(drawn, labels, class_names, settings.validation)


def check_classes(
    settings: SplitSettings,
    folds: Sequence[Fold],
    labels: np.ndarray,
    class_names: Sequence[str],
    task: Task,
) -> None:
    """Refuse a class without clips in a split that must have some of each.

    Raises:
        UserError: naming the class and the split.
    """
    for split in task.complete_splits:
        for clips in (getattr(fold, split) for fold in folds):
            missing = ~labels[clips].any(axis=0)
            if len(clips) and missing.any():
                raise UserError(
                    f"split.method {settings.method} must have clips of each class in "
                    f"{', '.join(task.complete_splits)}, got none of "
                    f"{class_names[missing.argmax()]} in {split}: add files of it, or use another "
                    "method"
                )
