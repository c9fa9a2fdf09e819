"""Mirrors: folders and URLs that stand in for the addresses of `download`."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stages.download import BUCKET, IN_TREE, ONTOLOGY_ADDRESS, Download, File, download
from tagging.base.errors import UserError
from tagging.sources import transfer
from tagging.sources.audioset.sample import labels_csv, ontology_json
from tests.archives import assert_one_sentence, http_server, run_stage

DATA = b"any bytes will do " * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = "0" * 64
ARCHIVE, LABELS, ONTOLOGY = IN_TREE.values()
# Nothing listens on port 9: who asked the address itself would hear of it.
ADDRESS = "http://127.0.0.1:9/a/the%20b.zip"
IN_MIRROR = "127.0.0.1/a/the b.zip"
WHOLE, FILE = Path("data/features.tar.gz"), Path("data/the b.zip")

Serve = Callable[[str], str]  # what a kind of mirror is called by, for the folder ./mirror


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AUDIOSET_MIRROR", "DOWNLOAD_MIRROR", "DVC_ROOT"):
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


def bring(sha256: str = SHA256) -> None:
    download(Download(files=[File(address=ADDRESS, sha256=sha256)]), "none")


def bring_audioset(source: str = "us", sha256: str = SHA256, ontology: bool = False) -> None:
    download(Download(source=source, sha256=sha256, ontology=ontology), "none")


def refusal(bring: Callable[..., None], *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        bring(*arguments)
    return str(caught.value)


# DOWNLOAD_MIRROR.


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_it_holds_files_under_host_and_path(
    kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(**{IN_MIRROR: DATA})
    monkeypatch.setenv("DOWNLOAD_MIRROR", serve(kind))
    bring()
    assert FILE.read_bytes() == DATA
    assert [path.name for path in Path("data").iterdir()] == [FILE.name]


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_its_own_checksum_beside_a_file_holds(
    kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    put(**{IN_MIRROR: DATA, f"{IN_MIRROR}.sha256": f"{SHA256}  b.zip\n".encode()})
    monkeypatch.setenv("DOWNLOAD_MIRROR", serve(kind))
    bring(OTHER)
    assert FILE.read_bytes() == DATA
    assert f"SHA-256 {SHA256}, the mirror's own, not the one pinned" in capfd.readouterr().err
    put(**{IN_MIRROR: DATA[:-1]})
    assert f"it takes {SHA256}" in refusal(bring, OTHER)
    assert [path.name for path in Path("data").iterdir()] == [FILE.name]
    assert FILE.read_bytes() == DATA


def test_without_one_the_pinned_checksum_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    put(**{IN_MIRROR: DATA})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    assert f"it takes {OTHER}" in refusal(bring, OTHER)
    assert not FILE.exists()


def test_a_checksum_file_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    put(**{IN_MIRROR: DATA, f"{IN_MIRROR}.sha256": b"not found"})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    sentence = f"mirror/{IN_MIRROR}.sha256 does not begin with a SHA-256"
    assert refusal(bring) == sentence


def test_what_it_lacks_is_asked_for_nowhere_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    assert refusal(bring) == (
        f"the b.zip could not be fetched: mirror/{IN_MIRROR} is not there; DOWNLOAD_MIRROR is set "
        "and stands in for every address"
    )


def test_it_does_not_stand_in_for_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    Path("b.zip").write_bytes(DATA)
    Path("b.zip.sha256").write_text(OTHER)
    download(Download(files=[File(address="./b.zip", sha256=SHA256)]), "none")
    assert Path("data/b.zip").read_bytes() == DATA


def test_a_part_that_came_from_the_address_is_not_mixed_with_the_mirrors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("data").mkdir()
    Path("data/the b.zip.part").write_bytes(b"x" * 1000)
    put(**{IN_MIRROR: DATA})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    bring()
    assert FILE.read_bytes() == DATA


def test_a_relative_folder_is_the_projects_in_a_tasks_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(**{IN_MIRROR: DATA})
    task = folder / "tasks/esc10"
    task.mkdir(parents=True)
    (task / "params.yaml").write_text(
        f"download: {{files: [{{address: '{ADDRESS}', sha256: '{SHA256}'}}]}}\n"
        "run: {device: cpu, progress: none}\n"
    )
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    assert_one_sentence(run_stage(task, "download"), f"mirror/{IN_MIRROR} is not there")
    done = run_stage(task, "download", DVC_ROOT=str(folder))
    assert done.returncode == 0, done.stderr
    assert (task / FILE).read_bytes() == DATA


# AUDIOSET_MIRROR, and both.


def put_audioset(root: str, **more: bytes) -> None:
    files = {ARCHIVE: DATA, LABELS: labels_csv().encode()} | more
    put(**{f"{root}{name}": content for name, content in files.items()})


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_audiosets_mirror_stands_in_for_the_bucket_alone(
    kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_audioset("")
    monkeypatch.setenv("AUDIOSET_MIRROR", serve(kind))
    bring_audioset()
    assert WHOLE.read_bytes() == DATA
    assert "not-here/" in refusal(bring_audioset, "./not-here")


@pytest.mark.parametrize("variable", ["AUDIOSET_MIRROR", None])
def test_a_checksum_beside_audiosets_archive(
    variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_audioset("", **{f"{ARCHIVE}.sha256": SHA256.encode()})
    if variable:
        monkeypatch.setenv(variable, "mirror")
    bring_audioset("us" if variable else "./mirror", OTHER)
    assert WHOLE.read_bytes() == DATA


def test_the_other_mirror_has_the_bucket_under_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eu = BUCKET.format(region="eu").removeprefix("http://")
    put_audioset(f"{eu}/")
    put(**{ONTOLOGY_ADDRESS.removeprefix("https://"): ontology_json().encode()})
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror")
    bring_audioset("us", ontology=True)  # us is not there, eu is
    assert WHOLE.read_bytes() == DATA
    assert Path("data/ontology.json").read_text() == ontology_json()


def test_audiosets_mirror_goes_first_and_may_lack_the_ontology(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_audioset("audioset/")
    put(**{f"all/{ONTOLOGY_ADDRESS.removeprefix('https://')}": ontology_json().encode()})
    monkeypatch.setenv("AUDIOSET_MIRROR", "mirror/audioset")
    monkeypatch.setenv("DOWNLOAD_MIRROR", "mirror/all")
    bring_audioset(ontology=True)
    assert Path("data/ontology.json").read_text() == ontology_json()
    put(**{f"audioset/{ONTOLOGY}": b"[]"})
    with pytest.raises(UserError, match=f"mirror/audioset/{ONTOLOGY} is no ontology"):
        bring_audioset(ontology=True)
