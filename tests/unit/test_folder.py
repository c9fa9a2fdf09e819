"""Folders of recordings with a `clips.csv`, valid and not."""

import re
import zipfile
from pathlib import Path

import pytest

from tagging.base.errors import UserError
from tagging.sources.folder import Source
from tagging.sources.recording import Recording

COLUMNS = "file, labels, group, fold, split, start, end"
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
    """Return the error of a table, without the path of its folder."""
    with pytest.raises(UserError) as caught:
        Source(write(folder, table)).recordings()
    return str(caught.value).replace(f"{folder}/", "")


def test_files_and_labels_are_enough(tmp_path: Path) -> None:
    source = Source(write(tmp_path, "file,labels\ndeep/c.flac,dog\na.wav,dog;rain; car\n"))
    recordings = source.recordings()
    assert recordings == [
        Recording("deep/c.flac", "deep/c.flac", ("dog",)),
        Recording("a.wav", "a.wav", ("dog", "rain", "car")),
    ]
    assert list(source.contents(recordings)) == [
        (0, tmp_path / "deep/c.flac"),
        (1, tmp_path / "a.wav"),
    ]


def test_all_columns_in_any_order_with_a_mark_and_carriage_returns(tmp_path: Path) -> None:
    table = (
        "\ufefflabels,file,fold,group,split,end,start\r\n"
        '"dog, big",a.wav,1,tape,train,1.5,.5\r\n\r\nrain,a.wav,1,tape,train,,2\r\n'
        "rain,./b.wav,02,,val,1e1,\r\nrain,deep/c.flac,3,,test,,\r\n"
    )
    source = Source(write(tmp_path, table))
    recordings = source.recordings()
    assert recordings == [
        Recording("a.wav@0.5-1.5", "a.wav", ("dog, big",), "tape", 1, "train", 0.5, 1.5),
        Recording("a.wav@2.0-", "a.wav", ("rain",), "tape", 1, "train", 2.0),
        Recording("b.wav@0.0-10.0", "b.wav", ("rain",), "", 2, "val", 0.0, 10.0),
        Recording("deep/c.flac", "deep/c.flac", ("rain",), "", 3, "test"),
    ]
    assert dict(source.contents(recordings)) == {
        position: tmp_path / file
        for position, file in enumerate(["a.wav", "a.wav", "b.wav", "deep/c.flac"])
    }


def test_the_parts_of_a_recording_are_a_group(tmp_path: Path) -> None:
    table = "file,labels,end\na.wav,dog,1\n./a.wav,dog,2\nb.wav,dog,1\n"
    recordings = Source(write(tmp_path, table)).recordings()
    assert [recording.group for recording in recordings] == ["a.wav", "a.wav", ""]


@pytest.mark.parametrize("top", ["", "sounds/"])
def test_a_folder_in_a_zip_archive(tmp_path: Path, top: str) -> None:
    path = tmp_path / "sounds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}b.wav", b"b")
        archive.writestr(f"{top}clips.csv", "file,labels\na.wav,dog\nb.wav,dog\n")
        archive.writestr(f"{top}a.wav", b"a")
    source = Source(path)
    recordings = source.recordings()
    assert [recording.file for recording in recordings] == ["a.wav", "b.wav"]
    assert list(source.contents(recordings)) == [(1, b"b"), (0, b"a")]  # in the archive's order


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_in_a_zip_archive_that_does_not_flag_their_encoding(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "sounds.zip"
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}.wav"
    written_name = "x" * len(name.encode(encoding))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(written_name, b"sound")
        archive.writestr("clips.csv", f"file,labels\n{name},dog\n")
    path.write_bytes(path.read_bytes().replace(written_name.encode(), name.encode(encoding)))
    source = Source(path)
    assert list(source.contents(source.recordings())) == [(0, b"sound")]


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must have one clips\.csv, got none: a table with the"):
        Source(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/clips.csv", "")
        archive.writestr("b/clips.csv", "")
    with pytest.raises(UserError, match=r"a\.zip must have one clips\.csv, got 2: "):
        Source(tmp_path / "a.zip")


def test_a_recording_that_vanished_is_named(tmp_path: Path) -> None:
    source = Source(write(tmp_path, "file,labels\na.wav,dog\n"))
    recordings = source.recordings()
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UserError, match=r"a\.wav cannot be read: No such file"):
        list(source.contents(recordings))


# The table.


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "clips.csv must have the columns file, labels, got no file; optional are group"),
        ("file\na.wav\n", "clips.csv must have the columns file, labels, got no labels"),
        ("file,labels\n", "clips.csv must have a row for each clip, got none"),
        (
            "file,labels,tags\na.wav,dog,x\n",
            f"clips.csv: columns must be some of {COLUMNS}, got 'tags'",
        ),
        (
            "file;labels\na.wav;dog\n",
            f"clips.csv: columns must be some of {COLUMNS}, got 'file;labels'",
        ),
        ("file,labels,labels\na.wav,dog,x\n", "clips.csv has the column labels twice"),
        (
            "file,labels\na.wav,dog,rain\n",
            "clips.csv, line 2 must have 2 values, one for each col",
        ),
        (
            "file,labels\na.wav,dog\nb.wav\n",
            "clips.csv, line 3 must have 2 values, one for each col",
        ),
        (
            'file,labels\na.wav,"dog\n',
            'clips.csv, line 2: values must be separated by commas, with " around',
        ),
        (b"file,labels\na.wav,\xe9t\xe9\n", "clips.csv must be text in UTF-8"),
    ],
)
def test_a_file_that_is_not_such_a_table(tmp_path: Path, table: str | bytes, sentence: str) -> None:
    assert refusal(tmp_path, table).startswith(sentence)


def test_empty_rows_and_columns_of_spreadsheets_are_passed_over(tmp_path: Path) -> None:
    table = (
        ",,,,\r\nfile,,labels,,\r\n,,,,\r\na.wav,,dog,,\r\n , ,\u200b,,,,\r\n\r\n"
        "b.wav,,rain,,,,\r\n,,,,\r\n"
    )
    recordings = Source(write(tmp_path, table)).recordings()
    assert recordings == [
        Recording("a.wav", "a.wav", ("dog",)), Recording("b.wav", "b.wav", ("rain",))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("file,,labels\na.wav,,dog\nb.wav,x,dog\n", "3: 'x' is in a column without a name"),
        ("file,labels,\na.wav,dog,\nb.wav,dog,x\n", "3 must have 2 values, one for each"),
        ("\n,,\nfile,labels\n,\na.wav,dog\nb.wav\n", "6 must have 2 values, one for each"),
    ],
)
def test_lines_are_those_of_the_file(tmp_path: Path, table: str, sentence: str) -> None:
    assert refusal(tmp_path, table).startswith(f"clips.csv, line {sentence}")


# Files.


def test_missing_files_are_all_named_with_their_first_lines(tmp_path: Path) -> None:
    table = "file,labels\na.wav,dog\nx.wav,dog\ndeep,dog\nx.wav,dog\n"
    assert refusal(tmp_path, table) == (
        "clips.csv: 2 files do not exist\n"
        "  line 3: x.wav does not exist\n"
        "  line 4: deep does not exist"
    )
    table = "".join(f"{number}.wav,dog\n" for number in range(1023))
    *_, last, more = refusal(tmp_path, f"file,labels\n{table}").splitlines()
    assert (last, more) == ("  line 21: 19.wav does not exist", "  1,003 more")


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("A.wav", "'A.wav' does not exist, but 'a.wav' does"),
        ("a.wav ", "'a.wav ' does not exist, but 'a.wav' does"),
        ("\u200ba.wav", "'\\u200ba.wav' does not exist, but 'a.wav' does"),
        ("\uff41.wav", "'\\uff41.wav' does not exist, but 'a.wav' does"),
    ],
)
def test_a_missing_file_is_shown_beside_one_that_looks_alike(
    tmp_path: Path, file: str, shown: str
) -> None:
    assert refusal(tmp_path, f"file,labels\n{file},dog\n") == f"clips.csv, line 2: {shown}"


COMPOSED, DECOMPOSED = "caf\u00e9.wav", "cafe\u0301.wav"


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        ("deep/c.flac", "deep\\c.flac"),
        ("deep/c.flac", ".\\deep\\c.flac"),
        (f"deep/{DECOMPOSED}", f"deep\\{COMPOSED}"),
        ("deep\\c.wav", "deep\\c.wav"),  # a backslash in a name
    ],
)
def test_a_file_is_found_by_its_other_unicode_form_and_with_backslashes(
    tmp_path: Path, kind: str, name: str, file: str
) -> None:
    table = f"file,labels\n{file},dog\n"
    if kind == "folder":
        path = write(tmp_path, table)
        (path / name).write_bytes(name.encode())
    else:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("top/clips.csv", table)
            archive.writestr(f"top/{name}", name.encode())
    source = Source(path)
    (recording,) = recordings = source.recordings()
    assert (recording.file, recording.id) == (name, name)
    ((_, content),) = source.contents(recordings)
    read = content.read_bytes() if isinstance(content, Path) else content
    assert read == name.encode()


def test_two_files_whose_names_look_alike_are_two_files(tmp_path: Path) -> None:
    table = f"file,labels\n{COMPOSED},dog\n{DECOMPOSED},dog\n"
    write(tmp_path, table)
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / name).write_bytes(b"")
    files = [recording.file for recording in Source(tmp_path).recordings()]
    assert files == [COMPOSED, DECOMPOSED]


def test_a_file_in_two_forms_is_one_clip(tmp_path: Path) -> None:
    (tmp_path / COMPOSED).write_bytes(b"")
    sentence = refusal(tmp_path, f"file,labels\n{COMPOSED},dog\n{DECOMPOSED},rain\n")
    assert sentence.startswith(f"clips.csv, lines 2 and 3: {COMPOSED} must have one row")


@pytest.mark.parametrize("file", ["../a.wav", "deep/../../a.wav", "..\\a.wav", "/etc/passwd", ""])
def test_a_file_outside_the_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    sentence = f"clips.csv, line 2: file must be in the folder, got {file!r}"
    assert refusal(tmp_path / "folder", f"file,labels\n{file},dog\n") == sentence


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert refusal(tmp_path, f"file,labels\n{'x' * 5000},dog\n").endswith("x does not exist")


# Labels.


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("Dog", "dog", "'Dog' and 'dog'"),
        ("Stra\u00dfe", "STRASSE", "'Stra\u00dfe' and 'STRASSE'"),
        ("big dog", "big  dog", "'big dog' and 'big  dog'"),
        ("big dog", "big\u00a0dog", r"'big dog' and 'big\xa0dog'"),
        ("dog", "d\u200bog", r"'dog' and 'd\u200bog'"),
        ("dog", "do\u00adg", r"'dog' and 'do\xadg'"),
        ("film", "\ufb01lm", r"'film' and '\ufb01lm'"),
    ],
)
def test_a_label_in_two_spellings(tmp_path: Path, one: str, other: str, shown: str) -> None:
    sentence = f"a label must have one spelling, got {shown}"
    two_rows = refusal(tmp_path, f"file,labels\na.wav,{one}\nb.wav,{other}\n")
    assert two_rows == f"clips.csv, lines 2 and 3: {sentence}"
    one_row = refusal(tmp_path, f"file,labels\na.wav,{one};{other}\n")
    assert one_row == f"clips.csv, line 2: {sentence}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dog", " dog"), ("dog ", "dog"), ("dog\u3000", "dog"), ("dog\u200b", "dog"),
        ("\ufeffdog", "dog"), ("\u00e9t\u00e9", "e\u0301te\u0301"),
    ],
)  # fmt: skip
def test_spaces_marks_and_unicode_forms_make_no_other_label_or_group(
    tmp_path: Path, one: str, other: str
) -> None:
    table = f"file,labels,group\na.wav,{one},{one}\nb.wav,{other},{other}\n"
    recordings = Source(write(tmp_path, table)).recordings()
    label = "\u00e9t\u00e9" if "t" in one else "dog"
    assert [(recording.labels, recording.group) for recording in recordings] == [
        ((label,), label)
    ] * 2


@pytest.mark.parametrize(
    "label", ["\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e", "<b>", "a 'b'", "x" * 200]
)
def test_emoji_joiners_inside_and_marks_of_languages_stay(tmp_path: Path, label: str) -> None:
    (recording,) = Source(write(tmp_path, f"file,labels\na.wav,{label}\n")).recordings()
    assert recording.labels == (label,)


@pytest.mark.parametrize("label", ["do\x00g", "do\x07g", "do\tg", "do\x85g", '"do\ng"'])
def test_a_label_with_a_control_character(tmp_path: Path, label: str) -> None:
    sentence = refusal(tmp_path, f"file,labels\na.wav,{label}\n")
    line = 3 if "\n" in label else 2
    assert sentence == (
        f"clips.csv, line {line}: a label must have no control character, got "
        f"{label.strip(chr(34))!a}"
    )


@pytest.mark.parametrize("separator", [",", ", ", "|", "/"])
def test_labels_with_another_separator_are_refused_with_the_lines(
    tmp_path: Path, separator: str
) -> None:
    label = f"Bark{separator}dog"
    sentence = refusal(tmp_path, f'file,labels\na.wav,"{label}"\nb.wav,Dog\n')
    assert sentence == (
        f"clips.csv, line 2: the label {label!r} has parts that are labels of other rows, 'Dog' "
        "(line 3); write Bark;dog if these are several labels, or rename one if not"
    )
    table = f'file,labels\na.wav,"{label}"\nb.wav,"Cat{separator}bird"\n'
    labels = [recording.labels for recording in Source(write(tmp_path, table)).recordings()]
    assert labels == [(label,), (f"Cat{separator}bird",)]


@pytest.mark.parametrize("labels", ["", " ", ";", "dog;", "dog; ;rain"])
def test_a_row_without_labels_or_with_an_empty_one(tmp_path: Path, labels: str) -> None:
    assert refusal(tmp_path, f"file,labels\na.wav,dog\nb.wav,{labels}\n") == (
        f"clips.csv, line 3: labels must be one or more, separated by ;, got {labels!r}"
    )


def test_a_label_twice_in_a_row(tmp_path: Path) -> None:
    assert "a.wav has a label twice" in refusal(tmp_path, "file,labels\na.wav,dog;rain;dog\n")


# Numbers.


@pytest.mark.parametrize("text", ["x", "1.0", "-1", "1_0", "nan", " 1", "٣", "1e3"])
def test_a_fold_that_is_not_a_number(tmp_path: Path, text: str) -> None:
    sentence = f"clips.csv, line 2: fold must be a whole number, got {text!r}"
    assert refusal(tmp_path, f"file,labels,fold\na.wav,dog,{text}\n") == sentence


@pytest.mark.parametrize("column", ["start", "end"])
@pytest.mark.parametrize("text", ["x", "-1", "1_0", "nan", "inf", "1e999", "0x1", ".", " 1", "٣"])
def test_a_time_that_is_not_a_number(tmp_path: Path, column: str, text: str) -> None:
    sentence = f"clips.csv, line 2: {column} must be seconds, 0 or more, got {text!r}"
    assert refusal(tmp_path, f"file,labels,{column}\na.wav,dog,{text}\n") == sentence


@pytest.mark.parametrize(("start", "end"), [("2", "1"), ("1", "1.0"), ("", "0")])
def test_a_start_that_is_not_before_the_end(tmp_path: Path, start: str, end: str) -> None:
    sentence = refusal(tmp_path, f"file,labels,start,end\na.wav,dog,{start},{end}\n")
    assert sentence.startswith("clips.csv, line 2: start must be less than end, ")


def test_an_unknown_split(tmp_path: Path) -> None:
    sentence = "clips.csv, line 2: split must be one of train, val, test, got 'dev'"
    assert refusal(tmp_path, "file,labels,split\na.wav,dog,dev\n") == sentence


# Clips that contradict each other.


def test_a_clip_in_two_folds(tmp_path: Path) -> None:
    assert refusal(tmp_path, "file,labels,fold\na.wav,dog,1\nb.wav,dog,1\n./a.wav,rain,2\n") == (
        "clips.csv, lines 2 and 4: a.wav must be in one fold, got 1 and 2"
    )
    assert "lines 2 and 3: a.wav must be in one split, got train and test" in refusal(
        tmp_path, "file,labels,split\na.wav,dog,train\na.wav,dog,test\n"
    )


@pytest.mark.parametrize("second", ["a.wav,rain,0,", "a.wav,dog,,"])
def test_a_repeated_clip(tmp_path: Path, second: str) -> None:
    sentence = refusal(tmp_path, f"file,labels,start,end\na.wav,dog,,\n{second}\n")
    assert re.search("lines 2 and 3: a.wav.* must have one row, with all its labels$", sentence)


@pytest.mark.parametrize(
    ("column", "one", "other"), [("fold", "1", "2"), ("split", "train", "val")]
)
def test_a_group_in_two_folds_or_splits(tmp_path: Path, column: str, one: str, other: str) -> None:
    table = f"file,labels,group,{column}\na.wav,dog,tape,{one}\nb.wav,dog,tape,{other}\n"
    values = f"must be in one {column}, got {one} and {other}"
    assert refusal(tmp_path, table) == f"clips.csv, line 3: the group tape {values}"
    # The parts of a recording are a group, unless the table says otherwise.
    parts = f"file,labels,group,start,{column}\na.wav,dog,{{}},1,{one}\na.wav,dog,{{}},2,{other}\n"
    assert f"the group a.wav {values}" in refusal(tmp_path, parts.format("", ""))
    assert len(Source(write(tmp_path, parts.format("x", "y"))).recordings()) == 2


def test_a_fold_for_some_clips_only(tmp_path: Path) -> None:
    assert refusal(tmp_path, "file,labels,fold\na.wav,dog,1\nb.wav,dog,\n") == (
        "clips.csv, line 3: fold must be there for all clips or for none"
    )
