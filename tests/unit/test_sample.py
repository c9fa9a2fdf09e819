"""The generated archive: the same bytes everywhere, and what makes AudioSet what it is."""

import hashlib
from collections import Counter

import pytest

from tagging.sources.audioset.archive import read_shards
from tagging.sources.audioset.labels import CLASSES, is_sample, read_labels
from tagging.sources.audioset.records import read_clips
from tagging.sources.audioset.sample import CLIPS, SECONDS, sample_archive, write_sample

# Of data/features.tar.gz with download.source sample. A change of it changes what everybody gets.
SHA256 = "607b3d516ab36716e3a95a634c60db53c2518b8425364872b0a6626142259d15"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder / "features.tar.gz", folder / "labels.csv")
    return folder


@pytest.fixture(scope="module")
def shards(written):
    """All shards of all subsets, as the pipeline reads them."""
    return {subset: list(read_shards(written / "features.tar.gz", subset)) for subset in CLIPS}


@pytest.fixture(scope="module")
def clips(shards):
    return {
        subset: [clip for shard in each for clip in read_clips(shard.content, shard.name)]
        for subset, each in shards.items()
    }


@pytest.fixture(scope="module")
def all_clips(clips):
    return [clip for each in clips.values() for clip in each]


def test_the_bytes_are_pinned(written):
    with (written / "features.tar.gz").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256


def test_a_seed_decides_all():
    small = {"bal_train": 30, "eval": 20}
    assert sample_archive(small, 7) == sample_archive(small, 7)
    assert sample_archive(small, 7) != sample_archive(small, 8)


def test_the_class_list_says_what_it_is(written):
    labels = read_labels(written / "labels.csv")
    assert is_sample(labels)
    assert [label.name for label in labels] == [f"Sample label {k}" for k in range(CLASSES)]


def test_the_pipeline_reads_every_clip(clips):
    assert {subset: len(each) for subset, each in clips.items()} == CLIPS


def test_ids_are_unique(all_clips):
    assert len({clip.video_id for clip in all_clips}) == len(all_clips)
    assert {len(clip.video_id) for clip in all_clips} == {11}


def test_shards_differ_by_case_only(shards):
    for each in shards.values():
        names = [shard.name for shard in each]
        assert len(names) == len(set(names))
        assert len({name.lower() for name in names}) < len(names)


def test_all_labels_occur(all_clips):
    assert {label for clip in all_clips for label in clip.labels} == set(range(CLASSES))


def test_labels_are_as_uneven_as_audioset_s(all_clips):
    counts = Counter(label for clip in all_clips for label in clip.labels)
    (first, most), (second, next_most), (_, third_most) = counts.most_common(3)
    assert (first, second) == (137, 0)  # Music, Speech
    # Of 42,531 clips 11,939 have the first, 11,059 the second and 1,640 the third.
    assert 0.22 < most / len(all_clips) < 0.34
    assert 0.20 < next_most / len(all_clips) < 0.32
    assert third_most < next_most / 3


def test_common_labels_occur_together(all_clips):
    guitar = [clip for clip in all_clips if 140 in clip.labels]
    assert sum(137 in clip.labels for clip in guitar) > 0.6 * len(guitar)  # Music
    assert sum(137 in clip.labels for clip in all_clips) < 0.4 * len(all_clips)


def test_clips_have_several_labels(all_clips):
    assert 1.8 < sum(len(clip.labels) for clip in all_clips) / len(all_clips) < 3
    assert all(list(clip.labels) == sorted(set(clip.labels)) for clip in all_clips)


def test_some_clips_are_short(all_clips):
    seconds = Counter(len(clip.audio_embedding) // 128 for clip in all_clips)
    assert set(seconds) == set(range(3, SECONDS + 1))
    assert 0.95 < seconds[SECONDS] / len(all_clips) < 0.99
    assert all(
        clip.end_time_seconds - clip.start_time_seconds == len(clip.audio_embedding) // 128
        for clip in all_clips
    )


def test_sounds_change_within_a_clip(all_clips):
    for clip in all_clips[:50]:
        frames = [
            clip.audio_embedding[start : start + 128]
            for start in range(0, len(clip.audio_embedding), 128)
        ]
        assert len(set(frames)) == len(frames)
