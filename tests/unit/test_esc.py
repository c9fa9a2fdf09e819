"""ESC-10's and ESC-50's archives: small ones made by hand, and the real one."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tagging.base.errors import UserError
from tagging.sources.esc import Source
from tagging.sources.recording import Recording

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
COMMIT = "553c8f1743b9dba6b282e1323c3ca8fa76923448"
ESC_10 = {
    "ESC-10-master/README.md": b"# ESC-10",
    "ESC-10-master/001 - Dog bark/1-100032-A.ogg": b"woof",
    "ESC-10-master/001 - Dog bark/5-212454-B.ogg": b"wow",
    "ESC-10-master/002 - Rain/2-117271-A.ogg": b"drip",
}
META = "ESC-50-master/meta/esc50.csv"
ESC_50 = {
    META: b"filename,fold,target,category,esc10,src_file,take\r\n"
    b"5-9032-A-0.wav,5,0,dog,True,9032,A\r\n1-1791-B-15.wav,1,15,water_drops,False,1791,B\r\n",
    "ESC-50-master/audio/1-1791-B-15.wav": b"drop",
    "ESC-50-master/audio/5-9032-A-0.wav": b"woof",
}


def write(path: Path, files: dict[str, bytes], kind: str = "zip") -> Path:
    """Write the files as a zip archive or a folder."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def contents(source: Source, recordings: list[Recording]) -> dict[int, bytes]:
    """Return the bytes of the files of an archive or a folder."""
    return {
        position: content.read_bytes() if isinstance(content, Path) else content
        for position, content in source.contents(recordings)
    }


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Source(path).recordings()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_esc_10_has_its_classes_as_folders(tmp_path: Path, kind: str) -> None:
    source = Source(write(tmp_path / "esc", ESC_10, kind))
    recordings = source.recordings()
    dog = "ESC-10-master/001 - Dog bark"
    assert recordings == [
        Recording("1-100032-A", f"{dog}/1-100032-A.ogg", ("Dog bark",), "100032", 1),
        Recording("5-212454-B", f"{dog}/5-212454-B.ogg", ("Dog bark",), "212454", 5),
        Recording("2-117271-A", "ESC-10-master/002 - Rain/2-117271-A.ogg", ("Rain",), "117271", 2),
    ]
    assert contents(source, recordings[::-1]) == {0: b"drip", 1: b"wow", 2: b"woof"}


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_esc_50_has_its_classes_in_a_table(tmp_path: Path, kind: str) -> None:
    source = Source(write(tmp_path / "esc", ESC_50, kind))
    recordings = source.recordings()
    audio = "ESC-50-master/audio"
    assert recordings == [
        Recording("5-9032-A-0", f"{audio}/5-9032-A-0.wav", ("dog",), "9032", 5),
        Recording("1-1791-B-15", f"{audio}/1-1791-B-15.wav", ("water_drops",), "1791", 1),
    ]
    assert contents(source, recordings) == {0: b"woof", 1: b"drop"}


def test_hidden_files_that_macos_adds_are_not_recordings(tmp_path: Path) -> None:
    hidden = {"__MACOSX/ESC-10-master/001 - Dog bark/._1-100032-A.ogg": b"?"}
    assert len(Source(write(tmp_path / "esc.zip", ESC_10 | hidden)).recordings()) == 3


def test_a_file_that_is_not_an_archive_of_esc_is_refused(tmp_path: Path) -> None:
    other = write(tmp_path / "other.zip", {"README.md": b"", "audio/1-1791-B-15.wav": b""})
    assert refusal(other) == (
        f"{other} must be the archive of ESC-10, with files such as "
        "001 - Dog bark/1-100032-A.ogg, or of ESC-50, with meta/esc50.csv"
    )
    text = tmp_path / "a.zip"
    text.write_bytes(b"not recordings")
    sentence = f"{text} must be a folder or a complete zip archive (File is not"
    assert refusal(text).startswith(sentence)
    sentence = "/b.zip must be a folder or a zip archive, but does not exist"
    assert refusal(tmp_path / "b.zip").endswith(sentence)


@pytest.mark.parametrize("name", ["6-1-A.ogg", "1-x-A.ogg", "1-100032.ogg", "bark.wav"])
def test_a_recording_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "esc.zip", ESC_10 | {f"x/001 - Dog bark/{name}": b""})
    assert f"the name of x/001 - Dog bark/{name} must be a fold, a number" in refusal(path)


def test_a_repeated_recording_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "esc.zip", ESC_10 | {"x/003 - Sea/1-100032-A.wav": b""})
    sentence = refusal(path)
    assert "has the recording 1-100032-A twice: " in sentence
    assert sentence.endswith(" and x/003 - Sea/1-100032-A.wav")


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        (ESC_50[META] + b"2-1-A-0.wav,,,dog\n3-1-A-0.wav,,,dog\n", "2 files of ESC-50-master/meta"),
        (b"filename,target\n5-9032-A-0.wav,0\n", "must have a filename and a category"),
        (b"\xff\xfe", "must be a CSV table"),
        (b"", "must be the archive of ESC-10, with"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, meta: bytes, sentence: str) -> None:
    assert sentence in refusal(write(tmp_path / "esc.zip", ESC_50 | {META: meta}))


def test_damage_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "esc.zip", ESC_10)
    source = Source(path)
    recordings = source.recordings()
    data = bytearray(path.read_bytes())
    at = data.index(b"5-212454-B.ogg") + len("5-212454-B.ogg")
    data[at : at + 2] = b"\xff\xff"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"001 - Dog bark/5-212454-B.ogg cannot be read \("):
        list(source.contents(recordings))
    path.write_bytes(data[: len(data) // 2])
    assert "must be a folder or a complete zip archive" in refusal(path)


@pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")
def test_the_real_esc_10() -> None:
    source = Source(Path(MIRROR) / f"github.com/karoldvl/ESC-10/archive/{COMMIT}.zip")
    recordings = source.recordings()
    assert len(recordings) == 400
    labels = Counter(recording.labels for recording in recordings)
    assert len(labels) == 10
    assert set(labels.values()) == {40}
    assert {len(recording.labels) for recording in recordings} == {1}
    folds = Counter(recording.fold for recording in recordings)
    assert folds == dict.fromkeys(range(1, 6), 80)
    groups = {(recording.group, recording.fold) for recording in recordings}
    assert len(groups) == len({group for group, _ in groups})  # each is in one fold
    few = recordings[::50]
    contents = dict(source.contents(few))
    assert sorted(contents) == list(range(8))
    assert {content[:4] for content in contents.values()} == {b"OggS"}
