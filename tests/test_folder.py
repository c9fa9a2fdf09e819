"""Folders of recordings with a `clips.csv`, good and bad."""

import zipfile
from pathlib import Path

import pytest

from tagging.base.errors import UserError
from tagging.sources.folder import Source
from tagging.sources.recording import Recording

NAMES = ("a.wav", "b.wav", "deep/c.flac")


def write(folder: Path, table: str | bytes) -> Path:
    """Write three recordings and the table; a recording's bytes are its name."""
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    content = table.encode() if isinstance(table, str) else table
    (folder / "clips.csv").write_bytes(content)
    return folder


def refusal(folder: Path, table: str | bytes) -> str:
    """Return what is said of the table, without the folder it lies in."""
    with pytest.raises(UserError) as caught:
        Source(write(folder, table)).recordings()
    return str(caught.value).replace(f"{folder}/", "")


def test_files_and_labels_are_enough(tmp_path: Path) -> None:
    source = Source(write(tmp_path, "file,labels\ndeep/c.flac,dog\na.wav,dog;rain; car\n"))
    found = source.recordings()
    assert found == [
        Recording("deep/c.flac", "deep/c.flac", ("dog",)),
        Recording("a.wav", "a.wav", ("dog", "rain", "car")),
    ]
    assert list(source.contents(found)) == [(0, tmp_path / "deep/c.flac"), (1, tmp_path / "a.wav")]


def test_all_columns_in_any_order_with_a_mark_and_carriage_returns(tmp_path: Path) -> None:
    table = (
        "\ufefflabels,file,fold,group,split,end,start\r\n"
        '"dog, big",a.wav,1,tape,train,1.5,.5\r\n\r\nrain,a.wav,1,tape,train,,2\r\n'
        "rain,./b.wav,02,,val,1e1,\r\nrain,deep/c.flac,3,,test,,\r\n"
    )
    source = Source(write(tmp_path, table))
    found = source.recordings()
    assert found == [
        Recording("a.wav@0.5-1.5", "a.wav", ("dog, big",), "tape", 1, "train", 0.5, 1.5),
        Recording("a.wav@2.0-", "a.wav", ("rain",), "tape", 1, "train", 2.0),
        Recording("b.wav@0.0-10.0", "b.wav", ("rain",), "", 2, "val", 0.0, 10.0),
        Recording("deep/c.flac", "deep/c.flac", ("rain",), "", 3, "test"),
    ]
    assert dict(source.contents(found)) == {
        place: tmp_path / file
        for place, file in enumerate(["a.wav", "a.wav", "b.wav", "deep/c.flac"])
    }


def test_the_parts_of_a_recording_are_a_group(tmp_path: Path) -> None:
    table = "file,labels,end\na.wav,dog,1\n./a.wav,dog,2\nb.wav,dog,1\n"
    found = Source(write(tmp_path, table)).recordings()
    assert [recording.group for recording in found] == ["a.wav", "a.wav", ""]


@pytest.mark.parametrize("top", ["", "sounds/"])
def test_a_folder_in_a_zip_archive(tmp_path: Path, top: str) -> None:
    path = tmp_path / "sounds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}b.wav", b"b")
        archive.writestr(f"{top}clips.csv", "file,labels\na.wav,dog\nb.wav,dog\n")
        archive.writestr(f"{top}a.wav", b"a")
    source = Source(path)
    found = source.recordings()
    assert [recording.file for recording in found] == ["a.wav", "b.wav"]
    assert list(source.contents(found)) == [(1, b"b"), (0, b"a")]  # as they lie there


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no clips\.csv; it takes one, a table of file, lab"):
        Source(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/clips.csv", "")
        archive.writestr("b/clips.csv", "")
    with pytest.raises(UserError, match=r"a\.zip holds 2 clips\.csv; it takes one"):
        Source(tmp_path / "a.zip")


def test_a_recording_that_vanished_is_named(tmp_path: Path) -> None:
    source = Source(write(tmp_path, "file,labels\na.wav,dog\n"))
    found = source.recordings()
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UserError, match=r"a\.wav cannot be read: No such file"):
        list(source.contents(found))


# The table as such.


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "clips.csv has no column file; it takes file, labels and, where there are, group"),
        ("file\na.wav\n", "clips.csv has no column labels; it takes"),
        ("file,labels\n", "clips.csv lists no clip; it takes a row for each"),
        ("file,labels,tags\na.wav,dog,x\n", "clips.csv has the column 'tags'; it takes file, lab"),
        ("file;labels\na.wav;dog\n", "clips.csv has the column 'file;labels'; it takes file, lab"),
        ("file,labels,labels\na.wav,dog,x\n", "clips.csv has the column labels twice"),
        ("file,labels\na.wav,dog,rain\n", "clips.csv, line 2: 3 values; it takes 2, one for each"),
        ("file,labels\na.wav,dog\nb.wav\n", "clips.csv, line 3: 1 values; it takes 2, one for ea"),
        ('file,labels\na.wav,"dog\n', "clips.csv, line 2: unexpected end of data; it takes"),
        (b"file,labels\na.wav,\xe9t\xe9\n", "clips.csv is no text in UTF-8"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, table: str | bytes, sentence: str) -> None:
    assert refusal(tmp_path, table).startswith(sentence)


# Files.


def test_all_files_that_are_not_there_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    table = "file,labels\na.wav,dog\nx.wav,dog\ndeep,dog\nx.wav,dog\n"
    assert refusal(tmp_path, table) == (
        "clips.csv names 2 files that are not there, first x.wav (line 3); it takes files below "
        "its folder"
    )
    assert "names a file that is not there, first A.wav" in refusal(
        tmp_path, "file,labels\nA.wav,dog\n"
    )


@pytest.mark.parametrize("file", ["../a.wav", "deep/../../a.wav", "/etc/passwd", ""])
def test_a_file_outside_the_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    sentence = f"clips.csv, line 2: the file is {file!r}; it takes one below the folder"
    assert refusal(tmp_path / "folder", f"file,labels\n{file},dog\n") == sentence


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert "a file that is not there" in refusal(tmp_path, f"file,labels\n{'x' * 5000},dog\n")


# Labels.


@pytest.mark.parametrize(
    ("one", "other"), [("Dog", "dog"), ("dog", " dog"), ("dog ", "dog"), ("été", "e\u0301te\u0301")]
)
def test_a_label_in_two_spellings(tmp_path: Path, one: str, other: str) -> None:
    sentence = f"clips.csv has the labels {one!r} and {other!r}; it takes one spelling of a label"
    assert refusal(tmp_path, f"file,labels\na.wav,{one}\nb.wav,{other}\n") == sentence
    assert refusal(tmp_path, f"file,labels\na.wav,{one};{other}\n") == sentence


@pytest.mark.parametrize("labels", ["", " ", ";", "dog;", "dog; ;rain"])
def test_a_row_without_labels_or_with_one_that_is_none(tmp_path: Path, labels: str) -> None:
    assert refusal(tmp_path, f"file,labels\na.wav,dog\nb.wav,{labels}\n") == (
        f"clips.csv, line 3: b.wav has the labels {labels!r}; it takes one or more, with ; in "
        "between"
    )


def test_a_label_twice_in_a_row(tmp_path: Path) -> None:
    assert "a.wav has a label twice" in refusal(tmp_path, "file,labels\na.wav,dog;rain;dog\n")


# Numbers.


@pytest.mark.parametrize("text", ["x", "1.0", "-1", "1_0", "nan", " 1", "٣", "1e3"])
def test_a_fold_that_is_none(tmp_path: Path, text: str) -> None:
    sentence = f"clips.csv, line 2: the fold is {text!r}; it takes a whole number"
    assert refusal(tmp_path, f"file,labels,fold\na.wav,dog,{text}\n") == sentence


@pytest.mark.parametrize("column", ["start", "end"])
@pytest.mark.parametrize("text", ["x", "-1", "1_0", "nan", "inf", "1e999", "0x1", ".", " 1", "٣"])
def test_a_time_that_is_none(tmp_path: Path, column: str, text: str) -> None:
    sentence = f"clips.csv, line 2: the {column} is {text!r}; it takes seconds, a number from 0 on"
    assert refusal(tmp_path, f"file,labels,{column}\na.wav,dog,{text}\n") == sentence


@pytest.mark.parametrize(("start", "end"), [("2", "1"), ("1", "1.0"), ("", "0")])
def test_a_start_that_is_not_before_the_end(tmp_path: Path, start: str, end: str) -> None:
    sentence = refusal(tmp_path, f"file,labels,start,end\na.wav,dog,{start},{end}\n")
    assert sentence.startswith("clips.csv, line 2: the start ")
    assert " is not before the end " in sentence


def test_a_split_that_is_none(tmp_path: Path) -> None:
    sentence = "clips.csv, line 2: the split is 'dev'; it takes train, val, test"
    assert refusal(tmp_path, "file,labels,split\na.wav,dog,dev\n") == sentence


# Clips that stand in the way of each other.


def test_a_clip_in_two_folds(tmp_path: Path) -> None:
    assert refusal(tmp_path, "file,labels,fold\na.wav,dog,1\nb.wav,dog,1\n./a.wav,rain,2\n") == (
        "clips.csv has the clip a.wav in two folds, 1 and 2 (lines 2 and 4); it takes it in one"
    )
    assert "a.wav in two splits, train and test (lines 2 and 3)" in refusal(
        tmp_path, "file,labels,split\na.wav,dog,train\na.wav,dog,test\n"
    )


@pytest.mark.parametrize("second", ["a.wav,rain,0,", "a.wav,dog,,"])
def test_a_clip_twice(tmp_path: Path, second: str) -> None:
    assert "twice, in lines 2 and 3; it takes one row for each clip, with all its" in refusal(
        tmp_path, f"file,labels,start,end\na.wav,dog,,\n{second}\n"
    )


@pytest.mark.parametrize(
    ("column", "one", "other"), [("fold", "1", "2"), ("split", "train", "val")]
)
def test_a_group_in_two_folds_or_splits(tmp_path: Path, column: str, one: str, other: str) -> None:
    table = f"file,labels,group,{column}\na.wav,dog,tape,{one}\nb.wav,dog,tape,{other}\n"
    sentence = f"clips.csv has the group tape in two {column}s, {one} and {other}; it takes a group"
    assert refusal(tmp_path, table).startswith(sentence)
    # The parts of a recording are a group, unless the table says otherwise.
    parts = f"file,labels,group,start,{column}\na.wav,dog,{{}},1,{one}\na.wav,dog,{{}},2,{other}\n"
    assert "has the group a.wav in two" in refusal(tmp_path, parts.format("", ""))
    assert len(Source(write(tmp_path, parts.format("x", "y"))).recordings()) == 2


def test_a_fold_for_some_clips_alone(tmp_path: Path) -> None:
    assert refusal(tmp_path, "file,labels,fold\na.wav,dog,1\nb.wav,dog,\n") == (
        "clips.csv: b.wav (line 3) has no fold, but others have; it takes a fold for each clip or "
        "for none"
    )
