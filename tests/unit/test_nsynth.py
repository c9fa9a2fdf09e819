"""NSynth's archives: small ones made by hand, and the real one."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tagging.base.errors import UserError
from tagging.sources.nsynth import Source
from tagging.sources.recording import Recording
from tests.archives import tar

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
NAME = "download.magenta.tensorflow.org/datasets/nsynth/nsynth-test.jsonwav.tar.gz"


def example(family: str, *qualities: str) -> dict:
    return {
        "instrument_str": f"{family}_acoustic_007",
        "instrument_family_str": family,
        "qualities_str": list(qualities),
    }


EXAMPLES = {
    "organ_1": example("organ", "bright", "dark"),
    "bass_1": example("bass", "dark"),
    "bass_2": example("bass"),
}
SOUNDS = {
    "nsynth-test/audio/bass_1.wav": b"boom",
    "nsynth-test/audio/bass_2.wav": b"doom",
    "nsynth-test/audio/organ_1.flac": b"toot",
}


def write(path: Path, examples: object = EXAMPLES, first: bool = True, **more: bytes) -> Path:
    table = {"nsynth-test/examples.json": json.dumps(examples).encode()}
    files = table | SOUNDS if first else SOUNDS | table
    path.write_bytes(gzip.compress(tar((files | more).items()), 1))
    return path


def refusal(path: Path, labels: str = "family") -> str:
    with pytest.raises(UserError) as caught:
        Source(path, labels).recordings()
    return str(caught.value)


@pytest.mark.parametrize("first", [True, False])
def test_notes_have_their_families_and_the_order_of_the_table(tmp_path: Path, first: bool) -> None:
    source = Source(write(tmp_path / "a.tar.gz", first=first, **{"nsynth-test/LICENSE": b"CC"}))
    recordings = source.recordings()
    audio = "nsynth-test/audio"
    assert recordings == [
        Recording("organ_1", f"{audio}/organ_1.flac", ("organ",), "organ_acoustic_007"),
        Recording("bass_1", f"{audio}/bass_1.wav", ("bass",), "bass_acoustic_007"),
        Recording("bass_2", f"{audio}/bass_2.wav", ("bass",), "bass_acoustic_007"),
    ]
    # In the archive's order.
    assert list(source.contents(recordings)) == [(1, b"boom"), (2, b"doom"), (0, b"toot")]
    assert list(source.contents([recordings[2], recordings[0], recordings[2]])) == [
        (0, b"doom"), (2, b"doom"), (1, b"toot"),
    ]  # fmt: skip


def test_a_note_has_any_number_of_qualities(tmp_path: Path) -> None:
    recordings = Source(write(tmp_path / "a.tar.gz"), "qualities").recordings()
    assert [recording.labels for recording in recordings] == [("bright", "dark"), ("dark",), ()]


def test_other_labels_are_refused(tmp_path: Path) -> None:
    sentence = "the labels of NSynth must be family or qualities, got 'pitch'"
    assert refusal(write(tmp_path / "a.tar.gz"), "pitch") == sentence


def test_a_file_that_is_not_an_archive_of_nsynth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    assert refusal(path) == f"{path} must be an archive of NSynth, but does not exist"
    path.write_bytes(b"not recordings")
    assert refusal(path).startswith(f"{path} must be a complete tar.gz archive of NSynth, such as")
    path.write_bytes(gzip.compress(b"not recordings"))
    assert refusal(path).startswith(f"{path} must be a complete tar.gz archive of NSynth, such as")
    path.write_bytes(gzip.compress(tar(SOUNDS.items())))
    assert refusal(path).startswith(f"{path} must be an archive of NSynth, such as")
    assert refusal(path).endswith("but has no examples.json")


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        (EXAMPLES | {"flute_1": example("flute"), "flute_2": example("flute")},
         "2 of 5 notes of examples.json have no audio, first flute_1"),
        ([], "must be a mapping of notes"),
        ({}, "must be a mapping of notes"),
        (EXAMPLES | {"bass_2": {}}, "must have an instrument_str, the name of the "),
        (EXAMPLES | {"bass_2": {"instrument_str": "x"}}, "instrument_family_str of bass_2, got N"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, examples: object, sentence: str
) -> None:
    assert sentence in refusal(write(tmp_path / "a.tar.gz", examples))


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar.gz")
    source = Source(path)
    recordings = source.recordings()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole[:-8] + bytes(8)):
        path.write_bytes(damaged)
        assert refusal(path).startswith(
            f"{path} must be a complete tar.gz archive of NSynth, such as"
        )
    path.write_bytes(gzip.compress(tar(list(SOUNDS.items())[:2])))
    with pytest.raises(UserError, match=r"lacks 1 files, first nsynth-test/audio/organ_1\.flac"):
        list(source.contents(recordings))


@pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")
def test_the_real_test_set() -> None:
    source = Source(Path(MIRROR) / NAME)
    recordings = source.recordings()
    assert len(recordings) == 2416
    assert len({recording.id for recording in recordings}) == 2416
    assert len({recording.group for recording in recordings}) == 53
    families = Counter(recording.labels for recording in recordings)
    assert len(families) == 10
    assert families["bass",] == 510
    assert families["vocal",] == 83
    few = recordings[:3]
    assert [(position, content[:4]) for position, content in source.contents(few)] == [
        (0, b"fLaC"), (1, b"fLaC"), (2, b"fLaC"),
    ]  # fmt: skip


@pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")
def test_the_real_qualities() -> None:
    recordings = Source(Path(MIRROR) / NAME, "qualities").recordings()
    qualities = Counter(label for recording in recordings for label in recording.labels)
    assert qualities == {
        "reverb": 577, "distortion": 549, "dark": 409, "fast_decay": 389, "bright": 368,
        "long_release": 361, "nonlinear_env": 265, "percussive": 207, "multiphonic": 104,
        "tempo-synced": 60,
    }  # fmt: skip
    assert sum(not recording.labels for recording in recordings) == 619
