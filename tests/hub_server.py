"""A server on loopback with the part of the Hugging Face hub's interface that models need."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

LFS = ".safetensors"  # files that are uploaded apart from the commit
NAME = r"/(?:api/models/)?(?P<repo>[\w.-]+/[\w.-]+?)"


class Hub:
    """Repositories in memory: the files of each commit, and the commits of branches and tags."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.token: str | None = None  # that every request must have
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add files to the branch main; return the commit."""
        refs = self.refs.setdefault(repo, {})
        commits = self.commits.setdefault(repo, {})
        content = {**commits.get(refs.get("main", ""), {}), **files}
        sha = hashlib.sha1(repr((len(commits), sorted(content.items()))).encode()).hexdigest()
        commits[sha] = content
        refs["main"] = sha
        return sha

    def resolve(self, repo: str, revision: str) -> str | None:
        """Return the commit of a branch, tag or commit."""
        sha = self.refs[repo].get(revision, revision)
        return sha if sha in self.commits[repo] else None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        for key, value in (sent | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.answer(status, json.dumps({"error": code}).encode(), X_Error_Code=code)

    def route(self) -> None:
        hub = self.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if path.startswith("/upload/"):
            hub.uploads[path.rpartition("/")[2]] = body
            return self.answer(200)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.fail(401, "RepoNotFound")
        if path == "/api/validate-yaml":  # of the card
            return self.answer(200, json.dumps({"errors": [], "warnings": []}).encode())
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = "/".join(filter(None, (wanted.get("organization") or "user", wanted["name"])))
            hub.commits.setdefault(repo, {})
            hub.refs.setdefault(repo, {})
            return self.answer(200, json.dumps({"url": f"{hub.address}/{repo}"}).encode())
        if match := re.fullmatch(rf"{NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            return self.send_file(*match.group("repo", "revision", "file"))
        if match := re.fullmatch(rf"{NAME}/revision/main", path):  # older versions ask
            about = {"id": match["repo"], "sha": hub.refs[match["repo"]].get("main")}
            return self.answer(200, json.dumps(about).encode())
        if match := re.fullmatch(rf"{NAME}/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, json.dumps({"files": files}).encode())
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{hub.address}/upload/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self.answer(200, json.dumps({"transfer": "basic", "objects": objects}).encode())
        if match := re.fullmatch(rf"{NAME}/commit/main", path):
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.uploads[value["oid"]]
            sha = hub.commit(match["repo"], files)
            url = f"{hub.address}/{match['repo']}/commit/{sha}"
            return self.answer(
                200, json.dumps({"commitUrl": url, "commitOid": sha, "success": True}).encode()
            )
        return self.fail(404, "RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = route  # noqa: N815

    def send_file(self, repo: str, revision: str, file: str) -> None:
        if repo not in self.hub.refs:
            return self.fail(404, "RepoNotFound")
        sha = self.hub.resolve(repo, revision)
        if sha is None:
            return self.fail(404, "RevisionNotFound")
        content = self.hub.commits[repo][sha].get(file)
        if content is None:
            return self.fail(404, "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=sha)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
