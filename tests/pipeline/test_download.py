"""`download` from servers on loopback that hang up, lie, refuse or do not support ranges."""

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
from stages.download import BUCKET_PATHS, Download, File, download_audioset, download_file
from tagging.base.errors import UserError
from tagging.data.task_folder import TaskFolder
from tagging.sources import sounds, transfer
from tagging.sources.audioset.sample import labels_csv, ontology_json
from tests.archives import assert_one_sentence, call_stage, run_stage, stage_environment

# These tests do not read the archive: any bytes will do.
DATA = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(6000))
SHA256 = hashlib.sha256(DATA).hexdigest()
ARCHIVE, LABELS, ONTOLOGY = BUCKET_PATHS.values()
PART, OUTPUT = Path("data/features.tar.gz.part"), Path("data/features.tar.gz")
OUTPUTS = ["class_labels_indices.csv", "features.tar.gz", "ontology.json"]
TASK = TaskFolder(Path())


class Server:
    """A server on loopback. `script` has the response to each request of the archive.

    An entry of `script` is a status, or, below 0, a number of bytes after which to hang up; at its
    end the server behaves.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.script: list[int] = []
        self.ranges = True
        self.etag = True
        self.requests: list[dict[str, str]] = []  # the headers of requests of the archive
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.removeprefix("/")
        hang_up = None
        if name == ARCHIVE:
            self.requests.append(dict(request.headers))
            step = self.script.pop(0) if self.script else 0
            if step > 0:
                return request.send_error(step)
            hang_up = -step or None
        if name not in self.files:
            return request.send_error(404)
        data, begin = self.files[name], 0
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        requested = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if self.ranges and requested and request.headers.get("If-Range", etag) == etag:
            begin = int(requested[1])
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
    for name in ("AUDIOSET_MIRROR", "DOWNLOAD_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait; nothing waits."""
    seconds: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def new(archive: bytes | None = DATA, **more: bytes) -> Server:
        files = {LABELS: labels_csv().encode(), ONTOLOGY: ontology_json().encode()} | more
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
    ontology = f"{servers['us'].url}/{ONTOLOGY}"
    monkeypatch.setattr(stage, "ONTOLOGY_ADDRESS", ontology)
    return servers


class Bucket:
    """Formats `{region}` as the address of a server."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._addresses = addresses

    def format(self, region: str) -> str:
        return self._addresses[region]


def run(source: str, sha256: str = SHA256, style: str = "none") -> None:
    download_audioset(Download(source=source, sha256=sha256), TASK, style)


def refusal(source: str, sha256: str = SHA256) -> str:
    with pytest.raises(UserError) as caught:
        run(source, sha256)
    return str(caught.value)


def outputs() -> list[str]:
    return sorted(path.name for path in Path("data").iterdir())


def assert_done(data: bytes = DATA) -> None:
    assert OUTPUT.read_bytes() == data
    assert outputs() == OUTPUTS


def break_off(server: Server) -> None:
    """Make a download from the server end with a part of 50,000 bytes."""
    server.script = [-50_000, 503, 503, 503, 503]
    assert "5 attempts got no further (the server responded 503)" in refusal(server.url)
    assert PART.read_bytes() == server.files[ARCHIVE][:50_000]
    server.requests.clear()


def test_downloads_all_files_with_a_message(server: Server, capfd: pytest.CaptureFixture) -> None:
    run(server.url + "/", style="lines")
    assert_done()
    assert Path("data/class_labels_indices.csv").read_text() == labels_csv()
    assert Path("data/ontology.json").read_text() == ontology_json()
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
    assert [headers.get("Range") for headers in server.requests] == [
        None, "bytes=50000-", "bytes=50001-", "bytes=150001-",
    ]  # fmt: skip
    assert len({headers.get("If-Range") for headers in server.requests[1:]} - {None}) == 1
    assert waits == [1, 1, 1]  # each attempt fetched something
    assert (
        "features.tar.gz: the server hung up at byte 50001; retrying in 1 s"
        in capfd.readouterr().err.splitlines()
    )


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server) -> None:
    server.ranges = False
    server.script = [-50_000]
    run(server.url)
    assert_done()
    assert len(server.requests) == 2


def test_gives_up_on_a_server_that_always_hangs_up(server: Server, waits: list[float]) -> None:
    server.ranges = False
    server.script = [-50_000, -60_000] + [-55_000, -60_000] * 10
    assert f"{server.url}/{ARCHIVE} broke off at byte " in refusal(server.url)
    assert len(server.requests) == 6
    assert waits == [1, 1, 2, 4, 8]
    assert PART.stat().st_size in (55_000, 60_000)
    assert not OUTPUT.exists()


def test_the_next_run_resumes_an_interrupted_one(server: Server) -> None:
    break_off(server)
    run(server.url)
    assert_done()
    assert [headers["Range"] for headers in server.requests] == ["bytes=50000-"]


def test_a_complete_part_is_not_fetched_again(server: Server) -> None:
    break_off(server)
    PART.write_bytes(DATA)
    run(server.url)
    assert_done()
    assert [headers["Range"] for headers in server.requests] == [f"bytes={len(DATA)}-"]


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
        # Only the checksum shows that the versions differ; the next run starts anew.
        assert f"must have the SHA-256 {sha256}, got" in refusal(server.url, sha256)
    run(server.url, sha256)
    assert_done(new)


def test_a_part_of_another_file_is_not_resumed(
    start: Callable[..., Server],
) -> None:
    other, server = start(DATA[::-1]), start()
    other.etag = server.etag = False
    break_off(other)
    run(server.url)
    assert_done()
    assert "Range" not in server.requests[0]


def test_a_part_of_unknown_origin_is_not_resumed(server: Server) -> None:
    Path("data").mkdir()
    PART.write_bytes(b"x" * 1000)
    run(server.url)
    assert_done()


@pytest.mark.parametrize("status", [500, 503, 408, 429])
def test_temporary_faults_are_retried(server: Server, waits: list[float], status: int) -> None:
    server.script = [status] * 3
    run(server.url)
    assert_done()
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [403, 404])
def test_other_responses_are_not_retried(server: Server, waits: list[float], status: int) -> None:
    server.script = [status]
    assert f"{server.url}/{ARCHIVE}: the server responded {status} " in refusal(server.url)
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
    assert [len(regions[region].requests) for region in ("eu", "us", "asia")] == [1, 5, 1]


def test_the_next_region_resumes_the_same_file(regions: dict[str, Server]) -> None:
    regions["us"].script = [-50_000, 503, 503, 503, 503]
    run("us")
    assert_done()
    assert regions["eu"].requests[0]["Range"] == "bytes=50000-"


def test_names_all_regions_where_none_has_it(regions: dict[str, Server]) -> None:
    for server in regions.values():
        del server.files[ARCHIVE]
    message = refusal("asia")
    assert message.startswith("features.tar.gz is not available: ")
    assert [message.count(server.url) for server in regions.values()] == [1, 1, 1]


def test_connection_refused(waits: list[float], regions: dict[str, Server]) -> None:
    for server in regions.values():
        server.close()
    message = refusal("us")
    assert message.startswith("class_labels_indices.csv is not available: ")
    assert message.count("5 attempts got no further (the connection failed)") == 3
    assert waits == [1, 2, 4, 8] * 3


# Checksums.


def test_a_wrong_checksum_removes_the_part_and_keeps_the_previous_file(server: Server) -> None:
    Path("data").mkdir()
    OUTPUT.write_bytes(b"the previous archive")
    message = refusal(server.url, "0" * 64)
    assert message.startswith(
        f"features.tar.gz from {server.url}/{ARCHIVE} must have the SHA-256 {'0' * 64}, got "
        f"{SHA256}; "
    )
    assert message.endswith("run again, or pin the other SHA-256 if you want that file")
    assert OUTPUT.read_bytes() == b"the previous archive"
    assert not PART.exists()
    assert not Path("data/class_labels_indices.csv").exists()


def test_regions_have_no_checksum_beside_the_archive(regions: dict[str, Server]) -> None:
    regions["us"].files[f"{ARCHIVE}.sha256"] = SHA256.encode()
    assert "must have the SHA-256 0000" in refusal("us", "0" * 64)


def test_a_bad_class_list_is_not_kept(server: Server) -> None:
    server.files[LABELS] = b"<html>Log in to the hotel's network</html>"
    message = refusal(server.url)
    assert message.startswith(f"{server.url}/{LABELS} is not a valid class list: ")
    assert not list(Path("data").iterdir())
    server.files[LABELS] = labels_csv().encode()
    run(server.url)
    assert_done()


# The ontology.


def test_a_bad_ontology_is_not_kept(server: Server) -> None:
    server.files[ONTOLOGY] = b"not found"
    with pytest.raises(UserError, match=r"/ontology.json is not a valid ontology: .* as JSON"):
        run(server.url)
    assert not [name for name in outputs() if "ontology" in name]
    assert not server.requests


def test_google_s_bucket_has_no_ontology_but_its_project_has() -> None:
    locations = stage.bucket_locations("us", stage.ONTOLOGY)
    assert [location.address for location in locations] == [stage.ONTOLOGY_ADDRESS]
    locations = stage.bucket_locations("http://localhost/a/", stage.ONTOLOGY)
    assert [location.address for location in locations] == [
        f"http://localhost/a/{ONTOLOGY}", stage.ONTOLOGY_ADDRESS,
    ]  # fmt: skip


# Files with addresses of their own.


def fetch(address: str, name: str, data: bytes = DATA) -> None:
    file = File(address=address, sha256=hashlib.sha256(data).hexdigest(), name=name)
    download_file(file, "download.x", TASK, "none")


def test_downloads_files_from_their_addresses(server: Server, folder: Path) -> None:
    server.files |= {"a/one%20two.zip": b"one", "b/two.zip": b"two", "b/three.zip": b"three"}
    (folder / "four#.zip").write_bytes(b"four")
    fetch(f"{server.url}/a/one%20two.zip", "one two.zip", b"one")
    fetch(f"{server.url}/b/two.zip", "zwei.zip", b"two")
    fetch("four#.zip", "four#.zip", b"four")
    fetch(f"{server.url}/b/three.zip", "weights/vit.safetensors", b"three")
    files = {str(path): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    assert files == {
        "data/one two.zip": b"one", "data/zwei.zip": b"two", "data/four#.zip": b"four",
        "data/weights/vit.safetensors": b"three",
    }  # fmt: skip


def test_a_file_resumes_and_is_checked_as_the_archive_is(server: Server) -> None:
    server.script = [-50_000]
    server.files[f"{ARCHIVE}.sha256"] = b"0" * 64  # ignored beside a file's own address
    fetch(f"{server.url}/{ARCHIVE}", "features.tar.gz")
    assert OUTPUT.read_bytes() == DATA
    assert [headers.get("Range") for headers in server.requests] == [None, "bytes=50000-"]
    sha256 = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(UserError, match=f"must have the SHA-256 {sha256}, got"):
        fetch(f"{server.url}/{ARCHIVE}", "features.tar.gz", b"x")
    assert outputs() == ["features.tar.gz"]


def test_a_checksum_is_required() -> None:
    with pytest.raises(UserError, match=r"^params\.yaml: download\.sha256 is missing$"):
        download_audioset(Download(source="us"), TASK, "none")
    with pytest.raises(UserError, match=r"^params\.yaml: download\.x\.sha256 is missing$"):
        download_file(File(address="a.zip", name="a.zip"), "download.x", TASK, "none")
    assert not Path("data").exists()


# The stage as DVC runs it.


def params(folder: Path, section: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(f"download: {{{section}}}\n")


def audioset(source: str) -> str:
    return f"source: {source}, sha256: {SHA256}"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        (
            audioset("mars"),
            ["download.source must be us, eu, asia, sample, or a URL", "got 'mars'"],
        ),
        (audioset("./nowhere"), ["class_labels_indices.csv is not av", "nowhere/", "not exist"]),
        (audioset("ftp://example.org/x"), ["ftp://example.org/x", "cannot be requested"]),
        (audioset("http://example.org:x/"), ["http://example.org:x/", "cannot be requested"]),
        ("sha256: x, source: us", ["download.sha256 must be a SHA-256 of 64 hexadecimal digits"]),
    ],
)
def test_the_stage_refuses_other_sources(folder: Path, section: str, parts: list[str]) -> None:
    params(folder, section)
    assert_one_sentence(call_stage(folder, "download"), "error: ", *parts)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("x: {address: a.zip}", "download.x.name is missing"),
        ("x: {address: a.zip, name: a.zip}", "download.x.sha256 is missing"),
        ("x: {address: a/, name: ../b}", "download.x.name must be the name of a file, or weights/"),
        ("x: {address: a/, name: weights/a/b}", "download.x.name must be the name of a file"),
        ("x: {address: a/, name: weights/}", "download.x.name must be the name of a file"),
        ("y: {address: a/, name: b}", "download.x is missing"),
        (
            "x: {address: a/c, name: c}, y: {address: b/c, name: c}",
            "download.x.name must differ from that of download.y, got 'c'",
        ),
    ],
)
def test_the_stage_refuses_other_entries(folder: Path, entries: str, sentence: str) -> None:
    params(folder / "tasks/a", entries)
    done = call_stage(folder, "download", "x", task="tasks/a")
    assert_one_sentence(done, f"error: tasks/a/params.yaml: {sentence}")


def test_the_stage_makes_the_sample(folder: Path) -> None:
    params(folder, "source: sample")
    done = run_stage(folder, "download")
    assert done.returncode == 0, done.stderr
    assert "nothing computed from it is AudioSet's" in done.stderr
    assert outputs() == OUTPUTS


def test_the_stage_makes_the_sample_recordings(folder: Path) -> None:
    params(folder / "tasks/a", "x: {address: sample, name: sounds.zip}")
    done = run_stage(folder, "download", "x", task="tasks/a")
    assert done.returncode == 0, done.stderr
    sounds.write_sounds(folder / "again.zip")
    assert Path("tasks/a/data/sounds.zip").read_bytes() == Path("again.zip").read_bytes()


def test_the_stage_on_a_full_disk(folder: Path, server: Server) -> None:
    params(folder, audioset(server.url))

    small_disk = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (150_000, 150_000))
    done = run_stage(folder, "download", before=small_disk)
    assert_one_sentence(done, f"error: {PART}: File too large")
    assert not OUTPUT.exists()
    # With space on the disk it resumes.
    assert run_stage(folder, "download").returncode == 0
    assert_done()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_stage_is_resumed_by_the_next_run(folder: Path, server: Server, kill: int) -> None:
    params(folder, audioset(server.url))
    server.script = [-50_000]
    # It is killed while it waits after the server hung up.
    code = (
        "import os; from stages import download; from tagging.sources import transfer;"
        f"transfer.time.sleep = lambda _: os.kill(os.getpid(), {int(kill)});"
        "download.main('.')"
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
    assert [headers.get("Range") for headers in server.requests] == [None, "bytes=50000-"]
