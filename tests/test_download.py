"""`download` against servers on loopback that hang up, lie, refuse or know no ranges."""

import hashlib
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages import download as stage
from stages.download import ARCHIVE, LABELS, Download, download
from tagging import transfer
from tagging.errors import UserError
from tagging.sample import labels_csv
from tests.archives import assert_one_sentence, run_stage, stage_environment

# It is not read here: any bytes will do.
DATA = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(6000))
SHA256 = hashlib.sha256(DATA).hexdigest()
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
    monkeypatch.delenv("AUDIOSET_MIRROR", raising=False)
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


def assert_done(data: bytes = DATA) -> None:
    assert WHOLE.read_bytes() == data
    assert sorted(path.name for path in Path("data").iterdir()) == OUTPUTS


def test_brings_both_files_and_says_so(server: Server, capfd: pytest.CaptureFixture) -> None:
    run(server.url + "/", style="lines")
    assert_done()
    assert Path("data/class_labels_indices.csv").read_text() == labels_csv()
    assert capfd.readouterr().err == (
        f"download: {server.url}, an archive as pinned: SHA-256 {SHA256}\n"
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
    server.script = [-70_000, 503, 503, 503, 503]
    assert "5 tries brought no more (the server answers 503)" in refusal(server.url)
    assert PART.read_bytes() == DATA[:70_000]
    server.asked.clear()
    run(server.url)
    assert_done()
    assert [asked["Range"] for asked in server.asked] == ["bytes=70000-"]


def test_a_whole_part_is_not_fetched_again(server: Server) -> None:
    server.script = [-(len(DATA) - 1), 503, 503, 503, 503]
    refusal(server.url)
    PART.write_bytes(DATA)
    run(server.url)
    assert_done()


def test_another_version_on_the_server_is_fetched_from_the_start(server: Server) -> None:
    server.script = [-50_000, 503, 503, 503, 503]
    refusal(server.url)
    new = DATA[::-1]
    server.files[ARCHIVE] = new
    run(server.url, hashlib.sha256(new).hexdigest())
    assert_done(new)


@pytest.mark.parametrize("etag", [True, False])
def test_a_shorter_file_on_the_server_is_fetched_from_the_start(server: Server, etag: bool) -> None:
    server.etag = etag
    server.script = [-50_000, 503, 503, 503, 503]
    refusal(server.url)
    new = DATA[:20_000]
    server.files[ARCHIVE] = new
    run(server.url, hashlib.sha256(new).hexdigest())
    assert_done(new)


def test_a_part_from_elsewhere_is_not_taken_for_one_of_this_file(
    start: Callable[..., Server],
) -> None:
    other, server = start(DATA[::-1]), start()
    other.etag = server.etag = False
    other.script = [-50_000, 503, 503, 503, 503]
    refusal(other.url)
    run(server.url)
    assert_done()
    assert "Range" not in server.asked[0]


def test_a_part_whose_origin_nobody_knows_is_not_resumed(server: Server) -> None:
    Path("data").mkdir()
    PART.write_bytes(b"x" * 1000)
    run(server.url)
    assert_done()


@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
def test_passing_faults_are_tried_again(server: Server, waits: list[float], status: int) -> None:
    server.script = [status] * 3
    run(server.url)
    assert_done()
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_other_answers_are_not(server: Server, waits: list[float], status: int) -> None:
    server.script = [status]
    message = refusal(server.url)
    assert f"{server.url}/{ARCHIVE}: the server answers {status} " in message
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
    assert message.startswith(f"features.tar.gz from {server.url} has the SHA-256 {SHA256}; it ")
    assert message.endswith("run again, or set download.sha256 if the file is meant to be another")
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


# Mirrors: folders and URLs.


@pytest.fixture
def mirror(folder: Path) -> Path:
    for name, data in {ARCHIVE: DATA, LABELS: labels_csv().encode()}.items():
        (folder / "mirror" / name).parent.mkdir(parents=True)
        (folder / "mirror" / name).write_bytes(data)
    return folder / "mirror"


def test_the_mirror_stands_in_for_a_region_alone(
    mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOSET_MIRROR", str(mirror))
    run("us")
    assert_done()
    run(server.url)
    assert len(server.asked) == 1


def test_a_mirror_as_a_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_MIRROR", server.url)
    run("asia")
    assert_done()


@pytest.mark.parametrize("kind", ["folder", "URL"])
def test_a_mirrors_own_checksum_holds(
    kind: str, mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    text = f"{SHA256}  features.tar.gz\n".encode()
    (mirror / f"{ARCHIVE}.sha256").write_bytes(text)
    server.files[f"{ARCHIVE}.sha256"] = text
    monkeypatch.setenv("AUDIOSET_MIRROR", str(mirror) if kind == "folder" else server.url)
    run("us", "0" * 64)
    assert_done()
    assert "an archive of its own, not the one params.yaml pins" in capfd.readouterr().err
    (mirror / ARCHIVE).write_bytes(DATA[:-1])
    server.files[ARCHIVE] = DATA[:-1]
    assert f"it takes {SHA256}" in refusal("us", "0" * 64)


def test_without_a_checksum_beside_it_the_pinned_one_holds(mirror: Path) -> None:
    assert "it takes 0000" in refusal(str(mirror), "0" * 64)
    assert not WHOLE.exists()


def test_a_checksum_file_that_is_none(mirror: Path) -> None:
    (mirror / f"{ARCHIVE}.sha256").write_text("not found")
    assert refusal(str(mirror)) == f"{mirror}/{ARCHIVE}.sha256 does not begin with a SHA-256"


def test_a_folder_does_not_go_on_with_a_part(mirror: Path, server: Server) -> None:
    server.files[ARCHIVE] = DATA[::-1]
    server.script = [-50_000, 503, 503, 503, 503]
    refusal(server.url)
    run(str(mirror))
    assert_done()


# The stage as DVC runs it.


def params(folder: Path, source: str, sha256: str = SHA256) -> None:
    (folder / "params.yaml").write_text(
        f"download: {{source: {source}, sha256: {sha256}}}\nrun: {{device: cpu, progress: auto}}\n"
    )


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("mars", ["params.yaml: download.source is 'mars'; it takes us, eu, asia, sample, or a"]),
        ("./nowhere", ["class_labels_indices.csv could not be fetched: nowhere/", "is not there"]),
        ("ftp://example.org/x", ["ftp://example.org/x", "cannot be asked for"]),
        ("http://example.org:x/", ["http://example.org:x/", "cannot be asked for"]),
    ],
)
def test_the_stage_refuses_other_sources(folder: Path, source: str, parts: list[str]) -> None:
    params(folder, source)
    assert_one_sentence(run_stage(folder, "download"), *parts)


def test_the_stage_makes_the_sample(folder: Path) -> None:
    params(folder, "sample")
    done = run_stage(folder, "download")
    assert done.returncode == 0, done.stderr
    assert "nothing computed from it is AudioSet's" in done.stderr
    assert sorted(path.name for path in Path("data").iterdir()) == OUTPUTS


def test_the_stage_on_a_full_disk(folder: Path, server: Server) -> None:
    params(folder, server.url)

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = run_stage(folder, "download", before=small_disk)
    assert_one_sentence(done, f"error: {PART}: File too large")
    assert not WHOLE.exists()
    # With room again it goes on.
    assert run_stage(folder, "download").returncode == 0
    assert_done()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on_the_next_time(folder: Path, server: Server, kill: int) -> None:
    params(folder, server.url)
    server.script = [-50_000]
    # Killed while it waits after the server hung up.
    code = (
        "import os; from stages import download; from tagging import transfer;"
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
