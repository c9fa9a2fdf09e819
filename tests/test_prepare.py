"""`prepare`: counts, splits, and that only the set of clips decides the result."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from stages import prepare as stage
from stages.convert import SCHEMA, convert
from stages.prepare import Prepare, check_subsets, most_frequent, prepare, random_split
from tagging.dataset import SPLITS, read_split, split_path
from tagging.errors import UserError
from tagging.labels import Label, read_labels
from tagging.progress import Progress
from tagging.records import Clip
from tagging.sample import labels_csv, sample_archive
from tests.archives import assert_one_sentence, clip, run_stage

NAMES = [Label(index, f"/m/{index}", f"label {index}") for index in range(527)]


def write_parquet(subset: str, clips: list[Clip], rows_per_group: int = 7) -> None:
    """Write `data/parquet/<subset>.parquet` as `convert` does."""
    path = Path(f"data/parquet/{subset}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([clip._asdict() for clip in clips], SCHEMA)
    pq.write_table(table, path, row_group_size=rows_per_group)


def run(**replaced: object) -> dict:
    values = {"subsets": ["eval"], "seconds": 10, "top_labels": 2, "split": [8, 1, 1], "seed": 0}
    return prepare(Prepare(**values | replaced), Path("data/parquet"), NAMES)


def numbered(number: int, labels: list[int], seconds: int = 10) -> Clip:
    return clip(f"{number:011}", labels, seconds)


def written() -> dict[str, bytes]:
    return {split: split_path(split).read_bytes() for split in SPLITS}


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
        "top_labels": {
            "label 3": {"index": 3, "mid": "/m/3", "clips": counts[3]},
            "label 5": {"index": 5, "mid": "/m/5", "clips": counts[5]},
        },
        "split": {"train": 24, "val": 3, "test": len(tagged) - 27},
    }


def test_every_clip_keeps_its_bytes_labels_and_id(clips: list[Clip]) -> None:
    write_parquet("eval", clips)
    run()
    by_id = {clip.video_id: clip for clip in clips}
    seen = []
    for name in SPLITS:
        split = read_split(split_path(name))
        assert split.names == [NAMES[3], NAMES[5]]
        assert {array.dtype for array in split[:4]} == {np.dtype("uint8")}
        assert split.embeddings.shape[1:] == (10, 128)
        for embedding, frames, labels, video_id in zip(*split[:4], strict=True):
            original = by_id[video_id.tobytes().decode()]
            assert embedding.tobytes() == original.audio_embedding
            assert frames == 10
            assert labels.tolist() == [3 in original.labels, 5 in original.labels]
            seen.append(original.video_id)
    assert sorted(seen) == [
        c.video_id for c in clips if 3 in c.labels and len(c.audio_embedding) == 1280
    ]


def test_the_order_of_clips_files_and_row_groups_does_not_matter(clips: list[Clip]) -> None:
    write_parquet("bal_train", clips[:20])
    write_parquet("eval", clips[20:])
    run(subsets=["bal_train", "eval"])
    first = written()
    run(subsets=["bal_train", "eval"])
    assert written() == first
    shuffled = [clips[i] for i in np.random.default_rng(1).permutation(len(clips))]
    write_parquet("bal_train", shuffled[:50], rows_per_group=11)
    write_parquet("eval", shuffled[50:])
    run(subsets=["eval", "bal_train"])
    assert written() == first


def test_the_seed_decides_the_split(clips: list[Clip]) -> None:
    write_parquet("eval", clips)
    run()
    first = written()
    run(seed=1)
    assert written() != first


def test_short_clips_on_demand(clips: list[Clip]) -> None:
    clips += [numbered(1000 + i, [8], 4) for i in range(20)]
    write_parquet("eval", clips)
    metrics = run(seconds=4, top_labels=1)
    assert metrics["clips"] == {"all": 80, "of_4_seconds": 20, "with_a_top_label": 20}
    assert read_split(split_path("train")).embeddings.shape == (16, 4, 128)


def test_clips_of_any_length_are_padded_with_zeros(clips: list[Clip]) -> None:
    clips += [numbered(1000 + i, [3], 1 + i % 12) for i in range(48)]
    write_parquet("eval", clips)
    metrics = run(seconds="any")
    # 8 of 11 and 12 seconds are left out.
    assert metrics["clips"]["of_1_to_10_seconds"] == 60 + 48 - 8
    by_id = {clip.video_id: clip.audio_embedding for clip in clips}
    lengths = set()
    for name in SPLITS:
        split = read_split(split_path(name))
        for embedding, frames, video_id in zip(
            split.embeddings, split.frames, split.video_ids, strict=True
        ):
            original = by_id[video_id.tobytes().decode()]
            assert len(original) == int(frames) * 128
            assert embedding.tobytes() == original.ljust(1280, b"\0")
            lengths.add(int(frames))
    assert lengths == set(range(1, 11))


def test_the_official_split(clips: list[Clip]) -> None:
    extra = [numbered(2000 + i, [3]) for i in range(30)]
    balanced = [numbered(1000 + i, [3]) for i in range(40)]
    write_parquet("eval", clips)
    write_parquet("unbal_train", extra)
    write_parquet("bal_train", balanced)
    metrics = run(subsets=["unbal_train", "eval", "bal_train"], split="official")
    ids = {
        name: {bytes(video_id).decode() for video_id in read_split(split_path(name)).video_ids}
        for name in SPLITS
    }
    tagged = {c.video_id for c in clips if 3 in c.labels and len(c.audio_embedding) == 1280}
    assert ids["test"] == tagged
    assert len(ids["val"]) == 4
    assert ids["val"] < {clip.video_id for clip in balanced}
    assert ids["train"] | ids["val"] == {clip.video_id for clip in balanced + extra}
    assert metrics["split"] == {"train": 66, "val": 4, "test": len(tagged)}
    with pytest.raises(UserError, match=r"prepare\.subsets is \['eval'\].*bal_train and eval"):
        run(split="official")
    write_parquet("bal_train", balanced[:19])
    with pytest.raises(UserError, match=r"bal_train has 19 such clips; .* takes 20 or more"):
        run(subsets=["eval", "bal_train"], split="official")


def test_equal_counts_are_ordered_by_index() -> None:
    counts = np.zeros(527, int)
    counts[[400, 7, 30]] = 5
    counts[[500, 2]] = 9
    assert most_frequent(counts, 5).tolist() == [2, 500, 7, 30, 400]


def test_the_studys_arithmetic() -> None:
    assert [len(part) for part in random_split(22582, (8, 1, 1), 0)] == [18064, 2258, 2260]


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    st.integers(0, 500),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 2**32),
)
def test_a_split_has_each_clip_once_and_no_empty_part(
    clips: int, parts: tuple[int, int, int], seed: int
) -> None:
    try:
        split = random_split(clips, parts, seed)
    except UserError:
        assert clips // sum(parts) * min(parts) < 2
        return
    assert sorted(np.concatenate(split)) == list(range(clips))
    unit = clips // sum(parts)
    assert [len(split[0]), len(split[1])] == [parts[0] * unit, parts[1] * unit]
    assert parts[2] * unit <= len(split[2]) < parts[2] * unit + sum(parts)


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"top_labels": 300}, "prepare.top_labels is 300, but the clips of 10 seconds hold 20"),
        ({"seconds": 3}, "prepare.top_labels is 2, but the clips of 3 seconds hold 0 labels"),
        ({"split": [90, 1, 1]}, "36 clips are left; prepare.split [90, 1, 1] takes 184 or more"),
        ({"subsets": ["unbal_train"]}, "data/parquet/unbal_train.parquet is missing; prepare.sub"),
    ],
)
def test_refuses_what_leaves_too_few_clips(
    clips: list[Clip], replaced: dict[str, object], sentence: str
) -> None:
    write_parquet("eval", clips)
    with pytest.raises(UserError) as caught:
        run(**replaced)
    assert sentence in str(caught.value)
    assert not Path("data/prepared").exists()


def test_refuses_a_video_id_in_two_subsets(clips: list[Clip]) -> None:
    write_parquet("eval", clips[:10])
    write_parquet("bal_train", [numbered(99, [1]), clips[4]])
    with pytest.raises(UserError) as caught:
        run(subsets=["bal_train", "eval"])
    assert str(caught.value) == (
        "the video id 00000000004 stands there twice: row 1 of data/parquet/bal_train.parquet, "
        "row 4 of data/parquet/eval.parquet"
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"xy"])
def test_refuses_a_damaged_parquet_file(clips: list[Clip], damage) -> None:
    write_parquet("eval", clips)
    path = Path("data/parquet/eval.parquet")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"^data/parquet/eval.parquet cannot be read \(.*; remove"):
        run()


def test_refuses_a_damaged_split(clips: list[Clip]) -> None:
    write_parquet("eval", clips)
    run()
    path = split_path("val")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"val.safetensors cannot be read \(.*; remove"):
        read_split(path)


def test_writes_arrays_of_any_strides(tmp_path: Path) -> None:
    array = np.arange(6 * 2 * 128, dtype=np.uint8).reshape(6, 2, 128)
    split = stage.Split(
        array[::-2, ::-1], array[::2, 0, 0], array[:3, 0, :2], array[:3, 1, 11:0:-1], NAMES[:2]
    )
    stage.write_split(tmp_path / "x", split)
    for got, expected in zip(read_and_values(tmp_path / "x"), split[:4], strict=True):
        assert np.array_equal(got, expected)


def read_and_values(path: Path) -> list[np.ndarray]:
    tensors = load_file(path)
    return [tensors[name] for name in ("embeddings", "frames", "labels", "video_ids")]


def test_the_stage_on_a_full_disk_keeps_what_was_there(folder: Path, clips: list[Clip]) -> None:
    write_parquet("eval", clips)
    write_parquet("bal_train", [numbered(1000 + i, [i % 20]) for i in range(40)])
    Path("data/class_labels_indices.csv").write_text(labels_csv())
    assert run_stage(folder, "prepare").returncode == 0
    before = written()
    assert json.loads(Path("metrics/data.json").read_text())["source"] == "generated sample"
    write_parquet("eval", clips[1:])

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run_stage(folder, "prepare", before=small_disk)
    assert_one_sentence(done, "error: data/prepared/train.safetensors: File too large")
    assert written() == before
    assert len(list(Path("data/prepared").iterdir())) == 3


def test_the_stage_names_a_missing_parquet_file(folder: Path) -> None:
    Path("data").mkdir()
    Path("data/class_labels_indices.csv").write_text(labels_csv())
    done = run_stage(folder, "prepare")
    assert_one_sentence(done, "data/parquet/bal_train.parquet is missing")


def test_shards_in_another_order_give_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = folder / "x.tar.gz"
    archive.write_bytes(sample_archive({"eval": 120}))
    first = convert_and_prepare(archive)
    from stages import convert as convert_stage

    real = convert_stage.read_shards
    monkeypatch.setattr(convert_stage, "read_shards", lambda *a, **k: reversed(list(real(*a, **k))))
    assert convert_and_prepare(archive) == first


def convert_and_prepare(archive: Path) -> tuple[dict, dict[str, bytes]]:
    with Progress("", None, "B", "none") as progress:
        convert(archive, "eval", Path("data/parquet/eval.parquet"), progress)
    return run(), written()


@pytest.mark.skipif("AUDIOSET_MIRROR" not in os.environ, reason="AUDIOSET_MIRROR names no mirror")
def test_the_mirrors_counts(folder: Path) -> None:
    mirror = Path(os.environ["AUDIOSET_MIRROR"]) / "youtube_corpus/v1"
    for subset in ("bal_train", "eval"):
        with Progress("", None, "B", "none") as progress:
            archive = mirror / "features/features.tar.gz"
            convert(archive, subset, Path(f"data/parquet/{subset}.parquet"), progress)
    names = read_labels(mirror / "csv/class_labels_indices.csv")
    values = {"seconds": 10, "top_labels": 10, "split": [8, 1, 1], "seed": 0}
    settings = Prepare(subsets=["bal_train", "eval"], **values)
    metrics = prepare(settings, Path("data/parquet"), names)
    assert metrics["source"] == "AudioSet"
    assert metrics["records"] == {"bal_train": 22160, "eval": 20371}
    assert metrics["clips"] == {"all": 42531, "of_10_seconds": 41758, "with_a_top_label": 22582}
    assert metrics["split"] == {"train": 18064, "val": 2258, "test": 2260}
    assert {name: label["clips"] for name, label in metrics["top_labels"].items()} == {
        "Music": 11856, "Speech": 10901, "Vehicle": 1621, "Animal": 1401,
        "Inside, small room": 1348, "Musical instrument": 938, "Singing": 879,
        "Domestic animals, pets": 751, "Guitar": 656, "Water": 574,
    }  # fmt: skip
    assert list(metrics["top_labels"])[:3] == ["Music", "Speech", "Vehicle"]
    assert [label["index"] for label in metrics["top_labels"].values()] == [
        137, 0, 300, 72, 506, 138, 27, 73, 140, 288,
    ]  # fmt: skip


def test_subsets_must_be_converted_ones_each_once() -> None:
    check_subsets(["eval"], ["bal_train", "eval"])
    for subsets in (["eval", "eval"], ["unbal_train"]):
        with pytest.raises(UserError, match=r"prepare\.subsets is .*some of convert\.subsets"):
            check_subsets(subsets, ["bal_train", "eval"])
