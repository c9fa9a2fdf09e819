"""The class list: read in order, or refused in one sentence."""

from pathlib import Path

import pytest

from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.sources.audioset.labels import is_sample, read_labels
from tagging.sources.audioset.sample import labels_csv


def test_reads_names_with_commas_and_quotes(tmp_path: Path) -> None:
    lines = labels_csv().splitlines()
    lines[1] = '0,/m/09x0r,"Speech, ""loud"""'
    (tmp_path / "x.csv").write_text("\r\n".join(lines) + "\r\n")
    labels = read_labels(tmp_path / "x.csv")
    assert len(labels) == 527
    assert labels[0] == Class("/m/09x0r", 'Speech, "loud"')
    assert [label.name for label in labels[1:]] == [line.split(",")[2] for line in lines[2:]]
    assert is_sample(labels)
    assert not is_sample(labels[:1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lines: [], "the columns must be index,mid,display_name, got ''"),
        (lambda lines: ["<html>"], "must be index,mid,display_name, got '<html>'"),
        (lambda lines: lines[:-1], "must have AudioSet's 527 classes, got 526"),
        (lambda lines: [*lines, "527,/m/1,More"], "classes, got 528"),
        (lambda lines: [lines[0], *lines[2:]], "line 2 must have index 0, a machine id and a"),
        (lambda lines: [*lines[:5], "4,/m/1"], "line 6 must have index 4, a machine id and a"),
        (lambda lines: [*lines[:5], "4,/m/1,x,y"], "a name, got ['4', '/m/1', 'x', 'y']"),
        (lambda lines: [*lines[:2], "1,/m/1,Sample label 0", *lines[3:]], "'Sample label 0' twice"),
        (lambda lines: [lines[0], "x" * 200_000], "must be a CSV table (field"),
    ],
)  # fmt: skip
def test_refuses_other_lists(tmp_path: Path, change, sentence: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text("".join(f"{line}\n" for line in change(labels_csv().splitlines())))
    with pytest.raises(UserError) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}")
    assert sentence in str(caught.value)


def test_refuses_a_missing_file_and_bytes_that_are_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.csv is missing; run dvc repro"):
        read_labels(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes(b"index,mid,display_name\n0,\xff\xfe,\n")
    with pytest.raises(UserError, match="must be a CSV table"):
        read_labels(tmp_path / "x.csv")
