"""Push, pull and compare with the real client: a folder, a plain HTTP server, S3."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.archives import http_server
from tests.project import ROOT, Project

# Made by `make test`, which passes its path; the S3 server and DVC pin different versions.
S3_ENVIRONMENT = Path(os.environ.get("S3_ENVIRONMENT", ROOT / ".venv-s3"))
# Outputs that git has, so that the remote does not.
IN_GIT = ("data/summary.json", "evaluation/", "leaderboard", "metrics/", "plots/compare")
S3_SERVER = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
time.sleep(1e6)
"""


@pytest.fixture
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on loopback that has the bucket `tagging`."""
    python = S3_ENVIRONMENT / "bin/python"
    if not python.exists():
        message = f"{S3_ENVIRONMENT} is missing; `make test` makes it"
        if "S3_ENVIRONMENT" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    with subprocess.Popen(
        [python, "-c", S3_SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            host, port = server.stdout.readline().split()
            url = f"http://{host}:{port}"
            requests.put(f"{url}/tagging", timeout=10).raise_for_status()
            yield url
        finally:
            server.terminate()


def clone(project: Project, root: Path) -> Project:
    """Clone the project's git repository to `root`, without DVC's cache."""
    project.git("clone", "--quiet", str(project.root), str(root))
    return Project(root, project.mirror, project.python_folder)


def objects(root: Path) -> set[str]:
    """Return the hashes of a cache or remote's objects."""
    return {
        file.parent.name + file.name
        for file in (root / "files/md5").rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


def cache(project: Project) -> Path:
    return project.root / ".dvc/cache"


def forget(project: Project, name: str) -> str:
    """Remove an output and its object in the cache; return the object's hash."""
    md5 = project.run("md5sum", name).stdout.split()[0]
    (project.root / name).unlink()
    (cache(project) / "files/md5" / md5[:2] / md5[2:]).unlink()
    return md5


def check_pulls(project: Project) -> None:
    """Pull all into a fresh clone, then one lost output; no stage runs there."""
    assert not cache(project).exists()
    project.dvc("pull")
    assert project.repro() == set()
    assert project.status() == []

    everything = objects(cache(project))
    lost = forget(project, "data/scores/models/yac.safetensors")
    also_lost = forget(project, "data/scores/models/attention.safetensors")
    assert objects(cache(project)) == everything - {lost, also_lost}
    project.dvc("pull", "evaluate@yac")
    assert objects(cache(project)) == everything - {also_lost}
    assert not (project.root / "data/scores/models/attention.safetensors").exists()
    project.dvc("pull")
    assert project.repro() == set()


def test_default_remote_lies_beside_the_clone(project: Project, tmp_path: Path) -> None:
    project.dvc("push")
    remote = tmp_path / "audioset-tagging-remote"
    locked = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"].values()
    outs = {
        out["md5"]
        for stage in locked
        for out in stage["outs"]
        if not out["path"].startswith(IN_GIT)
    }
    listed = {
        file["md5"]
        for out in outs
        if out.endswith(".dir")
        for file in json.loads((remote / "files/md5" / out[:2] / out[2:]).read_text())
    }
    assert objects(remote) == outs | listed
    assert project.status() == []
    check_pulls(clone(project, tmp_path / "clone"))


def test_repro_pulls_one_missing_output(project: Project) -> None:
    project.dvc("push")
    everything = objects(cache(project))
    lost = forget(project, "data/scores/models/yac.safetensors")
    assert project.repro("--pull") == set()
    assert objects(cache(project)) == everything
    assert lost in everything


def test_colleague_evaluates_without_training(project: Project, tmp_path: Path) -> None:
    """In a clone with an empty cache, a change computes what it affects and pulls the rest."""
    project.dvc("push")
    other = clone(project, tmp_path / "clone")
    other.change("evaluate.resamples", 200)
    ran = other.repro("--pull", "--allow-missing", "evaluate@yac")
    assert ran == {"evaluate@yac"}
    # Its deps were fetched, no more.
    assert (other.root / "data/features/vggish/values.npy").exists()
    assert not (other.root / "data/features.tar.gz").exists()
    assert not (other.root / "data/parquet").exists()
    models = (other.root / "models").glob("*/*.safetensors")
    assert [path.parent.name for path in models] == ["yac", "yac"]


def test_missing_outputs_of_other_models_are_named(project: Project, tmp_path: Path) -> None:
    """DVC fills a folder that is a dep in part (its issue 11099): no stage uses half of one."""
    project.dvc("push")
    other = clone(project, tmp_path / "clone")
    other.change("models.yac.train", {"lr": 0.05})
    output = other.fails("dvc", "repro", "--pull", "--allow-missing")
    assert "error: outputs of earlier stages are missing: " in output
    assert "fetch or remake them with dvc repro --pull (without --allow-missing)" in output
    ran = other.repro("--pull")
    assert "train@attention" not in ran
    assert {"ensemble@three_architectures", "compare"} <= ran


def test_read_only_http_remote(project: Project, tmp_path: Path) -> None:
    project.dvc("push")
    # Nothing lies beside the clone this time.
    remote = shutil.move(tmp_path / "audioset-tagging-remote", tmp_path / "site")
    other = clone(project, tmp_path / "elsewhere/clone")
    with http_server(remote) as url:
        other.dvc("remote", "add", "--local", "--default", "site", url)
        assert other.status() == []
        check_pulls(other)


def test_s3_remote(project: Project, tmp_path: Path, s3_server: str) -> None:
    other = clone(project, tmp_path / "elsewhere/clone")
    for one in (project, other):
        one.dvc("remote", "add", "--local", "--default", "bucket", "s3://tagging/audioset")
        for option, value in (
            ("endpointurl", s3_server),
            ("access_key_id", "testing"),
            ("secret_access_key", "testing"),
            ("region", "us-east-1"),
        ):
            one.dvc("remote", "modify", "--local", "bucket", option, value)
    project.dvc("push")
    assert not (tmp_path / "audioset-tagging-remote").exists()
    check_pulls(other)


def test_metrics_of_branches_with_an_empty_cache(project: Project, tmp_path: Path) -> None:
    project.git("switch", "--quiet", "--create", "faster")
    project.change("models.yac.train", {"lr": 0.05})
    project.repro("evaluate@yac")
    project.commit()
    project.git("switch", "--quiet", "main")

    other = clone(project, tmp_path / "clone")
    other.git("switch", "--quiet", "faster")
    assert not cache(other).exists()
    lines = other.dvc("metrics", "diff", "main", "--md").splitlines()
    header, rows = lines[0], [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert "main" in header and "workspace" in header
    (row,) = [row for row in rows if row[:2] == ["metrics/yac.json", "test.ndcg"]]
    old, new = float(row[2]), float(row[3])
    assert old != new and 0 < old < 1 and 0 < new < 1
    assert "metrics/yac.json" in other.dvc("metrics", "show", "--md")
