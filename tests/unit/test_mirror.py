"""Mirrors: folders and URLs that stand in for the addresses of `download`."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stages.download import (
    BUCKET,
    BUCKET_PATHS,
    ONTOLOGY_ADDRESS,
    Download,
    File,
    download_audioset,
    download_file,
)
from tagging.base.errors import UserError
from tagging.data.task_folder import TaskFolder
from tagging.sources import transfer
from tagging.sources.audioset.sample import labels_csv, ontology_json
from tests.archives import http_server, run_stage

DATA = b"any bytes will do " * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = "0" * 64
ARCHIVE, LABELS, ONTOLOGY = BUCKET_PATHS.values()
# Nothing listens on port 9: a request of the address itself would fail.
ADDRESS = "http://127.0.0.1:9/a/the%20b.zip"
IN_MIRROR = "127.0.0.1/a/the b.zip"
OUTPUT, FILE = Path("data/features.tar.gz"), Path("data/the b.zip")
TASK = TaskFolder(Path())

Serve = Callable[[str], str]  # returns the folder or the URL of ./mirror


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AUDIOSET_MIRROR", "DOWNLOAD_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    mirror = folder / "mirror"
    with ExitStack() as servers:
        yield (
            lambda kind: (
                str(mirror)
                if kind == "folder"
                else f"{servers.enter_context(http_server(mirror))}/"
            )
        )


def put(**files: bytes) -> None:
    for name, content in files.items():
        path = Path("mirror") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def fetch(sha256: str = SHA256, address: str = ADDRESS, name: str = FILE.name) -> None:
    download_file(File(address=address, sha256=sha256, name=name), "download.x", TASK, "none")


def fetch_audioset(source: str = "us", sha256: str = SHA256) -> None:
    download_audioset(Download(source=source, sha256=sha256), TASK, "none")


def refusal(fetch: Callable[..., None], *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        fetch(*arguments)
    return str(caught.value)


# DOWNLOAD_MIRROR.


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_it_has_files_under_host_and_path(
    kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(**{IN_MIRROR: DATA})
    monkeypatch.setenv("DOWNLOAD_MIRROR", serve(kind))
    fetch()
    assert FILE.read_bytes() == DATA
    assert [path.name for path in Path("data").iterdir()] == [FILE.name]


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_its_own_checksum_beside_a_file_counts(
    kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    put(**{IN_MIRROR: DATA, f"{IN_MIRROR}.sha256": f"{SHA256}  b.zip\n".encode()})
    monkeypatch.setenv("DOWNLOAD_MIRROR", serve(kind))
    fetch(OTHER)
    assert FILE.read_bytes() == DATA
    assert f"SHA-256 {SHA256}, the mirror's own, not the one pinned" in capfd.readouterr().err
    put(**{IN_MIRROR: DATA[:-1]})
    assert f"must have the SHA-256 {SHA256}" in refusal(fetch, OTHER)
    assert [path.name for path in Path("data").iterdir()] == [FILE.name]
    assert FILE.read_bytes() == DATA


def test_without_one_the_pinned_checksum_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    put(**{IN_MIRROR: DATA})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    assert f"must have the SHA-256 {OTHER}" in refusal(fetch, OTHER)
    assert not FILE.exists()


def test_a_checksum_file_without_a_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    put(**{IN_MIRROR: DATA, f"{IN_MIRROR}.sha256": b"not found"})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    sentence = f"mirror/{IN_MIRROR}.sha256 must begin with a SHA-256"
    assert refusal(fetch) == sentence


def test_a_file_that_it_lacks_is_requested_nowhere_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    assert refusal(fetch) == (
        f"the b.zip is not available: mirror/{IN_MIRROR} does not exist; DOWNLOAD_MIRROR is set "
        "and stands in for every address"
    )


def test_it_does_not_stand_in_for_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    Path("b.zip").write_bytes(DATA)
    Path("b.zip.sha256").write_text(OTHER)
    fetch(address="./b.zip", name="b.zip")
    assert Path("data/b.zip").read_bytes() == DATA


def test_a_part_from_the_address_is_not_mixed_with_the_mirrors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("data").mkdir()
    Path("data/the b.zip.part").write_bytes(b"x" * 1000)
    put(**{IN_MIRROR: DATA})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    fetch()
    assert FILE.read_bytes() == DATA


def test_a_relative_folder_is_the_repositorys_in_a_tasks_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(**{IN_MIRROR: DATA})
    task = folder / "tasks/esc10"
    task.mkdir(parents=True)
    (task / "params.yaml").write_text(
        f"download: {{x: {{address: '{ADDRESS}', sha256: '{SHA256}', name: '{FILE.name}'}}}}\n"
    )
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    done = run_stage(folder, "download", "x", task="tasks/esc10")
    assert done.returncode == 0, done.stderr
    assert (task / FILE).read_bytes() == DATA


# AUDIOSET_MIRROR, and both.


def put_audioset(root: str, **more: bytes) -> None:
    small = {LABELS: labels_csv().encode(), ONTOLOGY: ontology_json().encode()}
    files = {ARCHIVE: DATA} | small | more
    put(**{f"{root}{name}": content for name, content in files.items()})


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_audiosets_mirror_stands_in_for_the_bucket_alone(
    kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_audioset("")
    monkeypatch.setenv("AUDIOSET_MIRROR", serve(kind))
    fetch_audioset()
    assert OUTPUT.read_bytes() == DATA
    assert "not-here/" in refusal(fetch_audioset, "./not-here")


@pytest.mark.parametrize("variable", ["AUDIOSET_MIRROR", None])
def test_a_checksum_beside_audiosets_archive(
    variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_audioset("", **{f"{ARCHIVE}.sha256": SHA256.encode()})
    if variable:
        monkeypatch.setenv(variable, "mirror")
    fetch_audioset("us" if variable else "./mirror", OTHER)
    assert OUTPUT.read_bytes() == DATA


def test_the_other_mirror_has_the_bucket_under_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eu = BUCKET.format(region="eu").removeprefix("http://")
    put_audioset(f"{eu}/")
    put(**{ONTOLOGY_ADDRESS.removeprefix("https://"): ontology_json().encode()})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    fetch_audioset("us")  # the mirror has eu alone
    assert OUTPUT.read_bytes() == DATA
    assert Path("data/ontology.json").read_text() == ontology_json()


def test_audiosets_mirror_goes_first_and_may_lack_the_ontology(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_audioset("audioset/")
    Path("mirror/audioset", ONTOLOGY).unlink()
    put(**{f"all/{ONTOLOGY_ADDRESS.removeprefix('https://')}": ontology_json().encode()})
    monkeypatch.setenv("AUDIOSET_MIRROR", "mirror/audioset")
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror/all")
    fetch_audioset()
    assert Path("data/ontology.json").read_text() == ontology_json()
    put(**{f"audioset/{ONTOLOGY}": b"[]"})
    with pytest.raises(UserError, match=f"mirror/audioset/{ONTOLOGY} is not a valid ontology"):
        fetch_audioset()
