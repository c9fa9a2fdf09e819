"""Errors that a user can cause are one sentence; bugs keep their traceback."""

import errno
import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tagging.base.errors import USER_ERRNOS, UserError, entry_point
from tagging.base.files import atomic_write, write_text
from tagging.data.spec import InputSpec
from tagging.learning.factory import build_network
from tagging.learning.model import Model
from tagging.networks import yac
from tests.archives import ROOT


def stage(error: BaseException):
    @entry_point
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("a.txt holds nothing"), "error: a.txt holds nothing"),
        (OSError(errno.ENOSPC, "No space left", "a.txt"), "error: a.txt: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "error: b: Permission denied"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "error: Disk quota exceeded"),
    ],
)
def test_errors_that_a_user_can_fix_are_one_sentence(error, sentence, monkeypatch) -> None:
    with pytest.raises(SystemExit) as ended:
        stage(error)()
    assert ended.value.code == sentence
    monkeypatch.setenv("TAGGING_TRACEBACK", "1")
    with pytest.raises(type(error)) as raised:
        stage(error)()
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "our.json"),
        OSError(errno.EINVAL, "Invalid argument"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        OSError("a library's own words"),
        ValueError("ours"),
    ],
)
def test_bugs_keep_their_traceback(error) -> None:
    assert getattr(error, "errno", None) not in USER_ERRNOS
    with pytest.raises(type(error)) as raised:
        stage(error)()
    assert raised.value is error


def test_an_interrupted_stage_prints_nothing() -> None:
    with pytest.raises(SystemExit) as ended:
        stage(KeyboardInterrupt())()
    assert ended.value.code == 130


def test_a_stage_shows_its_usage(monkeypatch) -> None:
    @entry_point
    def main(folder: str, entry: str) -> None:
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["/x/stages/train.py"])
    for arguments in ([], ["."], [".", "a", "b"]):
        usage = "error: usage: python -m stages.train <folder> <entry>"
        with pytest.raises(SystemExit, match=f"^{usage}$"):
            main(*arguments)


def test_a_bug_of_a_constructor_keeps_its_traceback(monkeypatch) -> None:
    model, spec = Model(architecture="yac", network={"head": "logits"}), InputSpec(1, 10, 128)

    def wrong(*_: object) -> None:
        raise ValueError("a kernel of size -1")

    monkeypatch.setattr(yac, "Network", wrong)
    with pytest.raises(ValueError, match="a kernel of size -1"):
        build_network(model, spec, 10, "mine")


def test_sizes_and_lengths_that_a_network_does_not_support_are_one_sentence() -> None:
    model = Model(architecture="yac", network={"head": "logits"})
    with pytest.raises(
        UserError, match=r"models\.mine: clips for the architecture yac must have at least 5"
    ):
        build_network(model, InputSpec(1, 3, 128), 10, "mine")
    with pytest.raises(
        UserError, match=r"models\.mine: clips must all have 10 frames for yac, but some"
    ):
        build_network(model, InputSpec(1, 10, 128, any_length=True), 10, "mine")
    with pytest.raises(UserError, match=r"architecture must be one of ast, .*, got 'vgg'$"):
        build_network(Model(architecture="vgg"), InputSpec(1, 10, 128), 10, "mine")
    torch.manual_seed(0)
    build_network(Model(architecture="lstm", network={"hidden": 4, "layers": 1, "dropout": 0}),
          InputSpec(1, 10, 128, any_length=True), 10, "mine")  # fmt: skip


# Written files.


def test_files_are_written_atomically(tmp_path: Path) -> None:
    file = tmp_path / "a/x"
    write_text(file, "é")
    with pytest.raises(KeyError), atomic_write(file) as partial:
        partial.write_text("half")
        raise KeyError
    assert [path.name for path in file.parent.iterdir()] == ["x"]
    assert file.read_text(encoding="utf-8") == "é"


def test_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    code = (
        "import os; os.umask(0o027); from pathlib import Path;"
        "from tagging.base.files import atomic_write, write_text;"
        "write_text(Path('x'), ''); print(oct(os.stat('x').st_mode))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "0o100640\n"


@pytest.mark.parametrize("length", [128, 129, 243, 250, 255])
def test_files_with_long_names_are_written(tmp_path: Path, length: int) -> None:
    file = tmp_path / f"{'é' * (length // 2)}{'x' * (length % 2)}"
    for text in ("one", "two"):
        write_text(file, text)
        assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_files_are_written_to_file_systems_without_modes(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_text(tmp_path / "x", "text")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["text"]


def test_files_are_flushed_while_they_are_open_for_writing(tmp_path: Path, monkeypatch) -> None:
    """Windows refuses to flush others."""
    flushed = []

    def flush(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    write_text(tmp_path / "x", "text")
    assert flushed and (tmp_path / "x").read_text() == "text"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_a_terminal_lacks_are_escaped(encoding: str, monkeypatch) -> None:
    @entry_point
    def main() -> None:
        print("\u266b")

    for errors, expected in (("strict", b"\\u266b\n"), ("replace", b"?\n")):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="\n")
        monkeypatch.setattr(sys, "stdout", stdout)
        main()
        stdout.flush()
        assert stdout.buffer.getvalue() == expected


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"),
     RuntimeError("I/O error: No space left on device (os error 28)")],
)  # fmt: skip
def test_a_full_disk_names_the_file(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "x"):
        raise error
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    with pytest.raises(RuntimeError, match="another"), atomic_write(tmp_path / "x"):
        raise RuntimeError("another (os error 5)")
