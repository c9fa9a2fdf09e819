"""Protocols: which clips train, validate and test; and the runs that follow from it."""

import warnings
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError
from tagging.data.clips import Fold
from tagging.parameters import Int, Section

HELD_OUT = 10  # one in so many clips of bal_train validates in the official split

Part = Annotated[Int, Field(ge=1)]


class SplitSettings(Section):
    """The section `protocol`."""

    split: Literal["random", "official", "given", "folds", "groups"] = Field(
        description="random (parts of all clips), official (AudioSet's own: eval tests, a tenth of "
        "bal_train validates, the rest trains), given (the source says which clips train, validate "
        "and test), folds (each of the source's folds tests once) or groups (as folds, drawn so "
        "that no group is torn apart)"
    )
    parts: tuple[Part, Part, Part] = Field(
        (8, 1, 1),
        description="three whole numbers of 1 or more, train, val and test, such as [8, 1, 1] (of "
        "the split random)",
    )
    folds: Int = Field(
        5, description="a whole number of folds, 2 or more (of the split groups)", ge=2
    )
    validate_on: Literal["next_fold", "nothing"] = Field(
        "next_fold",
        description="next_fold (the fold after the one that tests) or nothing (all others train; "
        "of folds and groups)",
    )
    seed: Int = Field(0, description="a whole number of 0 or more", ge=0)


class Run(NamedTuple):
    """One training of a model: the number of a fold, and a seed."""

    fold: int
    seed: int
    folds: int = 1  # how many there are

    @property
    def name(self) -> str:
        """`seed0`, or `fold1-seed0` where there are several folds."""
        return f"seed{self.seed}" if self.folds == 1 else f"fold{self.fold}-seed{self.seed}"


def runs(folds: int, seeds: Sequence[int]) -> list[Run]:
    """Return all runs of a model: each fold with each seed."""
    return [Run(fold, seed, folds) for fold in range(folds) for seed in seeds]


def random_fold(clips: int, parts: tuple[int, int, int], seed: int) -> Fold:
    """Split `clips` places at random: 22,582 at 8:1:1 are 18,064, 2,258 and 2,260.

    A part is a whole number of units of `clips // sum(parts)`; the last gets what is left, as in
    the published study.

    Raises:
        UserError: if a part would have fewer than two clips.
    """
    unit = clips // sum(parts)
    if unit * min(parts) < 2:
        raise UserError(
            f"{clips} clips are left; protocol.parts {list(parts)} takes "
            f"{-(-2 // min(parts)) * sum(parts)} or more, so that each part has two"
        )
    order = np.random.default_rng(seed).permutation(clips)
    first, second = parts[0] * unit, (parts[0] + parts[1]) * unit
    return Fold(order[:first], order[first:second], order[second:])


def official_fold(subsets: Sequence[str], seed: int) -> Fold:
    """Split places as AudioSet itself does: tests on `eval`; part of `bal_train` validates.

    Args:
        subsets: the name of each clip's subset, (clips,).
        seed: decides which clips of bal_train validate.

    Raises:
        UserError: if bal_train or eval is not there, or has too few clips.
    """
    subset = np.asarray(subsets)
    balanced = np.flatnonzero(subset == "bal_train")
    test = subset == "eval"
    if len(balanced) < 2 * HELD_OUT or not test.any():
        raise UserError(
            f"there are {len(balanced)} such clips of bal_train and {test.sum()} of eval; the "
            f"official split takes {2 * HELD_OUT} or more and 1 or more: see prepare.subsets"
        )
    order = np.random.default_rng(seed).permutation(balanced)
    val = order[: len(balanced) // HELD_OUT]
    train = ~test
    train[val] = False
    return Fold(np.flatnonzero(train), val, np.flatnonzero(test))


def given_fold(subsets: Sequence[str]) -> Fold:
    """Return the parts that the source prescribes.

    Args:
        subsets: train, val or test, (clips,).

    Raises:
        UserError: if a part has no clip.
    """
    subset = np.asarray(subsets)
    fold = Fold(*(np.flatnonzero(subset == part) for part in Fold._fields))
    for part, places in fold._asdict().items():
        if not len(places):
            raise UserError(
                f"the source says of no clip that its split is {part}; protocol.split given takes "
                "clips of train, val and test, as in the column split of clips.csv"
            )
    return fold


def drawn_folds(labels: np.ndarray, groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Return a fold for each clip, int64 (clips,): no group in two of them, classes spread evenly.

    Args:
        labels: 0 or 1, (clips, classes); of a clip's labels the rarest is spread (as in Sechidis,
            Tsoumakas, Vlahavas, 2011, "On the stratification of multi-label data"), and clips
            without any as a class of their own.
        groups: the name of each clip's group, (clips,).
        folds: how many there are to be.
        seed: decides which groups go together.

    Raises:
        UserError: if there are fewer groups than folds, or no class has as many clips.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = np.asarray(groups)
    if (number := len(np.unique(names))) < folds:
        raise UserError(f"the clips are of {number} groups; protocol.folds takes at most as many")
    counts = labels.sum(axis=0, dtype=int)
    spread = np.where(labels > 0, counts, counts.max() + 1).argmin(axis=1)
    spread[~labels.any(axis=1)] = len(counts)
    if (most := np.bincount(spread).max()) < folds:
        raise UserError(
            f"no class has more than {most} clips; protocol.folds takes at most as many"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rare classes: k_folds tells which
        for fold, (_, places) in enumerate(splitter.split(labels, spread, names)):
            fold_of[places] = fold
    return fold_of


def k_folds(
    fold_of: np.ndarray, labels: np.ndarray, names: Sequence[str], validate_on: str
) -> list[Fold]:
    """Return the folds, each of which tests once, in the order of their numbers.

    Args:
        fold_of: each clip's fold, any integers, (clips,).
        labels: 0 or 1, (clips, classes).
        names: of the classes.
        validate_on: `next_fold`, or `nothing`: all other folds train.

    Raises:
        UserError: if a class is missing from what a fold tests or trains on.
    """
    numbers = np.unique(fold_of)
    if len(numbers) < (3 if validate_on == "next_fold" else 2):
        raise UserError(
            f"the clips are of {len(numbers)} folds; protocol.validate_on {validate_on} takes "
            f"{3 if validate_on == 'next_fold' else 2} or more"
        )
    found = []
    for place, number in enumerate(numbers):
        test = fold_of == number
        val = np.zeros(len(fold_of), bool)
        if validate_on == "next_fold":
            val = fold_of == numbers[(place + 1) % len(numbers)]
        fold = Fold(*map(np.flatnonzero, (~test & ~val, val, test)))
        for split in ("train", "test"):
            missing = ~labels[getattr(fold, split)].any(axis=0)
            if missing.any():
                raise UserError(
                    f"fold {number} has no clip of {names[missing.argmax()]} to {split}; each fold "
                    "takes clips of all classes"
                )
        found.append(fold)
    return found


def make_folds(
    protocol: SplitSettings,
    labels: np.ndarray,
    names: Sequence[str],
    subsets: Sequence[str],
    given: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
) -> list[Fold]:
    """Return the folds that a protocol makes of the clips; random and official ones are one.

    Args:
        protocol: the settings.
        labels: 0 or 1, (clips, classes).
        names: of the classes.
        subsets: what the source prescribes for each clip (bal_train, eval, .., or train, val,
            test), (clips,).
        given: the fold that the source prescribes for each clip, integers (clips,).
        groups: each clip's group, (clips,).

    Raises:
        UserError: if the clips are too few, or lack what the protocol takes.
    """
    if protocol.split == "random":
        return [random_fold(len(labels), protocol.parts, protocol.seed)]
    if protocol.split == "official":
        return [official_fold(subsets, protocol.seed)]
    if protocol.split == "given":
        return [given_fold(subsets)]
    if protocol.split == "folds":
        if given is None:
            raise UserError("the source has no folds; protocol.split takes random or groups")
        return k_folds(given, labels, names, protocol.validate_on)
    if groups is None or not all(groups):
        raise UserError("the source has no groups; protocol.split takes random or folds")
    drawn = drawn_folds(labels, groups, protocol.folds, protocol.seed)
    return k_folds(drawn, labels, names, protocol.validate_on)
