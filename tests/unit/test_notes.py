"""The tasks on NSynth's notes: their settings are consistent, and fit the real archive."""

import os
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from stages.decode import Decode, multi_hot, open_source, select_recordings
from stages.features import Embedding, Feature
from tagging.data.parameters import Params
from tagging.data.spec import InputSpec
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.factory import build_network
from tagging.learning.metric import load_metrics
from tagging.learning.model import read_model
from tagging.learning.settings import Train, read_train_settings
from tagging.reports.settings import Compare, read_published
from tests.project import ROOT

NETWORKS = ["cnn", "newcnn", "resnet", "lstm", "lstm8"]
NAMES = ["instruments", "instruments_random", "qualities"]
PARAMS = {name: Params.read(ROOT / "tasks" / name / "params.yaml") for name in NAMES}
HELD_OUT = ["instruments", "qualities"]
MIRROR = os.environ.get("DOWNLOAD_MIRROR", "")


@pytest.mark.parametrize("task", NAMES)
def test_each_model_names_a_feature_and_each_embedding_weights(task: str) -> None:
    params = PARAMS[task]
    features, embeddings = params.entries("features"), params.entries("embeddings")
    for name, feature in features.items():
        params.parse(Feature, feature, f"features.{name}")
    for name, embedding in embeddings.items():
        entry = params.parse(Embedding, embedding, f"embeddings.{name}")
        assert entry.weights in params.content["weights"]
    for name in params.models():
        model = read_model(params, name)
        settings = read_train_settings(params, model, name)
        assert model.features in features | embeddings
        if settings.augment.copies_prob or settings.augment.added_copies:
            assert features[model.features]["augmented_copies"]


def test_the_homework_s_augmentation_adds_copies_with_one_change_each() -> None:
    params = PARAMS["qualities"]
    for name in ("cnn2d_added_copies", "cnn2d_all"):
        model = read_model(params, name)
        settings = read_train_settings(params, model, name)
        assert (settings.augment.added_copies, settings.augment.copies_prob) == (0.5, 0)
        entry = params.entries("features")[model.features]
        items = params.parse(Feature, entry, model.features).augmented_copies
        # Noise, shift, and two rates of stretching: an epoch has three times as many clips.
        changes = [set(item.model_fields_set) - {"prob"} for item in items]
        assert changes == [
            {"noise_snr_db"}, {"max_shift_seconds"}, {"stretch_rates"}, {"stretch_rates"},
        ]  # fmt: skip
        assert [item.stretch_rates for item in items[2:]] == [(0.8,), (1.25,)]
        assert all((item.prob, item.copies) == (1, 1) for item in items)
    # The control has as many steps without copies.
    longer = read_train_settings(params, read_model(params, "cnn2d_longer"), "cnn2d_longer")
    assert longer.epochs == 3 * params.content["train"]["epochs"]


def test_the_homework_s_channels_are_resized_to_the_nearest_frame() -> None:
    entry = PARAMS["qualities"].entries("features")["multi_log_mel"]
    assert entry["settings"]["resize"] == "nearest"


def test_both_splits_have_the_same_clips_features_and_models() -> None:
    held_out, random = (PARAMS[name].content for name in NAMES[:2])
    for section in ("task", "features", "weights", "embeddings", "train", "evaluate"):
        assert held_out[section] == random[section]
    # The study's own training is not repeated with a random split.
    models = held_out["models"].items()
    assert random["models"] == {k: entry for k, entry in models if not k.endswith("_study")}
    # Paths are relative to the repository's root: both read one archive.
    assert random["decode"] == held_out["decode"]
    leaderboard = held_out["compare"]["other_leaderboard"]
    assert leaderboard == "tasks/instruments_random/leaderboard/leaderboard.json"


def test_the_study_s_networks_have_its_sizes_and_its_training() -> None:
    params = PARAMS["instruments"]
    mfcc = InputSpec(1, 49, 13)
    # It prints the sizes of cnn and resnet, with 14 classes, and the layers of the others.
    sizes = {"cnn": 6_674_670, "newcnn": 185_838, "resnet": 11_177_422, "lstm": 21_806}
    sizes["lstm8"] = 1_138_510
    for name, size in sizes.items():
        # Normalization of the input is the recipe's own: two parameters for each coefficient.
        for entry, own in ((f"{name}_mfcc", 2 * 13), (f"{name}_mfcc_study", 0)):
            network = build_network(read_model(params, entry), mfcc, 14, entry)
            assert sum(parameter.numel() for parameter in network.parameters()) == size + own
    studies = [name for name in params.models() if name.endswith("_study")]
    assert len(studies) == 2 * len(sizes)
    for name in studies:
        model = read_model(params, name)
        settings = read_train_settings(params, model, name)
        assert (settings.optimizer, settings.schedule, settings.lr) == ("adam", "constant", 0.01)
        assert (settings.epochs, settings.batch_size, settings.loss.name) == (50, 16, "ce")
        # One run on the first fold, compared with the recipe's on the same fold.
        assert (model.folds, model.seeds, model.network["input_norm"]) == ([0], [0], False)
        base = name.removesuffix("_study")
        assert name in params.content["compare"]["differences"][base]
        # The study prints a softmax at the end of its first CNN.
        assert (model.network.get("head") == "softmax") == (base.split("_")[0] == "cnn")


def test_the_recipe_is_one_for_all_of_the_study_s_networks_and_three_folds() -> None:
    params = PARAMS["instruments"]
    assert params.section(SplitSettings, "split").folds == 3
    names = [f"{name}_{feature}" for name in NETWORKS for feature in ("mel", "mfcc")]
    for name in names:
        model = read_model(params, name)
        settings = read_train_settings(params, model, name)
        network = build_network(model, InputSpec(1, 49, 80), 8, name)
        assert network.norm is not None  # the input is normalized
        assert (model.folds, model.seeds) == (None, [0])
        own = settings.model_dump(exclude={"loss"}) | {"lr": 1}
        assert own == params.section(Train, "train").model_dump(exclude={"loss"}) | {"lr": 1}
    # Each network against each with the same feature, and mel against MFCC, once.
    differences = params.content["compare"]["differences"]
    pairs = [{base, other} for base, others in differences.items() for other in others]
    for first, second in combinations(names, 2):
        (network_1, feature_1), (network_2, feature_2) = first.split("_"), second.split("_")
        is_compared = feature_1 == feature_2 or network_1 == network_2
        assert pairs.count({first, second}) == int(is_compared)


@pytest.mark.parametrize("task", NAMES)
def test_the_report_names_entries_and_the_sources_of_published_rows(task: str) -> None:
    params = PARAMS[task]
    compare = params.section(Compare, "compare")
    compared = [name for base, others in compare.differences.items() for name in (base, *others)]
    assert {*compare.plot, *compared, compare.reference} - {None} <= set(params.models())
    published = read_published(compare, load_metrics(params.section(Task, "task")))
    assert all(row["source"] for row in published.values())


@pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize("task", HELD_OUT)
def test_instruments_of_the_archive_are_in_one_split_and_classes_in_all(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = PARAMS[task]
    settings = params.section(Decode, "decode")
    address = PARAMS["instruments"].content["download"]["recordings"]["address"]
    path = Path(settings.path)
    path.parent.mkdir(parents=True)
    shutil.copy(Path(MIRROR) / address.partition("://")[2], path)
    source = open_source(settings, TaskFolder(Path("tasks", task)))
    recordings = select_recordings(source.recordings(), settings)
    labels, classes = multi_hot(recordings, params.section(Task, "task"))
    number = len(recordings)
    instruments = np.array([recording.group for recording in recordings])
    if task == "instruments":
        # All families with three instruments or more, and six notes of each instrument.
        assert (number, len(classes), len(set(instruments))) == (6 * 49, 8, 49)
    else:
        assert (number, len(classes)) == (2416, 10)
    class_names = [label.name for label in classes]
    split = params.section(SplitSettings, "split")
    folds = make_folds(split, labels, class_names, [""] * number, groups=instruments)
    assert len(folds) == (3 if task == "instruments" else 2)
    for fold in folds:
        assert not set(instruments[fold.train]) & set(instruments[fold.test])
        for clips in (fold.train, fold.test):
            assert labels[clips].any(axis=0).all()
