"""`download` against servers on loopback that hang up, lie, refuse or know no ranges."""

import hashlib
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages import download as stage
from stages.download import IN_TREE, Download, File, download
from tagging.base.errors import UserError
from tagging.sources import sounds, transfer
from tagging.sources.audioset.sample import labels_csv, ontology_json
from tests.archives import assert_one_sentence, run_stage, stage_environment

# It is not read here: any bytes will do.
DATA = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(6000))
SHA256 = hashlib.sha256(DATA).hexdigest()
ARCHIVE, LABELS, ONTOLOGY = IN_TREE.values()  # where they lie in the tree of Google's bucket
PART, WHOLE = Path("data/features.tar.gz.part"), Path("data/features.tar.gz")
OUTPUTS = ["class_labels_indices.csv", "features.tar.gz"]


class Server:
    """A server on loopback. Each request of the archive is answered as `script` says next.

    An entry of `script` is a status, or a number of bytes after which to hang up, below 0; at its
    end the server behaves.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.script: list[int] = []
        self.ranges = True
        self.etag = True
        self.asked: list[dict[str, str]] = []  # the headers of requests of the archive
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.removeprefix("/")
        hang_up = None
        if name == ARCHIVE:
            self.asked.append(dict(request.headers))
            step = self.script.pop(0) if self.script else 0
            if step > 0:
                return request.send_error(step)
            hang_up = -step or None
        if name not in self.files:
            return request.send_error(404)
        data, begin = self.files[name], 0
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if self.ranges and asked and request.headers.get("If-Range", etag) == etag:
            begin = int(asked[1])
            if begin >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                return request.end_headers()
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        if self.etag:
            request.send_header("ETag", etag)
        request.send_header("Content-Length", str(len(data) - begin))
        request.end_headers()
        request.wfile.write(data[begin:][:hang_up])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AUDIOSET_MIRROR", "DOWNLOAD_MIRROR", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited; nothing waits."""
    waited: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waited.append)
    return waited


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def new(archive: bytes | None = DATA, **more: bytes) -> Server:
        files = {LABELS: labels_csv().encode()} | more
        if archive is not None:
            files[ARCHIVE] = archive
        servers.append(Server(files))
        return servers[-1]

    yield new
    for server in servers:
        server.close()


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture
def regions(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> dict[str, Server]:
    """Google's three regions, on loopback."""
    servers = {region: start() for region in stage.REGIONS}
    ports = {region: server.url for region, server in servers.items()}
    monkeypatch.setattr(stage, "BUCKET", Bucket(ports))
    return servers


class Bucket:
    """Formats `{region}` to an address of its own."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._addresses = addresses

    def format(self, region: str) -> str:
        return self._addresses[region]


def run(source: str, sha256: str = SHA256, style: str = "none") -> None:
    download(Download(source=source, sha256=sha256), style)


def refusal(source: str, sha256: str = SHA256) -> str:
    with pytest.raises(UserError) as caught:
        run(source, sha256)
    return str(caught.value)


def outputs() -> list[str]:
    return sorted(path.name for path in Path("data").iterdir())


def assert_done(data: bytes = DATA) -> None:
    assert WHOLE.read_bytes() == data
    assert outputs() == OUTPUTS


def break_off(server: Server) -> None:
    """Have a run on the server end with a part of 50,000 bytes."""
    server.script = [-50_000, 503, 503, 503, 503]
    assert "5 tries brought no more (the server answers 503)" in refusal(server.url)
    assert PART.read_bytes() == server.files[ARCHIVE][:50_000]
    server.asked.clear()


def test_brings_both_files_and_says_so(server: Server, capfd: pytest.CaptureFixture) -> None:
    run(server.url + "/", style="lines")
    assert_done()
    assert Path("data/class_labels_indices.csv").read_text() == labels_csv()
    assert capfd.readouterr().err == (
        f"features.tar.gz: {server.url}/{ARCHIVE}: SHA-256 {SHA256}, as pinned\n"
    )


# Transfers that break off.


def test_resumes_where_a_server_hung_up(
    server: Server, waits: list[float], capfd: pytest.CaptureFixture
) -> None:
    server.script = [-50_000, -1, -100_000]
    run(server.url)
    assert_done()
    assert [asked.get("Range") for asked in server.asked] == [
        None, "bytes=50000-", "bytes=50001-", "bytes=150001-",
    ]  # fmt: skip
    assert len({asked.get("If-Range") for asked in server.asked[1:]} - {None}) == 1
    assert waits == [1, 1, 1]  # each try brought something
    assert (
        "features.tar.gz: the server hung up at byte 50001; again in 1 s"
        in capfd.readouterr().err.splitlines()
    )


def test_a_server_without_ranges_is_asked_for_all_again(server: Server) -> None:
    server.ranges = False
    server.script = [-50_000]
    run(server.url)
    assert_done()
    assert len(server.asked) == 2


def test_gives_up_on_a_server_that_always_hangs_up(server: Server, waits: list[float]) -> None:
    server.ranges = False
    server.script = [-50_000, -60_000] + [-55_000, -60_000] * 10
    assert f"{server.url}/{ARCHIVE} broke off at byte " in refusal(server.url)
    assert len(server.asked) == 6
    assert waits == [1, 1, 2, 4, 8]
    assert PART.stat().st_size in (55_000, 60_000)
    assert not WHOLE.exists()


def test_the_next_run_goes_on_where_the_last_one_broke_off(server: Server) -> None:
    break_off(server)
    run(server.url)
    assert_done()
    assert [asked["Range"] for asked in server.asked] == ["bytes=50000-"]


def test_a_whole_part_is_not_fetched_again(server: Server) -> None:
    break_off(server)
    PART.write_bytes(DATA)
    run(server.url)
    assert_done()
    assert [asked["Range"] for asked in server.asked] == [f"bytes={len(DATA)}-"]


@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("new", [DATA[::-1], DATA[:20_000]], ids=["other", "shorter"])
def test_another_version_on_the_server_is_never_mixed_with_the_part(
    server: Server, new: bytes, etag: bool
) -> None:
    server.etag = etag
    break_off(server)
    server.files[ARCHIVE] = new
    sha256 = hashlib.sha256(new).hexdigest()
    if not etag and len(new) == len(DATA):
        # Nothing tells the versions apart but the checksum; then it begins anew.
        assert f"it takes {sha256}" in refusal(server.url, sha256)
    run(server.url, sha256)
    assert_done(new)


def test_a_part_from_elsewhere_is_not_taken_for_one_of_this_file(
    start: Callable[..., Server],
) -> None:
    other, server = start(DATA[::-1]), start()
    other.etag = server.etag = False
    break_off(other)
    run(server.url)
    assert_done()
    assert "Range" not in server.asked[0]


def test_a_part_whose_origin_nobody_knows_is_not_resumed(server: Server) -> None:
    Path("data").mkdir()
    PART.write_bytes(b"x" * 1000)
    run(server.url)
    assert_done()


@pytest.mark.parametrize("status", [500, 503, 408, 429])
def test_passing_faults_are_tried_again(server: Server, waits: list[float], status: int) -> None:
    server.script = [status] * 3
    run(server.url)
    assert_done()
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [403, 404])
def test_other_answers_are_not(server: Server, waits: list[float], status: int) -> None:
    server.script = [status]
    assert f"{server.url}/{ARCHIVE}: the server answers {status} " in refusal(server.url)
    assert waits == []


def test_a_server_that_calls_a_gzip_file_an_encoding(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BaseHTTPRequestHandler.end_headers

    def end_headers(request: BaseHTTPRequestHandler) -> None:
        request.send_header("Content-Encoding", "gzip")
        real(request)

    monkeypatch.setattr(BaseHTTPRequestHandler, "end_headers", end_headers)
    run(server.url)
    assert_done()


# Regions.


def test_falls_over_to_the_other_regions(regions: dict[str, Server]) -> None:
    del regions["eu"].files[ARCHIVE]
    regions["us"].script = [503] * 5
    run("eu")
    assert_done()
    assert [len(regions[region].asked) for region in ("eu", "us", "asia")] == [1, 5, 1]


def test_the_next_region_resumes_the_same_file(regions: dict[str, Server]) -> None:
    regions["us"].script = [-50_000, 503, 503, 503, 503]
    run("us")
    assert_done()
    assert regions["eu"].asked[0]["Range"] == "bytes=50000-"


def test_names_all_regions_where_none_has_it(regions: dict[str, Server]) -> None:
    for server in regions.values():
        del server.files[ARCHIVE]
    message = refusal("asia")
    assert message.startswith("features.tar.gz could not be fetched: ")
    assert [message.count(server.url) for server in regions.values()] == [1, 1, 1]


def test_connection_refused(waits: list[float], regions: dict[str, Server]) -> None:
    for server in regions.values():
        server.close()
    message = refusal("us")
    assert message.startswith("class_labels_indices.csv could not be fetched: ")
    assert message.count("5 tries brought no more (the connection failed)") == 3
    assert waits == [1, 2, 4, 8] * 3


# Checksums.


def test_a_wrong_checksum_removes_what_came_and_keeps_what_was_there(server: Server) -> None:
    Path("data").mkdir()
    WHOLE.write_bytes(b"the previous archive")
    message = refusal(server.url, "0" * 64)
    assert message.startswith(
        f"features.tar.gz from {server.url}/{ARCHIVE} has the SHA-256 {SHA256}; "
    )
    assert message.endswith("run again, or pin the other if that is the file you mean")
    assert WHOLE.read_bytes() == b"the previous archive"
    assert not PART.exists()
    assert not Path("data/class_labels_indices.csv").exists()


def test_regions_take_no_checksum_from_beside_the_archive(regions: dict[str, Server]) -> None:
    regions["us"].files[f"{ARCHIVE}.sha256"] = SHA256.encode()
    assert "it takes 0000" in refusal("us", "0" * 64)


def test_a_bad_class_list_is_not_kept(server: Server) -> None:
    server.files[LABELS] = b"<html>Log in to the hotel's network</html>"
    message = refusal(server.url)
    assert message.startswith(f"{server.url}/{LABELS} is no class list: ")
    assert not list(Path("data").iterdir())
    server.files[LABELS] = labels_csv().encode()
    run(server.url)
    assert_done()


# The ontology.


def test_the_ontology_comes_where_it_is_asked_for(server: Server) -> None:
    server.files[ONTOLOGY] = ontology_json().encode()
    download(Download(source=server.url, sha256=SHA256, ontology=True), "none")
    assert outputs() == [*OUTPUTS, "ontology.json"]
    assert Path("data/ontology.json").read_text() == ontology_json()


def test_a_bad_ontology_is_not_kept(server: Server) -> None:
    server.files[ONTOLOGY] = b"not found"
    with pytest.raises(UserError, match=r"/ontology.json is no ontology: .* no JSON"):
        download(Download(source=server.url, sha256=SHA256, ontology=True), "none")
    assert not [name for name in outputs() if "ontology" in name]
    assert not server.asked


def test_google_has_no_ontology_but_its_project_has() -> None:
    places = stage.places("us", stage.ONTOLOGY)
    assert [place.address for place in places] == [stage.ONTOLOGY_ADDRESS]
    places = stage.places("http://localhost/a/", stage.ONTOLOGY)
    assert [place.address for place in places] == [
        f"http://localhost/a/{ONTOLOGY}", stage.ONTOLOGY_ADDRESS,
    ]  # fmt: skip


# Files with addresses of their own.


def file(address: str, data: bytes = DATA, **more: str) -> File:
    return File(address=address, sha256=hashlib.sha256(data).hexdigest(), **more)


def test_brings_files_from_their_addresses(server: Server, folder: Path) -> None:
    server.files |= {"a/one%20two.zip": b"one", "b/two.zip": b"two", "b/three.zip": b"three"}
    (folder / "four#.zip").write_bytes(b"four")
    files = [
        file(f"{server.url}/a/one%20two.zip", b"one"),
        file(f"{server.url}/b/two.zip", b"two", name="zwei.zip"),
        file("four#.zip", b"four"),
        file(f"{server.url}/b/three.zip", b"three", name="weights/vit.safetensors"),
    ]
    download(Download(files=files), "none")
    found = {str(path): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    assert found == {
        "data/one two.zip": b"one", "data/zwei.zip": b"two", "data/four#.zip": b"four",
        "data/weights/vit.safetensors": b"three",
    }  # fmt: skip


def test_a_file_resumes_and_is_checked_as_the_archive_is(server: Server) -> None:
    server.script = [-50_000]
    server.files[f"{ARCHIVE}.sha256"] = b"0" * 64  # of no account beside a file's own address
    download(Download(files=[file(f"{server.url}/{ARCHIVE}")]), "none")
    assert WHOLE.read_bytes() == DATA
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=50000-"]
    with pytest.raises(UserError, match=f"it takes {hashlib.sha256(b'x').hexdigest()}"):
        download(Download(files=[file(f"{server.url}/{ARCHIVE}", b"x")]), "none")
    assert outputs() == ["features.tar.gz"]


def test_files_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"has two files a\.zip; one takes another name"):
        download(Download(files=[file("x/a.zip"), file("y/a.zip")]), "none")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "takes either source or files"),
        ({"source": "us", "files": [file("a")]}, "takes either source or files"),
        ({"source": "us"}, "download.sha256 is missing; it takes the SHA-256 of Google's"),
        ({"files": [file("a")], "ontology": True}, "sha256 and ontology beside source alone"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        download(Download(**settings), "none")
    assert not Path("data").exists()


# The stage as DVC runs it.


def params(folder: Path, section: str) -> None:
    (folder / "params.yaml").write_text(
        f"download: {{{section}}}\nrun: {{device: cpu, progress: auto}}\n"
    )


def audioset(source: str) -> str:
    return f"source: {source}, sha256: {SHA256}"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        (audioset("mars"), ["download.source is 'mars'; it takes us, eu, asia, sample, sounds"]),
        (audioset("./nowhere"), ["class_labels_indices.csv could not", "nowhere/", "not there"]),
        (audioset("ftp://example.org/x"), ["ftp://example.org/x", "cannot be asked for"]),
        (audioset("http://example.org:x/"), ["http://example.org:x/", "cannot be asked for"]),
        ("files: [{address: a.zip}]", ["download.files is [", "it takes a list of mappings of"]),
        (f"files: [{{address: a/, sha256: '{SHA256}'}}]", ["download.files is [", "it takes a l"]),
        (f"files: [{{address: a, name: ../b, sha256: '{SHA256}'}}]", ["download.files is ["]),
    ],
)
def test_the_stage_refuses_other_sources(folder: Path, section: str, parts: list[str]) -> None:
    params(folder, section)
    assert_one_sentence(run_stage(folder, "download"), "error: ", *parts)


def test_the_stage_makes_the_sample(folder: Path) -> None:
    params(folder, "source: sample, ontology: true")
    done = run_stage(folder, "download")
    assert done.returncode == 0, done.stderr
    assert "nothing computed from it is AudioSet's" in done.stderr
    assert outputs() == [*OUTPUTS, "ontology.json"]


def test_the_stage_makes_the_sample_of_sounds(folder: Path) -> None:
    params(folder, "source: sounds")
    done = run_stage(folder, "download")
    assert done.returncode == 0, done.stderr
    assert outputs() == ["sounds.zip"]
    sounds.write_sounds(folder / "again.zip")
    assert Path("data/sounds.zip").read_bytes() == Path("again.zip").read_bytes()


def test_the_stage_on_a_full_disk(folder: Path, server: Server) -> None:
    params(folder, audioset(server.url))

    small_disk = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (50_000, 50_000))
    done = run_stage(folder, "download", before=small_disk)
    assert_one_sentence(done, f"error: {PART}: File too large")
    assert not WHOLE.exists()
    # With room again it goes on.
    assert run_stage(folder, "download").returncode == 0
    assert_done()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on_the_next_time(folder: Path, server: Server, kill: int) -> None:
    params(folder, audioset(server.url))
    server.script = [-50_000]
    # Killed while it waits after the server hung up.
    code = (
        "import os; from stages import download; from tagging.sources import transfer;"
        f"transfer.time.sleep = lambda _: os.kill(os.getpid(), {int(kill)});"
        "download.main()"
    )
    environment = stage_environment(folder)
    killed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert killed.returncode == (130 if kill == signal.SIGINT else -kill)
    assert "Traceback" not in killed.stderr
    assert PART.read_bytes() == DATA[:50_000]
    done = run_stage(folder, "download")
    assert done.returncode == 0, done.stderr
    assert_done()
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=50000-"]
