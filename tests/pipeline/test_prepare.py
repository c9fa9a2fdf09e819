"""`prepare`: counts, features and labels, which depend on the set of clips alone."""

import json
import os
import resource
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import convert as convert_stage
from stages.convert import SCHEMA, convert
from stages.prepare import Prepare, check_subsets, most_frequent, prepare
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.data.clips import Features, Index, read_features, read_index
from tagging.data.splits import SplitSettings
from tagging.data.task_folder import TaskFolder
from tagging.sources.audioset.labels import read_labels
from tagging.sources.audioset.records import Clip
from tagging.sources.audioset.sample import labels_csv, sample_archive
from tests.archives import assert_one_sentence, clip, run_stage
from tests.generated import classes

CLASSES = classes(527)
RANDOM = SplitSettings(method="random")
TASK = TaskFolder(Path())


def write_parquet(subset: str, clips: list[Clip], rows_per_group: int = 7) -> None:
    """Write `data/parquet/<subset>.parquet` as `convert` does."""
    path = Path(f"data/parquet/{subset}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([clip._asdict() for clip in clips], SCHEMA)
    pq.write_table(table, path, row_group_size=rows_per_group)


def run(split: SplitSettings = RANDOM, **replaced: object) -> dict:
    values = {"subsets": ["eval"], "clip_seconds": 10, "top_k_labels": 2}
    settings = Prepare(**values | replaced)
    return prepare(settings, TASK.data, split, CLASSES, TASK, "vggish")


def numbered(number: int, labels: list[int], seconds: int = 10) -> Clip:
    return clip(f"{number:011}", labels, seconds)


def read() -> tuple[Index, Features]:
    return read_index(TASK.index), read_features(TASK.feature("vggish"))


def written() -> dict[str, bytes]:
    files = [Path("data/clips.safetensors"), *Path("data/features").rglob("*.*")]
    return {str(file): file.read_bytes() for file in files}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clips() -> list[Clip]:
    """Sixty clips of several lengths: labels 3 and 5 are the most frequent of ten seconds."""
    return [
        numbered(i, [5, 3] if i % 3 == 0 else [3] if i % 3 == 1 else [100 + i], 10 - (i % 10 == 9))
        for i in range(60)
    ]


def test_counts_after_each_filter(clips: list[Clip]) -> None:
    write_parquet("eval", clips[:40])
    write_parquet("bal_train", clips[40:])
    long = [clip for clip in clips if len(clip.audio_embedding) == 1280]
    tagged = [clip for clip in long if 3 in clip.labels]
    counts = {label: sum(label in clip.labels for clip in long) for label in (3, 5)}
    assert run(subsets=["bal_train", "eval"]) == {
        "source": "AudioSet",
        "records": {"bal_train": 20, "eval": 40},
        "clips": {"all": 60, "of_10_seconds": len(long), "with_a_top_label": len(tagged)},
        "classes": {
            "label 3": {"id": "/m/3", "clips": counts[3]},
            "label 5": {"id": "/m/5", "clips": counts[5]},
        },
        "split": {"train": 24, "val": 3, "test": len(tagged) - 27},
    }


@pytest.mark.parametrize("seconds", [10, 4, None])
def test_every_clip_keeps_its_bytes_labels_and_id(clips: list[Clip], seconds: int | None) -> None:
    clips += [numbered(1000 + i, [3], 1 + i % 12) for i in range(72)]
    clips += [numbered(2000 + i, [9]) for i in range(5)]  # of no top label: a whole row group
    write_parquet("eval", clips)
    shortest, longest = (1, 10) if seconds is None else (seconds, seconds)
    labels = [3] if seconds == 4 else [3, 5]
    expected = [
        clip
        for clip in sorted(clips, key=lambda clip: clip.video_id)
        if {*labels} & {*clip.labels} and shortest <= len(clip.audio_embedding) / 128 <= longest
    ]
    split = SplitSettings(method="random", ratios=[2, 2, 2])
    run(split, clip_seconds=seconds, top_k_labels=len(labels))
    index, features = read()
    assert [video_id.decode() for video_id in index.ids] == [c.video_id for c in expected]
    assert index.classes == [CLASSES[k] for k in labels]
    assert index.labels.tolist() == [[int(k in c.labels) for k in labels] for c in expected]
    assert features.values.shape == (len(expected), 1, longest, 128)
    assert features.values.dtype == np.uint8
    assert features.spec == (1, longest, 128, 1 / 256, 0, seconds is None)
    for values, frames, original in zip(features.values, features.frames, expected, strict=True):
        assert len(original.audio_embedding) == frames * 128
        assert values.tobytes() == original.audio_embedding.ljust(longest * 128, b"\0")
    (fold,) = index.folds
    assert sorted(np.concatenate(fold)) == list(range(len(expected)))


def test_the_order_of_clips_files_and_row_groups_does_not_matter(clips: list[Clip]) -> None:
    write_parquet("bal_train", clips[:20])
    write_parquet("eval", clips[20:])
    run(subsets=["bal_train", "eval"])
    first = written()
    shuffled = [clips[i] for i in np.random.default_rng(1).permutation(len(clips))]
    write_parquet("bal_train", shuffled[:50], rows_per_group=11)
    write_parquet("eval", shuffled[50:])
    run(subsets=["eval", "bal_train"])
    assert written() == first
    run(SplitSettings(method="random", seed=1), subsets=["eval", "bal_train"])
    assert written() != first


def test_the_official_split_follows_the_subsets(clips: list[Clip]) -> None:
    extra = [numbered(2000 + i, [3]) for i in range(30)]
    balanced = [numbered(1000 + i, [3]) for i in range(40)]
    for subset, members in (("eval", clips), ("unbal_train", extra), ("bal_train", balanced)):
        write_parquet(subset, members)
    summary = run(SplitSettings(method="official"), subsets=["unbal_train", "eval", "bal_train"])
    index, _ = read()
    train, val, test = ({index.ids[k].decode() for k in part} for part in index.folds[0])
    assert test == {c.video_id for c in clips if 3 in c.labels and len(c.audio_embedding) == 1280}
    assert val < {clip.video_id for clip in balanced}
    assert train | val == {clip.video_id for clip in balanced + extra}
    assert summary["split"] == {"train": 66, "val": 4, "test": len(test)}


def test_equal_counts_are_ordered_by_index() -> None:
    counts = np.zeros(527, int)
    counts[[400, 7, 30]] = 5
    counts[[500, 2]] = 9
    assert most_frequent(counts, 5).tolist() == [2, 500, 7, 30, 400]


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        (
            {"top_k_labels": 300},
            "top_k_labels must be at most 20, the labels of the clips of 10 s",
        ),
        (
            {"clip_seconds": 3},
            "top_k_labels must be at most 0, the labels of the clips of 3 sec",
        ),
        (
            {"split": SplitSettings(method="random", ratios=[90, 1, 1])},
            "split.ratios [90, 1, 1] must have at least 184 clips, two for each split, got 36",
        ),
        (
            {"split": SplitSettings(method="k_fold")},
            "got k_fold: the source has no folds",
        ),
        ({"subsets": ["unbal_train"]}, "data/parquet/unbal_train.parquet is missing; run dvc"),
    ],
)
def test_refuses_what_leaves_too_few_clips(
    clips: list[Clip], replaced: dict, sentence: str
) -> None:
    write_parquet("eval", clips)
    with pytest.raises(UserError) as caught:
        run(**replaced)
    assert sentence in str(caught.value)
    assert not Path("data/features").exists()


def test_refuses_a_video_id_in_two_subsets(clips: list[Clip]) -> None:
    write_parquet("eval", clips[:10])
    write_parquet("bal_train", [numbered(99, [1]), clips[4]])
    with pytest.raises(UserError) as caught:
        run(subsets=["bal_train", "eval"])
    assert str(caught.value) == (
        "the video id 00000000004 occurs twice: row 1 of data/parquet/bal_train.parquet, "
        "row 4 of data/parquet/eval.parquet"
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"xy"])
def test_refuses_a_damaged_parquet_file(clips: list[Clip], damage) -> None:
    write_parquet("eval", clips)
    path = Path("data/parquet/eval.parquet")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"^data/parquet/eval.parquet cannot be read \(.*; remove"):
        run()


def test_subsets_must_be_converted_ones_each_once() -> None:
    check_subsets(["eval"], ["bal_train", "eval"])
    for subsets in (["eval", "eval"], ["unbal_train"]):
        with pytest.raises(UserError, match=r"prepare\.subsets must be some of .*convert\.sub"):
            check_subsets(subsets, ["bal_train", "eval"])


def test_the_stage_keeps_the_last_output_on_a_full_disk(folder: Path, clips: list[Clip]) -> None:
    Path("data").mkdir()
    assert_one_sentence(run_stage(folder, "prepare"), "class_labels_indices.csv is missing")
    Path("data/class_labels_indices.csv").write_text(labels_csv())
    assert_one_sentence(run_stage(folder, "prepare"), "data/parquet/bal_train.parquet is missing")
    write_parquet("eval", clips)
    write_parquet("bal_train", [numbered(1000 + i, [i % 20]) for i in range(40)])
    assert run_stage(folder, "prepare").returncode == 0
    before = written()
    assert json.loads(TASK.summary.read_text())["source"] == "generated sample"
    write_parquet("eval", clips[1:])

    small_disk = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    done = run_stage(folder, "prepare", before=small_disk)
    assert_one_sentence(done, "error: data/features/vggish/values.npy: File too large")
    assert written() == before


def converted_and_prepared(archive: Path) -> tuple[dict, dict[str, bytes]]:
    with Progress("", None, "B", "none") as progress:
        convert(archive, "eval", Path("data/parquet/eval.parquet"), progress)
    return run(), written()


def test_shards_in_another_order_give_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = folder / "x.tar.gz"
    archive.write_bytes(sample_archive({"eval": 120}))
    first = converted_and_prepared(archive)
    real = convert_stage.read_shards
    monkeypatch.setattr(convert_stage, "read_shards", lambda *a, **k: reversed(list(real(*a, **k))))
    assert converted_and_prepared(archive) == first


@pytest.mark.skipif("AUDIOSET_MIRROR" not in os.environ, reason="AUDIOSET_MIRROR names no mirror")
def test_the_mirrors_counts() -> None:
    mirror = Path(os.environ["AUDIOSET_MIRROR"]) / "youtube_corpus/v1"
    for subset in ("bal_train", "eval"):
        with Progress("", None, "B", "none") as progress:
            archive = mirror / "features/features.tar.gz"
            convert(archive, subset, Path(f"data/parquet/{subset}.parquet"), progress)
    names = read_labels(mirror / "csv/class_labels_indices.csv")
    settings = Prepare(subsets=["bal_train", "eval"], clip_seconds=10, top_k_labels=10)
    summary = prepare(settings, TASK.data, RANDOM, names, TASK, "vggish")
    assert summary["source"] == "AudioSet"
    assert summary["records"] == {"bal_train": 22160, "eval": 20371}
    assert summary["clips"] == {"all": 42531, "of_10_seconds": 41758, "with_a_top_label": 22582}
    assert summary["split"] == {"train": 18064, "val": 2258, "test": 2260}
    assert {name: label["clips"] for name, label in summary["classes"].items()} == {
        "Music": 11856, "Speech": 10901, "Vehicle": 1621, "Animal": 1401,
        "Inside, small room": 1348, "Musical instrument": 938, "Singing": 879,
        "Domestic animals, pets": 751, "Guitar": 656, "Water": 574,
    }  # fmt: skip
    assert list(summary["classes"])[:3] == ["Music", "Speech", "Vehicle"]
